"""Numbers about a graph for ``inspect`` and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_domains.graph.features import CodedFeatures
from ssl_domains.graph.sampling import Incoming

if TYPE_CHECKING:
    from ssl_domains.graph.data import GraphSource


def card(source: GraphSource) -> dict[str, Any]:
    """Counts and quantiles of a source; see the keys below."""
    degrees = np.diff(source.incoming.ptr)
    edges = source.edges
    numbers: dict[str, Any] = {
        "samples": len(source),
        "level": source.spec.level,
        "nodes": source.raw.n_nodes,
        "edges": len(source.incoming.source),
        "graphs": len(source.raw.ptr) - 1,
        "directed": source.spec.directed,
        "components": components(source.incoming),
        "isolated": edges.n_isolated,
        "self_loops_found": edges.n_self_loops,
        "duplicates_found": edges.n_duplicates,
        "degree_quantiles": dict(
            zip(("min", "25%", "50%", "75%", "max"), np.quantile(degrees, [0, 0.25, 0.5, 0.75, 1]).tolist())
        ),
        "features": source.spec.features,
        "feature_sparsity": round(sparsity(source.store), 4),
        "edge_features": source.spec.edge_features,
        "splits": {name: len(rows) for name, rows in source.splits.items()},
        "notes": source.notes,
    }
    if source.spec.level == "graph":
        sizes = np.diff(source.raw.ptr)
        numbers["nodes_per_graph"] = {
            "min": int(sizes.min()),
            "mean": float(sizes.mean()),
            "max": int(sizes.max()),
        }
    if source.raw.n_skipped:
        numbers["skipped"] = source.raw.n_skipped
        numbers["skipped_list"] = source.raw.skipped
    if source.task is not None:
        numbers.update(label_numbers(source))
    return numbers


def sparsity(features: np.ndarray | CodedFeatures) -> float:
    """Share of zeros among the features."""
    return features.sparsity() if isinstance(features, CodedFeatures) else float((features == 0).mean())


def label_numbers(source: GraphSource) -> dict[str, Any]:
    """Task, class balance, unlabelled samples, and homophily of node classes."""
    out: dict[str, Any] = {"task": source.task}
    labels = source.labels
    if labels is None or source.task != "classification" or source.class_names is None:
        return out
    counts = np.bincount(labels[labels >= 0], minlength=len(source.class_names))
    out["classes"] = dict(zip(source.class_names, counts.tolist()))
    out["unlabelled"] = int((labels < 0).sum())
    if source.spec.level == "node":
        out["homophily"] = homophily(source.incoming, labels)
    return out


def components(edges: Incoming) -> int:
    """Number of (weakly) connected components, found block of edges by block."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    n = len(edges.ptr) - 1
    owner = np.arange(n)
    count = n
    for first, last, source in edges.blocks():
        a, b = owner[source], owner[edges.targets(first, last)]
        matrix = sparse.coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), (count, count))
        count, merged = connected_components(matrix, directed=False)
        owner = merged[owner]
    return int(count)


def homophily(edges: Incoming, labels: np.ndarray) -> float | None:
    """Share of edges between labelled nodes that join the same class; None without such edges."""
    same = every = 0
    for first, last, source in edges.blocks():
        a, b = labels[source], labels[edges.targets(first, last)]
        known = (a >= 0) & (b >= 0)
        same, every = same + int((a == b)[known].sum()), every + int(known.sum())
    return round(same / every, 4) if every else None
