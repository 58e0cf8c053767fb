"""Candidates, sets from pairs, and their scores."""

import itertools

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from ssl_domains.core.errors import UserError
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.integration import sets as module
from ssl_domains.tabular.integration.candidates import CandidateOptions, candidate_pairs
from ssl_domains.tabular.integration.gnn_sets import normalised_adjacency
from ssl_domains.tabular.integration.scores import f1, pair_scores, set_similarity
from ssl_domains.tabular.integration.sets import ALGORITHMS, integrable_sets

pytest.importorskip("igraph")


def open_text(frame, **options):
    return Tabular().open(frame, cells="text", valid=0.0, test=0.0, **options)


def test_candidates_hold_the_copies(people):
    source = open_text(people.drop(columns="person"))
    pairs = candidate_pairs(source)
    assert (pairs.left < pairs.right).all()
    found = set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
    assert len(found) == len(pairs)
    assert sum((i, 120 + i) in found for i in range(60)) >= 59
    degree = np.bincount(np.concatenate([pairs.left, pairs.right]), minlength=len(source))
    assert len(pairs) <= 10 * len(source)
    few = candidate_pairs(source, CandidateOptions(neighbours=2))
    assert len(few) <= 2 * len(source) < degree.sum()
    with pytest.raises(UserError, match="at least 1"):
        CandidateOptions(neighbours=0)


def test_candidates_are_the_most_similar_by_brute_force(people, monkeypatch):
    """Without limits on blocks and n-grams: each row's k nearest by cosine, in chunks of any size."""
    from ssl_domains.tabular.integration import candidates as c

    source = open_text(people.drop(columns="person").iloc[:60])
    options = CandidateOptions(neighbours=3, rarest=10_000, max_block=10_000, min_similarity=1e-6)
    pairs = candidate_pairs(source, options)
    features = c.row_features(source, options)
    similarity = (features @ features.T).toarray()
    np.fill_diagonal(similarity, -1)
    wanted = {
        (min(i, int(j)), max(i, int(j)))
        for i in range(60)
        for j in np.argsort(-similarity[i], kind="stable")[:3]
        if similarity[i, j] > 1e-6
    }
    assert set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == wanted
    monkeypatch.setattr(c, "_CELLS", 50)
    assert np.array_equal(candidate_pairs(source, options).left, pairs.left)


def test_frequent_words_make_no_pairs_and_lonely_rows_are_counted():
    frame = pd.DataFrame(
        {"kind": ["common"] * 50 + [f"word{i}x{i}" for i in range(5)] + [None], "n": [None] * 56}
    )
    pairs = candidate_pairs(open_text(frame), CandidateOptions(max_block=20))
    assert not ((pairs.left < 50) & (pairs.right < 50)).any()
    assert pairs.alone >= 50
    assert 55 not in pairs.right, "a row without a value is compared with none, and is not counted"


def graph_of(cliques, bridges=()):
    """Pairs of disjoint cliques with probability 0.95, and bridges."""
    edges = [e for nodes in cliques for e in itertools.combinations(nodes, 2)]
    left, right = (np.array(side) for side in zip(*edges, *bridges, strict=True))
    p = np.array([0.95] * len(edges) + [0.6] * len(bridges), dtype=np.float32)
    return left, right, p


@pytest.mark.parametrize("name", ALGORITHMS)
def test_all_agree_on_disjoint_cliques(name):
    cliques = [range(0, 4), range(4, 7), range(8, 13)]
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(14, 8)).astype(np.float32)
    found = integrable_sets(14, *graph_of(cliques), name, vectors=vectors)
    wanted = np.array([0] * 4 + [1] * 3 + [2] + [3] * 5 + [4])
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("name", [n for n in ALGORITHMS if n not in ("components", "gnn")])
def test_one_false_pair_does_not_join_two_sets(name):
    found = integrable_sets(10, *graph_of([range(5), range(5, 10)], [(4, 5)]), name)
    assert len(set(found[:5])) == 1
    assert len(set(found[5:])) == 1
    assert found[0] != found[9]
    assert len(set(integrable_sets(10, *graph_of([range(5), range(5, 10)], [(4, 5)]), "components"))) == 1


def test_cliques_are_those_of_networkx():
    rng = np.random.default_rng(3)
    graph = nx.gnp_random_graph(14, 0.4, seed=3)
    edges = np.array(graph.edges)
    part = module.Component(14, edges, rng.random(len(edges)), np.eye(14), 0)
    sets = [set(s) for s in module.cliques(part)]
    assert sorted(itertools.chain(*sets)) == list(range(14))
    assert all(graph.subgraph(s).number_of_edges() == len(s) * (len(s) - 1) // 2 for s in sets)
    heaviest = max(nx.find_cliques(graph), key=lambda c: part.adjacency()[np.ix_(c, c)].sum())
    assert set(heaviest) in sets


def test_threshold_and_order():
    left, right = np.array([0, 1, 3]), np.array([5, 2, 4])
    p = np.array([0.9, 0.4, 0.6])
    assert integrable_sets(6, left, right, p).tolist() == [0, 1, 2, 3, 3, 0]
    assert integrable_sets(6, left, right, p, threshold=0.7).tolist() == [0, 1, 2, 3, 4, 0]
    assert integrable_sets(6, left, right, p, threshold=0.3).tolist() == [0, 1, 1, 2, 2, 0]
    nothing = np.array([], dtype=np.int64)
    assert integrable_sets(3, nothing, nothing, np.array([])).tolist() == [0, 1, 2]


def test_weights_that_rounding_made_larger_than_1():
    left, right, _ = graph_of([range(4)])
    assert integrable_sets(4, left, right, np.full(len(left), 1.0000002)).tolist() == [0, 0, 0, 0]


def test_what_cannot_be_done_is_said(monkeypatch):
    with pytest.raises(UserError, match="no way to form sets is called 'lovain'"):
        integrable_sets(2, *graph_of([range(2)]), "lovain")
    with pytest.raises(UserError, match="threshold"):
        integrable_sets(2, *graph_of([range(2)]), threshold=1.0)
    star = [(0, i) for i in range(1, 302)]
    left, right = (np.array(side) for side in zip(*star, strict=True))
    with pytest.raises(UserError, match=r"too long .* louvain"):
        integrable_sets(302, left, right, np.ones(301), "girvan_newman")
    monkeypatch.setattr(module, "MOST_CLIQUES", 1)
    with pytest.raises(UserError, match="cliques"):
        integrable_sets(10, *graph_of([range(5), range(5, 10)], [(4, 5)]), "cliques")
    with pytest.raises(UserError, match="pip install nonesuch"):
        module._import("nonesuch_package", "nonesuch")


def test_adjacency_of_the_graph_network():
    """``D^-1/2 (A + I) D^-1/2`` by hand: one edge of weight 3, so both degrees are 4."""
    import torch

    dense = normalised_adjacency(2, torch.tensor([[0, 1]]), torch.tensor([3.0])).to_dense()
    assert torch.allclose(dense, torch.tensor([[0.25, 0.75], [0.75, 0.25]]))


labels = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(labels, st.randoms())
def test_scores_against_slow_ones(truth, random):
    found = np.array([random.randint(0, 4) for _ in truth])
    truth = np.array(truth)
    n = len(truth)
    a = {(i, j) for i in range(n) for j in range(i) if found[i] == found[j]}
    b = {(i, j) for i in range(n) for j in range(i) if truth[i] == truth[j]}
    assert pair_scores(found, truth) == pytest.approx(f1(len(a & b), len(a), len(b)))
    one = [set(np.flatnonzero(found == v)) for v in np.unique(found)]
    two = [set(np.flatnonzero(truth == v)) for v in np.unique(truth)]
    matrix = np.array([[len(x & y) / len(x | y) for y in two] for x in one])
    best = matrix[linear_sum_assignment(-matrix)].sum() / max(len(one), len(two))
    assert set_similarity(found, truth) == pytest.approx(best)


def test_scores_worked():
    n = np.arange(10)
    assert set_similarity(n // 3, n // 3) == 1.0
    assert set_similarity(np.zeros(10, int), n) == pytest.approx(1 / 10 / 10)
    assert pair_scores(n, n)["f1"] == 1.0
    assert pair_scores(n, n // 2) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    unknown = np.array([0, 0, 1, -1])
    assert set_similarity(np.array([5, 5, 6, 5]), unknown) == 1.0
