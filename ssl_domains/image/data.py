"""The image source: 8-bit pixels of one size, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.core.labels import Labels, draw_splits, given_splits, read_labels
from ssl_domains.image import pixels as pixel_stores
from ssl_domains.image.decode import (
    GREY,
    MAX_PIXELS,
    BrokenImage,
    Decoding,
    Header,
    allow,
    decode,
    read_header,
)
from ssl_domains.image.listing import Listing
from ssl_domains.image.pixels import Decoded, Kept, Pixels
from ssl_domains.image.spec import IMAGENET_MEAN, IMAGENET_STD, ImageSpec

LARGE = 224
"""Side of the pixels kept when images are large or of mixed sizes and ``data.size`` says nothing."""
SMALL = 128
"""Images of one size up to this side are kept as they are."""
RAW_FEATURES = 800
SHOWN = 20


@dataclass(frozen=True)
class ImageOptions:
    """Everything but the listing that decides what a source holds; see ``ImageDomain.open``."""

    size: tuple[int, int] | None = None
    channels: int | None = None
    fit: str = "crop"
    normalise: str = "data"
    task: str | None = None
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    limit: int | None = None
    strict: bool = False
    cache: bool | None = None
    max_pixels: int = MAX_PIXELS
    background: int = 255


class ImageSource:
    """Images as batches ``x [B, C, H, W]`` uint8 (in channels-last memory).

    Implements :class:`ssl_domains.core.interfaces.Source`. With ``fit: squeeze``, ``meta["shape"]``
    ``[B, 2]`` holds the true height and width, and views draw their crops in that shape. Made by
    :func:`open_images`.

    Attributes:
        listing: what is known about the good images, row by row.
        broken: a sentence for each image left out.
    """

    full_batch = False

    def __init__(
        self,
        listing: Listing,
        store: Pixels,
        spec: ImageSpec,
        labels: Labels,
        splits: dict[str, np.ndarray],
        broken: Sequence[str] = (),
        shapes: np.ndarray | None = None,
    ) -> None:
        self.listing, self.store, self.spec, self.splits = listing, store, spec, splits
        self.labels, self.task, self.class_names = labels.values, labels.task, labels.class_names
        self.broken, self.shapes = list(broken), shapes
        self.name = listing.name

    def __len__(self) -> int:
        return len(self.listing)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The images with these numbers, in this order, on the CPU.

        Raises:
            IndexError: a row number outside ``[0, len)``.
            DataError: a file broke since the source was opened, and ``data.strict``.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row numbers must lie in [0, {len(self)}), got {rows.min()} to {rows.max()}")
        x = torch.from_numpy(self.store.rows(rows)).permute(0, 3, 1, 2)
        label = None if self.labels is None else torch.from_numpy(np.array(self.labels[rows]))
        meta = {}
        if self.spec.fit == "squeeze" and self.shapes is not None:
            meta["shape"] = torch.from_numpy(self.shapes[rows])
        return Batch(x, torch.from_numpy(rows), label, meta)

    def raw_features(self, indices: np.ndarray) -> np.ndarray:
        """``[n, F]`` float32: the pixels, shrunk to at most 800 numbers."""
        side = int((RAW_FEATURES / self.spec.channels) ** 0.5)
        height, width = (min(side, s) for s in self.spec.size)
        parts = []
        for start in range(0, len(indices), 1024):
            x = self.fetch(indices[start : start + 1024]).x.float() / 255
            parts.append(torch.nn.functional.adaptive_avg_pool2d(x, (height, width)).flatten(1).numpy())
        return (
            np.concatenate(parts) if parts else np.empty((0, height * width * self.spec.channels), np.float32)
        )

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """Paths below the source, keys, or row numbers."""
        return [self.listing.ids[int(i)] for i in indices]

    def describe(self, row: int) -> str:
        """The class of an image, for tables of neighbours."""
        if self.labels is None or self.class_names is None or self.labels.ndim > 1 or self.labels[row] < 0:
            return ""
        return self.class_names[int(self.labels[row])]

    def picture(self, row: int) -> np.ndarray:
        """``[H, W, 3]`` uint8, for reports."""
        shown = self.store.rows(np.array([row]))[0]
        return np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown

    def grey(self, indices: np.ndarray) -> np.ndarray:
        """``[n, H, W]`` uint8 brightness, for perceptual hashes."""
        x = self.fetch(indices).x
        if x.shape[1] == 1:
            return x[:, 0].numpy()
        return (
            (x.float() * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1).round().byte().numpy()
        )

    def card(self) -> dict[str, Any]:
        """Images, splits, sizes, what was left out and why, label and class balance."""
        spec = self.spec
        card: dict[str, Any] = {
            "source": self.name,
            "images": len(self),
            "splits": {name: len(rows) for name, rows in self.splits.items()},
            "pixels": f"{spec.size[0]} x {spec.size[1]}, {'grey' if spec.channels == 1 else 'RGB'}",
        }
        if self.shapes is not None and len(self.shapes):
            low, high = self.shapes.min(axis=0), self.shapes.max(axis=0)
            card["found_sizes"] = f"{low[0]} to {high[0]} high, {low[1]} to {high[1]} wide"
        card["left_out"] = len(self.broken)
        if self.broken:
            more = len(self.broken) - SHOWN
            card["left_out_files"] = self.broken[:SHOWN] + ([f"and {more} more"] if more > 0 else [])
        card["task"] = self.task
        card["class_balance"] = _balance(self.labels, self.class_names)
        if self.listing.group is not None:
            card["groups"] = len(set(self.listing.group.tolist()))
        if self.listing.notes:
            card["notes"] = self.listing.notes
        return card


def open_images(listing: Listing, options: ImageOptions, spec: ImageSpec | None = None) -> ImageSource:
    """Decodes (or finds decoded) a listing, and fits the channels' means on train images.

    Args:
        listing: what a reader found.
        options: see :class:`ImageOptions`.
        spec: of an encoder that is there; None fits one.

    Raises:
        DataError: nothing can be used, or an image is broken and ``options.strict``.
    """
    if options.limit is not None and len(listing) > options.limit:
        listing = listing.take(np.linspace(0, len(listing) - 1, options.limit).astype(np.int64))
    allow(options.max_pixels)
    listing, store, how, broken, shapes = _store(listing, options, spec)
    if len(listing) < 2 and spec is None:
        raise DataError(f"{listing.name} holds {len(listing)} usable image; pretraining needs at least two")
    labels = read_labels(listing.label, options.task, listing.class_names)
    if labels.note:
        listing.notes.append(labels.note)
    if listing.split is not None:
        splits, note = given_splits(listing.split, options.valid, options.seed, listing.group)
        listing.notes += [note] if note else []
    else:
        splits = draw_splits(len(listing), options.valid, options.test, options.seed, listing.group)
    if spec is None:
        mean, std = _statistics(store, splits["train"], how.channels, options.normalise)
        spec = ImageSpec(how.size, how.channels, mean, std, how.fit, how.background)
    return ImageSource(listing, store, spec, labels, splits, broken, shapes)


def _store(
    listing: Listing, options: ImageOptions, spec: ImageSpec | None
) -> tuple[Listing, Pixels, Decoding, list[str], np.ndarray | None]:
    """The usable part of a listing, its pixels, and what was left out."""
    if listing.pixels is not None:
        return _from_array(listing, options, spec)
    how = _decoding(listing, options, spec)
    wanted = len(listing) * how.size[0] * how.size[1] * how.channels <= pixel_stores.CACHE_BYTES
    if options.cache or (options.cache is None and wanted):
        store, good, broken = pixel_stores.keep(listing, how)
        _refuse(listing, good, broken, options.strict)
        shapes = None if store.sizes is None else store.sizes[good]
        picked: Pixels = store if len(good) == len(listing) else _Some(store, good)
        return listing.take(good) if len(good) < len(listing) else listing, picked, how, broken, shapes
    good, broken = pixel_stores.look(listing)
    _refuse(listing, good, broken, options.strict)
    if len(good) < len(listing):
        listing = listing.take(good)
    assert listing.images is not None
    return listing, Decoded(listing.images, listing.ids, how, options.strict), how, broken, None


def _refuse(listing: Listing, good: np.ndarray, broken: list[str], strict: bool) -> None:
    if broken and (strict or not len(good)):
        more = f" ({len(broken)} such files in all)" if len(broken) > 1 else ""
        remedy = (
            "mend or remove it"
            if len(good)
            else "check data.source"
            + (" and data.root" if listing.name.endswith((".csv", ".tsv", ".parquet")) else "")
        )
        raise DataError(f"{listing.name}: {broken[0]}{more}; {remedy}")


class _Some:
    """Some rows of other pixels."""

    sizes: np.ndarray | None = None

    def __init__(self, store: Pixels, chosen: np.ndarray) -> None:
        self.store, self.chosen = store, chosen

    def rows(self, indices: np.ndarray) -> np.ndarray:
        return self.store.rows(self.chosen[indices])


def _from_array(
    listing: Listing, options: ImageOptions, spec: ImageSpec | None
) -> tuple[Listing, Pixels, Decoding, list[str], np.ndarray | None]:
    array = listing.pixels
    assert array is not None
    if not len(array):
        raise DataError(f"{listing.name} holds no images")
    have = (array.shape[1], array.shape[2])
    channels = array.shape[3] if options.channels is None else options.channels
    size = have if options.size is None else options.size
    if spec is not None:
        channels, size = spec.channels, spec.size
    how = _how(options, spec, size, channels)
    if size != have:
        array = _resized(array, how)
    if channels != array.shape[3]:
        array = _recoloured(array, channels)
    return listing, Kept(np.ascontiguousarray(array)), how, [], None


def _resized(array: np.ndarray, how: Decoding) -> np.ndarray:
    """Arrays of another size go the way of files, so that both give the same pixels."""
    from PIL import Image

    from ssl_domains.image.decode import _fit

    out = np.empty((len(array), *how.size, array.shape[3]), dtype=np.uint8)
    for i, image in enumerate(array):
        found = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        out[i] = np.asarray(_fit(found, how.size, how)).reshape(out.shape[1:])
    return out


def _recoloured(array: np.ndarray, channels: int) -> np.ndarray:
    if channels == 3:
        return np.repeat(array, 3, axis=3)
    grey = array.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.asarray(grey.round().astype(np.uint8)[..., None])


def _decoding(listing: Listing, options: ImageOptions, spec: ImageSpec | None) -> Decoding:
    if spec is not None:
        return _how(options, spec, spec.size, spec.channels)
    headers = _headers(listing) if options.size is None or options.channels is None else []
    shapes = {(h.height, h.width) for h in headers}
    size = options.size
    if size is None:
        one = next(iter(shapes)) if len(shapes) == 1 else (LARGE, LARGE)
        size = one if max(one) <= SMALL else (LARGE, LARGE)
    channels = options.channels
    if channels is None:
        channels = 1 if headers and all(h.mode in GREY for h in headers) else 3
    return _how(options, None, size, channels)


def _how(options: ImageOptions, spec: ImageSpec | None, size: tuple[int, int], channels: int) -> Decoding:
    fit = options.fit if spec is None else spec.fit
    background = options.background if spec is None else spec.background
    return Decoding(size, channels, fit, options.max_pixels, background)  # type: ignore[arg-type]


def _headers(listing: Listing, most: int = 1000) -> list[Header]:
    """Headers of evenly spaced images."""
    assert listing.images is not None
    out = []
    for row in np.unique(np.linspace(0, len(listing) - 1, min(most, len(listing))).astype(np.int64)):
        try:
            out.append(read_header(listing.images[int(row)]))
        except BrokenImage:
            continue
    return out


def _statistics(
    store: Pixels, train: np.ndarray, channels: int, normalise: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, on a scale of 0 to 1, over at most 2,000 train images."""
    if normalise == "imagenet":
        if channels == 1:
            return (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,)
        return IMAGENET_MEAN, IMAGENET_STD
    rows = train[np.linspace(0, len(train) - 1, min(len(train), 2000)).astype(np.int64)]
    total, square, count = np.zeros(channels), np.zeros(channels), 0
    for start in range(0, len(rows), 256):
        x = store.rows(rows[start : start + 256]).reshape(-1, channels).astype(np.float64) / 255
        total, square, count = total + x.sum(0), square + (x * x).sum(0), count + len(x)
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    std = np.where(std < 1e-3, 1.0, std)  # a channel that stands still
    return tuple(float(round(v, 6)) for v in mean), tuple(float(round(v, 6)) for v in std)


def _balance(labels: np.ndarray | None, names: list[str] | None) -> dict[str, float] | None:
    if labels is None or names is None or labels.ndim > 1:
        return None
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    return {
        name: round(float(c) / max(int(counts.sum()), 1), 6) for name, c in zip(names, counts, strict=False)
    }


__all__ = ["ImageOptions", "ImageSource", "decode", "open_images"]
