"""Graphs in the matrix of methods and domains: nodes, whole graphs, typed nodes and edges."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pandas as pd
import torch

from ssl_domains.core import registry


def node_source(folder):
    rng = np.random.default_rng(0)
    graph = nx.stochastic_block_model([40, 40, 40], 0.1 + 0.2 * np.eye(3) - 0.08, seed=0)
    topics = rng.random((3, 12))
    nodes = pd.DataFrame(
        [[i, *(topics[i // 40] > rng.random(12)).astype(float), f"c{i // 40}"] for i in graph],
        columns=["id", *[f"w{j}" for j in range(12)], "label"],
    )
    edges = pd.DataFrame(graph.edges, columns=["source", "target"])
    nodes.to_csv(folder / "nodes.csv", index=False)
    edges.to_csv(folder / "edges.csv", index=False)
    return registry.load_domain("graph")().open(
        nodes=str(folder / "nodes.csv"), edges=str(folder / "edges.csv"), label="label"
    )


def typed_source(folder):
    rng = np.random.default_rng(0)
    graph = nx.stochastic_block_model([40, 40, 40], 0.1 + 0.2 * np.eye(3) - 0.08, seed=0)
    topics = rng.random((3, 12))
    words = [(topics[i // 40] > rng.random(12)).astype(float) for i in graph]
    nodes = pd.DataFrame(words, columns=[f"w{j}" for j in range(12)])
    nodes = nodes.assign(id=list(graph), kind=np.where(np.arange(120) % 2, "even", "odd"))
    edges = pd.DataFrame(graph.edges, columns=["source", "target"])
    edges["how"] = np.where(edges.source // 40 == edges.target // 40, "near", "far")
    return registry.load_domain("graph")().open(
        nodes=nodes, edges=edges, edge_type="how", node_type="kind", random_walk=4
    )


def graphs_source(folder):
    from torch_geometric.data import Data

    generator = torch.Generator().manual_seed(0)
    graphs = []
    for i in range(60):
        n = 5 + i % 6
        path = torch.arange(n - 1)
        edges = torch.stack([torch.cat([path, path + 1]), torch.cat([path + 1, path])])
        x = torch.rand(n, 6, generator=generator) + (i % 2)
        graphs.append(Data(x=x, edge_index=edges, y=torch.tensor([i % 2])))
    return registry.load_domain("graph")().open(source=graphs)


DROPOUT = {"width": 16, "dropout": 0.0}
COMMON = {"predictor": {}, "objective": "scaled_cosine", "latent_mask": "random"}
NO_MIXTURE = {"mixed_barlow_twins": "interpolated"}  # a graph has no mixture with another one
TYPED = ("rgcn", {**DROPOUT, "norm": "layer"})
NODES = {"not_on": {**NO_MIXTURE, "cmd": "tokens a sample"}}  # a node has no regions
KINDS = {
    "graph": {
        **COMMON,
        **NODES,
        "source": node_source,
        "encoder": ("gat", {**DROPOUT, "heads": 2, "attention_dropout": 0.0}),
    },
    "graph-level": {**COMMON, "not_on": NO_MIXTURE, "source": graphs_source, "encoder": ("gin", DROPOUT)},
    "graph-typed": {**COMMON, **NODES, "source": typed_source, "encoder": TYPED},
}
