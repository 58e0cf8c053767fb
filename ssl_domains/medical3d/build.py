"""From studies to a source: prepares volumes, lays samples over them, labels and splits them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.medical3d import phantoms, windows
from ssl_domains.medical3d.data import AXES, Cohort, Samples, VolumeSource, box_of, statistics
from ssl_domains.medical3d.labels import mask_labels, position_labels, study_labels
from ssl_domains.medical3d.patients import split_patients
from ssl_domains.medical3d.prepare import BLOCK, Prepared, Volumes, blocks_of, prepare
from ssl_domains.medical3d.readers import BrokenVolume
from ssl_domains.medical3d.spec import Preparation, VolumeSpec
from ssl_domains.medical3d.studies import Studies, Study

LARGEST = 96
"""Longest side of a patch when ``data.patch`` says nothing (nnU-Net and Swin UNETR use 96 to 128)."""
STEP = 16
"""Sides are multiples of it by default: four times halved."""


@dataclass(frozen=True)
class BuildOptions:
    """The recipe's ``data`` section but for what readers take; names as in the domain's ``open``."""

    patch: tuple[int, int, int] | None = None
    axis: str | None = None
    size: tuple[int, int] | None = None
    stride: int | tuple[int, int, int] | None = None
    per_volume: int | None = None
    foreground: float = 0.1
    pad: bool = False
    label: str | None = None
    task: str | None = None
    valid: float = 0.1
    test: float = 0.1
    limit: int | None = None
    strict: bool = False
    cache: bool = True
    seed: int = 0


def make_preparation(
    spacing: float | Sequence[float] | None,
    window: str | Sequence[float],
    frame: int | None,
    fill: float | None,
) -> Preparation:
    """Checked settings of how volumes are prepared.

    Raises:
        DataError: spacing that is not above 0, or an unknown window.
    """
    target = None
    if spacing is not None:
        values = [float(spacing)] * 3 if isinstance(spacing, int | float) else [float(v) for v in spacing]
        if len(values) != 3 or not all(v > 0 and np.isfinite(v) for v in values):
            raise DataError(f"data.spacing is in mm, one number or three (D, H, W) above 0, got {spacing}")
        target = (values[0], values[1], values[2])
    return Preparation(target, *windows.parse(window), frame, fill)


def build_source(
    found: Studies | list[phantoms.Phantom],
    name: str,
    how: Preparation,
    options: BuildOptions,
    spec: VolumeSpec | None = None,
) -> VolumeSource:
    """A source of studies.

    Args:
        found: what a reader gave, or generated ones.
        name: of the source.
        how: see :class:`Preparation`; that of ``spec`` where it is given.
        options: see :class:`BuildOptions`.
        spec: of an encoder that is there; None fits one on the train samples.

    Raises:
        DataError: nothing can be used, a volume smaller than a sample, a study is broken and ``strict``.
    """
    how = how if spec is None else spec.preparation
    if isinstance(found, Studies):
        cohort, items = _read(found, how, options)
    else:
        cohort, items = _generated(found, name, how)
    facts = cohort.volumes.facts
    split, notes = split_patients(
        [i.patient for i in items], [i.split for i in items], valid=options.valid, test=options.test,
        seed=options.seed,
    )  # fmt: skip
    cohort.notes += notes
    if spec is None:
        spec = _spec(facts, how, options)
    _check_sizes(cohort, spec)
    samples = lay(cohort, spec, options)
    rows = {
        s: np.flatnonzero(split[samples.volume] == s).astype(np.int64) for s in ("train", "valid", "test")
    }
    source = VolumeSource(cohort, samples, spec, rows)
    if not len(rows["train"]):
        raise DataError(f"{name}: no sample of a train volume holds enough body; lower data.foreground")
    if options.label == "position":
        source.labels, source.task = position_labels(source), "regression"
    elif options.label == "mask":
        source.labels, source.task, source.class_names = mask_labels(source)
    else:
        labels, task, names = study_labels([i.label for i in items], options.task)
        source.task, source.class_names = task, names
        source.labels = None if labels is None else labels[samples.volume]
    if not spec.mean:
        source.spec = statistics(source, rows["train"])
    return source


def _read(found: Studies, how: Preparation, options: BuildOptions) -> tuple[Cohort, list[Study]]:
    items = found.items
    if options.limit is not None and options.limit < len(items):
        chosen = np.unique(np.linspace(0, len(items) - 1, options.limit).astype(np.int64))
        items = [items[i] for i in chosen]
    arrays, facts, good, broken = [], [], [], []
    for item in items:
        try:
            array, fact = prepare(item, how, options.cache)
        except BrokenVolume as error:
            if options.strict:
                raise
            broken.append(str(error))
            continue
        if not item.patient:
            item.patient = fact.patient or f"study {item.name}"
        arrays.append(array)
        facts.append(fact)
        good.append(item)
    if not good:
        more = f" ({len(broken)} such studies)" if len(broken) > 1 else ""
        raise DataError(f"{broken[0]}{more}")
    if broken:
        warnings.warn(f"{len(broken)} studies left out; the first: {broken[0]}", stacklevel=4)
    channels = {len(i.files) for i in good}
    if len(channels) > 1:
        raise DataError(
            f"{found.name}: studies have {sorted(channels)} channels; they must have equally many"
        )
    volumes = Volumes(arrays, facts)
    patient = np.unique([i.patient for i in good], return_inverse=True)[1].astype(np.int64)
    names = [i.name for i in good]
    return Cohort(found.name, volumes, names, patient, None, broken, list(found.notes)), good


def _generated(found: list[phantoms.Phantom], name: str, how: Preparation) -> tuple[Cohort, list[Study]]:
    arrays: list[Any] = []
    facts, items = [], []
    for item in found:
        image = windows.apply(item.hu, how.window, how.limits)[None]
        image = image.astype(np.float32 if how.window == "none" else np.float16)
        threshold = 0.05 if how.window not in ("zscore", "none") else float(np.percentile(image, 50))
        arrays.append((image, item.mask, blocks_of(image[0], threshold)))
        values = tuple(int(v) for v in np.unique(item.mask) if v)
        shape = item.hu.shape
        facts.append(
            Prepared((shape[0], shape[1], shape[2]), (1.0, 1.0, 1.0), {}, "", values,
                     tuple(float(c.min()) for c in image), threshold)
        )  # fmt: skip
        items.append(Study(item.name, [], item.patient, None, "lesion" if item.label else "no lesion"))
    patient = np.unique([i.patient for i in items], return_inverse=True)[1].astype(np.int64)
    notes = ["generated: no number on it says anything about people"]
    anatomies = [item.anatomy for item in found]
    names = [i.name for i in items]
    return Cohort(name, Volumes(arrays, facts), names, patient, anatomies, [], notes), items


def _spec(facts: list[Prepared], how: Preparation, options: BuildOptions) -> VolumeSpec:
    shapes = np.array([f.shape for f in facts])
    if options.axis:
        others = [a for a in range(3) if a != AXES[options.axis]]
        size: tuple[int, ...] = options.size or tuple(
            -(-int(np.median(shapes[:, a])) // STEP) * STEP for a in others
        )
    else:
        low = shapes.min(axis=0)
        size = options.patch or tuple(int(max(min(s, LARGEST) // STEP * STEP, min(s, STEP))) for s in low)
    known = sorted({v for f in facts for v in f.mask_values})
    background = np.array([f.background for f in facts]).min(axis=0)
    return VolumeSpec(
        size, len(facts[0].background), (), (), tuple(float(v) for v in background), how,
        options.axis or "", options.pad or bool(options.axis), tuple(known),
    )  # fmt: skip


def _check_sizes(cohort: Cohort, spec: VolumeSpec) -> None:
    """Raises where a volume is smaller than a sample, and may not be filled up."""
    if spec.pad:
        return
    box = box_of(spec)
    for name, fact in zip(cohort.names, cohort.volumes.facts, strict=True):
        if any(n < side for n, side in zip(fact.shape, box, strict=True)):
            raise DataError(
                f"{name} is {list(fact.shape)} voxels (D, H, W), smaller than a sample of {list(box)}; "
                "lower data.patch, or fill up with data.pad=true"
            )


def lay(cohort: Cohort, spec: VolumeSpec, options: BuildOptions) -> Samples:
    """Samples over all volumes: on a grid, or ``per_volume`` of them evenly spread; those that hold less than
    ``foreground`` of body are left out (but never all of a volume)."""
    box = np.array(box_of(spec))
    volume, corner = [], []
    for number, fact in enumerate(cohort.volumes.facts):
        room = np.array(fact.shape) - box
        if options.per_volume is None:
            found = _grid(room, box, spec, options)
        else:
            found = _spread(room, options.per_volume * 4, options.seed, number)
        share = _shares(cohort.volumes.blocks(number), found, box)
        kept = share >= options.foreground
        if not kept.any():
            kept[share.argmax()] = True
        found = found[kept][: options.per_volume]
        volume.append(np.full(len(found), number, dtype=np.int64))
        corner.append(found)
    return Samples(np.concatenate(volume), np.concatenate(corner).astype(np.int64))


def _grid(room: np.ndarray, box: np.ndarray, spec: VolumeSpec, options: BuildOptions) -> np.ndarray:
    """``[k, 3]`` corners: half a sample apart, or ``stride``; the last ones end where the volume ends."""
    stride = np.maximum(box // 2, 1) if options.stride is None else np.broadcast_to(options.stride, 3)
    axes = []
    for a in range(3):
        if spec.axis and a != AXES[spec.axis]:
            axes.append(np.array([room[a] // 2]))  # slices: the middle, also where it is filled up
        elif room[a] <= 0:
            axes.append(np.array([room[a] // 2]))
        else:
            n = -(-int(room[a]) // max(int(stride[a]), 1)) + 1
            axes.append(np.unique(np.linspace(0, room[a], n).round().astype(np.int64)))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def _spread(room: np.ndarray, count: int, seed: int, number: int) -> np.ndarray:
    """``[k, 3]`` corners of a low-discrepancy sequence (R3 of Roberts), shifted at random for each volume."""
    step = 1 / 1.2207440846057596 ** np.arange(1, 4)
    start = np.random.default_rng([seed, number, 7]).random(3)
    u = (start + np.arange(count)[:, None] * step) % 1.0
    return np.where(room >= 0, np.floor(u * (np.maximum(room, 0) + 1)), room // 2).astype(np.int64)


def _shares(blocks: np.ndarray, corner: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Share of body in each sample, from the blocks that it touches: a summed-area table."""
    table = np.zeros([n + 1 for n in blocks.shape])
    table[1:, 1:, 1:] = blocks.astype(np.float64).cumsum(0).cumsum(1).cumsum(2)
    limit = np.array(blocks.shape)
    low = np.clip(corner // BLOCK, 0, limit - 1)
    high = np.clip(-(-(corner + box) // BLOCK), low + 1, limit)
    total = np.zeros(len(corner))
    for bits in range(8):
        pick = [(high if bits >> a & 1 else low)[:, a] for a in range(3)]
        sign = -1 if (3 - bin(bits).count("1")) % 2 else 1
        total += sign * table[pick[0], pick[1], pick[2]]
    return np.asarray(total / (high - low).prod(axis=1))
