"""Places and boxes in mm: by hand on small volumes, and with features that know the answer."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_domains.evaluation.localisation import LocalisationProbe, iou
from ssl_domains.evaluation.protocols import Features


@pytest.fixture
def scans(medical, tmp_path, files):
    """Ten studies, voxels of 2 x 1 x 1.5 mm, with a block that sits elsewhere in each and one at times."""
    rng = np.random.default_rng(0)
    lines = ["path,mask,patient,split"]
    for i in range(10):
        x = files.body(i)
        mask = np.zeros(x.shape, np.int16)
        z, y, w = rng.integers(2, 8, 3)
        mask[z : z + 5, y : y + 6, w : w + 7] = 1
        if i % 2:
            mask[18:20, 20:24, 3:9] = 4
        files.write_nifti(tmp_path / f"{i}.nii", x)
        files.write_nifti(tmp_path / f"{i}m.nii", mask, dtype=np.int16)
        lines.append(f"{i}.nii,{i}m.nii,p{i},{'train' if i < 6 else 'valid' if i < 8 else 'test'}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    return medical.open(str(tmp_path / "t.csv"), patch=(8, 8, 8), foreground=0.0)


def features(source, z):
    return Features(z.astype(np.float32), np.arange(len(source)), source, None)


def scores(found, part=""):
    return {s.metric: s.value for s in found if s.part == part}


def test_boxes_and_centres_are_in_mm(scans):
    mask = np.asarray(scans.volumes.mask(1))
    at = np.argwhere(mask == 1)
    low, high = at.min(0) * [2, 1, 1.5], (at.max(0) + 1) * [2, 1, 1.5]
    assert np.allclose(scans.boxes()[1, 0], [low, high])
    assert np.allclose(scans.boxes()[1, 1], [[36, 20, 4.5], [40, 24, 13.5]])
    assert np.isnan(scans.boxes()[0, 1]).all()  # the second structure is in every other study
    corner = scans.samples.corner[:3]
    assert np.allclose(scans.centres([0, 1, 2]), (corner + 4) * [2, 1, 1.5])


def test_features_that_hold_the_place_find_it(scans):
    probe = LocalisationProbe()
    assert probe.why_not(scans, None) == ""
    rows = np.arange(len(scans))
    rng = np.random.default_rng(0)
    told = scores(probe.measure(features(scans, scans.centres(rows) @ rng.normal(size=(3, 5))), 0))
    assert told["distance_mm"] < 0.05
    nothing = scores(probe.measure(features(scans, rng.normal(size=(len(rows), 5))), 0))
    mean = scores(probe.baselines(scans)["mean"])
    train, test = (scans.centres(scans.splits[s]) for s in ("train", "test"))
    by_hand = np.linalg.norm(test - train.mean(0), axis=1)
    assert mean["distance_mm"] == pytest.approx(by_hand.mean())
    assert mean["median_mm"] == pytest.approx(np.median(by_hand))
    assert nothing["distance_mm"] == pytest.approx(mean["distance_mm"], rel=0.1)


def test_boxes_by_votes(scans):
    probe = LocalisationProbe(target="box")
    rows = np.arange(len(scans))
    away = (scans.boxes()[scans.recordings][:, 0] - scans.centres(rows)[:, None]).reshape(len(rows), 6)
    away[::7] += 100  # some samples are wrong; the median of a volume's votes is not
    found = probe.measure(features(scans, away), 0)
    whole, first, second = scores(found), scores(found, "1"), scores(found, "4")
    mean = probe.baselines(scans)["mean"]
    boxes = scans.boxes()
    by_hand = np.abs(boxes[[8, 9], 0] - boxes[:6, 0].mean(0)).mean()
    assert scores(mean, "1")["wall_mm"] == pytest.approx(by_hand)
    assert scores(mean, "4")["wall_mm"] == pytest.approx(0)
    assert first["wall_mm"] < by_hand / 2
    assert np.isfinite(second["wall_mm"])
    assert 0 < whole["iou"] <= 1


def test_overlap_by_hand():
    one = np.array([[0.0, 0, 0], [2, 2, 2]])
    assert iou(one, one) == pytest.approx(1)
    assert iou(one, one + np.array([1, 0, 0])) == pytest.approx(4 / 12)
    assert iou(one, one + 5) == 0
    assert iou(one[::-1], one) == 0


def test_a_recipe_runs_it(scans):
    """Beside raw features and the mean, as a recipe's probe; slices know their places, too."""
    from ssl_domains.core import registry
    from ssl_domains.evaluation import evaluate_encoder

    encoder = registry.get("encoder", "monai_unet")(scans.spec, features=[4, 8], norm="batch")
    found = evaluate_encoder(
        encoder, scans, probes=["localisation", {"localisation": {"target": "box"}}], seeds=1, device="cpu"
    )
    assert found.value("localisation.mean") > 0
    assert found.value("localisation.pretrained") == found.find("localisation").mean
    assert found.find("localisation_1(target=box)", "raw", "wall_mm") is not None
    assert found.n_rows["test volumes"] == 2


def test_says_why_not(slices, scans):
    assert "know where their samples lie" in LocalisationProbe().why_not(object(), None)
    probe = LocalisationProbe(target="box")
    names, slices.dense_classes = slices.dense_classes, None
    assert "needs masks" in probe.why_not(slices, None)
    slices.dense_classes = names
    with pytest.raises(ValueError, match="target must be position or box"):
        LocalisationProbe(target="organ")
