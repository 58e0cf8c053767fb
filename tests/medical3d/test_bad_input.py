"""What users get wrong: one sentence each, with the file and what to do; names never leave a header."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest

from ssl_domains.core.errors import DataError


def strict(medical, path, **data):
    return medical.open(str(path), strict=True, patch=(16, 16, 16), **data)


def test_truncated_and_broken_files(medical, tmp_path, files):
    whole = files.write_nifti(tmp_path / "whole.nii", files.body())
    cut = tmp_path / "cut.nii"
    cut.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cut.nii: cannot be read as NIfTI"):
        strict(medical, cut)
    noise = tmp_path / "noise.nii.gz"
    noise.write_bytes(b"not a volume" * 40)
    with pytest.raises(DataError, match=r"noise.nii.gz: cannot be read as NIfTI"):
        strict(medical, noise)
    header = bytearray(whole.read_bytes())
    header[70:72] = np.int16(9999).tobytes()  # no such data type
    (tmp_path / "header.nii").write_bytes(bytes(header))
    with pytest.raises(DataError, match=r"header.nii: cannot be read as NIfTI"):
        strict(medical, tmp_path / "header.nii")
    (tmp_path / "bad.mha").write_text("ObjectType = Image\n")
    with pytest.raises(DataError, match=r"bad.mha: cannot be read"):
        strict(medical, tmp_path / "bad.mha")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"bad.npy: cannot be read as NumPy"):
        strict(medical, tmp_path / "bad.npy")


def test_broken_files_in_a_folder_are_counted(medical, tmp_path, files):
    for i in range(3):
        files.write_nifti(tmp_path / f"{i}.nii", files.body(i))
    (tmp_path / "3.nii").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match=r"1 studies left out; the first: .*3.nii"):
        source = medical.open(str(tmp_path), patch=(16, 16, 16))
    assert source.card()["left_out"] == 1
    assert source.card()["volumes"] == 3


def test_spacing_zero(medical, tmp_path, files):
    np.savez(tmp_path / "a.npz", volume=files.body(), spacing=np.array([1.0, 0.0, 1.0]))
    with pytest.raises(DataError, match=r"a.npz: its spacing is .* must be above 0"):
        strict(medical, tmp_path / "a.npz")
    path = files.write_nifti(tmp_path / "a.nii", files.body())
    raw = bytearray(path.read_bytes())
    raw[80:84] = np.float32(0).tobytes()  # pixdim[1]
    raw[252:256] = b"\x00\x00\x00\x00"  # no qform, no sform: the spacing alone counts
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match=r"a.nii: its spacing is"):
        strict(medical, path)
    with pytest.raises(DataError, match=r"data.spacing is in mm"):
        medical.open(str(tmp_path), spacing=0)


def test_nan_and_infinity(medical, tmp_path, files):
    x = files.body()
    x[0, 0, 0], x[1, 1, 1] = np.nan, np.inf
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(DataError, match=r"a.npy: 2 voxels are NaN or infinite; .* data.fill"):
        strict(medical, tmp_path / "a.npy")
    source = strict(medical, tmp_path / "a.npy", fill=-1000.0)
    assert np.isfinite(source.fetch([0]).x.numpy()).all()


def test_four_axes(medical, tmp_path, files):
    np.save(tmp_path / "a.npy", np.stack([files.body(0), files.body(1)]))
    with pytest.raises(DataError, match=r"a.npy holds 2 volumes \(4-D\); say which with data.frame=0 to 1"):
        strict(medical, tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"data.frame is 5"):
        strict(medical, tmp_path / "a.npy", frame=5)
    assert strict(medical, tmp_path / "a.npy", frame=1).card()["volumes"] == 1
    np.save(tmp_path / "b.npy", files.body()[0])
    with pytest.raises(DataError, match=r"wants a volume \[D, H, W\]"):
        strict(medical, tmp_path / "b.npy")


def test_mask_of_another_shape_or_with_fractions(medical, tmp_path, files):
    files.write_nifti(tmp_path / "a.nii", files.body())
    files.write_nifti(tmp_path / "a_mask.nii", files.body()[:-1] > 0)
    with pytest.raises(DataError, match=r"a_mask.nii: is \[19, 24, 28\], its image a.nii is \[20, 24, 28\]"):
        strict(medical, tmp_path)
    files.write_nifti(tmp_path / "a_mask.nii", np.full(files.body().shape, 0.5))
    with pytest.raises(DataError, match=r"a_mask.nii: holds fractions"):
        strict(medical, tmp_path)


def test_mask_in_another_orientation_is_turned(medical, tmp_path, files):
    x = files.body()
    files.write_nifti(tmp_path / "a.nii", x, "LPS")
    files.write_nifti(tmp_path / "a_mask.nii", x > 250, "RAS", dtype=np.int16)
    source = strict(medical, tmp_path, window="none")
    image, mask = source.volumes.pair(0)
    assert np.array_equal(np.asarray(mask) > 0, np.asarray(image[0]) > 250)


def test_series_with_a_missing_slice_or_two_series(medical, tmp_path, files):
    files.write_series(tmp_path / "gap", files.body(), skip=(9,))
    with pytest.raises(DataError, match=r"are 4.00 mm, elsewhere 2.00; a slice is missing"):
        strict(medical, tmp_path / "gap")
    files.write_series(tmp_path / "two", files.body()[:10])
    other = files.write_series(tmp_path / "other", files.body()[:8], uid="9.9")
    for path in other.iterdir():
        shutil.copy(path, tmp_path / "two" / f"b{path.name}")
    with pytest.raises(DataError, match=r"two holds 2 series \(of 8, 10 slices\); give each a folder"):
        strict(medical, tmp_path / "two")
    twice = files.write_series(tmp_path / "twice", files.body())
    shutil.copy(twice / "slice000.dcm", twice / "slice900.dcm")
    with pytest.raises(DataError, match=r"lie at the same place"):
        strict(medical, twice)
    with pytest.raises(DataError, match=r"is one DICOM slice; give the folder"):
        strict(medical, tmp_path / "gap" / "slice000.dcm")


def test_volume_smaller_than_the_patch(medical, tmp_path, files):
    np.save(tmp_path / "a.npy", files.body())
    with pytest.raises(DataError, match=r"smaller than a sample of \[32, 32, 32\]; lower data.patch"):
        medical.open(str(tmp_path / "a.npy"), patch=(32, 32, 32))
    source = medical.open(str(tmp_path / "a.npy"), patch=(32, 32, 32), pad=True)
    assert source.fetch([0]).x.shape == (1, 1, 32, 32, 32)


def test_few_slices(medical, tmp_path, files):
    """A volume with fewer slices than a block of the foreground map."""
    np.save(tmp_path / "a.npy", files.body()[5:10])
    source = medical.open(str(tmp_path / "a.npy"), patch=(4, 16, 16))
    assert source.fetch([0]).x.shape == (1, 1, 4, 16, 16)
    assert len(medical.open(str(tmp_path / "a.npy"), axis="axial", size=(24, 28))) == 5


def test_one_patient_only(medical, tmp_path, files):
    for i in range(3):
        np.save(tmp_path / f"ann_{i}.npy", files.body(i))
    source = medical.open(str(tmp_path), patient="ann", patch=(16, 16, 16))
    assert "one patient: all of it is for training" in source.card()["notes"]
    assert len(source.splits["train"]) == len(source)


def test_a_patient_in_two_splits(medical, tmp_path, files):
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", files.body(i))
    (tmp_path / "t.csv").write_text("path,patient,split\n0.npy,ann,train\n1.npy,ann,test\n")
    with pytest.raises(DataError, match=r"1 patients have studies in test and train") as error:
        medical.open(str(tmp_path / "t.csv"), patch=(16, 16, 16))
    assert "ann" not in str(error.value).replace("and", "")


def test_tables_and_folders_that_lack_something(medical, tmp_path, files):
    with pytest.raises(DataError, match="does not exist"):
        medical.open(str(tmp_path / "none"))
    (tmp_path / "t.csv").write_text("file,patient\n,ann\n")
    with pytest.raises(DataError, match="row 1 has no 'file'"):
        medical.open(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text("what\nx\n")
    with pytest.raises(DataError, match=r"has no column of paths.*\(has: what\)"):
        medical.open(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text("path\nnone.nii\n")
    with pytest.raises(DataError, match=r"none.nii does not exist"):
        medical.open(str(tmp_path / "t.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no volumes"):
        medical.open(str(tmp_path / "empty"))
    with pytest.raises(DataError, match="is none of patients"):
        medical.open("generated://phantoms?people=3")
    np.save(tmp_path / "v.npy", files.body())
    with pytest.raises(DataError, match="needs masks"):
        medical.open(str(tmp_path / "v.npy"), label="mask", patch=(16, 16, 16))


def test_patients_in_headers_never_show(medical, tmp_path, files):
    """Neither name nor number of a header is in the card, the ids, the spec or the cache; studies of one
    patient still stay on one side."""
    for i in range(4):
        files.write_series(tmp_path / "data" / f"study{i}", files.body(i))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = medical.open(str(tmp_path / "data"), patch=(16, 16, 16))
    rows = np.arange(len(source))
    told = json.dumps([source.card(), list(source.ids(rows)), source.spec.to_dict()], default=str)
    told += " ".join(source.describe(int(r)) for r in rows)
    cache = [p.read_text() for p in tmp_path.rglob("meta.json")]
    for text in (told, *cache):
        assert "DOE" not in text
        assert "JANE" not in text
        assert "4711" not in text
    assert source.card()["patients"] == 1  # the same number in all four headers


def test_patients_in_headers_never_reach_a_run(tmp_path, files, monkeypatch):
    """A whole run on DICOM series: neither name nor number is in any file of the run directory, text or
    binary, or in the cache."""
    import ssl_domains

    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path / "cache"))
    secrets = (b"DOE^JANE", b"DOE", b"MRN 4711")
    for i in range(4):
        files.write_series(tmp_path / "data" / f"study{i}", files.body(i), name="DOE^JANE")
    header = (tmp_path / "data" / "study0" / "slice000.dcm").read_bytes()
    assert all(secret in header for secret in secrets)
    ssl_domains.pretrain(
        "medical3d/simclr", "data.patch=[8,8,8]", "data.per_volume=8", "data.label=null",
        "encoder.features=[4,4]", "method.projector=[8,8]", "train.epochs=null", "train.steps=2",
        "train.batch_size=4", "evaluate.seeds=1", "evaluate.map_rows=10",
        "evaluate.probes=[]", f"data.source={tmp_path / 'data'}", run=tmp_path / "run", progress=False,
    )  # fmt: skip
    written = [p for folder in ("run", "cache") for p in (tmp_path / folder).rglob("*") if p.is_file()]
    assert {p.name for p in written} >= {
        "card.md",
        "report.html",
        "recipe.yaml",
        "model.safetensors",
        "meta.json",
    }
    told = [(secret, path) for path in written for secret in secrets if secret in path.read_bytes()]
    # Three letters may turn up by chance in weights and pixels; the whole name and the number may not.
    binary = {".safetensors", ".npy", ".npz", ".bin"}
    assert not [
        (s, p) for s, p in told if s != b"DOE" or (p.suffix not in binary and p.name != "report.html")
    ]
