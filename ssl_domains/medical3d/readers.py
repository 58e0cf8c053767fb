"""Reading one volume: NIfTI by nibabel, NRRD and MetaImage by SimpleITK, NumPy; DICOM is in ``dicom.py``.

Every reader gives voxels ``[x, y, z]`` and an affine to RAS millimetres, in nibabel's convention. What a
header says of the patient is never kept.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError

NIFTI = (".nii", ".nii.gz", ".hdr", ".img")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
ARRAYS = (".npy", ".npz")
SUFFIXES = (*NIFTI, *ITK, *ARRAYS)


class BrokenVolume(DataError):
    """One file cannot be used; the sentence names it."""


@dataclass
class Raw:
    """A volume as its file has it.

    Attributes:
        data: ``[x, y, z]`` float32, scaled by the file's slope and intercept.
        affine: ``[4, 4]`` from voxels to RAS mm.
        patient: who it is, where the file says so, in a form that tells nothing (a hash); or "".
    """

    data: np.ndarray
    affine: np.ndarray
    patient: str = ""

    @property
    def spacing(self) -> np.ndarray:
        """``[3]`` mm between voxels along the array's axes."""
        return np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))


def suffix_of(path: Path) -> str:
    """The ending, ``.nii.gz`` as one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def read_volume(path: Path, frame: int | None = None, fill: float | None = None) -> Raw:
    """One volume.

    Args:
        path: a file, or a folder that holds one DICOM series.
        frame: which volume of a 4-D file.
        fill: in place of NaN and infinite values; None: they make the file unusable.

    Raises:
        BrokenVolume: in one sentence, with the file.
    """
    if path.is_dir():
        from ssl_domains.medical3d.dicom import read_series

        raw = read_series(path)
    elif not path.is_file():
        raise BrokenVolume(f"{path} does not exist")
    elif suffix_of(path) in NIFTI:
        raw = _nifti(path, frame)
    elif suffix_of(path) in ITK:
        raw = _itk(path, frame)
    elif suffix_of(path) in ARRAYS:
        raw = _array(path, frame)
    elif path.suffix.lower() in (".dcm", ""):
        raise BrokenVolume(f"{path} is one DICOM slice; give the folder of its series")
    else:
        raise BrokenVolume(f"{path}: cannot read {path.suffix!r} files; use {', '.join(SUFFIXES)}, or DICOM")
    return checked(raw, path, fill)


def checked(raw: Raw, path: Path, fill: float | None) -> Raw:
    """The volume with usable voxels and spacing.

    Raises:
        BrokenVolume: NaN, infinity, no voxels, spacing that is zero or not a number.
    """
    if raw.data.ndim != 3 or min(raw.data.shape) < 1:
        raise BrokenVolume(f"{path}: wants a volume of 3 axes, this one is {list(raw.data.shape)}")
    spacing = raw.spacing
    if not np.isfinite(raw.affine).all() or (spacing < 1e-6).any():
        shown = [round(float(v), 6) for v in spacing]
        raise BrokenVolume(f"{path}: its spacing is {shown} mm, and must be above 0; mend the header")
    bad = ~np.isfinite(raw.data)
    if bad.any():
        if fill is None:
            raise BrokenVolume(
                f"{path}: {int(bad.sum())} voxels are NaN or infinite; mend it, or set data.fill to the "
                "value that stands for them"
            )
        raw.data = np.where(bad, np.float32(fill), raw.data)
    return raw


def _one_frame(data: Any, frame: int | None, path: Path) -> np.ndarray:
    """A 3-D array of a file that may have a fourth axis.

    Raises:
        BrokenVolume: several volumes and no choice, or no such volume.
    """
    if len(data.shape) == 4 and data.shape[3] == 1:
        return np.asarray(data[..., 0])
    if len(data.shape) == 4:
        n = int(data.shape[3])
        if frame is None:
            raise BrokenVolume(f"{path} holds {n} volumes (4-D); say which with data.frame=0 to {n - 1}")
        if not 0 <= frame < n:
            raise BrokenVolume(f"{path} holds {n} volumes, data.frame is {frame}")
        return np.asarray(data[..., frame])
    return np.asarray(data)


def _nifti(path: Path, frame: int | None) -> Raw:
    import nibabel

    try:
        image: Any = nibabel.load(path)  # type: ignore[attr-defined]
        # The proxy applies the header's slope and intercept; one frame of a long series is read alone.
        data = _one_frame(image.dataobj, frame, path).astype(np.float32)
        affine = np.asarray(image.affine, dtype=np.float64)
        zooms = _zooms(image, path)
    except BrokenVolume:
        raise
    except Exception as error:  # headers, gzip and sizes each raise their own
        raise BrokenVolume(f"{path}: cannot be read as NIfTI ({_reason(error)})") from None
    if data.dtype.kind == "V" or data.ndim < 3:
        raise BrokenVolume(f"{path}: wants a grey volume of 3 axes, this one is {list(data.shape)}")
    if min(zooms) <= 0 or not np.isfinite(zooms).all():
        raise BrokenVolume(f"{path}: its spacing is {zooms} mm, and must be above 0; mend the header")
    return Raw(data, affine)


def _zooms(image: Any, path: Path) -> list[float]:
    """mm between voxels as the file says; nibabel mends a 0 to 1 without a word, so it is read again."""
    from nibabel.openers import ImageOpener

    if suffix_of(path) not in (".nii", ".nii.gz"):
        return [float(v) for v in image.header.get_zooms()[:3]]
    with ImageOpener(str(path)) as file:
        header = type(image.header).from_fileobj(file, check=False)
    return [abs(float(v)) for v in header["pixdim"][1:4]]


def _itk(path: Path, frame: int | None) -> Raw:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
        data = SimpleITK.GetArrayFromImage(image)  # [z, y, x], slower axes first
    except Exception as error:
        raise BrokenVolume(f"{path}: cannot be read ({_reason(error)})") from None
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise BrokenVolume(f"{path}: has {image.GetNumberOfComponentsPerPixel()} values a voxel, wants one")
    dims = image.GetDimension()
    array = _one_frame(np.moveaxis(data, 0, -1) if dims == 4 else data, frame, path)
    if array.ndim != 3:
        raise BrokenVolume(f"{path}: wants a volume of 3 axes, this one has {dims}")
    direction = np.array(image.GetDirection()).reshape(dims, dims)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    affine[:2] *= -1  # ITK's axes point to left and posterior
    return Raw(array.transpose(2, 1, 0).astype(np.float32), affine)


def _array(path: Path, frame: int | None) -> Raw:
    """``.npy``: voxels ``[D, H, W]``, 1 mm apart; ``.npz``: ``volume`` and, optionally, ``spacing`` (D, H, W)
    in mm. Both are taken to lie in RAS already."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            data, spacing = found, np.ones(3)
        else:
            name = "volume" if "volume" in found.files else found.files[0]
            data = found[name]
            spacing = np.asarray(found["spacing"], np.float64) if "spacing" in found.files else np.ones(3)
    except Exception as error:
        raise BrokenVolume(f"{path}: cannot be read as NumPy ({_reason(error)})") from None
    if data.dtype.kind not in "iufb":
        raise BrokenVolume(f"{path}: holds {data.dtype}, wants numbers")
    if spacing.shape != (3,):
        raise BrokenVolume(f"{path}: spacing must be 3 numbers (D, H, W), got {list(spacing.shape)}")
    if data.ndim == 4:
        data = _one_frame(np.moveaxis(data, 0, -1), frame, path)
    if data.ndim != 3:
        raise BrokenVolume(f"{path}: wants a volume [D, H, W], this one is {list(data.shape)}")
    affine = np.diag([*spacing[::-1], 1.0])
    return Raw(data.transpose(2, 1, 0).astype(np.float32), affine)


def _reason(error: Exception) -> str:
    text = str(error).strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return (lines[-1][:160] if lines else "") or type(error).__name__


def to_ras(raw: Raw) -> tuple[np.ndarray, np.ndarray, str, bool]:
    """``(data [D, H, W], spacing [3] mm (D, H, W), axes as found, oblique)``.

    Axes are flipped and exchanged, nothing is interpolated: a tilted scan stays tilted against the body, by
    the angle that its header has.
    """
    from nibabel.orientations import aff2axcodes, apply_orientation, io_orientation

    orientation = io_orientation(raw.affine)
    if np.isnan(orientation).any():
        raise BrokenVolume("its axes cannot be told from the header; mend the affine")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = apply_orientation(raw.data, orientation)
    spacing = np.empty(3)
    spacing[orientation[:, 0].astype(int)] = raw.spacing
    unit = raw.affine[:3, :3] / raw.spacing
    oblique = bool((np.abs(unit).max(axis=0) < 0.999).any())
    codes = "".join(str(c) for c in aff2axcodes(raw.affine))
    return np.ascontiguousarray(data.transpose(2, 1, 0)), spacing[::-1].copy(), codes, oblique
