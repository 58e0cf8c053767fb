"""From recordings to a source: gaps, windows, labels, splits, and the scale of the train rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.data import BodySource, Clips
from ssl_domains.skeleton.layouts import find_layout
from ssl_domains.skeleton.recordings import Recording, Recordings, fill_gaps
from ssl_domains.skeleton.spec import BodySpec, axes_in
from ssl_domains.skeleton.splits import encode_labels, make_splits
from ssl_domains.skeleton.store import FrameStore, Store

IN_MEMORY = 2**31
"""Bytes up to which an array of clips is copied, mended and cut; a larger one stays on the disk as it is."""
FIT_CLIPS = 4096
USUAL_RATE = 30.0


@dataclass(frozen=True)
class BuildOptions:
    """The recipe's ``data`` section, but for what readers take. Names as in the domain's ``open``."""

    kind: str = "skeleton"
    layout: str | None = None
    frames: int | None = None
    window: float | None = None
    hop: float | None = None
    center: str = "first"
    normalize: str | float = "scale"
    min_confidence: float = 0.0
    max_gap: float = 0.25
    task: str | None = None
    valid: float = 0.1
    test: float = 0.1
    valid_groups: Sequence[str] = ()
    test_groups: Sequence[str] = ()
    limit: int | None = None
    seed: int = 0


@dataclass
class _Cut:
    """Clips while they are being cut."""

    start: list[int] = field(default_factory=list)
    length: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    groups: list[str | None] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    unit: list[int] = field(default_factory=list)
    short: int = 0
    empty: int = 0


def build_source(found: Recordings, options: BuildOptions, spec: BodySpec | None = None) -> BodySource:
    """A source of recordings.

    Args:
        found: what a reader gave.
        options: see :class:`BuildOptions`.
        spec: a fitted one, for new data; None fits one on the train rows.

    Raises:
        DataError: nobody in a recording, infinite values, a layout that does not fit, options out of range.
    """
    _check(options)
    if spec is None:
        spec = _new_spec(found, options)
    else:
        found = _in_order(found, spec)
    store, items = _store(found, options, spec)
    cut = _windows(items, store, spec, options)
    if not cut.start:
        why = "is long enough for a window" if cut.short else "has a value"
        raise DataError(f"{found.name}: no recording {why} ({cut.short} are too short); lower data.window")
    notes = [*found.notes]
    notes += [f"{cut.short} recordings shorter than a window left out"] if cut.short else []
    notes += [f"{cut.empty} windows without a known value left out"] if cut.empty else []
    labels, task, classes = encode_labels(cut.labels, options.task, spec.classes)
    splits = make_splits(
        cut.splits, cut.groups, np.array(cut.unit), valid=options.valid, test=options.test,
        valid_groups=options.valid_groups, test_groups=options.test_groups, seed=options.seed,
    )  # fmt: skip
    clips = Clips(np.array(cut.start), np.array(cut.length), cut.names, cut.groups, notes)
    spec = replace(spec, classes=tuple(classes or ()))
    if not spec.scale:
        spec = _fit(BodySource(spec, store, clips, splits), options)
    return BodySource(spec, store, clips, splits, labels, task, classes, found.name)


def _check(options: BuildOptions) -> None:
    if options.kind not in ("skeleton", "sensors"):
        raise DataError(f"data.kind is {options.kind!r}; use skeleton or sensors")
    if options.center not in ("first", "frame", "none"):
        raise DataError(f"data.center is {options.center!r}; use first, frame or none")
    for key in ("frames", "limit"):
        value = getattr(options, key)
        if value is not None and value < (2 if key == "frames" else 1):
            raise DataError(f"data.{key} is {value}; use {2 if key == 'frames' else 1} or more")
    for key in ("window", "hop"):
        value = getattr(options, key)
        if value is not None and not value > 0:
            raise DataError(f"data.{key} is {value}; use a length above 0")
    usual = ("scale", "standard", "none")
    if isinstance(options.normalize, str) and options.normalize not in usual:
        raise DataError(
            f"data.normalize is {options.normalize!r}; use {', '.join(usual)}, or a number to divide by"
        )
    if not isinstance(options.normalize, str) and not options.normalize > 0:
        raise DataError(f"data.normalize is {options.normalize}; use a number above 0")


def _new_spec(found: Recordings, options: BuildOptions) -> BodySpec:
    first = found.items[0]
    _, m, v, c = first.points.shape
    layout = found.layout
    if options.kind == "skeleton" and (options.layout is not None or layout is None):
        layout = find_layout(options.layout, v, found.name)
    assert layout is not None
    if len(layout) != v:
        raise DataError(
            f"{found.name} has {v} points, its layout {layout.name!r} has {len(layout)}; check data.layout"
        )
    rate = first.rate
    window, hop = _frames_of(options.window, rate, options), _frames_of(options.hop, rate, options)
    if (
        options.kind == "sensors"
        and window is None
        and any(len(i.points) != len(first.points) for i in found.items)
    ):
        raise DataError(
            f"{found.name}: recordings have different lengths; give a window: data.window=3 (seconds)"
        )
    usual = 64 if options.kind == "skeleton" else (window or len(first.points))
    vectors = found.vectors or (axes_in(c) if options.kind == "skeleton" or c % 3 == 0 else ())
    return BodySpec(
        options.kind, layout, found.channels, vectors, m, options.frames or usual, rate, options.center,  # type: ignore[arg-type]
        window=window, hop=hop or window, max_gap=options.max_gap,
    )  # fmt: skip


def _frames_of(seconds: float | None, rate: float | None, options: BuildOptions) -> int | None:
    """Seconds where the rate is known, else frames."""
    return None if seconds is None else max(round(seconds * (rate or 1.0)), 2)


def _in_order(found: Recordings, spec: BodySpec) -> Recordings:
    """New data with the points of a fitted spec, by name; devices may be missing, joints may not."""
    c = found.items[0].points.shape[-1]
    if c != len(spec.channels):
        raise DataError(f"{found.name} has {c} channels, the encoder wants {', '.join(spec.channels)}")
    names = list(found.layout.joints) if found.layout is not None else []
    v = found.items[0].points.shape[2]
    lost = [name for name in spec.layout.joints if name not in names]
    if names == list(spec.layout.joints) or (len(lost) == spec.points and v == spec.points):
        return found  # the same, or nameless points of the same number
    if lost and (spec.kind == "skeleton" or len(lost) == spec.points):
        raise DataError(
            f"{found.name} has no {lost[0]!r}, which the encoder knows; it has: {', '.join(names) or v}"
        )
    for item in found.items:
        if found.array is not None:
            item.points, item.confidence = found.array.clip(item.first, len(item.points))
        known = item.known()
        points = np.full((*item.points.shape[:2], spec.points, c), np.nan, dtype=np.float32)
        sure = np.zeros(points.shape[:3], dtype=np.float32)
        for place, name in enumerate(spec.layout.joints):
            if name in names:
                points[:, :, place] = item.points[:, :, names.index(name)]
                sure[:, :, place] = known[:, :, names.index(name)]
        item.points, item.confidence = points, sure
    notes = [*found.notes, f"not there: {', '.join(lost)}"] if lost else found.notes
    return replace(found, array=None, layout=spec.layout, notes=notes)


def _store(found: Recordings, options: BuildOptions, spec: BodySpec) -> tuple[Store, list[Recording]]:
    """Mended frames of all recordings in one piece; a large array stays as it is."""
    items = found.items
    if options.limit is not None and options.limit < len(items) and spec.window is None:
        keep = np.unique(np.linspace(0, len(items) - 1, options.limit).astype(np.int64))
        items = [items[i] for i in keep]
    if found.array is not None and found.array.x.nbytes > IN_MEMORY:
        return found.array, items
    longest = round(options.max_gap * (spec.rate or USUAL_RATE))
    points, confidence, begin, kept = [], [], 0, []
    for item in items:
        if found.array is not None:
            item.points, item.confidence = found.array.clip(item.first, len(item.points))
        mended, known = _mended(item, longest, spec, options)
        mended, known, offset = _persons(mended, known, spec), _persons(known, known, spec), begin
        begin += len(mended)
        points.append(mended)
        confidence.append(known)
        kept.append(replace(item, points=mended, confidence=None, first=offset))
    return FrameStore(np.concatenate(points), np.concatenate(confidence)), kept


def _persons(values: np.ndarray, known: np.ndarray, spec: BodySpec) -> np.ndarray:
    """Values for M persons: the first ones, or filled up with nobody."""
    m = values.shape[1]
    if m >= spec.persons:
        return values[:, : spec.persons]
    pad = [(0, 0), (0, spec.persons - m)] + [(0, 0)] * (values.ndim - 2)
    return np.pad(values, pad, constant_values=0.0 if values is known else np.nan)


def _mended(
    item: Recording, longest: int, spec: BodySpec, options: BuildOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Short gaps filled; nobody's frames cut off at both ends."""
    points = np.asarray(item.points, dtype=np.float32)
    if np.isinf(points).any():
        t, _, v, _ = np.argwhere(np.isinf(points))[0]
        raise DataError(
            f"{item.name}: frame {t}, {spec.layout.joints[v]}: the value is infinite; mend or remove it"
        )
    known = item.known()
    if spec.kind == "skeleton":
        nobody = (points == 0).all(axis=(2, 3))  # [T, M]: arrays are padded with zeros
        known = np.where(nobody[..., None], 0.0, known)
    known = np.where(known < max(options.min_confidence, 1e-12), 0.0, known).astype(np.float32)
    if spec.kind == "skeleton":
        real = np.flatnonzero(known.any(axis=(1, 2)))
        if len(real) < 2:
            what = "no frame holds a person" if not len(real) else "a single frame holds a person"
            raise DataError(f"{item.name}: {what}; remove it, or lower data.min_confidence")
        points, known = points[real[0] : real[-1] + 1], known[real[0] : real[-1] + 1]
        if isinstance(item.label, np.ndarray):
            item.label = item.label[real[0] : real[-1] + 1]
    if (known == 0).any():
        points = fill_gaps(np.where(known[..., None] > 0, points, np.nan), longest)
        filled = (known == 0) & ~np.isnan(points).any(axis=-1)
        known = np.where(filled, 0.5, known).astype(np.float32)
    return points, known


def _windows(items: Sequence[Recording], store: Store, spec: BodySpec, options: BuildOptions) -> _Cut:
    cut = _Cut()
    for unit, item in enumerate(items):
        n = len(item.points)
        window, hop = spec.window or n, spec.hop or spec.window or n
        if n < window and spec.kind == "sensors":
            cut.short += 1
            continue
        begins = range(0, max(n - window, 0) + 1, hop)
        for number, begin in enumerate(begins):
            length = min(window, n)
            if isinstance(store, FrameStore):
                piece = store.confidence[item.first + begin : item.first + begin + length]
                if not piece.any():
                    cut.empty += 1
                    continue
            cut.start.append(item.first + begin)
            cut.length.append(length)
            cut.names.append(item.name if len(begins) == 1 else f"{item.name}#{number}")
            cut.labels.append(_label(item.label, begin, length))
            cut.groups.append(item.group)
            cut.splits.append(item.split)
            cut.unit.append(unit)
    if options.limit is not None and options.limit < len(cut.start):
        keep = np.unique(np.linspace(0, len(cut.start) - 1, options.limit).astype(np.int64))
        for key in ("start", "length", "names", "labels", "groups", "splits", "unit"):
            values = getattr(cut, key)
            setattr(cut, key, [values[i] for i in keep])
    return cut


def _label(label: Any, begin: int, length: int) -> Any:
    """That of the recording, or the most frequent one of a window's frames."""
    if not isinstance(label, np.ndarray):
        return label
    piece = label[begin : begin + length]
    known = np.array([str(v) for v in piece if v is not None and v == v])
    if not len(known):
        return None
    names, counts = np.unique(known, return_counts=True)
    winner = names[counts.argmax()]
    return next(v.item() if hasattr(v, "item") else v for v in piece if str(v) == winner)


def _fit(source: BodySource, options: BuildOptions) -> BodySpec:
    """Shift and scale of the train rows: one number for a skeleton; for sensors one a device and sensor
    (``scale``) or a mean and deviation a device and channel (``standard``)."""
    spec = source.spec
    v, c = spec.points, len(spec.channels)
    shift, scale = np.zeros((v, c)), np.ones((v, c))
    if not isinstance(options.normalize, str):
        return spec.fitted(shift, np.full((v, c), float(options.normalize)))
    if options.normalize == "none":
        return spec.fitted(shift, scale)
    rows = source.splits["train"]
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), FIT_CLIPS)).astype(np.int64))]
    count, total, square = np.zeros((v, 1)), np.zeros((v, c)), np.zeros((v, c))
    for i in range(0, len(rows), 256):
        points, confidence, _ = source.clip(rows[i : i + 256])
        known = (confidence > 0)[..., None]
        count += known.sum(axis=(0, 1, 2))
        total += points.sum(axis=(0, 1, 2), dtype=np.float64)
        square += (points.astype(np.float64) ** 2).sum(axis=(0, 1, 2))
    if options.normalize == "standard":
        shift = total / np.maximum(count, 1)
        scale = np.sqrt(np.maximum(square / np.maximum(count, 1) - shift**2, 0.0))
    elif spec.kind == "skeleton":
        scale[:] = np.sqrt(square.sum() / max(float(count.sum()) * c, 1.0))
    else:
        for group in spec.vectors or tuple((i,) for i in range(c)):
            places = list(group)
            power = square[:, places].sum(axis=1) / np.maximum(count[:, 0] * len(places), 1)
            scale[:, places] = np.sqrt(power)[:, None]
    flat = scale <= 1e-12
    if flat.any():
        name = spec.layout.joints[int(np.argwhere(flat)[0][0])]
        warnings.warn(f"{name} never changes in the train rows; it is left unscaled", stacklevel=2)
    return spec.fitted(shift, np.where(flat, 1.0, scale))
