"""Positional encodings against closed forms, and in encoders."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from ssl_domains.core.batch import Mask
from ssl_domains.core.errors import DataError
from ssl_domains.graph import positional
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.encoders import GIN
from ssl_domains.graph.positional import laplacian_vectors, return_probabilities


def edges_of(graph):
    edges = np.array(graph.edges).T
    return np.concatenate([edges, edges[::-1]], axis=1)


def test_walks_on_a_cycle_and_a_complete_graph():
    cycle = return_probabilities(edges_of(nx.cycle_graph(12)), np.array([0, 12]), 4)
    np.testing.assert_allclose(cycle, np.tile([0.0, 0.5, 0.0, 6 / 16], (12, 1)), atol=1e-6)
    complete = return_probabilities(edges_of(nx.complete_graph(5)), np.array([0, 5]), 3)
    np.testing.assert_allclose(complete, np.tile([0.0, 0.25, 3 / 16], (5, 1)), atol=1e-6)


def test_columns_in_blocks_give_the_same(monkeypatch):
    graph = nx.gnm_random_graph(60, 150, seed=0)
    args = edges_of(graph), np.array([0, 60]), 5
    whole = return_probabilities(*args)
    monkeypatch.setattr(positional, "_FLOATS", 420)
    np.testing.assert_allclose(return_probabilities(*args), whole, atol=1e-6)
    monkeypatch.setattr(positional, "_WORK", 1.0)
    with pytest.raises(DataError, match=r"use data\.laplacian"):
        return_probabilities(*args)


@pytest.mark.parametrize("dense", [400, 10])
def test_laplacian_vectors_solve_the_eigenproblem(dense, monkeypatch):
    monkeypatch.setattr(positional, "_DENSE", dense)
    graph = nx.disjoint_union(nx.gnm_random_graph(40, 120, seed=1), nx.cycle_graph(3))
    graph.add_node(43)
    vectors = laplacian_vectors(edges_of(graph), 44, 4).astype(np.float64)
    for nodes in (list(nx.node_connected_component(graph, 0)), [40, 41, 42]):
        part = graph.subgraph(sorted(nodes))
        laplace = nx.normalized_laplacian_matrix(part).toarray()
        values = np.linalg.eigvalsh(laplace)
        mine = vectors[sorted(nodes)]
        for k in range(min(4, len(nodes) - 1)):
            np.testing.assert_allclose(laplace @ mine[:, k], values[k + 1] * mine[:, k], atol=2e-3)
            assert np.linalg.norm(mine[:, k]) == pytest.approx(np.sqrt(len(nodes)), rel=1e-3)
    assert not vectors[43].any()
    assert not vectors[40:43, 2:].any()


def graphs(**options):
    made = [
        Data(x=torch.ones(6 + i, 1), edge_index=torch.tensor(edges_of(nx.cycle_graph(6 + i))))
        for i in range(4)
    ]
    return GraphDomain().open(made, **options)


def test_encoders_read_positions_and_masks_leave_them():
    source = graphs(random_walk=4, laplacian=2)
    assert source.spec.positional == 6
    assert GraphDomain().spec_from_dict(source.spec.to_dict()) == source.spec
    batch = source.fetch([0, 3])
    assert batch.x.pe.shape == (15, 6)
    alone = source.fetch([3]).x.pe
    assert torch.equal(batch.x.pe[6:], alone)
    encoder = GIN(source.spec, 8, dropout=0.0, norm="none").eval()
    assert encoder.target_width == 1  # positions are no target of reconstruction
    mask = Mask(torch.ones(15, dtype=torch.bool))
    tokens = encoder(batch.x, mask).tokens.values
    assert not torch.allclose(tokens[0], tokens[1])  # all features hidden: positions tell nodes apart
    encoder.train()
    torch.manual_seed(0)
    seen = torch.stack([encoder.positions(batch.x) for _ in range(20)])
    assert torch.equal(seen[..., :4], batch.x.pe[:, :4].expand(20, -1, -1))
    assert torch.equal(seen.abs(), batch.x.pe.abs().expand(20, -1, -1))
    assert len(torch.unique(seen[:, 0, 4])) == 2


def test_inductive_positions_know_no_hidden_edge():
    graph = nx.gnm_random_graph(40, 90, seed=0)
    for i in graph:
        graph.nodes[i].update(a=float(i), y=i % 2)
    source = GraphDomain().open(graph, label="y", inductive=True, random_walk=3, test=0.4)
    part = source.for_pretraining()
    rows = part.pretrain_index
    x = part.fetch(rows).x
    inside = graph.subgraph(rows.tolist())
    relabel = {n: i for i, n in enumerate(rows.tolist())}
    edges = np.array([(relabel[u], relabel[v]) for u, v in inside.edges]).T
    want = return_probabilities(np.concatenate([edges, edges[::-1]], axis=1), np.array([0, len(rows)]), 3)
    np.testing.assert_allclose(x.pe.numpy(), want, atol=1e-6)
