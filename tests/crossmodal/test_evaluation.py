"""Ranks by hand, in chunks and against sklearn-free brute force; probes on towers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.retrieval import Lists
from ssl_domains.crossmodal import retrieval
from ssl_domains.crossmodal.probes import ModalityGap, PairRetrieval, TowerClusters, TowerProbe, ZeroShot
from ssl_domains.crossmodal.retrieval import items_of, label_ranks, nearest, ranks
from ssl_domains.evaluation.evaluate import evaluate_encoder
from ssl_domains.recipe.build import build
from ssl_domains.recipe.check import read_recipe


def lists(values):
    rows = np.concatenate([[i] * len(v) for i, v in enumerate(values)]).astype(np.int64)
    return Lists.group(rows, np.concatenate(values).astype(np.int64), len(values))


def test_ranks_by_hand():
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    g = torch.tensor([[2.0, 0.0], [0.0, 5.0], [1.0, 0.9], [-1.0, 0.0]])
    assert ranks(q, g, lists([[0], [0], [2, 3]])).tolist() == [1, 4, 1]  # a tie counts as before
    assert ranks(q, g, lists([[3], [2], [3]])).tolist() == [4, 2, 4]
    assert nearest(q, g, 2).tolist() == [[0, 2], [1, 2], [2, 0]] or nearest(q, g, 2)[2][0] == 2


def test_constant_vectors_find_nothing():
    one = torch.ones(7, 3)
    assert ranks(one, one, lists([[i] for i in range(7)])).tolist() == [7] * 7


def test_chunks_change_nothing_and_bound_memory(monkeypatch):
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(300, 16, generator=g), torch.randn(5000, 16, generator=g)
    right = lists([[i * 7 % 5000] for i in range(300)])
    whole = ranks(q, k, right)
    scores = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T
    brute = [int((s >= s[i * 7 % 5000]).sum()) for i, s in enumerate(scores)]
    assert whole.tolist() == brute
    monkeypatch.setattr(retrieval, "CELLS", 20_000)
    sizes = [tuple(chunk.shape) for chunk in retrieval.score_chunks(q, k)]
    assert max(sizes) == (4, 5000)
    small = ranks(q, k, right)
    np.testing.assert_array_equal(small, whole)


def test_only_the_gallerys_length_does_not_count_with_key_scores():
    torch.manual_seed(0)
    q, k = torch.randn(2, 20, 5).unbind()
    right = lists([[i] for i in range(20)])
    scale = torch.rand(20, 1) + 0.1
    assert (ranks(q, k, right, "key") == ranks(q, scale * k, right, "key")).all()
    assert (ranks(3 * q, k, right, "key") == ranks(q, k, right, "key")).all()


def test_probabilities_of_items_of_one_label_are_added_up():
    q = torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    g = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    labels = np.array([0, 1, 1, -1])
    # First query: e^1 = 2.72 of label 0 stands against e^0.6 + e^0.8 = 4.05 of label 1.
    assert label_ranks(q, g, labels, np.array([0, 1, 1]), "key").tolist() == [2, 1, 1]
    # At a low temperature the best item decides alone.
    assert label_ranks(q, g, labels, np.array([0, 1, 1]), "key", 0.01).tolist() == [1, 1, 1]
    same = np.zeros(4, dtype=np.int64)
    assert label_ranks(q, g, same, np.zeros(3, dtype=np.int64)).tolist() == [1, 1, 1]


def test_ranks_of_labels_in_chunks_against_a_loop(monkeypatch):
    torch.manual_seed(0)
    q, k = torch.randn(2, 60, 4).unbind()
    labels = np.random.default_rng(0).integers(0, 7, 60)
    share = (F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / 0.5).double().softmax(1).numpy()
    totals = np.array([[row[labels == c].sum() for c in range(7)] for row in share])
    brute = [int((row >= row[c]).sum()) for row, c in zip(totals, labels, strict=True)]
    whole = label_ranks(q, k, labels, labels, temperature=0.5)
    assert whole.tolist() == brute
    monkeypatch.setattr(retrieval, "CELLS", 200)
    assert label_ranks(q, k, labels, labels, temperature=0.5).tolist() == brute


def test_items_of_pairs_that_share():
    found = items_of(np.array([0, 1, 2, 4]), np.array([5, 5, 7, 1, -1]), np.array([2, 3, 3, 0, 4]))
    assert found.a.tolist() == [5, 7]
    assert found.b.tolist() == [2, 3]
    assert found.a_to_b.values.tolist() == [0, 1, 1]
    assert found.b_to_a.values.tolist() == [0, 0, 1]
    assert found.pair_of_a.tolist() == [0, 2]


@pytest.fixture(scope="module")
def experiment():
    recipe = read_recipe("crossmodal/clip", ["data.source=generated://scenes?pairs=120", "data.test=0.4"])
    made = build(recipe)
    made.method.eval()
    return made


def test_probes_speak_of_each_part(experiment):
    towers = experiment.method.encoder_for_export()
    probes = [
        PairRetrieval(),
        ZeroShot(["a {name}", "{name}"]),
        TowerProbe("knn"),
        ModalityGap(),
        TowerClusters(),
    ]
    found = evaluate_encoder(towers, experiment.source, probes=probes, seeds=1)
    rows = {(r.probe, r.metric): r.mean for r in found.rows}
    for key in ("pair_retrieval_a_to_b", "pair_retrieval_b_to_a"):
        assert 0 <= rows[key, "recall@1"] <= rows[key, "recall@5"] <= rows[key, "recall@10"] <= 1
        assert 1 <= rows[key, "median_rank"] <= 48
    assert {p for p, _ in rows if p.startswith("tower")} >= {"tower_a", "tower_b"} or any(
        "tower_a" in p for p, _ in rows
    )
    assert any(p.startswith("zero_shot_a") for p, _ in rows)
    gap = rows["modality_gap_a_b", "modality_gap"]
    source = experiment.source
    rows_ = source.splits["test"]
    with torch.no_grad():
        x = source.fetch(rows_).x
        z = {p: F.normalize(towers.project(p, towers.part(p)(x[p]).pooled), dim=1) for p in "ab"}
    assert gap == pytest.approx(float((z["a"].mean(0) - z["b"].mean(0)).norm()), abs=1e-4)
    apart = (z["a"] - z["b"]).square().sum(1).mean()
    assert rows["modality_gap_a_b", "alignment"] == pytest.approx(float(apart), abs=1e-4)


def test_chance_is_k_over_n(experiment):
    torch.manual_seed(0)
    q, k = torch.randn(2, 2000, 8).unbind()
    found = ranks(q, k, lists([[i] for i in range(2000)]))
    assert (found <= 100).mean() == pytest.approx(100 / 2000, abs=0.015)


def test_probes_say_why_they_do_not_run():
    from ssl_domains.text.domain import TextDomain

    texts = TextDomain().open([f"text number {i}" for i in range(20)])
    for probe in (PairRetrieval(), ZeroShot(), TowerProbe(), ModalityGap()):
        assert "wants pairs" in probe.why_not(texts, None)


def test_figures_show_queries_with_what_they_found(experiment):
    figures = experiment.domain.figures(experiment.method.encoder, experiment.source)
    assert [f.title for f in figures] == ["Found: a to b", "Found: b to a"]
    assert all(f.pixels.ndim == 3 and f.pixels.shape[2] == 3 and f.pixels.std() > 5 for f in figures)
