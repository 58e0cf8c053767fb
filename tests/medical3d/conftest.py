"""Sources of phantoms, and files as scanners write them, that the tests share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ssl_domains.core import registry

SPACING = (2.0, 1.0, 1.5)  # D, H, W


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path_factory.mktemp("cache")))


def body(seed=0, shape=(20, 24, 28)):
    """``[D, H, W]`` in HU: air, a block of tissue, and a bright corner that tells the axes apart."""
    rng = np.random.default_rng(seed)
    x = np.full(shape, -1000.0)
    x[4:16, 4:20, 4:24] = 40 + rng.normal(0, 20, (12, 16, 20))
    x[5:7, 5:8, 5:9] = 300.0
    return x.round().astype(np.float32)


def affine_of(codes="RAS", spacing=SPACING):
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

    ras = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    return ras, change, inv_ornt_aff


def write_nifti(path, x, codes="RAS", spacing=SPACING, dtype=np.float32, slope=None):
    """Writes ``[D, H, W]`` with its axes stored as ``codes``."""
    import nibabel
    from nibabel.orientations import apply_orientation

    ras, change, inverse = affine_of(codes, spacing)
    data = x.transpose(2, 1, 0)
    affine = ras @ inverse(change, data.shape)
    image = nibabel.Nifti1Image(apply_orientation(data, change).astype(dtype), affine)
    if slope is not None:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, path)
    return path


def write_series(
    folder, x, spacing=SPACING, uid="1.2.3", name="DOE^JANE", skip=(), start=0.0, slope=(2.0, -1024.0)
):
    """A DICOM series of axial slices, in LPS as scanners write them; 16 bits with slope and intercept."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(x))  # names do not follow the body
    for number, d in enumerate(order):
        if d in skip:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = Dataset()
        ds.file_meta = meta
        ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        ds.PatientName, ds.PatientID, ds.SeriesInstanceUID, ds.Modality = name, "MRN 4711", uid, "CT"
        ds.Rows, ds.Columns = x.shape[1:]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [0.0, 0.0, start + float(d) * spacing[0]]
        ds.PixelSpacing = [spacing[1], spacing[2]]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 1
        ds.RescaleSlope, ds.RescaleIntercept = slope
        # LPS: columns run to the left, rows to the back; RAS is both turned.
        pixels = ((x[d][::-1, ::-1] - slope[1]) / slope[0]).round().astype(np.int16)
        ds.PixelData = np.ascontiguousarray(pixels).tobytes()
        pydicom.dcmwrite(folder / f"slice{number:03d}.dcm", ds, enforce_file_format=True)
    return folder


@pytest.fixture(scope="session")
def files():
    """Functions that write files."""
    return SimpleNamespace(body=body, write_nifti=write_nifti, write_series=write_series)


@pytest.fixture(scope="session")
def medical():
    """The domain."""
    registry.scan_core()
    return registry.load_domain("medical3d")()


@pytest.fixture(scope="session")
def patches(medical):
    """Patches of 16 voxels of eight phantoms."""
    source = "generated://phantoms?patients=8&size=24"
    return medical.open(source, label="mask", patch=(16, 16, 16), per_volume=6)


@pytest.fixture(scope="session")
def slices(medical):
    """Axial slices of eight phantoms."""
    return medical.open("generated://phantoms?patients=8&size=24", axis="axial", size=(32, 32), valid=0.1)
