"""Files: every format gives the same volume; orientation, spacing, windows, masks; series of slices."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.medical3d import windows
from ssl_domains.medical3d.prepare import resample
from ssl_domains.medical3d.readers import read_volume, to_ras
from ssl_domains.medical3d.studies import find_studies

SPACING = (2.0, 1.0, 1.5)  # D, H, W


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SAL"])
def test_any_orientation_gives_the_same_volume(tmp_path, codes, files):
    x = files.body()
    raw = read_volume(files.write_nifti(tmp_path / "a.nii.gz", x, codes))
    data, spacing, axes, oblique = to_ras(raw)
    assert np.array_equal(data, x)
    assert np.allclose(spacing, SPACING)
    assert axes == codes
    assert not oblique


def test_formats_agree(tmp_path, files):
    import SimpleITK

    x = files.body()
    image = SimpleITK.GetImageFromArray(x)
    image.SetSpacing(SPACING[::-1])
    # ITK's axes point to the left and back: turned, so that the array lies in RAS.
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    for name in ("a.mha", "a.nrrd"):
        SimpleITK.WriteImage(image, str(tmp_path / name))
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", volume=x, spacing=np.array(SPACING))
    files.write_nifti(tmp_path / "a.nii", x)
    for name in ("a.mha", "a.nrrd", "a.npy", "a.npz", "a.nii"):
        data, spacing, axes, _ = to_ras(read_volume(tmp_path / name))
        assert np.array_equal(data, x), name
        assert axes == "RAS"
        assert np.allclose(spacing, (1, 1, 1) if name == "a.npy" else SPACING), name


def test_series_gives_the_volume_in_hounsfield_units(tmp_path, files):
    x = files.body()
    x -= x % 2  # a slope of 2 stores every other number
    data, spacing, axes, _ = to_ras(read_volume(files.write_series(tmp_path / "ct", x)))
    assert np.array_equal(data, x)
    assert np.allclose(spacing, SPACING)
    assert axes == "LPS"


def test_sixteen_bits_with_slope_and_intercept(tmp_path, files):
    x = files.body()
    path = files.write_nifti(tmp_path / "a.nii", (x + 1024) / 0.5, dtype=np.int16, slope=(0.5, -1024))
    assert np.allclose(to_ras(read_volume(path))[0], x * 1.0)


def test_resampling_keeps_body_and_labels(files):
    x = files.body()
    fine = resample(x, np.array(SPACING), np.array([1.0, 1.0, 1.0]))
    assert fine.shape == (40, 24, 42)
    assert np.array_equal(resample(x, np.array(SPACING), np.array(SPACING)), x)
    mask = (x > -500).astype(np.float32)
    coarse = resample(mask, np.array(SPACING), np.array([4.0, 2.0, 3.0]), labels=True)
    assert set(np.unique(coarse)) == {0.0, 1.0}
    assert mask.mean() == pytest.approx(coarse.mean(), rel=0.2)
    waves = np.tile(np.array([0.0, 1.0], np.float32), (8, 8, 16))  # detail finer than the new voxels
    assert resample(waves, np.ones(3), np.array([1.0, 1.0, 4.0])).std() < 0.05


def test_windows_by_hand(files):
    x = np.array([-500.0, -160.0, 40.0, 240.0, 900.0], np.float32)
    assert windows.PRESETS["abdomen"] == (-160, 240)
    assert np.allclose(windows.apply(x, *windows.parse("abdomen")), [0, 0, 0.5, 1, 1])
    assert np.allclose(windows.apply(x, *windows.parse([-500, 900])), (x + 500) / 1400)
    scaled = windows.apply(files.body(), *windows.parse("zscore"))
    inside = scaled[scaled > scaled.min()]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-4)
    assert float(inside.std()) == pytest.approx(1, abs=1e-3)
    found = windows.apply(files.body(), *windows.parse("percentile"))
    assert (float(found.min()), float(found.max())) == (0.0, 1.0)
    assert np.array_equal(
        windows.apply(np.full((2, 2, 2), 7.0), "percentile", (1.0, 99.0)), np.zeros((2, 2, 2))
    )
    with pytest.raises(DataError, match="use one of abdomen"):
        windows.parse("belly")
    with pytest.raises(DataError, match="low < high"):
        windows.parse([3, 1])


def test_folder_of_studies_with_masks(medical, tmp_path, files):
    for i in range(4):
        x = files.body(i)
        folder = tmp_path / f"p{i}"
        folder.mkdir()
        files.write_nifti(folder / "ct.nii.gz", x, codes="LPS" if i % 2 else "RAS")
        files.write_nifti(folder / "ct_mask.nii.gz", (x > -500) * 1 + (x > 250) * 1, dtype=np.int16)
    found = find_studies(tmp_path, patient=r"(p\d)")
    assert [s.patient for s in found.items] == ["p0", "p1", "p2", "p3"]
    assert all(s.mask is not None for s in found.items)
    source = medical.open(
        str(tmp_path), patient=r"(p\d)", spacing=2, window="abdomen", patch=(16, 8, 16), valid=0.25, test=0.25
    )
    assert source.dense_classes == ["background", "1", "2"]
    card = source.card()
    assert card["axes found"] == {"LPS": 2, "RAS": 2}
    assert card["spacing"] == "2 x 2 x 2 mm, resampled"
    rows = np.arange(len(source))
    whole, parts = source.fetch(rows).x, [source.fetch([r]).x for r in rows]
    assert all(np.array_equal(whole[i].numpy(), p[0].numpy()) for i, p in enumerate(parts))
    patients = [set(source.groups[r]) for r in source.splits.values()]
    assert len(set.union(*patients)) == sum(len(p) for p in patients)
    again = medical.open(
        str(tmp_path), patient=r"(p\d)", spacing=2, window="abdomen", patch=(16, 8, 16), valid=0.25, test=0.25
    )  # from the cache
    assert np.array_equal(again.fetch(rows).x.numpy(), whole.numpy())
    spec = medical.spec_from_dict(source.spec.to_dict())
    assert spec == source.spec
    new = medical.embed_source(spec, str(tmp_path / "p0" / "ct.nii.gz"))
    assert new.fetch([0]).x.shape[1:] == (1, 16, 8, 16)


def test_table_of_studies_with_two_channels(medical, tmp_path, files):
    lines = ["t1,t2,subject,diagnosis,set"]
    for i in range(6):
        np.save(tmp_path / f"{i}a.npy", files.body(i))
        np.save(tmp_path / f"{i}b.npy", files.body(i) * 2)
        who, word = f"s{i // 2}", "ill" if i > 2 else "well"
        lines.append(f"{i}a.npy,{i}b.npy,{who},{word},{['train', 'valid', 'test'][i // 2]}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    source = medical.open(
        str(tmp_path / "table.csv"), "diagnosis", path=["t1", "t2"], patient="subject", split="set",
        patch=(16, 16, 16), window="zscore",
    )  # fmt: skip
    assert source.spec.channels == 2
    assert source.fetch([0]).x.shape == (1, 2, 16, 16, 16)
    assert source.class_names == ["ill", "well"]
    assert all(len(rows) for rows in source.splits.values())


def test_slices_are_a_source(slices):
    batch = slices.fetch(slices.splits["train"][:5])
    assert batch.x.shape == (5, 1, 32, 32)
    assert float(batch.x.min()) >= 0
    assert float(batch.x.max()) <= 1
    assert slices.dense(slices.splits["train"][:5]).shape == (5, 32, 32)
    x, truth, spacing = slices.scan(0)
    assert x.shape[0] == truth.shape[0]
    assert spacing == (1.0, 1.0, 1.0)
