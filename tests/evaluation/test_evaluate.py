"""The whole evaluation: rows, baselines, spreads, expectations, disk."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssl_domains.core.errors import DataError, RecipeError, RunError
from ssl_domains.evaluation import Evaluation, Row, check_expectations, evaluate_encoder, parse_expectation
from ssl_domains.evaluation.baselines import filled, random_embeddings, raw_baselines, tree_prediction
from ssl_domains.evaluation.data import ProbeData, labelled_rows
from ssl_domains.evaluation.finetune import FineTuneProbe
from ssl_domains.evaluation.metrics import score
from ssl_domains.evaluation.unlabelled import diagnose, neighbour_table, view_measures
from ssl_domains.evaluation.verdict import verdict


def evaluate(toy: SimpleNamespace, source, **options) -> Evaluation:
    torch.manual_seed(5)
    options = {"make_encoder": lambda seed: toy.Encoder(), "seeds": 2, "views": toy.Views(), **options}
    return evaluate_encoder(toy.Encoder(), source, **options)


def test_rows_of_every_kind_of_features(toy: SimpleNamespace) -> None:
    said: list[str] = []
    probes = ["linear", {"few_shot": {"shots": 3}}, FineTuneProbe(epochs=1)]
    found = evaluate(toy, toy.blobs(150), probes=probes, tree=True, progress=said.append)
    main = {(r.features, r.probe): r for r in found.rows if r.main}
    kinds = {"pretrained", "random", "raw"}
    want = {(f, p) for f in kinds for p in ("linear", "few_shot(shots=3)", "fine_tune")}
    assert set(main) == want - {("raw", "fine_tune")} | {("trees", "trees")}
    assert main["raw", "linear"].mean == 1.0  # the classes are six deviations apart
    assert all(0 <= r.mean <= 1 for r in main.values())
    assert (main["pretrained", "linear"].n, main["pretrained", "linear"].spread) == (
        100,
        "resamples of the test rows",
    )
    assert (main["pretrained", "few_shot(shots=3)"].n, main["random", "linear"].n) == (2, 2)
    assert "initialisations" in main["random", "linear"].spread
    assert said[0].startswith("embedding")
    assert found.n_rows == {"train": 90, "valid": 30, "test": 30}


def test_values_by_name(toy: SimpleNamespace) -> None:
    found = evaluate(toy, toy.blobs(150), probes=["linear", {"few_shot": {"shots": 3}}], tree=True)
    linear = {r.features: r.mean for r in found.rows if r.probe == "linear" and r.main}
    assert found.value("linear") == linear["pretrained"]
    assert found.value("linear.random") == linear["random"]
    assert found.value("linear_gain") == linear["pretrained"] - linear["random"]
    assert found.value("linear_gain.raw") == linear["pretrained"] - linear["raw"]
    assert found.value("linear.raw.macro_f1") == found.find("linear", "raw", "macro_f1").mean
    assert found.value("few_shot") == found.value("few_shot(shots=3)")
    assert found.value("rankme.random") == found.diagnostics["random"]["rankme"]
    assert found.value("trees") == found.find("trees", "trees").mean
    assert all(math.isfinite(found.value(key)) for key in found.keys())  # noqa: SIM118
    with pytest.raises(KeyError, match="there are: linear"):
        found.value("lineal")


def test_the_encoder_and_the_global_generator_are_left_alone(toy: SimpleNamespace) -> None:
    source, encoder = toy.blobs(90), toy.Encoder()
    encoder.train()
    before, state = {k: v.clone() for k, v in encoder.state_dict().items()}, torch.get_rng_state()
    probes = ["linear", {"fine_tune": {"epochs": 1}}]
    evaluate_encoder(encoder, source, probes=probes, make_encoder=lambda s: toy.Encoder(), seeds=1)
    assert encoder.training
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_random_baseline_depends_on_the_seed_alone(toy: SimpleNamespace) -> None:
    source, rows = toy.blobs(30), np.arange(30)
    a = random_embeddings(lambda s: toy.Encoder(), source, rows, 1)
    torch.randn(7)
    np.testing.assert_array_equal(a, random_embeddings(lambda s: toy.Encoder(), source, rows, 1))
    assert not np.allclose(a, random_embeddings(lambda s: toy.Encoder(), source, rows, 2))


def test_twice_the_same(toy: SimpleNamespace) -> None:
    a, b = (evaluate(toy, toy.blobs(90), probes=["linear", "knn", "few_shot"]) for _ in range(2))
    assert a.rows == b.rows
    assert a.diagnostics == b.diagnostics


def test_test_labels_choose_nothing(toy: SimpleNamespace) -> None:
    """Permuted test labels change the scores of the test rows, never the predictions behind them."""
    source, spoiled = toy.blobs(150), toy.blobs(150)
    test = source.splits["test"]
    spoiled.labels[test] = (spoiled.labels[test] + 1) % 3  # every test label is wrong now
    a = evaluate(toy, source, probes=["linear"], tree=True)
    b = evaluate(toy, spoiled, probes=["linear"], tree=True)
    assert a.value("linear.raw") == a.value("trees") == 1.0
    assert b.value("linear.raw") == b.value("trees") == 0.0


def test_more_raw_baselines_and_missing_values(toy: SimpleNamespace) -> None:
    source = toy.blobs(90)
    source.x[3, 2] = np.nan
    source.raw_baselines = lambda rows: {"first": source.x[rows][:, :1]}
    assert list(raw_baselines(source, np.arange(5))) == ["raw", "raw:first"]
    train = np.array([0, 1, 2])
    full = filled(np.array([[1.0, np.nan], [3.0, np.nan], [np.inf, np.nan], [7.0, 2.0]]), train)
    assert full.tolist() == [[1, 0], [3, 0], [2, 0], [7, 2]]
    source.fetch = toy.blobs(90).fetch  # the encoder itself gets no missing value
    found = evaluate(toy, source, probes=["linear"])
    assert found.find("linear", "raw:first") is not None


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_trees(toy: SimpleNamespace, task: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4))
    xor = x[:, 0] * x[:, 1] > 0
    y = {
        "classification": xor.astype(np.int64),
        "regression": np.abs(x[:, 0]),
        "multilabel": np.c_[xor, x[:, 2] > 0],
    }
    source = toy.Source(x, y[task], task)
    data = labelled_rows(source).data(source.x, np.arange(600))
    main = {"classification": "roc_auc", "regression": "r2", "multilabel": "map"}[task]
    assert score(data.y["test"], tree_prediction(data, max_iter=60), task)[main] > 0.9
    if task == "classification":
        only = ProbeData(data.x, {**data.y, "train": np.ones_like(data.y["train"])}, task, 2)
        assert (tree_prediction(only).value == 1).all()


def test_without_labels(toy: SimpleNamespace) -> None:
    found = evaluate(toy, toy.Source(np.random.default_rng(0).normal(size=(80, 6))))
    assert found.rows == []
    assert found.notes == ["The data has no labels, so there is no probe."]
    names = {"rankme", "variance", "uniformity", "alignment", "view_consistency"}
    assert names <= set(found.diagnostics["pretrained"])
    assert len(found.neighbours) == 8
    assert verdict(found).startswith("No labels, so no probe")
    assert check_expectations({"rankme": ">= 1"}, found) == []
    assert "has no 'linear'" in check_expectations({"linear": ">= 0.1"}, found)[0].message


def test_diagnostics_of_collapsed_and_spread_embeddings(toy: SimpleNamespace) -> None:
    flat, round_ = np.ones((200, 8), dtype=np.float32), np.random.default_rng(0).normal(size=(200, 8))
    a, b = diagnose(flat), diagnose(round_.astype(np.float32))
    assert a["rankme"] == pytest.approx(1.0, abs=1e-3)
    assert a["dead_dimensions"] == 8
    assert b["rankme"] > 7.5
    assert "silhouette" not in a
    assert "silhouette" in b
    source, encoder = toy.blobs(100), toy.Encoder()
    with torch.no_grad():
        encoder.net[0].weight.zero_()
    measures = view_measures(encoder, source, toy.Views(), np.arange(100))
    assert measures["alignment"] == pytest.approx(0, abs=1e-6)
    assert measures["view_consistency"] == pytest.approx(0.01)  # ties are shared: chance, not 1


def test_neighbours_are_the_nearest_by_cosine(toy: SimpleNamespace) -> None:
    source = toy.blobs(40)
    table = neighbour_table(
        source.x, np.arange(40), source, samples=4, k=3, describe=lambda r: f"label {source.labels[r]}"
    )
    unit = source.x / np.linalg.norm(source.x, axis=1, keepdims=True)
    for entry in table:
        q = int(entry["id"].removeprefix("row-"))
        order = [j for j in np.argsort(-(unit @ unit[q])) if j != q][:3]
        assert [n["id"] for n in entry["near"]] == [f"row-{j}" for j in order]
        assert entry["text"] == f"label {source.labels[q]}"


def test_nan_embeddings_are_one_sentence(toy: SimpleNamespace) -> None:
    source, encoder = toy.blobs(40), toy.Encoder()
    source.x[11] = np.nan
    with pytest.raises(DataError, match=r"not finite for 1 of 40 rows \(first: 'row-11'\)"):
        evaluate_encoder(encoder, source)


def test_disk(toy: SimpleNamespace, tmp_path) -> None:
    found = evaluate(toy, toy.blobs(90))
    found.rows.append(Row("raw", "odd", "accuracy", float("nan"), float("nan"), 1, "x"))
    json.loads(found.save(tmp_path).read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    back = Evaluation.load(tmp_path)
    assert back.to_dict() == found.to_dict()
    assert math.isnan(back.rows[-1].mean)
    np.testing.assert_array_equal(back.sample.embeddings["random"], found.sample.embeddings["random"])
    np.testing.assert_array_equal(back.sample.labels, found.sample.labels)
    (tmp_path / "evaluation.json").write_text('{"version": 99}')
    with pytest.raises(RunError, match="format 99"):
        Evaluation.load(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"vers')
    with pytest.raises(RunError, match="damaged"):
        Evaluation.load(tmp_path)
    with pytest.raises(RunError, match="run evaluate on this run first"):
        Evaluation.load(tmp_path / "nowhere")


def known() -> Evaluation:
    rows = [Row(f, "linear", "accuracy", m, 0.01, 5, "seeds", True)
            for f, m in (("pretrained", 0.85), ("random", 0.7), ("raw", 0.84))]  # fmt: skip
    rows.append(Row("trees", "trees", "accuracy", 0.9, 0.01, 5, "seeds", True))
    return Evaluation("classification", rows=rows, diagnostics={"pretrained": {"rankme": 31.5}}, width=64)


@pytest.mark.parametrize(
    ("key", "text", "holds"),
    [
        ("linear", ">= 0.84", True), ("linear", ">=0.86", False), ("linear", "<= .9", True),
        ("linear", "< 0.85", False),
        ("linear", "0.80..0.90", True), ("linear", "0.86 .. 0.90", False), ("linear", "> random", True),
        ("linear", "> random + 0.1", True), ("linear", "> random + 0.2", False), ("linear", "> raw", True),
        ("linear", ">= raw - 0.05", True), ("linear", "> trees", False), ("rankme", "20..1e2", True),
        ("linear_gain", ">= 0.14", True), ("rankme", "> 31.5", False), ("linear", "> -1", True),
    ],
)  # fmt: skip
def test_expectations(key: str, text: str, holds: bool) -> None:
    failures = check_expectations({key: text}, known())
    assert (failures == []) == holds
    if failures:
        assert failures[0].expected == text
        assert failures[0].message.startswith(f"{key} is ")


@pytest.mark.parametrize(
    "text", ["0.84", "=> 0.8", "> randm", "high", "", "0.9..0.8", ">= 0.8 extra", None, "> random 0.1"]
)
def test_expectations_that_cannot_be_read(text: object) -> None:
    with pytest.raises(RecipeError, match=r"expect\.linear"):
        parse_expectation(text, "expect.linear")


def test_all_unreadable_expectations_come_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        check_expectations({"linear": "big", "knn": "small", "rankme": "> 3"}, known())
    assert len(caught.value.problems) == 2


def test_nan_meets_nothing() -> None:
    found = known()
    found.diagnostics["pretrained"]["rankme"] = float("nan")
    assert check_expectations({"rankme": ">= 0"}, found)
    assert check_expectations({"rankme": "0..99"}, found)


def test_verdict_says_what_the_numbers_say() -> None:
    found = known()
    assert verdict(found) == (
        "Pretraining helped: linear accuracy 0.850, against 0.700 for the same encoder untrained. "
        "It is level with raw features (0.840)."
    )
    found.rows[1] = Row("random", "linear", "accuracy", 0.86, 0.01, 5, "seeds", True)
    assert verdict(found).startswith("Pretraining made no clear difference")
    found.rows[1] = Row("random", "linear", "accuracy", 0.95, 0.01, 5, "seeds", True)
    assert verdict(found).startswith("Pretraining hurt")
