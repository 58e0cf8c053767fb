"""Arrays of clips: ``.npz`` and ``.npy``, ``[N, C, T, V, M]``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.layouts import make
from ssl_domains.skeleton.readers.files import ReadOptions, files_of
from ssl_domains.skeleton.recordings import Recording, Recordings, same_points
from ssl_domains.skeleton.store import ArrayStore

X_NAMES = ("x", "data", "points", "skeleton", "keypoints", "X")
_ALIASES = {
    "label": ("label", "labels", "y", "action", "class"),
    "group": ("group", "groups", "subject", "subjects", "performer"),
    "split": ("split", "splits"),
    "length": ("length", "lengths", "frames", "num_frames"),
    "name": ("name", "names", "sample_name"),
}
AXES = ("x", "y", "z")


def read(path: Path, options: ReadOptions) -> Recordings:
    """Clips of one array file.

    ``.npz``: ``x`` (or data, points, skeleton, keypoints) ``[N, C, T, V, M]``, ``[N, C, T, V]``, or one clip
    ``[C, T, V]``; beside it, any of label, group (subject), split, length (real frames of each clip), name,
    ``confidence [N, T, V, M]``, ``rate``, and ``layout`` (JSON text as in a layout file). Ragged
    data: ``x [S, V, C]`` or ``[S, M, V, C]``, all frames one after another, with ``start [N]`` and ``length
    [N]``. ``.npy``: x alone, read from disk as needed; label and the like are files beside it,
    ``NAME_label.npy``.

    Raises:
        DataError: no such array, or shapes that do not fit together.
    """
    if path.is_dir():
        found = files_of(path, ".npz") or files_of(path, ".npy")
        parts = [read(p, options) for p in found if not _is_side(p)]
        items = [item for part in parts for item in _owned(part)]
        same_points(items)
        first = parts[0]
        return Recordings(items, first.channels, first.layout, first.vectors, str(path))
    arrays = load_arrays(path)
    key = next((k for k in X_NAMES if k in arrays), None)
    if key is None:
        raise DataError(f"{path}: holds {', '.join(arrays) or 'nothing'}; wants an array x [N, C, T, V, M]")
    layout = None
    if "layout" in arrays:
        layout = _layout(str(arrays["layout"]), path)
    x = arrays[key]
    store: ArrayStore | None = None
    if "start" in arrays:
        items = ragged(x, arrays, path)
    else:
        items, store = clips_of(x, arrays, path)
    describe(items, arrays, options, path)
    channels = _channel_names(items[0].points.shape[-1])
    return Recordings(items, channels, layout, (), str(path), array=store)


def _channel_names(n: int) -> tuple[str, ...]:
    return AXES[:n] if n <= 3 else (*AXES, *(f"c{i}" for i in range(3, n)))


def _owned(part: Recordings) -> list[Recording]:
    """The clips with numbers of their own."""
    if part.array is not None:
        for item in part.items:
            item.points, item.confidence = part.array.clip(item.first, len(item.points))
    return part.items


def _is_side(path: Path) -> bool:
    return any(path.stem.endswith(f"_{name}") for names in _ALIASES.values() for name in names)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        arrays = {"x": np.load(path, mmap_mode="r", allow_pickle=False)}
        for side in path.parent.glob(f"{path.stem}_*.npy"):
            arrays[side.stem.removeprefix(f"{path.stem}_")] = np.load(side, allow_pickle=False)
        return arrays
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as NumPy arrays of numbers or text: {error}") from None


def _layout(text: str, path: Path) -> Any:
    try:
        found = json.loads(text)
        return make(found.get("name", path.stem), found["joints"], found.get("bones", ()), found.get("root"),
                    found.get("pairs"), found.get("parts"))  # fmt: skip
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: its array `layout` is not a layout in JSON: {error}") from None


def clips_of(x: np.ndarray, arrays: dict[str, np.ndarray], path: Path) -> tuple[list[Recording], ArrayStore]:
    """Clips of one rectangle; the array itself stays where it is."""
    x = x[None] if x.ndim == 3 else x
    x = x[..., None] if x.ndim == 4 else x
    if x.ndim != 5 or x.dtype.kind not in "fiu":
        raise DataError(f"{path}: x is {x.dtype} of shape {list(x.shape)}, expected numbers [N, C, T, V, M]")
    n, c, t, v, m = x.shape
    if c > 16 and v <= 16:
        raise DataError(
            f"{path}: x has the shape {list(x.shape)}; the second axis must be the channels, [N, C, T, V, M]"
        )
    lengths = _side(arrays, "length", n, path)
    if lengths is None:
        lengths = np.full(n, t)
    lengths = np.asarray(lengths).astype(np.int64)
    wrong = np.flatnonzero((lengths < 1) | (lengths > t))
    if len(wrong):
        raise DataError(f"{path}: length of clip {wrong[0]} is {lengths[wrong[0]]}, expected 1 to {t}")
    sure = arrays.get("confidence")
    if sure is not None and sure.shape != (n, t, v, m):
        raise DataError(f"{path}: confidence has the shape {list(sure.shape)}, expected {[n, t, v, m]}")
    items = []
    for row, length in enumerate(lengths.tolist()):
        hollow = np.broadcast_to(np.float32(0), (length, m, v, c))  # the store has the numbers
        items.append(Recording(f"{path.name}:{row}", hollow, first=row * t))
    return items, ArrayStore(x, sure)


def ragged(x: np.ndarray, arrays: dict[str, np.ndarray], path: Path) -> list[Recording]:
    if x.ndim == 3:
        x = x[:, None]
    start, lengths = np.asarray(arrays["start"]).ravel(), _side(arrays, "length", None, path)
    if x.ndim != 4 or lengths is None or len(lengths) != len(start):
        raise DataError(
            f"{path}: with `start`, x must be [S, V, C] or [S, M, V, C], and `length` as long as `start`"
        )
    if len(start) and (start.min() < 0 or (start + lengths).max() > len(x) or lengths.min() < 1):
        raise DataError(f"{path}: start and length reach beyond the {len(x)} frames of x")
    return [
        Recording(f"{path.name}:{row}", np.asarray(x[s : s + n], dtype=np.float32))
        for row, (s, n) in enumerate(zip(start.tolist(), lengths.tolist()))
    ]


def _side(
    arrays: dict[str, np.ndarray], kind: str, n: int | None, path: Path, name: str | None = None
) -> Any:
    """A column by its usual names, or by the one given."""
    if name is not None and name not in arrays:
        raise DataError(
            f"{path}: holds no array {name!r} (there are: {', '.join(arrays)}); check data.{kind}"
        )
    key = name or next((k for k in _ALIASES[kind] if k in arrays), None)
    if key is None:
        return None
    values = np.asarray(arrays[key])
    if n is not None and len(values) != n:
        raise DataError(f"{path}: array {key!r} has {len(values)} rows for {n} clips")
    return values


def describe(items: list[Recording], arrays: dict[str, np.ndarray], options: ReadOptions, path: Path) -> None:
    n = len(items)
    named = {"label": options.label, "group": options.group, "split": options.split, "name": None}
    found = {kind: _side(arrays, kind, n, path, name) for kind, name in named.items()}
    rate = float(arrays["rate"]) if "rate" in arrays else None
    for row, item in enumerate(items):
        item.rate = rate
        for kind, values in found.items():
            if values is not None:
                value = values[row]
                setattr(
                    item, kind, value.item() if kind == "label" and hasattr(value, "item") else str(value)
                )
