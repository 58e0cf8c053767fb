"""Pixels of images, a batch at a time: from memory, from the decode cache, or decoded on the way."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ssl_domains.core import cache
from ssl_domains.core.errors import DataError
from ssl_domains.core.threads import in_threads
from ssl_domains.image.decode import BrokenImage, Decoding, decode, read_header
from ssl_domains.image.listing import Images, Listing

CACHE_BYTES = 4 << 30
"""Decoded sets up to this size are kept as 8-bit pixels in the cache folder, unless ``data.cache`` says
otherwise."""
MAX_BROKEN = 100
CHUNK = 512


class Pixels(Protocol):
    """``[B, H, W, C]`` uint8 rows, and the true sizes ``[n, 2]`` where they are known."""

    sizes: np.ndarray | None

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The images with these numbers."""


class Kept:
    """Pixels that are there: an array in memory or memory-mapped."""

    def __init__(self, array: np.ndarray, sizes: np.ndarray | None = None) -> None:
        self.matrix, self.sizes = cache.Matrix(array), sizes

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """See :class:`Pixels`."""
        return np.ascontiguousarray(self.matrix.rows(indices))


class Decoded:
    """Images decoded when they are fetched, in threads (PIL works outside Python's lock).

    An image that turns out to be broken is replaced by plain grey, with a warning that names it, up to
    :data:`MAX_BROKEN` of them.
    """

    sizes: np.ndarray | None = None

    def __init__(self, images: Images, ids: Sequence[Any], how: Decoding, strict: bool) -> None:
        self.images, self.ids, self.how, self.strict = images, ids, how, strict
        self.broken: set[int] = set()

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """See :class:`Pixels`.

        Raises:
            DataError: a broken image and ``data.strict``, or too many of them.
        """
        out = np.empty((len(indices), *self.how.size, self.how.channels), dtype=np.uint8)

        def fill(at: int) -> None:
            row = int(indices[at])
            try:
                out[at] = decode(self.images[row], self.how)[0]
            except BrokenImage as error:
                out[at] = 127
                self._found(row, str(error))

        in_threads(fill, range(len(indices)))
        return out

    def _found(self, row: int, reason: str) -> None:
        if self.strict:
            raise DataError(f"{self.ids[row]} {reason}; mend or remove it, or set data.strict=false")
        if row not in self.broken:
            self.broken.add(row)
            warnings.warn(f"{self.ids[row]} {reason}; plain grey takes its place", stacklevel=2)
        if len(self.broken) > MAX_BROKEN:
            raise DataError(
                f"over {MAX_BROKEN} images turned out to be broken while training (the last: {self.ids[row]} "
                f"{reason}); set data.cache=true to look through all of them first"
            )


def keep(listing: Listing, how: Decoding) -> tuple[Kept, np.ndarray, list[str]]:
    """Decodes a whole set into the cache, or finds it there.

    Returns:
        Pixels of the good images, their rows ``[m]`` in the listing, and a sentence for each broken one.

    Raises:
        DataError: the cache folder cannot be written.
    """
    assert listing.images is not None
    from dataclasses import asdict

    key = None if listing.mark is None else cache.key_of(["pixels", listing.mark, asdict(how)])
    path = cache.find("image", key) if key is not None else None
    if path is None:
        with cache.writing("image", key) as folder:
            _fill(listing, how, folder)
        path, owner = folder.path, folder
    else:
        owner = None
    arrays = {name: cache.load_array(path, name) for name in ("pixels", "good", "sizes")}
    meta = path / "broken.txt"
    pixels, good, sizes = arrays["pixels"], arrays["good"], arrays["sizes"]
    if pixels is None or good is None or sizes is None or not meta.exists():
        raise DataError(f"the cache entry {path} is damaged; delete that folder and start again")
    kept = Kept(pixels, np.array(sizes))
    kept.owner = owner  # type: ignore[attr-defined]  # a folder without a key goes with its owner
    return kept, np.array(good), meta.read_text(encoding="utf-8").splitlines()


def _fill(listing: Listing, how: Decoding, folder: cache.Folder) -> None:
    images, n = listing.images, len(listing)
    assert images is not None
    pixels = folder.array("pixels", (n, *how.size, how.channels), np.uint8)
    sizes = np.zeros((n, 2), dtype=np.int32)
    broken: dict[int, str] = {}

    def fill(row: int) -> None:
        try:
            pixels[row], sizes[row] = decode(images[row], how)
        except BrokenImage as error:
            broken[row] = " ".join(f"{listing.ids[row]} {error}".split())

    for start in range(0, n, CHUNK):
        in_threads(fill, range(start, min(start + CHUNK, n)))
        cache.Matrix(pixels).release()
    good = np.array([i for i in range(n) if i not in broken], dtype=np.int64)
    folder.save("good", good)
    folder.save("sizes", sizes)
    (folder.path / "broken.txt").write_text(
        "\n".join(broken[row] for row in sorted(broken)), encoding="utf-8"
    )
    folder.meta({"images": n, "broken": len(broken)})


def look(listing: Listing) -> tuple[np.ndarray, list[str]]:
    """Reads every header: rows that can be opened, and a sentence for each that cannot."""
    images = listing.images
    assert images is not None
    broken: dict[int, str] = {}

    def open_(row: int) -> None:
        try:
            read_header(images[row])
        except BrokenImage as error:
            broken[row] = f"{listing.ids[row]} {error}"

    in_threads(open_, range(len(listing)))
    good = np.array([i for i in range(len(listing)) if i not in broken], dtype=np.int64)
    return good, [broken[row] for row in sorted(broken)]
