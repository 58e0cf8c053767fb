"""Scores against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from ssl_domains.evaluation.data import Prediction
from ssl_domains.evaluation.metrics import average_precision, bootstrap, roc_auc, score


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(seed=st.integers(0, 10_000), n=st.integers(2, 60), c=st.integers(2, 5))
@settings(deadline=None, max_examples=25)
def test_classification(seed: int, n: int, c: int) -> None:
    rng = np.random.default_rng(seed)
    y, guess = rng.integers(0, c, n), rng.integers(0, c, n)
    got = score(y, Prediction(guess), "classification")
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y, guess))
    assert got["balanced_accuracy"] == pytest.approx(
        sk.recall_score(y, guess, labels=np.unique(y), average="macro")
    )
    assert got["macro_f1"] == pytest.approx(sk.f1_score(y, guess, average="macro", zero_division=0))


@given(seed=st.integers(0, 10_000), levels=st.sampled_from([2, 5, 1000]))
@settings(deadline=None, max_examples=25)
def test_ranking_scores_also_with_ties(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.append([0, 1], rng.integers(0, 2, 40))
    s = rng.integers(0, levels, 42) / levels
    assert roc_auc(y, s) == pytest.approx(sk.roc_auc_score(y, s))
    assert average_precision(y, s) == pytest.approx(sk.average_precision_score(y, s))


def test_regression_and_multilabel() -> None:
    rng = np.random.default_rng(0)
    y, guess = rng.normal(size=(30, 2)), rng.normal(size=(30, 2))
    got = score(y, Prediction(guess), "regression")
    assert got["r2"] == pytest.approx(sk.r2_score(y, guess))
    assert got["rmse"] == pytest.approx(sk.root_mean_squared_error(y, guess))
    assert got["mae"] == pytest.approx(sk.mean_absolute_error(y, guess))
    t, s = rng.random((50, 3)) < 0.4, rng.random((50, 3))
    got = score(t, Prediction(s >= 0.5, s), "multilabel")
    assert got["micro_f1"] == pytest.approx(sk.f1_score(t, s >= 0.5, average="micro"))
    assert got["map"] == pytest.approx(sk.average_precision_score(t, s, average="macro"))


def test_known_by_hand() -> None:
    got = score(np.array([0, 0, 0, 1]), Prediction(np.array([0, 0, 1, 1])), "classification")
    assert got == pytest.approx(
        {"accuracy": 0.75, "balanced_accuracy": (2 / 3 + 1) / 2, "macro_f1": (0.8 + 2 / 3) / 2}
    )
    assert np.isnan(roc_auc(np.zeros(3), np.arange(3.0)))


def test_bootstrap_is_the_standard_error_of_an_accuracy() -> None:
    y = np.zeros(400, dtype=np.int64)
    guess = (np.arange(400) % 4 == 0).astype(np.int64)  # accuracy 0.75
    spread = bootstrap(y, Prediction(guess), "classification", repeats=400)
    assert spread["accuracy"] == pytest.approx(np.sqrt(0.75 * 0.25 / 400), rel=0.15)
