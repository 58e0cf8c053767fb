"""Small graphs for the tests of the graph domain."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


def make_data(n: int = 30, features: int = 6, degree: int = 3, seed: int = 0, classes: int = 3):
    """A random PyG graph with labels; both directions of each edge are there."""
    from torch_geometric.data import Data

    rng = np.random.default_rng(seed)
    source = np.repeat(np.arange(n), degree)
    target = (source + rng.integers(1, n, len(source))) % n
    edges = np.unique(np.concatenate([[source, target], [target, source]], axis=1), axis=1)
    x = torch.tensor(rng.normal(size=(n, features)), dtype=torch.float32)
    return Data(x=x, edge_index=torch.tensor(edges), y=torch.tensor(np.arange(n) % classes))


@pytest.fixture
def data():
    return make_data()


@pytest.fixture
def data_of():
    return make_data


@pytest.fixture
def node_source(data):
    from ssl_domains.graph.domain import GraphDomain

    return GraphDomain().open(data)


@pytest.fixture
def graph_source():
    from ssl_domains.graph.domain import GraphDomain

    graphs = [make_data(n=5 + i, seed=i, degree=2) for i in range(12)]
    for i, graph in enumerate(graphs):
        graph.y = torch.tensor([i % 2])
    return GraphDomain().open(graphs)
