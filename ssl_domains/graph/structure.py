"""Reads the structure of a batch's PyG object, whoever made it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ssl_domains.core.layout import Graph


def segment(x: Any) -> Tensor:
    """``[N]`` int64: the graph that each node belongs to."""
    batch = x.get("batch")
    return batch if batch is not None else torch.zeros(len(x.x), dtype=torch.int64, device=x.x.device)


def n_segments(x: Any) -> int:
    """Number of graphs, without a device sync for the batches of :class:`GraphSource`."""
    ptr = x.get("ptr")
    return 1 if x.get("batch") is None else len(ptr) - 1 if ptr is not None else int(x.batch.max()) + 1


def node_index(x: Any) -> Tensor:
    """``[N]`` int64 global node numbers; positions when the batch does not carry any."""
    index = x.get("node_index")
    return index if index is not None else torch.arange(len(x.x), device=x.x.device)


def kept_nodes(x: Any) -> Tensor | None:
    """``[N]`` bool: False for nodes that a view dropped; None when all are there."""
    return x.get("kept_nodes")


def layout(x: Any) -> Graph:
    """The layout that maskers work on; ``seeds`` marks the nodes that are samples."""
    n = len(x.x)
    seed_index = x.get("seed_index")
    seeds = None
    if seed_index is not None and len(seed_index) < n:
        seeds = torch.zeros(n, dtype=torch.bool, device=x.x.device)
        seeds[seed_index] = True
    return Graph(n, x.edge_index, segment(x), n_segments(x), node_index(x), seeds)


def pool(values: Tensor, x: Any, kind: str) -> Tensor:
    """``[G, D]`` mean, sum or max over each graph's nodes; nodes dropped by a view do not count."""
    owner, n = segment(x), n_segments(x)
    kept = kept_nodes(x)
    index = owner[:, None].expand_as(values)
    if kind == "max":
        shown = values if kept is None else values.masked_fill(~kept[:, None], -torch.inf)
        out = values.new_full((n, values.shape[1]), -torch.inf)
        out = out.scatter_reduce(0, index, shown, "amax", include_self=True)
        return torch.where(torch.isinf(out), torch.zeros_like(out), out)
    shown = values if kept is None else values * kept[:, None]
    total = values.new_zeros(n, values.shape[1]).index_add(0, owner, shown)
    if kind == "sum":
        return total
    ones = torch.ones_like(owner, dtype=values.dtype) if kept is None else kept.to(values.dtype)
    counts = values.new_zeros(n).index_add(0, owner, ones)
    return total / counts.clamp_min(1.0)[:, None]


def join_graphs(parts: Sequence[Any]) -> Any:
    """One batch of graphs side by side, in the order of ``parts`` (batches of graphs): what passes
    together shares batch-norm statistics."""
    from torch_geometric.data import Batch as GraphBatch

    nodes = [0, *accumulate(len(part.x) for part in parts)]
    graphs = [0, *accumulate(n_segments(part) for part in parts)]
    out = {
        "x": torch.cat([part.x for part in parts]),
        "edge_index": torch.cat([part.edge_index + n for part, n in zip(parts, nodes)], dim=1),
        "node_index": torch.cat([node_index(part) for part in parts]),
        "batch": torch.cat([segment(part) + n for part, n in zip(parts, graphs)]),
    }
    for name in ("edge_attr", "edge_weight"):
        if parts[0].get(name) is not None:
            out[name] = torch.cat([part[name] for part in parts])
    starts = [part.ptr[:-1] + n for part, n in zip(parts, nodes)]
    ptr = torch.cat([*starts, starts[0].new_full((1,), nodes[-1])])
    return GraphBatch(**out, ptr=ptr, partial=False)
