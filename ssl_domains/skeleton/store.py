"""Where the frames of all clips are, and how a batch of clips is taken out at once."""

from __future__ import annotations

import numpy as np


class FrameStore:
    """All frames one after another; a clip is a stretch of them.

    Args:
        points: ``[S, M, V, C]`` float32, NaN missing.
        confidence: ``[S, M, V]`` float32, 0 missing.
    """

    def __init__(self, points: np.ndarray, confidence: np.ndarray) -> None:
        self.points, self.confidence = points, confidence

    def read(self, start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``[B, T, M, V, C]`` and ``[B, T, M, V]``, T the longest; beyond a clip's end, its last frame
        again."""
        step = np.arange(int(length.max()))
        at = start[:, None] + np.minimum(step[None], length[:, None] - 1)
        return self.points[at], self.confidence[at]

    def __len__(self) -> int:
        return len(self.points)


class ArrayStore:
    """Clips of a rectangle ``[N, C, T, V, M]`` that stays where it is (a file, mapped into memory).

    ``start`` is row * T + first frame.

    Args:
        x: the array.
        confidence: ``[N, T, V, M]``, or None.
    """

    def __init__(self, x: np.ndarray, confidence: np.ndarray | None = None) -> None:
        self.x, self.sure = x, confidence

    def read(self, start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`FrameStore.read`."""
        row, first = np.divmod(start, self.x.shape[2])
        step = np.arange(int(length.max()))
        at = first[:, None] + np.minimum(step[None], length[:, None] - 1)
        order = np.argsort(row, kind="stable")  # rising rows: a mapped file is read from front to back
        clips = np.empty((len(row), *self.x.shape[1:]), dtype=np.float32)
        clips[order] = self.x[row[order]]
        points = clips.transpose(0, 2, 4, 3, 1)[np.arange(len(row))[:, None], at]
        known = (~np.isnan(points).any(axis=-1)).astype(np.float32)
        if self.sure is not None:
            known *= self.sure[row[:, None], at].transpose(0, 1, 3, 2)
        return points, known

    def clip(self, first: int, length: int) -> tuple[np.ndarray, np.ndarray | None]:
        """One clip in memory: ``[T, M, V, C]`` float32, and ``[T, M, V]`` confidence where it was given."""
        row, begin = divmod(first, self.x.shape[2])
        part = slice(begin, begin + length)
        points = np.array(self.x[row, :, part].transpose(1, 3, 2, 0), dtype=np.float32)
        return points, None if self.sure is None else self.sure[row, part].transpose(0, 2, 1)

    def __len__(self) -> int:
        return int(self.x.shape[0] * self.x.shape[2])


Store = FrameStore | ArrayStore
