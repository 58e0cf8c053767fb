"""The source: patches or slices of prepared volumes, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import find_objects
from torch.nn import functional as F

from ssl_domains.core.batch import Batch
from ssl_domains.medical3d.phantoms import Anatomy
from ssl_domains.medical3d.prepare import Volumes
from ssl_domains.medical3d.spec import VolumeSpec

NOTICE = "For research. Nothing here is for clinical use: no score says how an encoder does on patients."
RAW_FEATURES = 800
FIT_ROWS = 256
AXES = {"axial": 0, "coronal": 1, "sagittal": 2}


@dataclass
class Samples:
    """Where each sample lies.

    Attributes:
        volume: ``[n]`` int64.
        corner: ``[n, 3]`` int64 first voxel (D, H, W); may be negative where volumes are filled up.
    """

    volume: np.ndarray
    corner: np.ndarray


@dataclass
class Cohort:
    """The volumes of a source and what is known of them.

    Attributes:
        name: of the source.
        volumes: prepared.
        names: of the studies.
        patient: ``[v]`` int64 number of each volume's patient.
        anatomies: of phantoms; None for scans.
        broken: a sentence for each study left out.
        notes: what happened while reading.
    """

    name: str
    volumes: Volumes
    names: list[str]
    patient: np.ndarray
    anatomies: list[Anatomy] | None = None
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class VolumeSource:
    """Samples as batches ``x [B, C, D, H, W]`` (slices: ``[B, C, H, W]``) float32 on the window's scale.

    Implements :class:`ssl_domains.core.interfaces.Source`. ``meta``: ``group`` [B] patient, ``volume`` [B],
    ``corner`` [B, 3] first voxel, ``position`` [B, 3] centre of the sample as shares of the volume's sides
    (D, H, W; its first number is the relative depth).

    Attributes:
        groups: ``[n]`` int64 patient of each sample.
        recordings: ``[n]`` int64 volume of each sample; neighbours in one are nearly the same.
        dense_classes: names of the classes of :meth:`dense`, background first; None without masks.
    """

    full_batch = False

    def __init__(
        self,
        cohort: Cohort,
        samples: Samples,
        spec: VolumeSpec,
        splits: dict[str, np.ndarray],
        labels: np.ndarray | None = None,
        task: str | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        self.cohort, self.samples, self.spec, self.splits = cohort, samples, spec, splits
        self.labels, self.task, self.class_names = labels, task, class_names
        self.volumes, self.anatomies = cohort.volumes, cohort.anatomies
        self.recordings = samples.volume
        self.groups = cohort.patient[samples.volume]
        self.box = box_of(spec)
        values = spec.mask_values
        self.dense_classes = ["background", *(str(v) for v in values)] if values else None
        self._lookup: np.ndarray | None = None
        if values:
            # Class number of each mask value; values that the spec does not know count as background.
            self._lookup = np.zeros(max(values) + 2, dtype=np.int64)
            self._lookup[list(values)] = np.arange(1, len(values) + 1)

    def __len__(self) -> int:
        return len(self.samples.volume)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The samples with these row numbers, in this order, on the CPU."""
        rows = self._rows(indices)
        volume, corner = self.samples.volume[rows], self.samples.corner[rows]
        x = torch.from_numpy(self.cut(volume, corner))
        if self.spec.axis:
            x = x.squeeze(2 + AXES[self.spec.axis])
        shapes = np.array([self.volumes.facts[v].shape for v in volume], dtype=np.float32).reshape(-1, 3)
        position = (corner + np.array(self.box) / 2) / shapes
        meta = {
            "group": torch.from_numpy(self.groups[rows]),
            "volume": torch.from_numpy(volume),
            "corner": torch.from_numpy(corner),
            "position": torch.from_numpy(position.astype(np.float32)),
        }
        label = None if self.labels is None else torch.from_numpy(np.array(self.labels[rows]))
        return Batch(x, torch.from_numpy(rows), label, meta)

    def _rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row numbers must lie in [0, {len(self)}), got {rows.min()} to {rows.max()}")
        return rows

    def cut(self, volume: np.ndarray, corner: np.ndarray) -> np.ndarray:
        """``[B, C, d, h, w]`` float32 boxes of one size; outside a volume is background.

        Args:
            volume: ``[B]`` numbers of volumes.
            corner: ``[B, 3]`` first voxels, which may lie outside.
        """
        out = np.empty((len(volume), self.spec.channels, *self.box), dtype=np.float32)
        out[:] = np.array(self.spec.background, dtype=np.float32)[None, :, None, None, None]
        for b in np.argsort(volume, kind="stable"):  # volume after volume
            image = self.volumes.image(int(volume[b]))
            inside, target = _overlap(corner[b], self.box, image.shape[1:])
            out[(b, slice(None), *target)] = image[(slice(None), *inside)]
        return out

    def dense(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """``[B, D, H, W]`` (slices ``[B, H, W]``) int64 classes of the voxels, 0 outside the volume."""
        rows = self._rows(indices)
        out = np.zeros((len(rows), *self.box), dtype=np.int64)
        for b in np.argsort(self.samples.volume[rows], kind="stable"):
            row = rows[b]
            mask = self.volumes.mask(int(self.samples.volume[row]))
            if mask is None:
                continue
            inside, target = _overlap(self.samples.corner[row], self.box, mask.shape)
            out[(b, *target)] = self.classes_of(np.asarray(mask[inside]))
        found = torch.from_numpy(out)
        return found.squeeze(1 + AXES[self.spec.axis]) if self.spec.axis else found

    def classes_of(self, mask: np.ndarray) -> np.ndarray:
        """Class numbers of mask values; values that training did not know are background."""
        assert self._lookup is not None
        known = (mask >= 0) & (mask < len(self._lookup))
        return self._lookup[np.where(known, mask, 0)]

    def scan(self, volume: int) -> tuple[torch.Tensor, torch.Tensor, tuple[float, float, float]]:
        """A whole volume for segmentation: ``x``, classes ``[D, H, W]`` int64, spacing in mm.

        Patches: x is ``[1, C, D, H, W]``. Slices: all of them, ``[N, C, H, W]`` at their own size, and
        classes and spacing with the slice axis first.
        """
        image, mask = self.volumes.pair(volume)
        x = torch.from_numpy(np.asarray(image, dtype=np.float32))
        classes = torch.from_numpy(
            np.zeros(image.shape[1:], np.int64) if mask is None else self.classes_of(np.asarray(mask))
        )
        spacing = self.volumes.facts[volume].spacing
        if not self.spec.axis:
            return x[None], classes, spacing
        at = AXES[self.spec.axis]
        others = [a for a in range(3) if a != at]
        return (
            x.movedim(1 + at, 0),
            classes.movedim(at, 0),
            (spacing[at], spacing[others[0]], spacing[others[1]]),
        )

    def centres(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """``[n, 3]`` float64: middles of samples in mm from the first corner of their volume (D, H, W)."""
        rows = self._rows(indices)
        spacing = np.array([f.spacing for f in self.volumes.facts])[self.samples.volume[rows]]
        return np.asarray((self.samples.corner[rows] + np.array(self.box) / 2) * spacing)

    def boxes(self) -> np.ndarray:
        """``[v, S, 2, 3]`` float64: low and high corner (D, H, W) of the box around each structure of
        ``dense_classes`` (without background) in each volume, in mm from its first corner; NaN: absent."""
        count = len(self.dense_classes or ["background"]) - 1
        out = np.full((len(self.volumes), count, 2, 3), np.nan)
        for number, fact in enumerate(self.volumes.facts):
            mask = self.volumes.mask(number)
            if mask is None or not count:
                continue
            # find_objects gives None for a number that is not there, and stops at the largest that is.
            for k, found in enumerate(find_objects(self.classes_of(np.asarray(mask)))):
                if found is not None:
                    out[number, k] = np.array([[s.start, s.stop] for s in found]).T * fact.spacing
        return out

    def recording_ids(self, recordings: np.ndarray) -> Sequence[Any]:
        """Names of volumes by their number in ``recordings``."""
        return [self.cohort.names[int(v)] for v in recordings]

    def raw_features(self, indices: np.ndarray) -> np.ndarray:
        """``[n, F]`` float32: the voxels, shrunk to at most 800 numbers."""
        side = int((RAW_FEATURES / self.spec.channels) ** (1 / self.spec.dims))
        size = tuple(min(side, s) for s in self.spec.size)
        pool: Any = F.adaptive_avg_pool3d if self.spec.dims == 3 else F.adaptive_avg_pool2d
        parts = []
        for start in range(0, len(indices), 256):
            parts.append(pool(self.fetch(indices[start : start + 256]).x, size).flatten(1).numpy())
        width = int(np.prod(size)) * self.spec.channels
        return np.concatenate(parts) if parts else np.empty((0, width), np.float32)

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """Study and first voxel."""
        found = []
        for i in indices:
            name, corner = self.cohort.names[int(self.samples.volume[int(i)])], self.samples.corner[int(i)]
            at = corner[AXES[self.spec.axis]] if self.spec.axis else ",".join(str(int(c)) for c in corner)
            found.append(f"{name}@{at}")
        return found

    def describe(self, row: int) -> str:
        """Class and relative depth of a sample; never who it is of."""
        at = self.fetch([row]).meta["position"][0, 0 if not self.spec.axis else AXES[self.spec.axis]]
        depth = f"at {float(at):.0%}"
        if self.labels is None or self.labels.ndim > 1:
            return depth
        value = self.labels[row]
        if self.class_names is None:
            return f"{float(value):.3g}, {depth}"
        return depth if value < 0 else f"{self.class_names[int(value)]}, {depth}"

    def grey(self, indices: np.ndarray) -> np.ndarray:
        """``[n, H, W]`` float32 in 0 to 1: the slice, or the middle axial slice of a patch, of channel 0."""
        x = self.fetch(indices).x[:, 0]
        x = x if self.spec.dims == 2 else x[:, x.shape[1] // 2]
        low, high = self.spec.mean[0] - 2.5 * self.spec.std[0], self.spec.mean[0] + 2.5 * self.spec.std[0]
        if self.spec.preparation.window not in ("zscore", "none"):
            low, high = 0.0, 1.0
        return ((x - low) / max(high - low, 1e-9)).clamp(0, 1).numpy()

    def picture(self, row: int) -> np.ndarray:
        """``[H, W, 3]`` uint8 of :meth:`grey`, masks in colour; anterior is up, the patient's left right."""
        from ssl_domains.medical3d.figures import coloured

        grey = self.grey(np.array([row]))[0]
        classes = None
        if self.dense_classes is not None:
            dense = self.dense([row])[0].numpy()
            classes = dense if self.spec.dims == 2 else dense[dense.shape[0] // 2]
        return coloured(grey, classes)

    def refit(self, rows: np.ndarray) -> None:
        """Mean and deviation of these rows, which pretraining goes over, instead of all train rows."""
        self.spec = statistics(self, rows)

    def card(self) -> dict[str, Any]:
        """Counts, geometry, window, masks, what was left out; nothing that names a patient."""
        spec, facts = self.spec, self.volumes.facts
        shapes = np.array([f.shape for f in facts])
        how = spec.preparation
        found = [f.found for f in facts if f.found]
        card: dict[str, Any] = {
            "notice": NOTICE,
            "source": self.cohort.name,
            "volumes": len(facts),
            "patients": len(np.unique(self.cohort.patient)),
            "slices" if spec.axis else "patches": len(self),
            "size": " x ".join(str(s) for s in spec.size) + (f", {spec.axis}" if spec.axis else ""),
            "splits": {name: len(rows) for name, rows in self.splits.items()},
            "patients by split": {
                name: len(np.unique(self.groups[rows])) for name, rows in self.splits.items()
            },
            "channels": spec.channels,
            "orientation": "RAS, stored as depth, height, width",
            "axes found": _counts([f["axes"] for f in found]),
            "oblique": sum(bool(f["oblique"]) for f in found) if found else None,
            "spacing": "as found" if how.spacing is None else f"{_shown(how.spacing)} mm, resampled",
            "spacing found": _range(np.array([f["spacing"] for f in found])) if found else None,
            "sizes": _range(shapes),
            "window": how.window + ("" if how.limits is None else f" {how.limits[0]:g} to {how.limits[1]:g}"),
            "masks": f"{len(spec.mask_values)} structures" if spec.mask_values else None,
            "task": self.task,
            "class_balance": self._balance(),
            "left_out": len(self.cohort.broken),
        }
        if self.cohort.broken:
            card["left_out_files"] = self.cohort.broken[:20]
        if self.cohort.notes:
            card["notes"] = "; ".join(self.cohort.notes)
        return card

    def _balance(self) -> dict[str, float] | None:
        if self.labels is None or self.class_names is None:
            return None
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names))
        return {n: round(float(c) / max(int(counts.sum()), 1), 4) for n, c in zip(self.class_names, counts)}


def box_of(spec: VolumeSpec) -> tuple[int, int, int]:
    """(d, h, w) of a sample in its volume: a slice is one voxel thick."""
    if not spec.axis:
        return spec.size[0], spec.size[1], spec.size[2]
    sides = list(spec.size)
    sides.insert(AXES[spec.axis], 1)
    return sides[0], sides[1], sides[2]


def _overlap(
    corner: np.ndarray, box: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """(where in the volume, where in the box) the two overlap."""
    inside, target = [], []
    for c, side, n in zip(corner, box, shape, strict=True):
        begin, end = max(int(c), 0), min(int(c) + side, n)
        end = max(end, begin)
        inside.append(slice(begin, end))
        target.append(slice(begin - int(c), end - int(c)))
    return tuple(inside), tuple(target)


def statistics(source: VolumeSource, rows: np.ndarray) -> VolumeSpec:
    """The spec with mean and deviation of each channel over at most 256 of these rows."""
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), FIT_ROWS)).astype(np.int64))]
    total, square, count = np.zeros(source.spec.channels), np.zeros(source.spec.channels), 0
    for start in range(0, len(rows), 16):
        x = source.fetch(rows[start : start + 16]).x.transpose(0, 1).flatten(1).double().numpy()
        total, square, count = total + x.sum(1), square + (x * x).sum(1), count + x.shape[1]
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(square / max(count, 1) - mean**2, 0))
    std = np.where(std < 1e-6, 1.0, std)
    return replace(
        source.spec, mean=tuple(float(v) for v in mean.round(6)), std=tuple(float(v) for v in std.round(6))
    )


def _counts(values: Sequence[str]) -> dict[str, int] | None:
    return {v: list(values).count(v) for v in sorted(set(values))} if values else None


def _shown(values: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)


def _range(values: np.ndarray) -> str:
    low, high = values.min(axis=0), values.max(axis=0)
    return _shown(low) if np.allclose(low, high) else f"{_shown(low)} to {_shown(high)}"
