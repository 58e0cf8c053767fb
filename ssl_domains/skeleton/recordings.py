"""What readers give: recordings of points, and what is done to one before it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.layouts import Layout
from ssl_domains.skeleton.store import ArrayStore


@dataclass
class Recording:
    """One stretch of time.

    Attributes:
        name: of its file, or a row of it; for messages and as its id.
        points: ``[T, M, V, C]`` float32; NaN where a value is missing.
        confidence: ``[T, M, V]`` in [0, 1], or None: 1 where no value is missing.
        label: class or number of the whole recording, ``[T]`` of each frame, or None.
        group: who it is of (subject), or None.
        split: train, valid, test, or None.
        rate: frames a second, or None.
        first: where its frames begin in :attr:`Recordings.array`, when that is set.
    """

    name: str
    points: np.ndarray
    confidence: np.ndarray | None = None
    label: Any = None
    group: str | None = None
    split: str | None = None
    rate: float | None = None
    first: int = 0

    def known(self) -> np.ndarray:
        """``[T, M, V]`` float32 confidence, 0 where a value is missing."""
        there = ~np.isnan(self.points).any(axis=-1)
        if self.confidence is None:
            return there.astype(np.float32)
        return np.where(there, self.confidence, 0.0).astype(np.float32)


@dataclass
class Recordings:
    """All recordings of a source.

    Attributes:
        items: the recordings, of one V, C and M.
        channels: C names.
        layout: where the files say what the points are; None: ``data.layout`` or a guess.
        vectors: channels that turn together.
        name: of the source, for messages.
        notes: what the user should know of the reading.
        array: holds the numbers of one large array; then those of ``items`` are placeholders.
    """

    items: list[Recording]
    channels: tuple[str, ...]
    layout: Layout | None = None
    vectors: tuple[tuple[int, ...], ...] = ()
    name: str = ""
    notes: list[str] = field(default_factory=list)
    array: ArrayStore | None = None


def same_points(items: Sequence[Recording], names: Sequence[Sequence[str]] | None = None) -> None:
    """Checks that all recordings have the same numbers of points and channels.

    Args:
        items: the recordings.
        names: names of each recording's points, where the files say them.

    Raises:
        DataError: two files with different points; names both.
    """
    first = items[0]
    for number, item in enumerate(items):
        v, c = item.points.shape[2:]
        if (v, c) != first.points.shape[2:]:
            raise DataError(
                f"{item.name} has {v} points of {c} values, {first.name} has {first.points.shape[2]} of "
                f"{first.points.shape[3]}; give files of one layout"
            )
        if names is not None and list(names[number]) != list(names[0]):
            other = next((a for a, b in zip(names[number], names[0]) if a != b), "?")
            raise DataError(
                f"{item.name}: its points are not those of {first.name} (first difference: {other!r}); give "
                "files of one layout"
            )


def fill_gaps(points: np.ndarray, longest: int) -> np.ndarray:
    """Missing values between two known ones, at most ``longest`` frames long, by straight lines.

    Args:
        points: ``[T, ...]`` with NaN.
        longest: frames of a gap that is filled; 0: none.

    Returns:
        A copy; longer gaps, and those at either end, stay.
    """
    missing = np.isnan(points)
    if longest < 1 or not missing.any():
        return points
    frames = np.arange(len(points))
    flat, lost = points.reshape(len(points), -1).copy(), missing.reshape(len(points), -1)
    before = np.maximum.accumulate(np.where(lost, -1, frames[:, None]), axis=0)
    after = np.minimum.accumulate(np.where(lost, len(points), frames[:, None])[::-1], axis=0)[::-1]
    fill = lost & (before >= 0) & (after < len(points)) & (after - before - 1 <= longest)
    t, column = np.nonzero(fill)
    low, high = before[t, column], after[t, column]
    share = (t - low) / (high - low)
    flat[t, column] = flat[low, column] * (1 - share) + flat[high, column] * share
    return flat.reshape(points.shape)


def track(
    frames: Sequence[np.ndarray], confidence: Sequence[np.ndarray], persons: int
) -> tuple[np.ndarray, np.ndarray]:
    """Persons found frame by frame, put in order so that a place holds the same person.

    A frame's persons are matched to the last known positions of the tracks by their mean distance
    (the assignment of least total distance); whoever is left begins a track. The ``persons`` tracks
    with the most confident frames stay.

    Args:
        frames: T arrays ``[P_t, V, C]``, NaN where a joint is missing.
        confidence: T arrays ``[P_t, V]``.
        persons: M.

    Returns:
        ``[T, M, V, C]`` with NaN where nobody is, and ``[T, M, V]`` confidence, 0 there.
    """
    shape = next((f.shape[1:] for f in frames if len(f)), None)
    if shape is None:
        raise DataError("no frame holds a person")
    last: list[np.ndarray] = []  # where each track was last
    places: list[list[tuple[int, int]]] = []  # (frame, person) of each track
    for t, found in enumerate(frames):
        if not len(found):
            continue
        rest = list(range(len(found)))
        if last:
            apart = _distances(np.stack(last), found)
            for track_, person in zip(*linear_sum_assignment(apart), strict=True):
                places[track_].append((t, int(person)))
                last[track_] = np.where(np.isnan(found[person]), last[track_], found[person])
                rest.remove(int(person))
        for person in rest:
            places.append([(t, person)])
            last.append(found[person])
    weight = [sum(float(confidence[t][p].sum()) for t, p in track_) for track_ in places]
    kept = sorted(np.argsort(weight)[::-1][:persons].tolist())
    points = np.full((len(frames), persons, *shape), np.nan, dtype=np.float32)
    sure = np.zeros((len(frames), persons, shape[0]), dtype=np.float32)
    for place, number in enumerate(kept):
        for t, person in places[number]:
            points[t, place], sure[t, place] = frames[t][person], confidence[t][person]
    return points, sure


def _distances(tracks: np.ndarray, found: np.ndarray) -> np.ndarray:
    """``[K, P]`` mean distance over joints that both know; a large number when there is none."""
    apart = np.linalg.norm(tracks[:, None] - found[None], axis=-1)
    known = ~np.isnan(apart)
    total = np.where(known, apart, 0.0).sum(-1)
    return np.where(known.any(-1), total / np.maximum(known.sum(-1), 1), 1e12)


def keep_moving(points: np.ndarray, confidence: np.ndarray, persons: int) -> tuple[np.ndarray, np.ndarray]:
    """Of ``[T, P, V, C]`` tracks those ``persons`` with the largest spread of motion; NTU's usual rule
    against objects taken for people. Fewer are filled up with nobody."""
    spread = np.nan_to_num(np.nansum(np.nanvar(points, axis=0), axis=(1, 2)))
    order = np.argsort(-spread, kind="stable")[:persons]
    points, confidence = points[:, order], confidence[:, order]
    lacking = persons - points.shape[1]
    if lacking > 0:
        points = np.pad(points, ((0, 0), (0, lacking), (0, 0), (0, 0)), constant_values=np.nan)
        confidence = np.pad(confidence, ((0, 0), (0, lacking), (0, 0)))
    return points, confidence
