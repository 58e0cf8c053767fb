"""Signals of many sensors over time (M/EEG), and features on a clock (of speech): a domain of its own.

It lies here since only pairs use it: ``domain: signals`` of a part.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Domain
from ssl_domains.core.registry import domain
from ssl_domains.text.data import draw_splits

SPLITS = ("train", "valid", "test")
FITTED = 200
"""Train segments of a recording that its robust scale is fitted on (sheet of 2208.12266)."""


@dataclass(frozen=True)
class SignalSpec:
    """Facts about signals; travels with an encoder.

    Attributes:
        channels: most sensors of a recording; others are padded and marked as not there.
        rate: samples a second.
        length: samples of a segment after ``trim``.
        subjects: names of the train recordings' subjects, in the order of the subject layer.
        scaling: ``robust`` (each recording and channel by median and quartiles), ``global`` (``mean`` and
            ``std`` of the train segments), ``none``.
        baseline: seconds at the beginning whose mean is taken off each channel.
        clamp: largest absolute value after scaling; 0: none.
        trim: seconds dropped at the beginning and at the end.
        mean, std: for ``global``.
        positioned: whether sensors have positions.
    """

    channels: int
    rate: float
    length: int
    subjects: tuple[str, ...]
    scaling: str
    baseline: float
    clamp: float
    trim: tuple[float, float]
    mean: float = 0.0
    std: float = 1.0
    positioned: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SignalSpec:
        """Reads :meth:`to_dict` back."""
        low, high = values["trim"]
        return cls(**{**values, "subjects": tuple(values["subjects"]), "trim": (float(low), float(high))})


@dataclass
class Recording:
    """One file.

    Attributes:
        name: its path.
        x: ``[C, T]`` float32.
        positions: ``[C, 2]`` in the unit square, NaN where unknown; None: none at all.
        subject: who was recorded.
        centre, spread: ``[C, 1]`` of its robust scale.
    """

    name: str
    x: np.ndarray
    positions: np.ndarray | None
    subject: str
    centre: np.ndarray | float = 0.0
    spread: np.ndarray | float = 1.0


class SignalSource:
    """Segments as batches ``{"signal": [B, C, T] float32, "positions": [B, C, 2] float32, "valid": [B, C]
    bool, "subject": [B] int64}``; a subject that training has not seen is -1.

    Implements :class:`ssl_domains.core.interfaces.Source`.
    """

    full_batch = False
    labels = None
    task = None
    class_names = None

    def __init__(
        self,
        spec: SignalSpec,
        recordings: list[Recording],
        which: np.ndarray,
        start: np.ndarray,
        splits: dict[str, np.ndarray],
        name: str,
        notes: list[str],
    ) -> None:
        self.spec, self.recordings, self.which, self.start = spec, recordings, which, start
        self.splits, self.name, self.notes = splits, name, notes
        place = {subject: i for i, subject in enumerate(spec.subjects)}
        self.subject = np.array([place.get(r.subject, -1) for r in recordings], dtype=np.int64)[which]
        self.groups = self.subject
        self._places = [_padded_positions(r, spec.channels) for r in recordings]

    def __len__(self) -> int:
        return len(self.which)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The segments with these row numbers, in this order, on the CPU."""
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row numbers must lie in [0, {len(self)}), got {rows.min()} to {rows.max()}")
        spec = self.spec
        signal = np.zeros((len(rows), spec.channels, spec.length), dtype=np.float32)
        for i, row in enumerate(
            rows
        ):  # a slice a segment; the arithmetic is done on the batch's rows at once
            recording = self.recordings[self.which[row]]
            cut = segment(recording, int(self.start[row]), spec)
            signal[i, : len(cut)] = cut
        places = [self._places[self.which[row]] for row in rows]
        x = {
            "signal": torch.from_numpy(signal),
            "positions": torch.from_numpy(
                np.stack([p for p, _ in places]) if places else np.zeros((0, 0, 2))
            ),
            "valid": torch.from_numpy(np.stack([v for _, v in places]) if places else np.zeros((0, 0), bool)),
            "subject": torch.from_numpy(self.subject[rows]),
        }
        return Batch(x, torch.from_numpy(rows), None, {"group": torch.from_numpy(self.subject[rows])})

    def raw_features(self, indices: np.ndarray) -> np.ndarray:
        """``[n, 2 C]`` mean and deviation of each channel."""
        parts = []
        for at in range(0, len(indices), 256):
            x = self.fetch(indices[at : at + 256]).x["signal"].numpy()
            parts.append(np.concatenate([x.mean(2), x.std(2)], axis=1))
        return np.concatenate(parts) if parts else np.zeros((0, 2 * self.spec.channels), np.float32)

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """Recording and second."""
        return [
            f"{self.recordings[self.which[i]].name}#{self.start[i] / self.spec.rate:.3f}"
            for i in np.asarray(indices, dtype=np.int64)
        ]

    def describe(self, row: int) -> str:
        """Who and when."""
        found = self.recordings[self.which[row]]
        return f"{found.subject}, {self.start[row] / self.spec.rate:.1f} s of {Path(found.name).stem}"

    def picture(self, row: int) -> np.ndarray:
        """``[H, W, 3]`` uint8: channels down, time across."""
        x = self.fetch([row]).x["signal"][0].numpy()
        scale = np.quantile(np.abs(x), 0.98) or 1.0
        grey = ((x / scale).clip(-1, 1) + 1) / 2
        blue, red = np.array([33, 102, 172]), np.array([178, 24, 43])
        shade = grey[..., None]
        colour = np.where(shade < 0.5, blue + (255 - blue) * 2 * shade, 255 + (red - 255) * (2 * shade - 1))
        return np.ascontiguousarray(colour.astype(np.uint8)[:, :: max(x.shape[1] // 200, 1)])

    def card(self) -> dict[str, Any]:
        """Counts, clock, subjects, sensors without a place."""
        found: dict[str, Any] = {
            "source": self.name,
            "segments": len(self),
            "splits": {name: len(rows) for name, rows in self.splits.items()},
            "recordings": len(self.recordings),
            "subjects": len({r.subject for r in self.recordings}),
            "channels": self.spec.channels,
            "samples a second": self.spec.rate,
            "samples a segment": self.spec.length,
            "sensors without a position": int(sum((~valid).sum() for _, valid in self._places)),
        }
        return found | ({"notes": "; ".join(self.notes)} if self.notes else {})


def segment(recording: Recording, start: int, spec: SignalSpec) -> np.ndarray:
    """``[C, length]``: cut, scaled, its baseline taken off, clamped, trimmed."""
    head, tail = (round(s * spec.rate) for s in spec.trim)
    window = spec.length + head + tail
    x = (recording.x[:, start : start + window] - recording.centre) / recording.spread
    if spec.scaling == "global":
        x = (x - spec.mean) / spec.std
    if spec.baseline:
        x = x - x[:, : max(round(spec.baseline * spec.rate), 1)].mean(axis=1, keepdims=True)
    if spec.clamp:
        x = x.clip(-spec.clamp, spec.clamp)
    return x[:, head : window - tail].astype(np.float32)


def _padded_positions(recording: Recording, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """``[C, 2]`` with 0 where unknown, and ``[C]`` bool whether a sensor counts."""
    places = np.zeros((channels, 2), dtype=np.float32)
    valid = np.zeros(channels, dtype=bool)
    n = len(recording.x)
    if recording.positions is None:
        valid[:n] = True
    else:
        known = np.isfinite(recording.positions).all(axis=1)
        places[:n] = np.where(known[:, None], recording.positions, 0.0)
        valid[:n] = known
    return places, valid


def read_recording(path: Path, rate: float | None) -> tuple[Recording, float]:
    """A ``.npz`` with ``x [C, T]``, ``rate``, and maybe ``positions [C, 2 or 3]`` and ``subject``.

    Args:
        path: of the file.
        rate: samples a second that it is resampled to (polyphase filter); None: its own.

    Raises:
        DataError: it lacks something, or holds NaN.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as .npz ({error})") from None
    if "x" not in found or found["x"].ndim != 2 or "rate" not in found:
        raise DataError(
            f"{path}: wants arrays x [sensors, samples] and rate, found {', '.join(sorted(found))}"
        )
    x, own = found["x"].astype(np.float32), float(found["rate"])
    if not np.isfinite(x).all():
        bad = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise DataError(f"{path}: sensor {bad} holds NaN or inf; interpolate it or leave it out")
    if rate is not None and own != rate:
        from fractions import Fraction

        from scipy.signal import resample_poly

        ratio = Fraction(rate / own).limit_denominator(1000)
        x = resample_poly(x, ratio.numerator, ratio.denominator, axis=1).astype(np.float32)
        own = rate
    positions = found.get("positions")
    if positions is not None:
        if positions.shape not in ((len(x), 2), (len(x), 3)):
            raise DataError(
                f"{path}: positions are {list(positions.shape)}, expected [{len(x)}, 2] or [{len(x)}, 3]"
            )
        positions = unit_square(positions)
    return Recording(str(path), x, positions, str(found.get("subject", path.stem))), own


def unit_square(positions: np.ndarray) -> np.ndarray:
    """``[C, 2]`` in [0, 1]: places on a head are first laid flat (azimuth and angle from the vertex kept)."""
    places = positions.astype(np.float64)
    if places.shape[1] == 3:
        centred = places - np.nanmean(places, axis=0)
        radius = np.linalg.norm(centred, axis=1).clip(1e-12)
        angle = np.arccos((centred[:, 2] / radius).clip(-1, 1))
        azimuth = np.arctan2(centred[:, 1], centred[:, 0])
        places = np.stack([angle * np.cos(azimuth), angle * np.sin(azimuth)], axis=1)
    if not np.isfinite(places).all(axis=1).any():
        return places
    low, high = np.nanmin(places, axis=0), np.nanmax(places, axis=0)
    return (places - low) / np.maximum((high - low).max(), 1e-12)


@domain("signals")
class SignalDomain(Domain):
    """Segments of recordings with many sensors (M/EEG), or of features on a clock."""

    title: ClassVar[str] = (
        "signals of many sensors (M/EEG) and features over time, .npz recordings; for pairs"
    )
    defaults: ClassVar[dict[str, str]] = {"encoder": "brain_conv", "views": "", "mask": "random"}

    def open(  # type: ignore[override]
        self,
        source: Any,
        *,
        path: str | None = None,
        start: str | None = None,
        end: str | None = None,
        split: str | None = None,
        rate: float | None = 120.0,
        seconds: float = 3.0,
        hop: float = 0.5,
        before: float = 0.0,
        scaling: Literal["robust", "global", "none"] = "robust",
        baseline: float = 0.0,
        clamp: float = 0.0,
        trim: tuple[float, float] = (0.0, 0.0),
        valid: float = 0.1,
        test: float = 0.1,
        seed: int = 0,
        limit: int | None = None,
    ) -> SignalSource:
        """Opens recordings.

        Args:
            source: a ``.npz``, a folder of them (cut into windows), or a CSV with the columns path and start
                (and split) of segments.
            path: column of the recordings.
            start: column of the seconds at which segments begin.
            end: taken and ignored: all segments are of one length.
            split: column of train, valid, test.
            rate: samples a second; default 120 (2208.12266). Null: the files' own.
            seconds: length of a segment; default 3 (2208.12266).
            hop: seconds from one window to the next, without a table.
            before: seconds that a segment begins before ``start``; 0.5 in 2208.12266 for the brain and the
                sound.
            scaling: ``robust``, ``global`` or ``none``; see :class:`SignalSpec`.
            baseline: seconds at the beginning whose mean is taken off; 0.5 in 2208.12266.
            clamp: largest absolute value; 20 in 2208.12266, where leaving it out costs most of the accuracy.
            trim: seconds dropped at the beginning and the end; [0.15, 0] for the brain and [0, 0.15] for the
                sound shift the one by 150 ms against the other (2208.12266).
            valid: share of the recordings' segments for validation, without ``split``.
            test: the same for the test.
            seed: of the split.
            limit: at most so many segments, evenly spaced.

        Raises:
            DataError: in one sentence, with the file or row.
        """
        if not seconds - trim[0] - trim[1] > 0:
            raise DataError(f"data.trim {list(trim)} leaves nothing of {seconds} s")
        spec = SignalSpec(0, rate or 0.0, 0, (), scaling, baseline, clamp, (trim[0], trim[1]))
        return _open(source, path, start, split, seconds, hop, before, valid, test, seed, limit, spec, None)

    def spec_from_dict(self, values: dict[str, Any]) -> SignalSpec:
        """Reads a spec back."""
        return SignalSpec.from_dict(values)

    def embed_source(  # type: ignore[override]
        self,
        spec: SignalSpec,
        source: Any,
        *,
        path: str | None = None,
        start: str | None = None,
        end: str | None = None,
        split: str | None = None,
        hop: float = 0.5,
        before: float = 0.0,
        valid: float = 0.0,
        test: float = 0.0,
        seed: int = 0,
        limit: int | None = None,
        **fitted: Any,
    ) -> SignalSource:
        """New recordings with a fitted spec: its clock, length and global scale; arguments as of
        :meth:`open`."""
        seconds = spec.length / spec.rate + sum(spec.trim)
        return _open(source, path, start, split, seconds, hop, before, valid, test, seed, limit, spec, spec)

    def inspect(self, source: Any, **data: Any) -> tuple[dict[str, Any], str]:  # type: ignore[override]
        """The card, and the recipe lines that use the recordings."""
        opened = self.open(source, **data)
        return opened.card(), f"domain: signals\ndata:\n  source: {source}\n"


def _open(
    source: Any, path: str | None, start: str | None, split: str | None, seconds: float, hop: float,
    before: float, valid: float, test: float, seed: int, limit: int | None, given: SignalSpec,
    fitted: SignalSpec | None,
) -> SignalSource:  # fmt: skip
    names, starts, words = _listed(source, path, start, split)
    recordings: list[Recording] = []
    place: dict[str, int] = {}
    rate = given.rate or None
    for name in dict.fromkeys(names):
        recording, own = read_recording(Path(name), rate)
        rate = rate or own
        place[name] = len(recordings)
        recordings.append(recording)
    assert rate is not None
    window = round(seconds * rate)
    notes: list[str] = []
    if starts is None:  # windows of whole recordings
        which, begin = [], []
        for i, recording in enumerate(recordings):
            found = np.arange(0, recording.x.shape[1] - window + 1, max(round(hop * rate), 1))
            which += [i] * len(found)
            begin += found.tolist()
        kept = np.arange(len(which))
    else:
        which = [place[name] for name in names]
        begin = [round((s - before) * rate) for s in starts]
        ends = np.array([recordings[w].x.shape[1] for w in which])
        inside = (np.array(begin) >= 0) & (np.array(begin) + window <= ends)
        kept = np.flatnonzero(inside)
        if not inside.all():
            first = int(np.flatnonzero(~inside)[0])
            notes.append(
                f"{int((~inside).sum())} of {len(inside)} segments reach beyond their recording and "
                "were left out "
                f"(the first: {names[first]} at {starts[first]} s)"
            )
    if limit is not None and limit < len(kept):
        kept = kept[np.linspace(0, len(kept) - 1, limit).astype(np.int64)]
    if not len(kept):
        raise DataError(f"{source}: no segment of {seconds} s lies inside its recording")
    at, begun = np.array(which)[kept], np.array(begin)[kept]
    if words is None:
        splits = draw_splits(len(kept), valid, test, seed)
    else:
        mark = np.array(words)[kept]
        splits = {name: np.flatnonzero(mark == name) for name in SPLITS}
    head, tail = (round(s * rate) for s in given.trim)
    spec = fitted or SignalSpec(
        max(len(r.x) for r in recordings), rate, window - head - tail,
        tuple(sorted({recordings[w].subject for w in at[splits["train"]]})),
        given.scaling, given.baseline, given.clamp, given.trim,
        positioned=any(r.positions is not None for r in recordings),
    )  # fmt: skip
    if fitted is not None and max(len(r.x) for r in recordings) > fitted.channels:
        raise DataError(f"{source}: has more than the {fitted.channels} sensors that the encoder knows")
    if spec.scaling == "robust":
        _robust(recordings, at, begun, splits["train"], window)
    if spec.scaling == "global" and fitted is None:
        spec = _global(spec, recordings, at, begun, splits["train"], window)
    return SignalSource(spec, recordings, at, begun, splits, str(source), notes)


def _listed(
    source: Any, path: str | None, start: str | None, split: str | None
) -> tuple[list[str], list[float] | None, list[str] | None]:
    """Recordings of the segments, their seconds, and their splits."""
    if not isinstance(source, str | Path):
        raise DataError(f"data.source: {type(source).__name__} holds no signals; give .npz files or a CSV")
    place = Path(source).expanduser()
    if place.is_dir():
        files = [str(p) for p in sorted(place.rglob("*.npz"))]
        if not files:
            raise DataError(f"data.source: {place} holds no .npz recording")
        return files, None, None
    if not place.is_file():
        raise DataError(f"data.source: {place} does not exist; give .npz recordings, or a CSV of segments")
    if place.suffix.lower() == ".npz":
        return [str(place)], None, None
    with place.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    path, start = path or "path", start or "start"
    for name in (path, start):
        if not rows or name not in rows[0]:
            raise DataError(f"{place}: wants the columns {path} and {start} with a segment a row")
    names = [str((place.parent / row[path]).resolve()) for row in rows]
    try:
        starts = [float(row[start] or 0.0) for row in rows]
    except ValueError:
        raise DataError(
            f"{place}: the column {start!r} holds something that is no number of seconds"
        ) from None
    words = None if split is None else [str(row[split]) for row in rows]
    return names, starts, words


def _robust(
    recordings: list[Recording], which: np.ndarray, begin: np.ndarray, train: np.ndarray, window: int
) -> None:
    """Median and quartiles of each recording and channel, on up to 200 of its train segments (of a recording
    without
    any: of its own segments)."""
    for i, recording in enumerate(recordings):
        rows = train[which[train] == i]
        rows = rows if len(rows) else np.flatnonzero(which == i)
        rows = (
            rows[np.linspace(0, len(rows) - 1, min(len(rows), FITTED)).astype(np.int64)]
            if len(rows)
            else rows
        )
        if not len(rows):
            continue
        values = np.concatenate([recording.x[:, begin[r] : begin[r] + window] for r in rows], axis=1)
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
        recording.centre = middle[:, None].astype(np.float32)
        spread = np.where(high - low > 0, high - low, 1.0)
        recording.spread = spread[:, None].astype(np.float32)


def _global(
    spec: SignalSpec,
    recordings: list[Recording],
    which: np.ndarray,
    begin: np.ndarray,
    train: np.ndarray,
    window: int,
) -> SignalSpec:
    """The spec with one mean and deviation of all train values."""
    rows = train[np.linspace(0, len(train) - 1, min(len(train), 2000)).astype(np.int64)]
    values = np.concatenate([recordings[which[r]].x[:, begin[r] : begin[r] + window].ravel() for r in rows])
    std = float(values.std()) or 1.0
    return SignalSpec(**{**spec.to_dict(), "trim": spec.trim, "mean": float(values.mean()), "std": std})
