"""Neighbour sampling: only true neighbours, seeds first, counts, determinism."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.errors import DataError
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.raw import RawGraph, clean_edges
from ssl_domains.graph.sampling import Incoming, batch_key, neighbourhood, ranges, sample_edges


def graph_of(n, m, seed):
    rng = np.random.default_rng(seed)
    raw = RawGraph("test", rng.integers(0, n, (2, m)), range(n))
    raw.edges[:, 0] = (0, 1)
    edges = clean_edges(raw, directed=True).edge_index
    return Incoming.of(edges, n), {tuple(e) for e in edges.T.tolist()}


def test_ranges_by_hand():
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ranges(np.array([], dtype=np.int64), np.array([], dtype=np.int64)).tolist() == []


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(2, 40),
    m=st.integers(1, 200),
    seed=st.integers(0, 99),
    fan_outs=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_sampled_neighbourhood(n, m, seed, fan_outs):
    graph, true = graph_of(n, m, seed)
    seeds = np.random.default_rng(seed).permutation(n)[: max(n // 4, 1)]
    found = neighbourhood(graph, seeds, fan_outs, seed)
    assert found.nodes[: len(seeds)].tolist() == seeds.tolist()
    assert len(np.unique(found.nodes)) == len(found.nodes)
    sampled = [tuple(e) for e in found.nodes[found.edge_index].T.tolist()]
    assert len(set(sampled)) == len(sampled)
    assert set(sampled) <= true
    degree = np.diff(graph.ptr)
    for place, node in enumerate(seeds):
        assert int((found.edge_index[1] == place).sum()) == min(degree[node], fan_outs[0])


def test_all_hops_are_breadth_first():
    """A path 0 -> 1 -> 2 -> 3 -> 4: two hops back from 4 reach 3 and 2."""
    graph = Incoming.of(np.array([[0, 1, 2, 3], [1, 2, 3, 4]]), 5)
    found = neighbourhood(graph, np.array([4]), [-1, -1])
    assert found.nodes.tolist() == [4, 3, 2]
    assert sorted(found.nodes[found.edge_index].T.tolist()) == [[2, 3], [3, 4]]
    assert found.edges.tolist() == [3, 2]


def test_same_seeds_in_any_order_give_the_same_neighbours():
    graph, _ = graph_of(50, 600, 1)
    a = neighbourhood(graph, np.array([3, 9, 11]), [2, 2], 5)
    b = neighbourhood(graph, np.array([11, 3, 9]), [2, 2], 5)
    assert {*a.edges} == {*b.edges}


def test_other_batches_and_seeds_give_others():
    graph, _ = graph_of(50, 1500, 1)
    picks = [
        tuple(np.sort(sample_edges(graph, np.array([3]), 3, batch_key(np.array(seeds), run))))
        for seeds, run in (([3], 0), ([3, 4], 0), ([3], 1))
    ]
    assert len(set(picks)) == 3


def test_sampling_is_uniform():
    """Each of 20 neighbours is picked in about 5 of 20 draws: 3-sigma bounds over 2000 batches."""
    graph = Incoming.of(np.stack([np.arange(20), np.full(20, 20)]), 21)
    counts = np.zeros(20)
    for run in range(2000):
        counts[sample_edges(graph, np.array([20]), 5, batch_key(np.array([20]), run))] += 1
    assert counts.sum() == 10000
    assert np.all(np.abs(counts - 500) < 4 * np.sqrt(2000 * 0.25 * 0.75))


def test_source_batch(data_of):
    data = data_of(n=80, degree=6)
    source = GraphDomain().open(data, neighbors=[2, 2])
    batch = source.fetch([9, 70, 2])
    x = batch.x
    assert not source.full_batch
    assert x.node_index[:3].tolist() == [9, 70, 2]
    assert x.seed_index.tolist() == [0, 1, 2]
    assert x.partial is True
    assert np.array_equal(x.x.numpy(), source.features[x.node_index])
    loops = x.edge_index[0] == x.edge_index[1]
    assert int(loops.sum()) == len(x.x)
    into_seed = (x.edge_index[1] == 0) & ~loops
    assert int(into_seed.sum()) == 2
    again = source.fetch([9, 70, 2]).x
    assert np.array_equal(again.edge_index, x.edge_index)


def test_a_seed_twice_is_an_error(data):
    with pytest.raises(DataError, match="distinct"):
        GraphDomain().open(data, neighbors=[2]).fetch([1, 1])


def test_isolated_seed_stands_alone(data):
    data.edge_index = data.edge_index[:, (data.edge_index != 4).all(0)]
    x = GraphDomain().open(data, neighbors=[3, 3]).fetch([4]).x
    assert x.node_index.tolist() == [4]
    assert x.edge_index.tolist() == [[0], [0]]


def test_over_the_limit_neighbours_are_sampled(data):
    source = GraphDomain().open(data, full_batch_limit=10)
    assert source.neighbors == [10, 10]
    assert any("full_batch_limit" in note for note in source.card()["notes"])
