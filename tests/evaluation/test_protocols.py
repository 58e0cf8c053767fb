"""SVM, clustering and link prediction: values known by hand or from scikit-learn, and what refuses to run."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_domains.core.links import Links
from ssl_domains.evaluation.data import labelled_rows
from ssl_domains.evaluation.evaluate import evaluate_encoder
from ssl_domains.evaluation.probes import build_probe
from ssl_domains.evaluation.protocols import Features, hits_at


def features_of(source, z=None):
    rows = np.arange(len(source))
    return Features(source.x if z is None else z, rows, source, labelled_rows(source))


def measured(probe, features, seed):
    return {score.metric: score.value for score in probe.measure(features, seed)}


def test_svm_is_the_mean_over_folds_of_scikit_learn(toy):
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
    from sklearn.svm import SVC

    source = toy.blobs(120, gap=1.5)
    probe = build_probe({"svm": {"folds": 4, "grid": [0.1, 1.0], "inner": 3}})
    found = measured(probe, features_of(source), 3)
    model = GridSearchCV(SVC(), {"C": [0.1, 1.0]}, cv=3)
    folds = StratifiedKFold(4, shuffle=True, random_state=3)
    want = cross_val_score(model, source.x.astype(np.float64), source.labels, cv=folds)
    assert found["accuracy"] == pytest.approx(want.mean())
    assert 0.4 < found["accuracy"] < 1.0


def test_clustering_is_perfect_on_far_blobs_and_nothing_on_noise(toy):
    far, probe = toy.blobs(150, gap=30.0), build_probe("clustering")
    assert measured(probe, features_of(far), 0) == pytest.approx({"nmi": 1.0, "ari": 1.0})
    noise = np.random.default_rng(0).normal(size=(150, 6)).astype(np.float32)
    found = measured(probe, features_of(far, noise), 0)
    assert found["nmi"] < 0.1
    assert abs(found["ari"]) < 0.1


def linked(toy, directed=False):
    """Rows in pairs: 2i and 2i + 1 are linked and share a random vector."""
    rng = np.random.default_rng(0)
    n = 400
    z = np.repeat(rng.normal(size=(n // 2, 6)), 2, axis=0) + 0.1 * rng.normal(size=(n, 6))
    source = toy.Source(z)
    pairs = np.arange(n).reshape(-1, 2)
    others = np.stack([np.arange(n // 2) * 2, (np.arange(n // 2) * 2 + 7) % n], axis=1)
    cut = {"train": slice(0, 100), "valid": slice(100, 140), "test": slice(140, 200)}
    source.links = Links(
        {s: pairs[c] for s, c in cut.items()}, {s: others[c] for s, c in cut.items()}, directed
    )
    return source


@pytest.mark.parametrize("form", ["hadamard", "cosine"])
@pytest.mark.parametrize("directed", [False, True])
def test_links_between_like_rows_are_found(toy, form, directed):
    source = linked(toy, directed)
    probe = build_probe({"link_prediction": {"form": form, "hits": 5}})
    good = measured(probe, features_of(source), 0)
    assert good["roc_auc"] > (0.9 if not directed else 0.8)
    noise = np.random.default_rng(1).normal(size=source.x.shape)
    assert measured(probe, features_of(source, noise), 0)["roc_auc"] < 0.7
    assert set(good) == {"roc_auc", "average_precision", "hits_at_5"}


def test_hits_by_hand():
    y, s = np.array([1, 1, 1, 0, 0, 0]), np.array([0.9, 0.5, 0.1, 0.8, 0.5, 0.2])
    assert hits_at(y, s, 1) == pytest.approx(1 / 3)
    assert hits_at(y, s, 2) == pytest.approx(1 / 3)  # a tie does not count
    assert hits_at(y, s, 3) == pytest.approx(2 / 3)
    assert hits_at(y, s, 4) == 1.0


def test_what_cannot_run_is_a_note_and_the_rest_runs(toy):
    source = toy.blobs(100)
    found = evaluate_encoder(toy.Encoder(), source, probes=["linear", "link_prediction", "svm"], seeds=1)
    assert any("data.link_test" in note for note in found.notes)
    assert {row.probe for row in found.rows} == {"linear", "svm"}
    unlabelled = linked(toy)
    found = evaluate_encoder(
        toy.Encoder(), unlabelled, probes=["linear", "link_prediction", "clustering"], seeds=1
    )
    assert {row.probe for row in found.rows} == {"link_prediction"}
    assert found.value("link_prediction") == found.value("link_prediction.roc_auc")
    assert found.value("link_prediction.raw") > 0.9


@pytest.mark.parametrize(
    "wrong",
    [
        {"svm": {"folds": 1}},
        {"svm": {"kernel": "poly"}},
        {"link_prediction": {"form": "sum"}},
        {"svm": {"grid": [0]}},
    ],
)
def test_wrong_options(wrong):
    from ssl_domains.core.errors import RecipeError

    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build_probe(wrong)
