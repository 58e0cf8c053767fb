"""A part of a graph data set, for a quick look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.raw import RawGraph
from ssl_domains.graph.sampling import ranges


def limited(raw: RawGraph, limit: int | None) -> RawGraph:
    """At most ``limit`` samples, evenly spaced: graphs, or nodes with the edges among them.

    Raises:
        DataError: the limit is below 3.
    """
    n = raw.n_nodes if raw.level == "node" else len(raw.ptr) - 1
    if limit is None or n <= limit:
        return raw
    if limit < 3:
        raise DataError(f"data.limit: at least 3 samples are needed, got {limit}")
    samples = np.linspace(0, n - 1, limit).round().astype(np.int64)
    nodes, ptr, graph_ids = samples, None, None
    if raw.level == "graph":
        sizes = raw.ptr[samples + 1] - raw.ptr[samples]
        nodes, ptr = ranges(raw.ptr[samples], sizes), np.concatenate([[0], np.cumsum(sizes)])
        graph_ids = None if raw.graph_ids is None else [raw.graph_ids[i] for i in samples]
    new = np.full(raw.n_nodes, -1, dtype=np.int64)
    new[nodes] = np.arange(len(nodes))
    edges = new[raw.edges]
    kept = (edges >= 0).all(axis=0)
    part = replace(
        raw,
        edges=edges[:, kept],
        ids=[raw.ids[i] for i in nodes],
        graph_ptr=ptr,
        graph_ids=graph_ids,
        table=None if raw.table is None else raw.table.iloc[nodes].reset_index(drop=True),
        features=None if raw.features is None else raw.features[nodes],
        coded=None if raw.coded is None else raw.coded.take(nodes),
        notes=[*raw.notes, f"data.limit: {limit} of {n} samples, evenly spaced"],
    )
    for name in ("labels", "split"):
        values = getattr(raw, name)
        setattr(part, name, None if values is None else values[samples])
    for name in ("edge_attr", "edge_weight", "edge_time", "edge_type"):
        values = getattr(raw, name)
        setattr(part, name, None if values is None else values[kept])
    part.node_type = None if raw.node_type is None else raw.node_type[nodes]
    if raw.edge_table is not None:
        part.edge_table = raw.edge_table[kept].reset_index(drop=True)
    return part
