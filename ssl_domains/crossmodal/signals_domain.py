"""The domain of signals: opens recordings, cuts them into segments, fits scales on the train segments."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Domain
from ssl_domains.core.registry import domain
from ssl_domains.crossmodal.recordings import SUFFIXES, Reader, Recording
from ssl_domains.crossmodal.signals import FITTED, SPLITS, SignalSource, SignalSpec
from ssl_domains.text.data import draw_splits


@domain("signals")
class SignalDomain(Domain):
    """Segments of recordings with many sensors (M/EEG), or of features on a clock."""

    title: ClassVar[str] = "signals of many sensors (M/EEG) and features over time; for pairs"
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
            source: a recording (``.npz``; FIF, EDF, BrainVision and others with MNE), a folder of them (cut
                into windows), or a CSV with the columns path and start (and split) of segments.
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
    reader = Reader(given.rate or None)
    for name in dict.fromkeys(names):
        place[name] = len(recordings)
        recordings.append(reader.open(Path(name)))
    rate = reader.rate
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
    return SignalSource(
        spec, recordings, at, begun, splits, str(source), notes, None if starts is None else kept
    )


def _listed(
    source: Any, path: str | None, start: str | None, split: str | None
) -> tuple[list[str], list[float] | None, list[str] | None]:
    """Recordings of the segments, their seconds, and their splits."""
    if not isinstance(source, str | Path):
        raise DataError(f"data.source: {type(source).__name__} holds no signals; give recordings or a CSV")
    place = Path(source).expanduser()
    if place.is_dir():
        files = [str(p) for p in sorted(place.rglob("*")) if p.suffix.lower() in SUFFIXES]
        if not files:
            raise DataError(f"data.source: {place} holds no recording ({', '.join(SUFFIXES)})")
        return files, None, None
    if not place.is_file():
        raise DataError(f"data.source: {place} does not exist; give recordings, or a CSV of segments")
    if place.suffix.lower() in SUFFIXES:
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
