"""Signals of many sensors over time (M/EEG), and features on a clock (of speech): recordings, segments.

They lie here since only pairs use them: ``domain: signals`` of a part (:mod:`.signals_domain`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.crossmodal.recordings import Recording

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


class SignalSource:
    """Segments as batches ``{"signal": [B, C, T] float32, "positions": [B, C, 2] float32, "valid": [B, C]
    bool, "subject": [B] int64}``; a subject that training has not seen is -1.

    Implements :class:`ssl_domains.core.interfaces.Source`. ``listed`` says which row of the list of segments
    each sample is, or is None.
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
        listed: np.ndarray | None = None,
    ) -> None:
        self.listed = listed
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
