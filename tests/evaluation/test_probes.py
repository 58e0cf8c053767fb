"""Probes on data whose answer is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssl_domains.core.errors import RecipeError
from ssl_domains.evaluation.data import ProbeData, labelled_rows
from ssl_domains.evaluation.knn import KNNProbe, nearest
from ssl_domains.evaluation.metrics import score
from ssl_domains.evaluation.probes import FewShotProbe, LabelFractionProbe, LinearProbe, Probe, build_probe

FROZEN = [
    *("linear", "knn", {"few_shot": {"shots": 10}}, {"label_fraction": {"fraction": 0.3}}),
    *({"mlp": {"batch_size": 32}}, {"boosted_trees": {"max_iter": 60}}),
]


def data(task: str, *, noise: bool = False, n: int = 400, seed: int = 0) -> ProbeData:
    """Ten features; the labels follow linearly from the first three, or are random."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 10)).astype(np.float32)
    signal = rng.normal(size=(n, 3)) if noise else x[:, :3]
    if task == "classification":
        x, y = (x if noise else x + 8 * np.eye(10)[signal.argmax(1)].astype(np.float32)), signal.argmax(1)
    elif task == "regression":
        y = signal @ np.array([1.0, -2.0, 3.0]) + 5.0
    else:
        y = signal > 0
    cut = [n // 2, n * 3 // 4]
    parts = {k: dict(zip(("train", "valid", "test"), np.split(v, cut))) for k, v in (("x", x), ("y", y))}
    return ProbeData(parts["x"], parts["y"], task, 3 if task == "classification" else 0)


@pytest.mark.parametrize("what", FROZEN, ids=str)
def test_separable_classes_are_found_and_random_labels_are_not(what: str | dict) -> None:
    good, bad = data("classification"), data("classification", noise=True)
    probe = build_probe(what)
    assert score(good.y["test"], probe.predict(good, 0), "classification")["accuracy"] == 1.0
    chance = score(bad.y["test"], probe.predict(bad, 0), "classification")["accuracy"]
    assert abs(chance - 1 / 3) < 0.15  # three standard errors of 100 test rows


@pytest.mark.parametrize("what", FROZEN, ids=str)
@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_other_tasks(what: str | dict, task: str) -> None:
    good, bad = data(task), data(task, noise=True)
    probe = build_probe(what)
    main = {"regression": "r2", "multilabel": "map"}[task]
    found, chance = (score(d.y["test"], probe.predict(d, 0), task)[main] for d in (good, bad))
    assert found > {"regression": 0.3, "multilabel": 0.75}[task]
    assert chance < {"regression": 0.1, "multilabel": 0.65}[task]


def test_linear_regression_is_exact_and_affine_invariant() -> None:
    d = data("regression")
    assert score(d.y["test"], LinearProbe().predict(d, 0), "regression")["r2"] > 0.999999
    moved = ProbeData({k: 1000 * v + 7 for k, v in d.x.items()}, d.y, d.task)
    np.testing.assert_allclose(
        LinearProbe().predict(moved, 0).value, LinearProbe().predict(d, 0).value, rtol=1e-3
    )


@pytest.mark.parametrize("what", FROZEN, ids=str)
@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_test_labels_and_the_other_test_rows_change_nothing(what: str | dict, task: str) -> None:
    d = data(task)
    want = build_probe(what).predict(d, 0)
    poisoned = ProbeData(
        {**d.x, "test": np.vstack([d.x["test"][:5], 100 + d.x["test"][5:]])},
        {**d.y, "test": np.zeros_like(d.y["test"])}, d.task, d.n_classes,
    )  # fmt: skip
    got = build_probe(what).predict(poisoned, 0)
    np.testing.assert_allclose(got.value[:5].astype(float), want.value[:5].astype(float), rtol=1e-5)


def test_linear_picks_its_penalty_on_valid() -> None:
    """On noise the penalties differ by chance; the better one on the validation rows is used."""
    d = data("classification", noise=True)
    one = [LinearProbe(grid=(c,)).predict(d, 0) for c in (1e-3, 10.0)]
    on_valid = ProbeData({**d.x, "test": d.x["valid"]}, d.y, d.task, d.n_classes)
    scores = [
        score(d.y["valid"], LinearProbe(grid=(c,)).predict(on_valid, 0), d.task)["accuracy"]
        for c in (1e-3, 10.0)
    ]
    best = one[int(np.argmax(scores))]
    assert scores[0] != scores[1]
    got = LinearProbe(grid=(1e-3, 10.0)).predict(d, 0)
    assert (got.value == best.value).mean() > 0.99


def literal_knn(d: ProbeData, k: int, t: float) -> np.ndarray:
    """The formula of instance discrimination, row by row in float64."""
    out = []
    for q in d.x["test"].astype(np.float64):
        s = np.array([q @ b / np.linalg.norm(q) / np.linalg.norm(b) for b in d.x["train"].astype(np.float64)])
        near = np.argsort(-s)[:k]
        w = np.exp(s[near] / t)
        if d.task == "classification":
            out.append([w[d.y["train"][near] == c].sum() / w.sum() for c in range(d.n_classes)])
        else:
            out.append((w[:, None] * d.y["train"][near].reshape(k, -1)).sum(0) / w.sum())
    return np.array(out)


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
@pytest.mark.parametrize("k", [1, 20, 200])
def test_knn_is_the_literal_formula(task: str, k: int) -> None:
    d = data(task)
    got = KNNProbe(k=k, chunk=17).predict(d, 0)
    want = literal_knn(d, min(k, 200), 0.07)
    values = got.value if got.score is None else got.score
    np.testing.assert_allclose(values.reshape(want.shape), want, rtol=1e-4, atol=1e-5)


def test_knn_takes_no_more_neighbours_than_there_are_and_survives_small_temperatures() -> None:
    d = data("classification", n=20)
    everything = KNNProbe(k=500, temperature=1e-3).predict(d, 0)
    assert np.isfinite(everything.score).all()
    np.testing.assert_allclose(everything.score.sum(1), 1)


def test_nearest_is_the_same_for_any_chunk_and_skips_itself() -> None:
    z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    a, b = nearest(z, z, 5, chunk=7), nearest(z, z, 5, chunk=1000)
    assert torch.equal(a[1], b[1])
    assert torch.equal(a[1][:, 0], torch.arange(50))
    s, rows = nearest(z, z, 49, chunk=7, skip=torch.arange(50))
    assert not (rows == torch.arange(50)[:, None]).any()
    assert (s.diff(dim=1) <= 0).all()


def test_few_shot_draws_that_many_of_each_class_and_depends_on_the_seed() -> None:
    y = np.repeat([0, 1, 2], [50, 30, 2])
    rows = FewShotProbe(shots=5)._draw(y, "classification", np.random.default_rng(0))
    assert np.bincount(y[rows]).tolist() == [5, 5, 2]
    d = data("classification", noise=True)
    a, b, again = (FewShotProbe(shots=3).predict(d, seed).score for seed in (0, 1, 0))
    np.testing.assert_array_equal(a, again)
    assert not np.allclose(a, b)


def test_whole_fraction_is_the_linear_probe() -> None:
    d = data("classification", noise=True)
    whole = LabelFractionProbe(fraction=1.0).predict(d, 0)
    assert (whole.value == LinearProbe().predict(d, 0).value).mean() > 0.98


def test_classes_missing_from_train_and_single_class() -> None:
    d = data("classification")
    keep = d.y["train"] != 2
    few = d.with_train(np.flatnonzero(keep))
    got = LinearProbe().predict(few, 0)
    assert got.score.shape == (100, 3)
    assert (got.score[:, 2] == 0).all()
    one = LinearProbe().predict(d.with_train(np.flatnonzero(d.y["train"] == 1)), 0)
    assert (one.value == 1).all()


def test_unlabelled_rows_take_no_part(toy: SimpleNamespace) -> None:
    source = toy.blobs(100)
    gone = np.concatenate([rows[:4] for rows in source.splits.values()])
    source.labels[gone] = -1
    found = labelled_rows(source)
    assert {k: len(v) for k, v in found.rows.items()} == {"train": 56, "valid": 16, "test": 16}
    assert not set(gone) & set(np.concatenate(list(found.rows.values())))
    real = toy.Source(source.x, np.where(source.labels < 0, np.nan, 1.5), "regression")
    assert sum(map(len, labelled_rows(real).rows.values())) == 88


def test_splits_that_are_missing(toy: SimpleNamespace) -> None:
    source = toy.blobs(100)
    source.splits = {"train": np.arange(80), "valid": np.arange(80, 100)}
    found = labelled_rows(source)
    assert found.rows["test"].tolist() == list(range(80, 100))
    assert (len(found.rows["train"]), len(found.rows["valid"])) == (64, 16)
    assert not set(found.rows["train"]) & set(found.rows["valid"])
    assert len(found.notes) == 2
    source.labels[:80] = -1
    assert "No row of the train split has a label" in labelled_rows(source)
    capped = labelled_rows(toy.blobs(200), max_rows=30)
    assert [len(capped.rows[s]) for s in ("train", "valid", "test")] == [30, 30, 30]


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_fine_tune_learns_what_frozen_random_features_hide(toy: SimpleNamespace, task: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    xor = x[:, 0] * x[:, 1] > 0
    labels = {
        "classification": xor.astype(np.int64),
        "regression": x[:, 0] * x[:, 1],
        "multilabel": np.c_[xor, x[:, 2] > 0],
    }
    source = toy.Source(x, labels[task], task)
    torch.manual_seed(1)
    encoder = toy.Encoder(width=32)
    encoder.net[2].p = 0.0
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    for p in encoder.parameters():
        p.requires_grad_(False)
    found = labelled_rows(source)
    state = torch.get_rng_state()
    probe = build_probe({"fine_tune": {"encoder_lr": 1e-2, "batch_size": 32, "epochs": 40, "patience": 40}})
    got = probe.predict_encoder(encoder, source, found, 0)
    y = found.labels[found.rows["test"]]
    main = {"classification": "accuracy", "regression": "r2", "multilabel": "map"}[task]
    tuned = score(y, got, task)[main]
    lazy = build_probe({"fine_tune": {"encoder_lr": 0.0, "lr": 1e-5, "epochs": 1}}).predict_encoder(
        encoder, source, found, 0
    )
    assert tuned > {"classification": 0.75, "regression": 0.3, "multilabel": 0.8}[task]
    assert tuned > score(y, lazy, task)[main] + 0.1
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    again = probe.predict_encoder(encoder, source, found, 0)
    np.testing.assert_array_equal(got.value, again.value)


def test_fine_tune_full_batch(toy: SimpleNamespace) -> None:
    source = toy.blobs(120)
    source.full_batch = True
    found = labelled_rows(source)
    got = build_probe({"fine_tune": {"epochs": 3}}).predict_encoder(toy.Encoder(), source, found, 0)
    assert score(found.labels[found.rows["test"]], got, "classification")["accuracy"] > 0.8
    assert set(source.fetched) == {len(rows) for rows in found.rows.values()}


def test_bad_probes_are_recipe_errors() -> None:
    with pytest.raises(RecipeError, match="did you mean 'linear'"):
        build_probe("liner")
    with pytest.raises(RecipeError, match=r"evaluate.probes.knn"):
        build_probe({"knn": {"kk": 3}})
    with pytest.raises(RecipeError, match="at least 1"):
        build_probe({"knn": {"k": 0}})
    with pytest.raises(RecipeError, match="one name"):
        build_probe({"knn": {}, "linear": {}})
    assert build_probe({"knn": {"k": 5}}).key == "knn(k=5)"
    assert build_probe("knn").key == build_probe({"knn": None}).key == "knn"
    assert isinstance(build_probe(KNNProbe()), Probe)
