"""The domain of medical volumes: what it reads, and what it is made of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import nn

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Domain, Encoder, Figure, Source
from ssl_domains.core.packaged import locate
from ssl_domains.core.registry import domain
from ssl_domains.medical3d import phantoms
from ssl_domains.medical3d.build import BuildOptions, build_source, make_preparation
from ssl_domains.medical3d.data import NOTICE, VolumeSource
from ssl_domains.medical3d.spec import Preparation, VolumeSpec
from ssl_domains.medical3d.studies import Studies, find_studies

Axis = Literal["axial", "coronal", "sagittal"]


@domain("medical3d")
class MedicalDomain(Domain):
    """CT, MR and other volumes; research only."""

    title: ClassVar[str] = "medical volumes: NIfTI, DICOM series, NRRD, MetaImage, NumPy; folders or tables"
    defaults: ClassVar[dict[str, str]] = {
        "encoder": "monai_unet",
        "views": "volume_augment",
        "mask": "random",
    }

    def open(  # type: ignore[override]
        self,
        source: str | os.PathLike[str],
        label: str | None = None,
        *,
        patch: tuple[int, int, int] | None = None,
        axis: Axis | None = None,
        size: tuple[int, int] | None = None,
        spacing: float | tuple[float, float, float] | None = None,
        window: str | tuple[float, float] | None = None,
        stride: int | tuple[int, int, int] | None = None,
        per_volume: int | None = None,
        foreground: float = 0.1,
        pad: bool = False,
        path: str | Sequence[str] | None = None,
        patient: str | None = None,
        mask: str | None = None,
        split: str | None = None,
        root: str | None = None,
        frame: int | None = None,
        fill: float | None = None,
        task: str | None = None,
        valid: float = 0.1,
        test: float = 0.1,
        limit: int | None = None,
        strict: bool = False,
        cache: bool = True,
        seed: int = 0,
    ) -> VolumeSource:
        """Opens volumes.

        Args:
            source: a folder of .nii, .nii.gz, .nrrd, .mha, .npy, .npz files or DICOM series (a folder
                each); a CSV, TSV or Parquet table with a column of paths; one file; ``package://PACKAGE/PATH``;
                ``generated://phantoms?patients=24&size=48``.
            label: a column of the table; ``folder``: the folder a volume lies in; ``mask``: the structure
                that fills most of the middle of a sample; ``position``: where in its volume a sample lies.
                Probes read it; it never is input.
            patch: sides (D, H, W) of the samples in voxels; default multiples of 16 up to 96.
            axis: cut slices along it instead of patches.
            size: sides of a slice, cropped or filled up around its middle.
            spacing: mm between voxels that volumes are resampled to, one number or (D, H, W); default: as
                found.
            window: CT: abdomen, bone, brain, liver, lung, mediastinum, or [low, high] in HU; MR:
                percentile (default), zscore; none.
            stride: voxels from sample to sample; default half a sample, for slices 1.
            per_volume: so many samples of each volume, evenly spread, instead of a grid.
            foreground: least share of body in a sample.
            pad: fill up volumes smaller than a sample with background.
            path: column of paths; several are channels of one volume.
            patient: column; for folders a regular expression on the path (its group is the patient).
            mask: column; for folders the ending of mask files before the suffix, default ``_mask``.
            split: column of train, valid, test; for folders such names are found.
            root: where relative paths of a table start; default the table's folder.
            frame: which volume of 4-D files.
            fill: stands in for NaN and infinite voxels; by default such volumes are left out.
            task: classification or regression; inferred.
            valid: share of the patients for validation.
            test: the same for the test.
            limit: at most so many studies, evenly spaced.
            strict: a study that cannot be used ends the run; by default it is left out and counted.
            cache: keep resampled volumes on the disk.
            seed: of the split and of where samples lie.

        Raises:
            DataError: in one sentence, with the file, row or key.
        """
        options = BuildOptions(
            _sides(patch, 3, "patch"), axis, _sides(size, 2, "size"), _stride(stride, axis),
            _count(per_volume, "per_volume"),
            _share(foreground), pad, label, task, valid, test, _count(limit, "limit"), strict, cache, seed,
        )  # fmt: skip
        return _open(source, window, spacing, frame, fill, options, path, patient, mask, split, root)

    def spec_from_dict(self, values: dict[str, Any]) -> VolumeSpec:
        """Reads a spec back."""
        return VolumeSpec.from_dict(values)

    def embed_source(  # type: ignore[override]
        self,
        spec: VolumeSpec,
        source: str | os.PathLike[str],
        label: str | None = None,
        *,
        stride: int | tuple[int, int, int] | None = None,
        per_volume: int | None = None,
        foreground: float = 0.1,
        path: str | Sequence[str] | None = None,
        patient: str | None = None,
        mask: str | None = None,
        split: str | None = None,
        root: str | None = None,
        task: str | None = None,
        valid: float = 0.0,
        test: float = 0.0,
        limit: int | None = None,
        strict: bool = False,
        cache: bool = True,
        seed: int = 0,
        **fitted: Any,
    ) -> VolumeSource:
        """New volumes, prepared as the encoder's were: orientation, spacing, window, size of the samples.

        Arguments as of :meth:`open`; those that the spec has settled are taken and ignored.

        Raises:
            DataError: other channels, or nothing that can be used.
        """
        options = BuildOptions(
            None, spec.axis or None, None, _stride(stride, spec.axis or None), per_volume, _share(foreground),
            spec.pad, label, task, valid, test, limit, strict, cache, seed,
        )  # fmt: skip
        found, name = _find(source, path, patient, label, mask, split, root)
        opened = build_source(found, name, spec.preparation, options, spec)
        channels = len(opened.volumes.facts[0].background)
        if channels != spec.channels:
            raise DataError(f"{name} has {channels} channels, the encoder wants {spec.channels}")
        return opened

    def inspect(  # type: ignore[override]
        self, source: str | os.PathLike[str], **data: Any
    ) -> tuple[dict[str, Any], str]:
        """The card, and the recipe lines that use the source."""
        found = self.open(source, **data)
        lines = ["domain: medical3d", "data:", f"  source: {os.fspath(source)}"]
        lines += [f"  {key}: {list(v) if isinstance(v, tuple) else v}" for key, v in data.items()]
        if "patch" not in data and not found.spec.axis:
            lines.append(f"  patch: {list(found.spec.size)}   # as found")
        if "window" not in data and found.spec.preparation.window == "percentile":
            lines.append("  # window: abdomen   (CT in Hounsfield units; MR: percentile or zscore)")
        if "spacing" not in data and found.anatomies is None:
            lines.append("  # spacing: 1.5   (mm; as found otherwise)")
        lines.append(f"# {NOTICE}")
        return found.card(), "\n".join(lines) + "\n"

    def figures(self, encoder: Encoder, source: Source, method: nn.Module | None = None) -> list[Figure]:
        """See :func:`ssl_domains.medical3d.figures.figures`."""
        from ssl_domains.medical3d.figures import figures

        assert isinstance(source, VolumeSource)
        return figures(encoder, source, method)


def _open(
    source: str | os.PathLike[str],
    window: str | tuple[float, float] | None,
    spacing: float | tuple[float, float, float] | None,
    frame: int | None,
    fill: float | None,
    options: BuildOptions,
    path: str | Sequence[str] | None,
    patient: str | None,
    mask: str | None,
    split: str | None,
    root: str | None,
) -> VolumeSource:
    found, name = _find(source, path, patient, options.label, mask, split, root)
    how: Preparation
    if window is None and not isinstance(found, Studies):
        how = phantoms.PREPARATION
    else:
        how = make_preparation(spacing, "percentile" if window is None else window, frame, fill)
    return build_source(found, name, how, options)


def _find(
    source: str | os.PathLike[str],
    path: str | Sequence[str] | None,
    patient: str | None,
    label: str | None,
    mask: str | None,
    split: str | None,
    root: str | None,
) -> tuple[Studies | list[phantoms.Phantom], str]:
    name = os.fspath(source)
    if phantoms.is_phantoms(name):
        return phantoms.generate(name), name
    column = None if label in ("mask", "position") else label
    place = locate(name)
    return find_studies(
        place, path=path, patient=patient, label=column, mask=mask, split=split, root=root
    ), name


def _sides(values: Sequence[int] | None, n: int, key: str) -> Any:
    if values is None:
        return None
    sides = tuple(int(v) for v in values)
    if len(sides) != n or min(sides) < 1:
        raise DataError(f"data.{key} must be {n} sides in voxels above 0, got {list(values)}")
    return sides


def _stride(value: int | tuple[int, int, int] | None, axis: str | None) -> Any:
    if value is None:
        return 1 if axis else None
    steps = (value,) if isinstance(value, int) else tuple(value)
    if min(steps) < 1 or len(steps) not in (1, 3):
        raise DataError(f"data.stride must be one number or three above 0, got {value}")
    return value


def _count(value: int | None, key: str) -> int | None:
    if value is not None and value < 1:
        raise DataError(f"data.{key} must be at least 1, got {value}")
    return value


def _share(value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise DataError(f"data.foreground is a share and must lie in [0, 1], got {value}")
    return value
