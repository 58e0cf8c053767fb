"""From files to arrays: turned to RAS, resampled, windowed; kept in the cache, read by memory map."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ssl_domains.core import cache
from ssl_domains.medical3d import windows
from ssl_domains.medical3d.readers import BrokenVolume, checked, read_volume, to_ras
from ssl_domains.medical3d.spec import Preparation
from ssl_domains.medical3d.studies import Study

BLOCK = 8
"""Side in voxels of the blocks over which the share of foreground is kept."""
OPEN_MAPS = 128
"""Volumes that are mapped at a time; each map holds a file handle."""


@dataclass(frozen=True)
class Prepared:
    """Facts about one prepared volume.

    Attributes:
        shape: ``(D, H, W)``.
        spacing: mm along D, H, W.
        found: ``{"shape", "spacing", "axes", "oblique"}`` of the file.
        patient: a hash from a DICOM header, or "".
        mask_values: values in the mask, without 0.
        background: smallest value of each channel.
        threshold: of channel 0; what lies above counts as foreground.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    found: dict[str, Any]
    patient: str
    mask_values: tuple[int, ...]
    background: tuple[float, ...]
    threshold: float


class Volumes:
    """Prepared volumes by number: ``image(i) [C, D, H, W]``, ``mask(i) [D, H, W]`` or None.

    Args:
        arrays: ``(image, mask, foreground)`` in memory, or the folders of their cache entries.
        facts: of each.
    """

    def __init__(
        self, arrays: Sequence[tuple[np.ndarray, np.ndarray | None, np.ndarray] | Path], facts: list[Prepared]
    ) -> None:
        self.arrays, self.facts = list(arrays), facts
        self._open: OrderedDict[int, tuple[np.ndarray, np.ndarray | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.facts)

    def pair(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Image (float16 or float32) and mask (int32) of a volume; at most so many stay mapped."""
        entry = self.arrays[number]
        if not isinstance(entry, Path):
            return entry[0], entry[1]
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        image = cache.load_array(entry, "image")
        assert image is not None
        self._open[number] = (image, cache.load_array(entry, "mask"))
        if len(self._open) > OPEN_MAPS:
            self._open.popitem(last=False)
        return self._open[number]

    def image(self, number: int) -> np.ndarray:
        """``[C, D, H, W]``."""
        return self.pair(number)[0]

    def mask(self, number: int) -> np.ndarray | None:
        """``[D, H, W]`` as the file has it, or None."""
        return self.pair(number)[1]

    def blocks(self, number: int) -> np.ndarray:
        """``[d, h, w]`` share of foreground in blocks of :data:`BLOCK` voxels."""
        entry = self.arrays[number]
        if not isinstance(entry, Path):
            return entry[2]
        found = cache.load_array(entry, "blocks")
        assert found is not None
        return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # workers map files themselves


def prepare(study: Study, how: Preparation, keep: bool) -> tuple[Any, Prepared]:
    """The arrays of one study (or the folder of their cache entry) and its facts.

    Args:
        study: what to read.
        how: see :class:`Preparation`.
        keep: in the cache; False: in memory.

    Raises:
        BrokenVolume: the study cannot be used; names the file.
    """
    if not keep:
        image, mask, facts = _make(study, how)
        return (image, mask, blocks_of(image[0], facts.threshold)), facts
    key = cache.key_of([_stamps(study), asdict(how), BLOCK, "medical3d-1"])
    with cache.locked("medical3d", key):
        found = cache.find("medical3d", key)
        if found is None:
            image, mask, facts = _make(study, how)
            with cache.writing("medical3d", key) as folder:
                folder.save("image", image)
                if mask is not None:
                    folder.save("mask", mask)
                folder.save("blocks", blocks_of(image[0], facts.threshold))
                folder.meta(asdict(facts))
            found = cache.find("medical3d", key)
            assert found is not None
    return found, _facts(found)


def _facts(folder: Path) -> Prepared:
    import json

    values = json.loads((folder / "meta.json").read_text())
    for key in ("shape", "spacing", "mask_values", "background"):
        values[key] = tuple(values[key])
    return Prepared(**values)


def _stamps(study: Study) -> list[Any]:
    """Path, size and time of each file that the study is read from."""
    files = [*study.files, *([study.mask] if study.mask else [])]
    out: list[Any] = []
    for file in files:
        inside = sorted(p for p in file.iterdir() if p.is_file()) if file.is_dir() else [file]
        for path in inside:
            if not path.exists():
                raise BrokenVolume(f"{path} does not exist")
            stat = path.stat()
            out.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
        out.append(str(file))
    return out


def _make(study: Study, how: Preparation) -> tuple[np.ndarray, np.ndarray | None, Prepared]:
    channels: list[np.ndarray] = []
    found: dict[str, Any] = {}
    spacing = np.ones(3)
    patient = ""
    for file in study.files:
        raw = read_volume(file, how.frame, how.fill)
        data, own, axes, oblique = _turned(raw, file)
        if channels and (data.shape != channels[0].shape or not np.allclose(own, spacing, rtol=1e-3)):
            raise BrokenVolume(
                f"{file}: is {list(data.shape)} at {_mm(own)} mm, {study.files[0].name} is "
                f"{list(channels[0].shape)} at {_mm(spacing)}; channels must lie on one grid, register them"
            )
        if not channels:
            spacing, patient = own, raw.patient
            found = {"shape": list(data.shape), "spacing": _mm(own), "axes": axes, "oblique": oblique}
        channels.append(data)
    mask = None if study.mask is None else _mask(study, how, channels[0].shape, found["axes"])
    target = np.array(how.spacing) if how.spacing is not None else spacing
    images = [windows.apply(resample(c, spacing, target), how.window, how.limits) for c in channels]
    image = np.stack(images)
    if mask is not None:
        mask = resample(mask, spacing, target, labels=True).astype(np.int32)
    # Half precision tells 0.1 % of a window apart; raw units may not fit into it.
    image = image.astype(np.float32 if how.window == "none" else np.float16)
    threshold = _threshold(image[0], how)
    facts = Prepared(
        shape=image.shape[1:],
        spacing=(float(target[0]), float(target[1]), float(target[2])),
        found=found,
        patient=patient,
        mask_values=() if mask is None else tuple(int(v) for v in np.unique(mask) if v),
        background=tuple(float(c.min()) for c in image),
        threshold=threshold,
    )
    return image, mask, facts


def _turned(raw: Any, file: Path) -> tuple[np.ndarray, np.ndarray, str, bool]:
    try:
        return to_ras(raw)
    except BrokenVolume as error:
        raise BrokenVolume(f"{file}: {error}") from None


def _mask(study: Study, how: Preparation, shape: tuple[int, ...], axes: str) -> np.ndarray:
    """The label map on the image's grid.

    Raises:
        BrokenVolume: another shape, or fractions in it.
    """
    assert study.mask is not None
    raw = checked(read_volume(study.mask, how.frame, 0.0), study.mask, 0.0)
    mask, _, own, _ = _turned(raw, study.mask)
    if mask.shape != shape:
        raise BrokenVolume(
            f"{study.mask}: is {list(mask.shape)}, its image {study.files[0].name} is {list(shape)} "
            f"(turned to RAS from {own} and {axes}); resample the mask to the image"
        )
    if not np.allclose(mask, np.round(mask)):
        raise BrokenVolume(f"{study.mask}: holds fractions; a mask holds whole numbers, one a structure")
    return np.round(mask).astype(np.int32)


def _mm(spacing: np.ndarray) -> list[float]:
    return [round(float(v), 4) for v in spacing]


def resample(x: np.ndarray, spacing: np.ndarray, target: np.ndarray, labels: bool = False) -> np.ndarray:
    """``[D, H, W]`` at another spacing; the field of view stays, to half a voxel.

    Images: trilinear, after a Gaussian blur where voxels get coarser (else fine detail would turn into
    noise). Label maps: the nearest voxel.
    """
    factor = np.asarray(target, np.float64) / np.asarray(spacing, np.float64)
    if np.allclose(factor, 1.0, rtol=1e-3):
        return x
    size = [max(round(n / f), 1) for n, f in zip(x.shape, factor, strict=True)]
    value = torch.from_numpy(np.ascontiguousarray(x)).float()[None, None]
    if labels:
        return F.interpolate(value, size, mode="nearest-exact")[0, 0].numpy()
    if (factor > 1.001).any():
        from scipy.ndimage import gaussian_filter

        # Half of the wider voxel, less what the finer one blurs already.
        sigma = [0.5 * np.sqrt(max(f * f - 1.0, 0.0)) for f in factor]
        value = torch.from_numpy(gaussian_filter(value[0, 0].numpy(), sigma))[None, None]
    return F.interpolate(value, size, mode="trilinear", align_corners=False)[0, 0].numpy()


def _threshold(x: np.ndarray, how: Preparation) -> float:
    """What lies above counts as body: a twentieth of the window; for other scales a twentieth of the way
    from the smallest value to the 99th percentile."""
    if how.window in ("zscore", "none"):
        low, high = float(x.min()), float(np.percentile(x.astype(np.float32), 99))
        return low + 0.05 * (high - low)
    return 0.05


def blocks_of(x: np.ndarray, threshold: float) -> np.ndarray:
    """``[d, h, w]`` float32 share of foreground; the last blocks may be smaller."""
    inside = torch.from_numpy((x.astype(np.float32) > threshold).astype(np.float32))[None, None]
    pad = [n for side in reversed(inside.shape[2:]) for n in (0, -side % BLOCK)]
    there = F.avg_pool3d(F.pad(torch.ones_like(inside), pad), BLOCK)
    return (F.avg_pool3d(F.pad(inside, pad), BLOCK) / there)[0, 0].numpy()
