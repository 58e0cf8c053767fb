"""A part of the data: samples, edges, labels and edge values stay together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_domains.core.errors import DataError
from ssl_domains.graph.domain import GraphDomain


def test_nodes_and_the_edges_among_them(data):
    data.edge_attr = data.edge_index.T.float()
    source = GraphDomain().open(data, limit=15, directed=True)
    kept = np.linspace(0, 29, 15).round().astype(int)
    assert source.ids(range(15)) == kept.tolist()
    assert source.labels.tolist() == data.y[kept].tolist()
    assert np.array_equal(source.features, data.x[kept].numpy())
    ends = kept[source.edges.edge_index].T
    assert np.array_equal(ends, source.edges.edge_attr)
    inside = np.isin(data.edge_index.numpy(), kept).all(0)
    assert len(ends) == inside.sum()


def test_graphs(data_of):
    graphs = [data_of(n=4 + i, degree=2, seed=i) for i in range(9)]
    for i, graph in enumerate(graphs):
        graph.y = torch.tensor([i % 3])
    source = GraphDomain().open(graphs, limit=5)
    whole = GraphDomain().open(graphs)
    assert list(source.ids(range(5))) == [0, 2, 4, 6, 8]
    a, b = source.fetch([1, 3]).x, whole.fetch([2, 6]).x
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.edge_index, b.edge_index)
    assert source.fetch([1, 3]).label.tolist() == [2, 0]


def test_too_small_a_limit(data):
    with pytest.raises(DataError, match=r"data\.limit"):
        GraphDomain().open(data, limit=2)
