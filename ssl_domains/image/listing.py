"""What a reader finds: where each image's bytes are, and what is known about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ssl_domains.image.decode import Raw

_NAMES = "jpg jpeg jpe jfif png bmp gif webp tif tiff ppm pgm pbm pnm tga ico jp2 avif dib pcx sgi"
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
"""Endings of files that are taken for images in a folder."""


class Images(Protocol):
    """Raw images by number: a path, or the bytes of a file. Can be sent to another process."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, row: int) -> Raw:
        """A path or bytes."""


@dataclass
class Paths:
    """Files by their paths."""

    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> str:
        return self.paths[row]


@dataclass
class Listing:
    """A set of images before any is decoded.

    Attributes:
        name: of the source, for messages.
        ids: one a row: a path below the source, a row number, a key.
        images: raw images; None when ``pixels`` are there already.
        pixels: ``[n, H, W, C]`` uint8.
        label: ``[n]`` or ``[n, L]`` values as found (texts, numbers, None), or None.
        class_names: where the source has names for the numbers in ``label``.
        split: ``[n]`` of train, valid, test, or None.
        group: ``[n]`` values whose rows stay on one side of a split, or None.
        notes: sentences for the card.
        mark: JSON values that change when the data change, or None when that cannot be told.
    """

    name: str
    ids: Sequence[Any]
    images: Images | None = None
    pixels: np.ndarray | None = None
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
            None if self.images is None else Chosen(self.images, rows),
            of(self.pixels),
            of(self.label),
            self.class_names,
            of(self.split),
            of(self.group),
            list(self.notes),
            None if self.mark is None else [self.mark, len(rows), int(rows.sum())],
        )


@dataclass
class Chosen:
    """Some rows of other images."""

    images: Images
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Raw:
        return self.images[int(self.rows[row])]
