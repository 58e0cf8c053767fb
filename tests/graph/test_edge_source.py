"""Edges embedded with their ends' ids, in the order of the edge table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from ssl_domains.core.errors import DataError
from ssl_domains.evaluation import embed_to_file, extract
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.encoders import GCN

EDGES = pd.DataFrame({"source": ["b", "a", "d", "c", "a"], "target": ["a", "c", "b", "c", "d"]})


@pytest.mark.parametrize("neighbors", [None, [-1, -1, -1]])
def test_an_edge_is_the_product_of_its_ends(tmp_path, neighbors):
    domain = GraphDomain()
    nodes = domain.open(edges=EDGES)
    torch.manual_seed(0)
    encoder = GCN(nodes.spec, 4, norm="none").eval()
    z = dict(zip(nodes.ids(range(4)), extract(encoder, nodes, np.arange(4))))
    edges = domain.embed_source(nodes.spec, edges=EDGES, level="edge", neighbors=neighbors)
    assert len(edges) == 5
    out = embed_to_file(encoder, edges, tmp_path / "e.parquet", batch_size=2)
    table = pd.read_parquet(out)
    assert table["id"].tolist() == [f"{u} -> {v}" for u, v in EDGES.itertuples(index=False)]
    want = np.stack([z[u] * z[v] for u, v in EDGES.itertuples(index=False)])
    np.testing.assert_allclose(table.drop(columns="id").to_numpy(), want, rtol=1e-4, atol=1e-6)


def test_many_graphs_have_no_edge_samples(graph_source, data_of):
    graphs = [data_of(n=5, degree=2), data_of(n=6, degree=2)]
    with pytest.raises(DataError, match=r"\[1\]: y has 6 values, that of the first graph 5"):
        GraphDomain().embed_source(graph_source.spec, graphs)
    for graph in graphs:
        graph.y = None
    with pytest.raises(DataError, match="one graph in memory"):
        GraphDomain().embed_source(graph_source.spec, graphs, level="edge")
