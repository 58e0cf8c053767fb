"""The source: phantoms whose maps are exact, labels, padding, workers, means of what is left, new data."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.interfaces import Source
from ssl_domains.medical3d import phantoms
from ssl_domains.medical3d.build import _shares
from ssl_domains.medical3d.prepare import BLOCK, blocks_of


@given(st.integers(0, 500), st.integers(0, 15))
@settings(max_examples=15, deadline=None)
def test_maps_have_an_exact_inverse(seed, bend):
    made = phantoms.generate(f"generated://phantoms?patients=2&size=16&seed={seed}&bend={bend}")
    points = np.random.default_rng(seed).uniform(0, 15, (40, 3))
    for one in made:
        assert np.allclose(one.anatomy.voxels(one.anatomy.canonical(points)), points, atol=1e-6)


def test_phantoms_are_the_same_for_a_seed_and_differ_between_patients():
    one = phantoms.generate("generated://phantoms?patients=3&size=16")
    again = phantoms.generate("generated://phantoms?patients=3&size=16")
    assert all(np.array_equal(a.hu, b.hu) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0].mask, one[1].mask[: len(one[0].mask)])
    scans = phantoms.generate("generated://phantoms?patients=2&size=16&scans=2")
    assert [s.patient for s in scans] == ["000", "000", "001", "001"]
    alike = phantoms.generate("generated://phantoms?patients=2&size=32&alike=100&noise=0")[0]
    levels = [alike.hu[alike.mask == k].mean() for k in np.unique(alike.mask) if k > 1]  # 1 may hold a lesion
    assert np.ptp(levels) < 25


def test_is_a_source(patches):
    assert isinstance(patches, Source)
    rows = np.concatenate(list(patches.splits.values()))
    assert len(np.unique(rows)) == len(rows)
    for a in ("train", "valid", "test"):
        for b in ("train", "valid", "test"):
            if a != b:
                assert not set(patches.groups[patches.splits[a]]) & set(patches.groups[patches.splits[b]])
    batch = patches.fetch([5, 0])
    for row, x, corner in zip((5, 0), batch.x, batch.meta["corner"].tolist(), strict=True):
        image = patches.volumes.image(int(patches.samples.volume[row]))
        z, y, w = corner
        assert np.array_equal(x.numpy(), image[:, z : z + 16, y : y + 16, w : w + 16].astype(np.float32))
    assert patches.raw_features(np.arange(3)).shape == (3, 9**3)
    assert patches.picture(0).shape == (16, 16, 3)
    copy = pickle.loads(pickle.dumps(patches))  # workers of a loader
    assert np.array_equal(copy.fetch([1]).x, patches.fetch([1]).x)


def test_labels(medical, patches):
    middle = patches.dense(np.arange(len(patches)))[:, 4:12, 4:12, 4:12].reshape(len(patches), -1).numpy()
    for row, label in enumerate(patches.labels):
        counts = np.bincount(middle[row], minlength=6)[1:]
        assert label == (counts.argmax() if counts.any() else -1)
    source = "generated://phantoms?patients=6&size=24"
    placed = medical.open(source, label="position", patch=(16, 16, 16), per_volume=3)
    assert placed.task == "regression"
    assert np.allclose(placed.labels, placed.fetch(np.arange(len(placed))).meta["position"].numpy())
    lesions = medical.open(source, patch=(16, 16, 16), per_volume=3)
    assert lesions.class_names == ["lesion", "no lesion"]
    assert len(np.unique(lesions.labels[lesions.recordings == 0])) == 1


def test_means_are_those_of_what_is_left(medical):
    source = medical.open("generated://phantoms?patients=6&size=24", axis="axial", size=(24, 24))
    rows = source.splits["train"][:7]
    source.refit(rows)
    x = source.fetch(rows).x.double()
    assert source.spec.mean[0] == pytest.approx(float(x.mean()), abs=1e-5)
    assert source.spec.std[0] == pytest.approx(float(x.std(correction=0)), abs=1e-5)


def test_share_of_body_equals_counting():
    rng = np.random.default_rng(0)
    x = np.zeros((20, 17, 9), np.float32)
    x[3:12, 2:9, 1:8] = 1
    blocks = blocks_of(x, 0.5)
    assert blocks.shape == (3, 3, 2)
    assert blocks[0, 0, 0] == pytest.approx((x[:8, :8, :8] > 0.5).mean())
    assert blocks[2, 2, 1] == 0
    corner = rng.integers(0, 2, (10, 3)) * BLOCK * np.array([1, 1, 0])
    found = _shares(blocks, corner, np.array([8, 8, 8]))
    exact = [(x[a : a + 8, b : b + 8, c : c + 8] > 0.5).mean() for a, b, c in corner]
    assert np.allclose(found, exact)


def test_samples_outside_are_background(medical, tmp_path, files):
    np.save(tmp_path / "a.npy", files.body())
    source = medical.open(
        str(tmp_path / "a.npy"), patch=(24, 24, 28), pad=True, window="abdomen", cache=False
    )
    x = source.fetch([0]).x[0, 0].numpy()
    inside = source.volumes.image(0)[0]
    assert np.array_equal(x[2:22], inside.astype(np.float32))
    assert (x[:2] == source.spec.background[0]).all()
    assert (x[22:] == source.spec.background[0]).all()
