"""Held-out edges: nothing sees them, negatives are no edges, and the inductive setting hides nodes."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.errors import DataError
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.links import hold_out, pair_keys
from ssl_domains.graph.raw import RawGraph


def pairs_of(edges, directed=False):
    return {tuple(e) if directed else tuple(sorted(e)) for e in edges.tolist() if e[0] != e[1]}


@settings(deadline=None, max_examples=30)
@given(n=st.integers(30, 60), m=st.integers(60, 150), seed=st.integers(0, 99), directed=st.booleans())
def test_nothing_leaks_and_negatives_are_no_edges(n, m, seed, directed):
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, n, (2, m))
    edges = np.concatenate([edges, edges[:, :20], edges[::-1, 20:40]], axis=1)  # duplicates and reverses
    raw = RawGraph("test", edges, range(n), edge_attr=rng.random((edges.shape[1], 2)).astype(np.float32))
    part, links = hold_out(raw, directed, 0.1, 0.2, seed)
    every = pairs_of(edges.T, directed)
    left = pairs_of(part.edges.T, directed)
    held = {s: pairs_of(links.positive[s], directed) for s in ("train", "valid", "test")}
    assert held["train"] == left
    assert held["train"] | held["valid"] | held["test"] == every
    assert (
        not (held["train"] & held["valid"]) | (held["train"] & held["test"]) | (held["valid"] & held["test"])
    )
    assert len(held["test"]) == round(0.2 * len(every))
    negatives = [pairs_of(links.negative[s], directed) for s in held]
    assert sum(map(len, negatives)) == len(set.union(*negatives)) == len(every)
    assert not set.union(*negatives) & every
    assert len(part.edge_attr) == part.edges.shape[1]


def community_source(**options):
    graph = nx.stochastic_block_model([40, 40, 40], 0.02 + 0.25 * np.eye(3), seed=0)
    nodes = pd.DataFrame({"id": list(graph), "x": np.random.default_rng(0).normal(size=120), "label": "a"})
    nodes["label"] = [f"c{i // 40}" for i in graph]
    edges = pd.DataFrame(graph.edges, columns=["source", "target"])
    return GraphDomain().open(nodes=nodes, edges=edges, label="label", **options)


@pytest.mark.parametrize("neighbors", [None, [-1, -1]])
def test_no_batch_contains_a_held_out_edge(neighbors):
    source = community_source(link_valid=0.1, link_test=0.2, neighbors=neighbors)
    held = set.union(*(pairs_of(source.links.positive[s]) for s in ("valid", "test")))
    x = source.fetch(np.arange(120)).x
    seen = pairs_of(x.node_index[x.edge_index].T)
    assert len(held) > 50
    assert not seen & held
    whole = community_source()
    assert seen | held == pairs_of(whole.edges.edge_index.T)


def test_degree_features_and_smoothing_know_nothing_of_held_out_edges():
    edges = pd.DataFrame({"source": np.arange(30), "target": (np.arange(30) + 1) % 30})
    source = GraphDomain().open(edges=edges, link_test=0.2)
    degree = source.features.argmax(axis=1)
    counted = np.bincount(source.edges.edge_index[1], minlength=30)
    assert degree.tolist() == counted.tolist()
    assert degree.sum() == 2 * 24


def test_the_newest_edges_are_the_test():
    rng = np.random.default_rng(0)
    raw = RawGraph(
        "test",
        np.stack([np.arange(40), np.arange(1, 41)]),
        range(41),
        edge_time=rng.permutation(40).astype(float),
    )
    _, links = hold_out(raw, False, 0.1, 0.25, 0)
    time = dict(zip(pair_keys(raw.edges, 41, False), raw.edge_time))
    of = {s: [time[k] for k in pair_keys(p.T, 41, False)] for s, p in links.positive.items()}
    assert max(of["train"]) < min(of["valid"])
    assert max(of["valid"]) < min(of["test"])
    assert len(of["test"]) == 10


def test_negatives_join_the_types_of_true_pairs():
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1], 30)
    edges = np.stack([rng.integers(0, 30, 100), rng.integers(30, 60, 100)])
    raw = RawGraph("test", edges, range(60), node_type=types, node_types=("user", "item"))
    _, links = hold_out(raw, False, 0.1, 0.2, 0)
    for pairs in links.negative.values():
        assert (types[pairs].sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"link_test": 0.0, "link_valid": 0.1}, "data.link_test must be above 0"),
        ({"link_test": 0.7, "link_valid": 0.4}, "must leave edges for training"),
    ],
)
def test_wrong_shares(options, message):
    with pytest.raises(DataError, match=message):
        community_source(**options)


def test_a_complete_graph_has_no_negatives():
    complete = nx.complete_graph(12)
    with pytest.raises(DataError, match="too dense"):
        GraphDomain().open(complete, link_test=0.2)


def test_inductive_pretraining_sees_no_held_out_node():
    source = community_source(inductive=True, valid=0.2, test=0.3)
    part = source.for_pretraining()
    held = set(source.splits["valid"].tolist()) | set(source.splits["test"].tolist())
    assert set(part.pretrain_index.tolist()) == set(range(120)) - held
    batch = part.fetch(part.pretrain_index)
    assert not held & set(batch.x.node_index.tolist())
    assert batch.x.node_index[batch.x.seed_index].tolist() == batch.index.tolist()
    inside = {p for p in pairs_of(source.edges.edge_index.T) if not set(p) & held}
    assert pairs_of(batch.x.node_index[batch.x.edge_index].T) == inside
    assert len(source.fetch([0]).x.x) == 120  # probes see the whole graph
    with pytest.raises(DataError, match="hidden from pretraining"):
        part.fetch(sorted(held)[:2])
    sampled = community_source(inductive=True, valid=0.2, test=0.3, neighbors=[-1, -1]).for_pretraining()
    assert not held & set(sampled.fetch(sampled.pretrain_index[:8]).x.node_index.tolist())


def test_inductive_training_runs(tmp_path):
    import ssl_domains

    graph = nx.stochastic_block_model([40, 40], [[0.2, 0.02], [0.02, 0.2]], seed=0)
    nodes = pd.DataFrame({"id": list(graph), "a": np.arange(80) % 7, "y": np.arange(80) // 40})
    data = {"nodes": nodes, "edges": pd.DataFrame(graph.edges, columns=["source", "target"]), "label": "y"}
    run = ssl_domains.pretrain(
        "graph/graphmae",
        "train.epochs=2",
        "train.device=cpu",
        "encoder.width=16",
        data={**data, "inductive": True, "link_test": 0.2, "link_valid": 0.1},
        evaluate={"probes": ["linear", "link_prediction", "clustering", "svm"], "seeds": 1},
        run=tmp_path / "run",
        progress=False,
    )
    for key in ("linear", "link_prediction", "link_prediction.raw", "clustering.ari", "svm.random"):
        assert np.isfinite(run.evaluation.value(key)), key
    report = (tmp_path / "run" / "report.html").read_text()
    assert "link prediction, ROC AUC" in report
