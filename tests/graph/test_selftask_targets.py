"""Graph-wide targets against networkx and literal formulas."""

import networkx as nx
import numpy as np
import pytest
from scipy import sparse

from ssl_domains.core.errors import DataError
from ssl_domains.graph import selftask_guess
from ssl_domains.graph.selftask_guess import (
    context_matrix,
    guess,
    iterative_classification,
    label_propagation,
    labelled_distances,
    one_hot,
)
from ssl_domains.graph.selftask_targets import (
    Known,
    Reservoir,
    centers,
    hop_pairs,
    inverse_hops,
    near_hops,
    node_values,
    non_edges,
    partition,
    principal_components,
    similar_pairs,
)


def known_of(graph, labels=None, features=None, n_classes=2, seed=0):
    n = len(graph)
    adjacency = sparse.csr_matrix(
        nx.to_scipy_sparse_array(graph, nodelist=range(n), dtype=np.float32, weight=None)
    )
    labels = np.full(n, -1) if labels is None else np.asarray(labels)
    features = np.eye(n, dtype=np.float32) if features is None else features
    return Known(adjacency, features, labels, n_classes, seed)


@pytest.fixture
def graph():
    """Two components and an isolated node."""
    graph = nx.disjoint_union(nx.connected_watts_strogatz_graph(30, 4, 0.3, seed=1), nx.path_graph(6))
    graph.add_node(36)
    return graph


@pytest.fixture
def blocks_graph():
    return nx.stochastic_block_model([30, 30, 30], 0.02 + 0.25 * np.eye(3), seed=2)


def test_hops_of_a_path():
    known = known_of(nx.path_graph(5))
    assert near_hops(known.adjacency, np.array([0]), 3).tolist() == [[0, 1, 2, 3, 0]]
    pairs = hop_pairs(known, 4, 100, 100)
    found = [{tuple(p) for p in c.T.tolist()} for c in pairs]
    assert found[0] == {(0, 1), (1, 2), (2, 3), (3, 4)}
    assert found[1] == {(0, 2), (1, 3), (2, 4)}
    assert found[2] == {(0, 3), (1, 4)}
    assert found[3] == {(0, 4)}


def test_hop_classes_agree_with_networkx(graph):
    lengths = dict(nx.all_pairs_shortest_path_length(graph))
    pairs = hop_pairs(known_of(graph), 4, 10_000, 10_000)
    every = {(u, v) for u in graph for v in graph if u < v}
    for c, found in enumerate(pairs):
        wanted = {(u, v) for u, v in every if min(lengths[u].get(v, 99), 4) == c + 1}
        assert {tuple(p) for p in found.T.tolist()} == wanted  # paths that do not exist are far


def test_few_sources_and_a_small_pool_still_give_right_classes(graph):
    lengths = dict(nx.all_pairs_shortest_path_length(graph))
    pairs = hop_pairs(known_of(graph), 4, 12, 9)
    for c, found in enumerate(pairs):
        assert found.shape == (2, 12)
        assert len({tuple(sorted(p)) for p in found.T.tolist()}) == 12
        assert all(min(lengths[u].get(v, 99), 4) == c + 1 for u, v in found.T.tolist())


def test_blocks_of_rows_change_nothing(graph, monkeypatch):
    whole = hop_pairs(known_of(graph), 3, 10_000, 10_000)
    monkeypatch.setattr("ssl_domains.graph.selftask_targets._BLOCK", 100)
    parts = hop_pairs(known_of(graph), 3, 10_000, 10_000)
    for a, b in zip(whole, parts, strict=True):
        assert {tuple(p) for p in a.T.tolist()} == {tuple(p) for p in b.T.tolist()}


def test_a_reservoir_is_a_uniform_sample():
    counts = np.zeros(60)
    for seed in range(400):
        reservoir = Reservoir(15, np.random.default_rng(seed))
        for part in np.array_split(np.arange(60), 4):
            reservoir.add(part, part)
        assert len(np.unique(reservoir.pairs[0])) == 15
        counts[reservoir.pairs[0]] += 1
    assert np.abs(counts - 100).max() < 5 * np.sqrt(75)


def test_inverse_hops_agree_with_networkx(graph):
    got = inverse_hops(known_of(graph).adjacency, np.array([3, 36]))
    lengths = nx.single_source_shortest_path_length(graph, 3)
    assert got[0] == pytest.approx([1 / lengths[v] if lengths.get(v) else 0.0 for v in graph])
    assert (got[1] == 0).all()


def test_parts_are_of_similar_size_and_centers_lie_in_them(blocks_graph):
    adjacency = known_of(blocks_graph).adjacency
    part = partition(adjacency, 5)
    sizes = np.bincount(part)
    assert len(sizes) == 5
    assert sizes.max() <= 2 * sizes.min() + 1
    for k, center in enumerate(centers(adjacency, part)):
        mine = np.flatnonzero(part == k)
        inside = blocks_graph.subgraph(mine).degree
        assert center in mine
        assert inside[center] == max(d for _, d in inside)
    cut = sum(part[u] != part[v] for u, v in blocks_graph.edges)
    shuffled = np.random.default_rng(0).permutation(part)
    assert cut < sum(shuffled[u] != shuffled[v] for u, v in blocks_graph.edges)


def test_parts_of_a_graph_in_pieces():
    graph = nx.empty_graph(20)
    part = partition(known_of(graph).adjacency, 4)
    assert sorted(np.bincount(part)) == [5, 5, 5, 5]
    assert len(centers(known_of(graph).adjacency, part)) == 4


def test_node_values_agree_with_networkx(graph):
    adjacency = known_of(graph).adjacency
    assert node_values(adjacency, "degree") == pytest.approx([d for _, d in graph.degree])
    assert node_values(adjacency, "clustering") == pytest.approx(list(nx.clustering(graph).values()))
    ranks = np.array(list(nx.pagerank(graph, tol=1e-10).values())) * len(graph)
    assert node_values(adjacency, "pagerank") == pytest.approx(ranks, abs=1e-3)


def test_non_edges():
    graph = nx.complete_graph(6)
    graph.remove_edges_from([(0, 1), (2, 5)])
    found = non_edges(known_of(graph), 50, salt=1)
    assert sorted(map(tuple, found.T.tolist())) == [(0, 1), (2, 5)]
    many = non_edges(known_of(nx.path_graph(40)), 100, salt=1)
    assert len({tuple(p) for p in many.T.tolist()}) == 100
    assert all(v - u > 1 for u, v in many.T.tolist())


def test_similar_pairs_hold_the_most_and_least_similar():
    features = np.random.default_rng(0).random((25, 5)).astype(np.float32)
    features[7] = 0
    pairs, similarity = similar_pairs(known_of(nx.path_graph(25), features=features), 2, 100)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    cosine = unit @ unit.T
    assert similarity == pytest.approx(cosine[pairs[0], pairs[1]], abs=1e-5)
    found = {tuple(p) for p in pairs.T.tolist()}
    assert len(found) == pairs.shape[1]
    assert all(u < v for u, v in found)
    np.fill_diagonal(cosine, np.nan)
    for node in set(range(25)) - {7}:
        order = np.argsort(cosine[node])[:-1]  # NaN, the node itself, comes last
        for other in (order[-1], order[-2], order[0]):
            assert tuple(sorted((node, int(other)))) in found


def test_principal_components_keep_the_variance():
    features = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    assert principal_components(features, 20) is not None
    assert principal_components(features, 20).shape == (60, 12)
    scores = principal_components(features, 4)
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)[:4]
    assert np.sqrt((scores**2).sum(0)) == pytest.approx(values, rel=1e-4)


def test_labels_spread_as_in_networkx(blocks_graph):
    labels = np.full(90, -1)
    labels[[0, 1, 30, 31, 60]] = [0, 0, 1, 1, 2]
    marked = blocks_graph.copy()
    for node in (0, 1, 30, 31, 60):
        marked.nodes[node]["label"] = int(labels[node])
    wanted = nx.node_classification.harmonic_function(marked, max_iter=30)
    known = known_of(blocks_graph, labels, n_classes=3)
    values = label_propagation(known)
    assert values.argmax(1).tolist() == wanted
    assert values.sum(1) == pytest.approx(np.ones(90))
    assert (guess(known, "label_propagation")[[0, 1, 30, 31, 60]] == [0, 0, 1, 1, 2]).all()


def test_nodes_that_nothing_reaches_get_the_common_class():
    known = known_of(nx.empty_graph(5), [1, 1, 0, -1, -1])
    assert label_propagation(known)[3].tolist() == pytest.approx([1 / 3, 2 / 3])


def test_iterative_classification_uses_features_and_neighbours(blocks_graph):
    truth = np.repeat(np.arange(3), 30)
    rng = np.random.default_rng(0)
    features = (0.7 * np.eye(3)[truth] + rng.normal(size=(90, 3))).astype(np.float32)
    labels = np.where(rng.random(90) < 0.3, truth, -1)
    known = known_of(blocks_graph, labels, features, 3)
    values = iterative_classification(known)
    free = labels < 0
    lonely = known_of(nx.empty_graph(90), labels, features, 3)
    with_edges = (values.argmax(1) == truth)[free].mean()
    without = (iterative_classification(lonely).argmax(1) == truth)[free].mean()
    assert with_edges > 0.85 > without
    assert (guess(known, "ensemble")[~free] == truth[~free]).all()


def test_one_class_only_is_guessed_everywhere():
    known = known_of(nx.path_graph(4), [1, -1, -1, -1])
    assert guess(known, "ensemble").tolist() == [1, 1, 1, 1]


def test_context_counts_both_hops(graph):
    known = known_of(graph)
    a = nx.to_numpy_array(graph, nodelist=range(37), weight=None)
    two = ((a @ a) > 0).astype(float)
    np.fill_diagonal(two, 0)
    for hops, counts in ((2, a + two), (1, a)):
        total = counts.sum(1, keepdims=True)
        wanted = counts / np.maximum(total, 1)
        assert context_matrix(known, hops).toarray() == pytest.approx(wanted)
        assert wanted.sum(1)[:36] == pytest.approx(np.ones(36))


def test_two_cliques_have_pure_contexts():
    graph = nx.disjoint_union(nx.complete_graph(3), nx.complete_graph(3))
    target = context_matrix(known_of(graph), 2) @ one_hot(np.repeat([0, 1], 3), 2)
    assert target.tolist() == one_hot(np.repeat([0, 1], 3), 2).tolist()


def test_too_large_a_context_is_refused(graph, monkeypatch):
    monkeypatch.setattr(selftask_guess, "MAX_CONTEXT", 50)
    with pytest.raises(DataError, match="hops: 1"):
        context_matrix(known_of(graph), 2)


def test_distances_to_labelled_nodes_of_a_path():
    known = known_of(nx.path_graph(5), [0, -1, -1, -1, -1])
    got = labelled_distances(known, 100)
    assert got[1:, 0] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert (got[:, 1] == 0).all()
    two = labelled_distances(known_of(nx.path_graph(5), [0, -1, -1, -1, 0]), 100)
    assert two[1, 0] == pytest.approx((1 + 1 / 3) / 2)
