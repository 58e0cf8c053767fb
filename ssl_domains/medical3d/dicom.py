"""DICOM series: a folder of slices becomes one volume.

Of the header only geometry, scale and series are read. The patient's identity is used to keep his
studies on one side of a split; it becomes a hash at once, and no name leaves this file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.medical3d.readers import BrokenVolume, Raw

_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
SHARED_GAP = 0.1
"""Share of the usual distance between slices by which one may differ."""


def is_dicom(path: Path) -> bool:
    """By its name, or by the four letters that stand at byte 128."""
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    if path.suffix:
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def series_in(folder: Path) -> dict[str, list[Path]]:
    """Slices by series number of a folder (files of its own, not of folders below).

    Raises:
        BrokenVolume: a file that cannot be read.
    """
    import pydicom

    found: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file() and is_dicom(p)):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except Exception as error:
            raise BrokenVolume(f"{path}: cannot be read as DICOM ({type(error).__name__}: {error})") from None
        found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(path)
    return found


def read_series(folder: Path) -> Raw:
    """One volume from a folder of slices, which must belong to one series.

    Raises:
        BrokenVolume: no slices, two series, slices of another shape or orientation, or a missing one.
    """
    series = series_in(folder)
    if not series:
        raise BrokenVolume(f"{folder} holds no DICOM slices")
    if len(series) > 1:
        sizes = ", ".join(str(len(files)) for files in series.values())
        raise BrokenVolume(
            f"{folder} holds {len(series)} series (of {sizes} slices); give each a folder of its own"
        )
    return assemble(next(iter(series.values())), folder)


def assemble(files: list[Path], folder: Path) -> Raw:
    """Slices in order of their place along the normal."""
    import pydicom

    slices = []
    for path in files:
        try:
            header = pydicom.dcmread(path)
            if not all(name in header for name in _GEOMETRY):
                raise BrokenVolume(f"{path}: says nothing of its place (a scout, or a report); remove it")
            # Slope and intercept of the slice: stored numbers are not yet Hounsfield units.
            scale, shift = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
            pixels = header.pixel_array.astype(np.float32) * scale + shift
        except BrokenVolume:
            raise
        except Exception as error:
            raise BrokenVolume(f"{path}: cannot be read as DICOM ({type(error).__name__}: {error})") from None
        slices.append((header, pixels, path))
    return _stacked(slices, folder)


def _stacked(slices: list[tuple[Any, np.ndarray, Path]], folder: Path) -> Raw:
    first = slices[0][0]
    axes = np.array(first.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    for header, pixels, path in slices:
        if pixels.shape != slices[0][1].shape or pixels.ndim != 2:
            raise BrokenVolume(
                f"{path}: is {list(pixels.shape)}, other slices of {folder} are {list(slices[0][1].shape)}"
            )
        turned = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
        if not np.allclose(turned, axes, atol=1e-3):
            raise BrokenVolume(f"{path}: is turned against the other slices of {folder}; split the folder")
    normal = np.cross(axes[0], axes[1])
    place = np.array([np.dot(normal, np.array(h.ImagePositionPatient, np.float64)) for h, _, _ in slices])
    order = np.argsort(place)
    gap = _gap(place[order], [slices[i][2] for i in order], first, folder)
    start = np.array(slices[order[0]][0].ImagePositionPatient, dtype=np.float64)
    between_rows, between_columns = (float(v) for v in first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = axes[0] * between_columns  # along a row
    affine[:3, 1] = axes[1] * between_rows
    affine[:3, 2] = normal * gap
    affine[:3, 3] = start
    affine[:2] *= -1  # DICOM's axes point to left and posterior
    data = np.stack([slices[i][1].T for i in order], axis=2)  # [x, y, z]
    return Raw(data, affine, _who(first))


def _gap(place: np.ndarray, files: list[Path], header: Any, folder: Path) -> float:
    """mm between slices.

    Raises:
        BrokenVolume: a slice twice, or one that is missing.
    """
    if len(place) == 1:
        return float(header.get("SpacingBetweenSlices", header.get("SliceThickness", 1.0)) or 1.0)
    steps = np.diff(place)
    usual = float(np.median(steps))
    if (steps < 1e-3).any():
        at = int(np.argmax(steps < 1e-3))
        raise BrokenVolume(f"{folder}: {files[at].name} and {files[at + 1].name} lie at the same place")
    odd = np.abs(steps - usual) > SHARED_GAP * usual
    if odd.any():
        at = int(np.argmax(odd))
        raise BrokenVolume(
            f"{folder}: between {files[at].name} and {files[at + 1].name} are {steps[at]:.2f} mm, elsewhere "
            f"{usual:.2f}; a slice is missing, add it or split the folder"
        )
    return usual


def _who(header: Any) -> str:
    """A hash of the patient's number; the number and the name go no further."""
    told = str(header.get("PatientID", "")).strip()
    return hashlib.sha256(f"patient:{told}".encode()).hexdigest()[:12] if told else ""
