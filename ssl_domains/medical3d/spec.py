"""What encoders and views need to know of volumes, and how the volumes were prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Preparation:
    """How files become arrays: done once, kept with every encoder, repeated on new files.

    All volumes are turned to RAS and stored as ``[C, D, H, W]``: D from inferior to superior, H from
    posterior to anterior, W from left to right.

    Attributes:
        spacing: mm between voxels along D, H, W; None: as found.
        window: name of an intensity window (:mod:`ssl_domains.medical3d.windows`).
        limits: its (low, high): HU of a preset or of the recipe, percentiles of ``percentile``.
        frame: which volume of a 4-D file; None: files must be 3-D.
        fill: stands in for NaN and infinite voxels; None: such files are not used.
    """

    spacing: tuple[float, float, float] | None
    window: str
    limits: tuple[float, float] | None
    frame: int | None = None
    fill: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preparation:
        """Reads ``asdict`` back."""
        spacing, limits = values["spacing"], values["limits"]
        return cls(
            None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2])),
            str(values["window"]),
            None if limits is None else (float(limits[0]), float(limits[1])),
            values.get("frame"),
            values.get("fill"),
        )


@dataclass(frozen=True)
class VolumeSpec:
    """Facts about a set of volumes; travels with an encoder.

    Attributes:
        size: sides of a sample in voxels: ``(D, H, W)`` of a patch, ``(H, W)`` of a slice.
        channels: of a volume.
        mean, std: of each channel over train samples, on the window's scale; encoders normalise with them.
        background: value of each channel outside a volume, on the window's scale.
        preparation: see :class:`Preparation`.
        axis: along which slices are cut (``axial``, ``coronal``, ``sagittal``); "" for patches.
        pad: volumes smaller than a sample are filled up with background.
        mask_values: values in the mask files, by class number; empty without masks.
    """

    size: tuple[int, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    background: tuple[float, ...]
    preparation: Preparation
    axis: str = ""
    pad: bool = False
    mask_values: tuple[int, ...] = ()

    @property
    def dims(self) -> int:
        """3 for patches, 2 for slices."""
        return len(self.size)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VolumeSpec:
        """Reads :meth:`to_dict` back."""
        return cls(
            tuple(int(v) for v in values["size"]),
            int(values["channels"]),
            tuple(float(v) for v in values["mean"]),
            tuple(float(v) for v in values["std"]),
            tuple(float(v) for v in values["background"]),
            Preparation.from_dict(values["preparation"]),
            str(values["axis"]),
            bool(values["pad"]),
            tuple(int(v) for v in values["mask_values"]),
        )
