"""What a reader finds: where each video is, and what is known about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ssl_domains.video.decode import Raw


class Videos(Protocol):
    """Raw videos by number: a path, the bytes of a file, or the paths of single frames."""

    def __len__(self) -> int:
        """Number of videos."""

    def __getitem__(self, row: int) -> Raw:
        """A path, bytes, or a tuple of paths of images."""


@dataclass
class Listing:
    """A set of videos before any is decoded.

    Attributes:
        name: of the source, for messages.
        ids: one a video (or a stretch of one): a path below the source, a row number, a key.
        videos: raw videos; None when ``clips`` are there already.
        clips: ``[n, T, H, W, C]`` uint8.
        start, end: ``[n]`` seconds of the stretch that counts (NaN: from the first, to the last), or None.
        label: ``[n]`` or ``[n, L]`` values as found, or None.
        class_names: where the source has names for the numbers in ``label``.
        split: ``[n]`` of train, valid, test, or None.
        group: ``[n]`` values whose rows stay on one side of a split, or None.
        notes: sentences for the card.
        mark: JSON values that change when the data change, or None when that cannot be told.
    """

    name: str
    ids: Sequence[Any]
    videos: Videos | None = None
    clips: np.ndarray | None = None
    start: np.ndarray | None = None
    end: np.ndarray | None = None
    label: np.ndarray | None = None
    class_names: list[str] | None = None
    split: np.ndarray | None = None
    group: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    mark: Any = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> Listing:
        """Some rows."""

        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return Listing(
            self.name,
            [self.ids[int(i)] for i in rows],
            None if self.videos is None else Chosen(self.videos, rows),
            of(self.clips),
            of(self.start),
            of(self.end),
            of(self.label),
            self.class_names,
            of(self.split),
            of(self.group),
            list(self.notes),
            None if self.mark is None else [self.mark, len(rows), int(rows.sum())],
        )


@dataclass
class Chosen:
    """Some rows of other videos."""

    videos: Videos
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Raw:
        return self.videos[int(self.rows[row])]
