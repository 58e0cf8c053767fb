"""Clips as arrays: npz, npy, and numpy in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.file_lists import file_marks, split_words
from ssl_domains.video.listing import Listing

CLIP_KEYS = ("x", "clips", "videos", "video", "frames", "data", "arr_0")
LABEL_KEYS = ("y", "label", "labels", "targets", "target")


def to_clips(x: np.ndarray, name: str) -> np.ndarray:
    """``[n, T, H, W, C]`` uint8 with 1 or 3 channels.

    Args:
        x: ``[n, T, H, W]`` (grey), ``[n, T, H, W, C]``, ``[n, C, T, H, W]`` or ``[n, T, C, H, W]``; uint8, or
            numbers in [0, 1] or [0, 255].
        name: of the source, for messages.

    Raises:
        DataError: another shape, no numbers, or values out of range.
    """
    if x.dtype == object or x.dtype.kind not in "biuf":
        raise DataError(f"{name}: clips must be numbers, found type {x.dtype}")
    shape = " x ".join(str(s) for s in x.shape)
    if x.ndim == 4:
        x = x[..., None]
    if x.ndim == 5 and x.shape[4] not in (1, 3):
        if x.shape[1] in (1, 3):
            x = x.transpose(0, 2, 3, 4, 1)
        elif x.shape[2] in (1, 3):
            x = x.transpose(0, 1, 3, 4, 2)
    if x.ndim != 5 or x.shape[4] not in (1, 3):
        raise DataError(
            f"{name}: clips must be [n, T, H, W] or [n, T, H, W, C] with 1 or 3 channels, found {shape}"
        )
    if 0 in x.shape:
        raise DataError(f"{name}: {shape} holds no frame")
    if x.dtype == np.uint8:
        return x
    if x.dtype == bool:
        return x.astype(np.uint8) * np.uint8(255)
    low, high = float(x.min()), float(x.max())
    if not np.isfinite([low, high]).all():
        raise DataError(f"{name}: some pixels are NaN or infinite; replace them")
    if low < 0 or high > 255:
        raise DataError(f"{name}: pixels must lie in [0, 1] or [0, 255], found {low:g} to {high:g}")
    scale = 255.0 if x.dtype.kind == "f" and high <= 1 else 1.0
    return (x * scale).round().astype(np.uint8)


def read_arrays(x: Any, y: Any, name: str) -> Listing:
    """Clips in memory, and maybe ``[n]`` labels.

    Raises:
        DataError: see :func:`to_clips`; labels of another length.
    """
    clips = to_clips(np.asarray(x), name)
    labels = None if y is None else np.asarray(y)
    if labels is not None and len(labels) != len(clips):
        raise DataError(f"{name}: {len(clips)} clips but {len(labels)} labels; they must be equal in number")
    return Listing(name, range(len(clips)), clips=clips, label=labels)


def read_file(file: Path, label: str | Sequence[str] | None, split: str | None, group: str | None) -> Listing:
    """``.npy``, or ``.npz`` with clips under ``x`` or ``clips``; other arrays of that length are columns.

    Args:
        file: of numpy.
        label: name of an array, several, or None; ``auto``: ``y`` or ``label``.
        split: name of the array of splits; ``split`` is found by itself.
        group: name of the array of groups.

    Raises:
        DataError: damaged, or no such array.
    """
    try:
        found = np.load(file, allow_pickle=False, mmap_mode="r" if file.suffix == ".npy" else None)
        if isinstance(found, np.ndarray):
            arrays = {"x": found}
        else:
            with found:
                arrays = {key: found[key] for key in found.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} cannot be read ({str(error).splitlines()[0]})") from None
    key = next((k for k in CLIP_KEYS if k in arrays), None)
    if key is None:
        raise DataError(
            f"{file} holds no clips under {', '.join(CLIP_KEYS)} (it holds: {', '.join(arrays) or 'nothing'})"
        )
    clips = to_clips(arrays.pop(key), str(file))
    columns = {k: v for k, v in arrays.items() if v.ndim and len(v) == len(clips)}

    def column(key: str, name: str | None) -> np.ndarray | None:
        if name is None:
            return None
        if name not in columns:
            raise DataError(
                f"data.{key}: {file} has no array {name!r} of {len(clips)} values "
                f"(it has: {', '.join(columns) or 'none'})"
            )
        return columns[name]

    names: list[str] = []
    if label == "auto":
        names = [k for k in LABEL_KEYS if k in columns][:1]
    elif label is not None:
        names = [label] if isinstance(label, str) else list(label)
    picked = [column("label", name) for name in names]
    values = None if not picked else picked[0] if len(picked) == 1 else np.stack(picked, 1)  # type: ignore[arg-type]
    where = split or ("split" if "split" in columns else None)
    words = column("split", where)
    notes = [f"Other arrays, each a possible data.label: {', '.join(sorted(set(columns) - set(names)))}."]
    return Listing(
        str(file),
        range(len(clips)),
        clips=clips,
        label=None if values is None else np.array(values.tolist(), dtype=object),
        split=None if words is None else split_words(words, str(where), file),
        group=column("group", group),
        notes=notes if set(columns) - set(names) else [],
        mark=file_marks([str(file)]),
    )
