"""The source: clips of points on a body, fetched a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.skeleton.spec import BodySpec
from ssl_domains.skeleton.store import Store

RAW_FRAMES = 16
"""Frames that a skeleton is resampled to for the plain features."""


@dataclass
class Clips:
    """Which stretch of the store each sample is, and what is known of it.

    Attributes:
        start: ``[n]`` first frame.
        length: ``[n]`` frames.
        names: ids.
        groups: names of the groups, or None for each.
        notes: what happened while reading.
    """

    start: np.ndarray
    length: np.ndarray
    names: list[str]
    groups: list[str | None]
    notes: list[str] = field(default_factory=list)


class BodySource:
    """Clips as batches ``{"points": [B, C, T, V, M] float32, "confidence": [B, T, V, M] float32, "length":
    [B] int64}``; T is the longest clip of the batch, and beyond ``length`` all is 0, as are missing points.

    Implements :class:`ssl_domains.core.interfaces.Source`.

    Attributes:
        groups: ``[n]`` int64 number of each clip's group (-1: none), or None; samplers go by it.
        group_names: their names.
    """

    full_batch = False

    def __init__(
        self,
        spec: BodySpec,
        store: Store,
        clips: Clips,
        splits: dict[str, np.ndarray],
        labels: np.ndarray | None = None,
        task: str | None = None,
        class_names: list[str] | None = None,
        name: str = "",
    ) -> None:
        self.spec, self.store, self.clips, self.splits = spec, store, clips, splits
        self.labels, self.task, self.class_names, self.name = labels, task, class_names, name
        known = sorted({g for g in clips.groups if g is not None})
        self.group_names = known
        place = {g: i for i, g in enumerate(known)}
        self.groups: np.ndarray | None = None
        if known:
            self.groups = np.array(
                [place.get(g, -1) if g is not None else -1 for g in clips.groups], dtype=np.int64
            )
        self._shift = np.array(spec.shift, dtype=np.float32) if spec.shift else np.float32(0.0)
        self._scale = np.array(spec.scale, dtype=np.float32) if spec.scale else np.float32(1.0)

    def __len__(self) -> int:
        return len(self.clips.start)

    def clip(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centred and scaled: points ``[B, T, M, V, C]``, confidence ``[B, T, M, V]``, length ``[B]``."""
        rows = np.asarray(indices, dtype=np.int64)
        length = self.clips.length[rows]
        points, confidence = self.store.read(self.clips.start[rows], length)
        confidence = confidence * (np.arange(points.shape[1])[None] < length[:, None])[..., None, None]
        known = confidence > 0
        points = centred(np.where(known[..., None], points, 0.0), known, self.spec)
        points = (points - self._shift) / self._scale
        return (
            np.where(known[..., None], points, 0.0).astype(np.float32),
            confidence.astype(np.float32),
            length,
        )

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The clips with these row numbers, in this order, on the CPU."""
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row numbers must lie in [0, {len(self)}), got {rows.min()} to {rows.max()}")
        points, confidence, length = self.clip(rows)
        x = {
            "points": torch.from_numpy(np.ascontiguousarray(points.transpose(0, 4, 1, 3, 2))),
            "confidence": torch.from_numpy(np.ascontiguousarray(confidence.transpose(0, 1, 3, 2))),
            "length": torch.from_numpy(length.astype(np.int64)),
        }
        label = None if self.labels is None else torch.from_numpy(np.asarray(self.labels[rows]))
        meta = {} if self.groups is None else {"group": torch.from_numpy(self.groups[rows])}
        return Batch(x, torch.from_numpy(rows), label, meta)

    def raw_features(self, indices: np.ndarray) -> np.ndarray:
        """``[n, F]`` float32. Skeletons: coordinates at 16 evenly spaced frames. Sensors: mean, deviation,
        least, largest and mean absolute change of every channel of every device."""
        parts = [self._raw(np.asarray(indices)[i : i + 1024]) for i in range(0, len(indices), 1024)]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def _raw(self, rows: np.ndarray) -> np.ndarray:
        points, _, length = self.clip(rows)
        if self.spec.kind == "skeleton":
            at = ((np.arange(RAW_FRAMES) + 0.5)[None] * length[:, None] / RAW_FRAMES).astype(np.int64)
            return points[np.arange(len(rows))[:, None], at].reshape(len(rows), -1)
        real = (np.arange(points.shape[1])[None] < length[:, None])[..., None, None, None]
        n = length[:, None, None, None].astype(np.float32)
        mean = points.sum(1) / n
        spread = np.sqrt(np.where(real, (points - mean[:, None]) ** 2, 0.0).sum(1) / n)
        low, high = np.where(real, points, np.inf).min(1), np.where(real, points, -np.inf).max(1)
        change = np.abs(np.diff(points, axis=1) * real[:, 1:]).sum(1) / n
        return np.concatenate([f.reshape(len(rows), -1) for f in (mean, spread, low, high, change)], axis=1)

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """Names of the files or clips; windows have their number behind a #."""
        return [self.clips.names[int(i)] for i in indices]

    def describe(self, row: int) -> str:
        """Label and length, for the table of neighbours."""
        seconds = (
            f"{self.clips.length[row] / self.spec.rate:.1f} s"
            if self.spec.rate
            else f"{self.clips.length[row]} frames"
        )
        if self.labels is None:
            return seconds
        label = self.labels[row]
        known = self.class_names is not None and label >= 0
        return f"{self.class_names[int(label)] if known and self.class_names else label}, {seconds}"

    def picture(self, row: int) -> np.ndarray:
        """``[H, W, 3]`` uint8: a few frames of a skeleton, or the curves of a window."""
        from ssl_domains.skeleton.picture import draw_clip

        points, confidence, length = self.clip([row])
        return draw_clip(points[0, : length[0]], confidence[0, : length[0]], self.spec)

    def card(self) -> dict[str, Any]:
        """Counts, layout, lengths, missing points, groups and class balance."""
        length, spec = self.clips.length, self.spec
        what = (
            {"points": "joints", "names": "joints"}
            if spec.kind == "skeleton"
            else {"points": "devices", "names": "devices"}
        )
        found: dict[str, Any] = {
            "source": self.name,
            "kind": spec.kind,
            "clips": len(self),
            "splits": {name: len(rows) for name, rows in self.splits.items()},
            "layout": f"{spec.layout.name}, {spec.points} {what['points']}",
            what["names"]: ", ".join(spec.layout.joints),
            "channels": ", ".join(spec.channels),
            "persons": spec.persons,
            "frames": {
                "shortest": int(length.min()),
                "median": float(np.median(length)),
                "longest": int(length.max()),
            },
            "frames a second": spec.rate,
            "missing points": round(self._missing(), 4),
            "groups": len(self.group_names) or None,
            "class_balance": self._balance(),
        }
        if self.clips.notes:
            found["notes"] = "; ".join(self.clips.notes)
        return found

    def _missing(self) -> float:
        """Share of the points of the persons that are there, in at most 512 clips."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(len(self), 512)).astype(np.int64))
        _, confidence, length = self.clip(rows)
        step = np.arange(confidence.shape[1])
        real = np.less(step[None], length[:, None])[:, :, None, None]
        someone = np.max(confidence, axis=(1, 3), keepdims=True) > 0
        there = np.broadcast_to(someone & real, confidence.shape)
        return float(((confidence == 0) & there).sum() / max(int(there.sum()), 1))

    def _balance(self) -> dict[str, float] | None:
        if self.labels is None or self.class_names is None:
            return None
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names))
        return {name: round(float(c), 4) for name, c in zip(self.class_names, counts / max(counts.sum(), 1))}


def centred(points: np.ndarray, known: np.ndarray, spec: BodySpec) -> np.ndarray:
    """Skeletons around the root joint of their first person (``spec.center``); sensors as they are.

    ``first`` takes the root where it is first seen, ``frame`` that of every frame (where it is not seen, the
    last one before). With the root never seen, or without one, the mean of the known points stands in.

    Args:
        points: ``[B, T, M, V, C]``, 0 where missing.
        known: ``[B, T, M, V]`` bool.
        spec: the data's.
    """
    if spec.kind == "sensors" or spec.center == "none":
        return points
    root = spec.layout.root
    b = np.arange(len(points))
    count = known.sum(axis=(2, 3))  # [B, T]
    mean = points.sum(axis=(2, 3)) / np.maximum(count, 1)[..., None]  # [B, T, C]
    at, seen = (points[:, :, 0, root], known[:, :, 0, root]) if root >= 0 else (mean, count > 0)
    never = np.asarray(~seen.any(axis=1))
    at, seen = np.where(never[:, None, None], mean, at), np.where(never[:, None], count > 0, seen)
    first = np.asarray(seen.argmax(axis=1))
    if spec.center == "first":
        return points - at[b, first][:, None, None, None]
    step = np.where(seen, np.arange(points.shape[1])[None], 0)
    last = np.maximum(np.maximum.accumulate(step, axis=1), first[:, None])
    return points - at[b[:, None], last][:, :, None, None]
