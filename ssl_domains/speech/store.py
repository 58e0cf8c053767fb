"""Where samples come from: files that are decoded when they are wanted, arrays, or a cache on the disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ssl_domains.core import cache
from ssl_domains.core.errors import DataError
from ssl_domains.speech.decode import BrokenSound, read, resampled
from ssl_domains.speech.listing import Files

MAX_BROKEN = 100
"""So many recordings may turn out to be broken while training before the run stops."""


@dataclass(frozen=True)
class Stretches:
    """Which part of which file each utterance is.

    Attributes:
        file: ``[n]`` number of the file.
        start: ``[n]`` first frame at the file's own rate.
        frames: ``[n]`` number of frames.
        length: ``[n]`` samples after resampling, as the header has it.
        offset: ``[n]`` seconds from the beginning of the file.
    """

    file: np.ndarray
    start: np.ndarray
    frames: np.ndarray
    length: np.ndarray
    offset: np.ndarray


class Store(Protocol):
    """Samples of utterances by row."""

    def samples(self, row: int) -> np.ndarray:
        """``[T]`` float32."""


class Decoded:
    """Decodes a stretch of a file whenever it is asked for; nothing stays in memory.

    A file that turns out to be broken gives silence, with a warning that names it, up to 100 of them. Values
    that are not finite become 0, with a warning.

    Args:
        files: paths or bytes.
        names: of the files.
        stretches: of the utterances.
        rate: wanted samples a second.
        channel: ``mix`` or a number.
        strict: raise instead.
    """

    def __init__(
        self, files: Files, names: Sequence[str], stretches: Stretches, rate: int, channel: str, strict: bool
    ) -> None:
        self.files, self.names, self.at = files, names, stretches
        self.rate, self.channel, self.strict = rate, channel, strict
        self.broken: set[int] = set()
        self.not_finite: set[int] = set()

    def samples(self, row: int) -> np.ndarray:
        """``[T]`` float32.

        Raises:
            DataError: a broken file or a value that is not finite, and ``strict``; or over 100 broken files.
        """
        number = int(self.at.file[row])
        try:
            found = read(
                self.files[number], int(self.at.start[row]), int(self.at.frames[row]), self.rate, self.channel
            )
        except BrokenSound as error:
            return self._broken(row, number, str(error))
        return self._finite(found, number)

    def _broken(self, row: int, number: int, reason: str) -> np.ndarray:
        name = self.names[number]
        if self.strict:
            raise DataError(f"{name}: {reason}; mend or remove it, or set data.strict=false")
        if number not in self.broken:
            self.broken.add(number)
            warnings.warn(f"{name}: {reason}; it counts as silence", stacklevel=3)
        if len(self.broken) > MAX_BROKEN:
            raise DataError(
                f"over {MAX_BROKEN} recordings turned out to be broken (the last: {name}: {reason}); "
                "mend them"
            )
        return np.zeros(max(int(self.at.length[row]), 1), dtype=np.float32)

    def _finite(self, found: np.ndarray, number: int) -> np.ndarray:
        bad = ~np.isfinite(found)
        if not bad.any():
            return found
        name, count = self.names[number], int(bad.sum())
        if self.strict:
            raise DataError(f"{name}: {count} samples are NaN or infinite; mend or remove the file")
        if number not in self.not_finite:
            self.not_finite.add(number)
            warnings.warn(f"{name}: {count} samples are NaN or infinite; they count as 0", stacklevel=3)
        return np.where(bad, 0.0, found).astype(np.float32)


class InMemory:
    """Arrays at one rate, resampled when they are asked for.

    Args:
        arrays: ``[T]`` float32 of each file.
        stretches: of the utterances.
        own: samples a second of the arrays.
        rate: wanted.
    """

    def __init__(self, arrays: Sequence[np.ndarray], stretches: Stretches, own: int, rate: int) -> None:
        self.arrays, self.at, self.own, self.rate = arrays, stretches, own, rate

    def samples(self, row: int) -> np.ndarray:
        """``[T]`` float32."""
        begin = int(self.at.start[row])
        piece = self.arrays[int(self.at.file[row])][begin : begin + int(self.at.frames[row])]
        return resampled(piece, self.own, self.rate)


class Cached:
    """All samples in one memory-mapped file.

    Args:
        flat: ``[S]`` float32, one utterance after another.
        ends: ``[n]`` int64 where each ends.
    """

    def __init__(self, flat: np.ndarray, ends: np.ndarray) -> None:
        self.flat, self.ends = flat, ends

    def samples(self, row: int) -> np.ndarray:
        """``[T]`` float32."""
        return np.array(self.flat[int(self.ends[row - 1]) if row else 0 : int(self.ends[row])])


def cached(store: Decoded) -> Cached:
    """Decodes everything once into the cache folder, or finds it there.

    Raises:
        DataError: the folder cannot be written, or as :meth:`Decoded.samples`.
    """
    marks = []
    for number in range(len(store.files)):
        raw = store.files[number]
        stat = os.stat(raw) if isinstance(raw, str) and os.path.exists(raw) else None
        marks.append([store.names[number], *([stat.st_size, stat.st_mtime_ns] if stat else [len(raw)])])
    at = store.at
    key = cache.key_of(
        [marks, at.file.tolist(), at.start.tolist(), at.frames.tolist(), store.rate, store.channel]
    )
    with cache.locked("speech", key):
        if cache.find("speech", key) is None:
            with cache.writing("speech", key) as folder:
                flat = folder.array("samples", (int(at.length.sum()) + len(at.length),), np.float32)
                ends, end = np.zeros(len(at.length), dtype=np.int64), 0
                for row in range(len(ends)):
                    piece = store.samples(row)[: int(at.length[row]) + 1]
                    flat[end : end + len(piece)] = piece
                    end += len(piece)
                    ends[row] = end
                folder.save("ends", ends)
                folder.meta({"samples": end})
    path = cache.find("speech", key)
    assert path is not None
    samples, stops = cache.load_array(path, "samples"), cache.load_array(path, "ends")
    assert samples is not None
    assert stops is not None
    return Cached(samples, np.array(stops))
