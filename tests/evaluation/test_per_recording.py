"""Answers averaged over recordings, and AUC of each class, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ssl_domains.core.errors import RecipeError
from ssl_domains.evaluation import build_probe, evaluate_encoder
from ssl_domains.evaluation.data import Prediction
from ssl_domains.evaluation.per_recording import averaged, means, one_vs_rest

CLIPS = 4


@given(st.integers(0, 10_000), st.integers(3, 6))
@settings(max_examples=20, deadline=None)
def test_auc_is_scikit_learns(seed, classes):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, 30)])
    score = rng.dirichlet(np.ones(classes), len(y)).round(2)  # ties
    score /= score.sum(1, keepdims=True)
    found = one_vs_rest(y, score)
    assert found.mean() == pytest.approx(roc_auc_score(y, score, multi_class="ovr", average="macro"))
    assert found[0] == pytest.approx(roc_auc_score(y == 0, score[:, 0]))
    labels = rng.random((40, 3)) < 0.5
    assert one_vs_rest(labels, rng.random((40, 3))).shape == (3,)
    assert np.isnan(one_vs_rest(np.zeros(5, int), np.ones((5, 2)))).all()


def test_means_and_averages_by_hand():
    groups = np.array([7, 3, 7])
    assert means(np.array([1.0, 5.0, 3.0]), groups).tolist() == [5.0, 2.0]
    score = np.array([[0.6, 0.4], [0.9, 0.1], [0.1, 0.9]])
    found = averaged(Prediction(score.argmax(1), score), groups, "classification")
    assert np.allclose(found.score, [[0.9, 0.1], [0.35, 0.65]])
    assert found.value.tolist() == [0, 1]
    votes = averaged(Prediction(np.array([1, 0, 1])), groups, "classification")
    assert votes.value.tolist() == [0, 1]
    assert averaged(Prediction(np.array([1.0, 5.0, 3.0])), groups, "regression").value.tolist() == [5.0, 2.0]
    labels = averaged(Prediction(score > 0.5, score), groups, "multilabel")
    assert labels.value.tolist() == [[True, False], [False, True]]


@pytest.fixture
def clips(toy):
    """60 recordings of 4 samples: the class is in the recording's mean, under noise in each sample."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    centre = np.eye(3, 6)[y] * 1.2
    x = np.repeat(centre, CLIPS, axis=0) + rng.normal(0, 1.0, (60 * CLIPS, 6))
    source = toy.Source(x, np.repeat(y, CLIPS), "classification")
    source.recordings = np.arange(len(x)) // CLIPS
    parts = np.split(rng.permutation(60), [30, 40])
    for name, part in zip(("train", "valid", "test"), parts, strict=True):
        source.splits[name] = (np.sort(part)[:, None] * CLIPS + np.arange(CLIPS)).ravel()
    source.class_names = ["a", "b", "c"]
    return source


def run(toy, source, *probes):
    return evaluate_encoder(toy.Encoder(), source, probes=list(probes), seeds=1, device="cpu")


def test_recordings_are_judged_by_the_mean_of_their_samples(toy, clips):
    found = run(
        toy, clips, "linear", {"per_recording": {}},
        {"per_recording": {"probe": {"name": "knn", "k": 5}, "average": "embeddings"}},
        {"per_recording": {"probe": {"name": "fine_tune", "epochs": 1}}},
        {"per_recording": {"probe": "same_class"}},
    )  # fmt: skip
    assert found.value("per_recording.raw") > found.value("linear.raw") + 0.05  # noise averages out
    assert found.n_rows["test recordings"] == 20
    # Shares of 20 recordings, not of 80 samples.
    names = {row.probe for row in found.rows}
    assert "per_recording(probe=same_class)" in names
    for row in found.rows:
        if row.probe.startswith("per_recording") and row.metric == "accuracy":
            assert row.mean * 20 == pytest.approx(round(row.mean * 20))
    # By hand: ridge-free reference, the nearest class mean of mean vectors, is near what is found.
    rank1 = found.find("per_recording(probe=same_class)", "raw", "rank1")
    z = means(clips.x, clips.recordings)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    test = clips.splits["test"][::CLIPS] // CLIPS
    near = z[test] @ z[test].T - 9 * np.eye(len(test))
    y = clips.labels[::CLIPS][test]
    assert rank1.mean == pytest.approx((y[near.argmax(1)] == y).mean())


def test_auc_of_classes(toy, clips):
    found = run(toy, clips, {"roc_auc": {}}, {"roc_auc": {"recordings": True}})
    each = [found.value(f"roc_auc_{name}.raw") for name in "abc"]
    assert found.value("roc_auc.raw") == pytest.approx(np.mean(each))
    whole = found.find("roc_auc(recordings=True)", "raw")
    assert whole.mean > found.value("roc_auc.raw")
    assert whole.std > 0


def test_what_cannot_be_averaged_is_said(toy, clips):
    del clips.recordings
    assert "do not say which samples" in run(toy, clips, {"per_recording": {}}).notes[-1]
    clips.recordings = np.arange(len(clips)) // (2 * CLIPS)
    assert "different labels" in run(toy, clips, {"per_recording": {}}).notes[-1]
    for options, words in (
        ({"probe": "same_class", "average": "probabilities"}, "gives no probabilities"),
        ({"probe": "fine_tune", "average": "embeddings"}, "trains the encoder"),
        ({"probe": "segmentation"}, "must be one that predicts labels"),
        ({"probe": {"k": 3}}, "probe must be a name"),
    ):
        with pytest.raises(RecipeError, match=words):
            build_probe({"per_recording": options})
