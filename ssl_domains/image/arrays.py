"""Images as arrays: npz, npy, idx files, numpy in memory, and scikit-learn's digits."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.image.listing import Listing

IMAGE_KEYS = ("x", "images", "image", "data", "arr_0")
LABEL_KEYS = ("y", "labels", "label", "targets", "target", "arr_1")
_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_IDX_SPLITS = {"train": "train", "t10k": "test", "test": "test", "valid": "valid", "val": "valid"}


def read_array(x: Any, y: Any, name: str, mark: Any = None) -> Listing:
    """Images in memory.

    Args:
        x: ``[n, H, W]``, ``[n, H, W, C]`` or ``[n, C, H, W]`` with 1, 3 or 4 channels; uint8, or numbers
            in [0, 1] or [0, 255], or 16-bit integers.
        y: ``[n]`` or ``[n, L]`` labels, or None.
        name: of the source, for messages.
        mark: see :class:`Listing`.

    Raises:
        DataError: another shape, a value that is no number, labels of another length.
    """
    pixels = to_pixels(np.asarray(x), name)
    labels = None if y is None else np.asarray(y)
    if labels is not None and len(labels) != len(pixels):
        raise DataError(
            f"{name}: {len(pixels)} images but {len(labels)} labels; they must be equal in number"
        )
    if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return Listing(name, range(len(pixels)), pixels=pixels, label=labels, mark=mark)


def to_pixels(x: np.ndarray, name: str) -> np.ndarray:
    """``[n, H, W, C]`` uint8 with 1 or 3 channels; transparency is laid on white.

    Raises:
        DataError: another shape, no numbers, or NaN.
    """
    if x.dtype == object or x.dtype.kind not in "biuf":
        raise DataError(f"{name}: images must be numbers, found type {x.dtype}")
    if x.ndim == 3:
        x = x[..., None]
    shape = " x ".join(str(s) for s in x.shape)
    if x.ndim == 4 and x.shape[3] not in (1, 3, 4) and x.shape[1] in (1, 3, 4):
        x = x.transpose(0, 2, 3, 1)
    if x.ndim != 4 or x.shape[3] not in (1, 3, 4):
        raise DataError(
            f"{name}: images must be [n, H, W], [n, H, W, C] or [n, C, H, W] with 1, 3 or 4 channels, "
            f"found {shape}"
        )
    x = _eight_bit(x, name)
    if x.shape[3] == 4:
        alpha = x[..., 3:].astype(np.float32) / 255
        x = (x[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return np.ascontiguousarray(x)


def _eight_bit(x: np.ndarray, name: str) -> np.ndarray:
    if x.dtype == np.uint8:
        return x
    if x.dtype == bool:
        return x.astype(np.uint8) * np.uint8(255)
    if not len(x):
        return x.astype(np.uint8)
    low, high = float(x.min()), float(x.max())
    if not np.isfinite([low, high]).all():
        raise DataError(f"{name}: some pixels are NaN or infinite; replace them")
    if low < 0:
        raise DataError(
            f"{name}: pixels must not be negative (found {low:g}); give the images before normalisation"
        )
    if high > 65_535:
        raise DataError(f"{name}: pixels must lie in [0, 1], [0, 255] or [0, 65535], found {high:g}")
    scale = 1.0
    if x.dtype.kind == "f" and high <= 1:
        scale = 255.0
    elif high > 255:
        scale = 1 / 257
    return (x * scale).round().clip(0, 255).astype(np.uint8)


def read_npy(file: Path) -> Listing:
    """A ``.npy`` file of images.

    Raises:
        DataError: damaged, or no array of images.
    """
    return read_array(_load(file), None, str(file), _mark(file))


def read_npz(file: Path) -> Listing:
    """An ``.npz`` file with images under one of ``x, images, data`` and maybe labels under ``y, labels``;
    with ``x_train, y_train, x_test, y_test`` the splits are taken.

    Raises:
        DataError: damaged, or no such array.
    """
    try:
        with np.load(file, allow_pickle=False) as held:
            arrays = {key.lower(): held[key] for key in held.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} cannot be read ({str(error).splitlines()[0]})") from None
    parts: list[tuple[str | None, np.ndarray, np.ndarray | None]] = []
    for split in ("train", "valid", "val", "test"):
        x = _first(arrays, [f"{k}_{split}" for k in IMAGE_KEYS] + [f"{split}_{k}" for k in IMAGE_KEYS])
        y = _first(arrays, [f"{k}_{split}" for k in LABEL_KEYS] + [f"{split}_{k}" for k in LABEL_KEYS])
        if x is not None:
            parts.append(("valid" if split == "val" else split, x, y))
    if not parts:
        x = _first(arrays, IMAGE_KEYS)
        if x is None:
            raise DataError(
                f"{file} holds no array of images under {', '.join(IMAGE_KEYS)} "
                f"(it holds: {', '.join(arrays)})"
            )
        parts = [(None, x, _first(arrays, LABEL_KEYS))]
    return _join([(split, read_array(x, y, str(file))) for split, x, y in parts], str(file), _mark(file))


def read_idx_folder(folder: Path) -> Listing | None:
    """A folder of idx files as MNIST and Fashion-MNIST have them (``train-images-idx3-ubyte.gz`` ...), or
    None when it holds none.

    Raises:
        DataError: a damaged file, or labels of another length.
    """
    files = sorted(f for f in folder.iterdir() if "-images-idx" in f.name or "-images.idx" in f.name)
    parts = []
    for file in files:
        word = file.name.split("-")[0].lower()
        label_name = file.name.replace("-images-idx3", "-labels-idx1").replace("-images.idx3", "-labels.idx1")
        labels = folder / label_name
        y = read_idx(labels) if labels.is_file() and labels != file else None
        parts.append((_IDX_SPLITS.get(word), read_array(read_idx(file), y, str(file))))
    if not parts:
        return None
    if any(split is None for split, _ in parts):
        parts = [(None, part) for _, part in parts]
    return _join(parts, str(folder), [_mark(file) for file in files])


def read_idx(file: Path) -> np.ndarray:
    """One idx file, gzipped or not.

    Raises:
        DataError: no idx file, or truncated.
    """
    try:
        opened = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rb") as handle:
            data = handle.read()
        zero, kind, axes = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
        if zero != 0 or kind not in _IDX_TYPES:
            raise ValueError("not an idx file")
        values = np.frombuffer(data, _IDX_TYPES[kind], offset=4 + 4 * axes)
        return values.reshape(shape).astype(values.dtype.newbyteorder("="))
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"{file} is no complete idx file ({str(error).splitlines()[0]})") from None


def read_digits() -> Listing:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, which need no file."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = (found.images * (255 / 16)).round().astype(np.uint8)
    return read_array(x, found.target, "sklearn://digits", ["digits", len(x)])


def _join(parts: Sequence[tuple[str | None, Listing]], name: str, mark: Any) -> Listing:
    shapes = {part.pixels.shape[1:] for _, part in parts if part.pixels is not None}
    if len(shapes) > 1:
        raise DataError(f"{name}: its arrays hold images of different shapes ({sorted(shapes)})")
    pixels = np.concatenate([part.pixels for _, part in parts if part.pixels is not None])
    labelled = all(part.label is not None for _, part in parts)
    splits = [np.full(len(part), split) for split, part in parts if split is not None]
    return Listing(
        name,
        range(len(pixels)),
        pixels=pixels,
        label=np.concatenate([part.label for _, part in parts if part.label is not None])
        if labelled
        else None,
        split=np.concatenate(splits) if len(splits) == len(parts) else None,
        mark=mark,
    )


def _load(file: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(file, allow_pickle=False, mmap_mode="r"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} cannot be read ({str(error).splitlines()[0]})") from None


def _first(arrays: dict[str, np.ndarray], keys: Sequence[str]) -> np.ndarray | None:
    return next((arrays[key] for key in keys if key in arrays), None)


def _mark(file: Path) -> list[Any]:
    stat = file.stat()
    return [str(file), stat.st_size, stat.st_mtime_ns]
