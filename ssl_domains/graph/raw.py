"""A graph as read, before anything is fitted: what every reader returns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.features import CodedFeatures
from ssl_domains.graph.spec import NodeColumn


@dataclass
class RawGraph:
    """One graph, or many side by side (block diagonal).

    Attributes:
        origin: what messages call the data (a file name, a class).
        edges: ``[2, E]`` int64 source and target, as found (self-loops, duplicates and all).
        ids: ``[N]`` the user's own node ids.
        features: ``[N, F]`` float32, or None.
        table: feature columns of a node table (a pandas DataFrame of N rows), or None.
        kinds: kinds of table columns that the reader knows (name -> kind).
        edge_attr: ``[E, F_e]`` float32, or None.
        edge_columns: names of the edge features.
        edge_weight: ``[E]`` float32, or None.
        edge_time: ``[E]`` float64 days, or None; orders edges for link prediction.
        edge_table: columns of the edges that are no numbers (a DataFrame of E rows), or None.
        edge_type: ``[E]`` int64 number of each edge's relation, or None.
        relations: names of the relations.
        scale_edges: ``edge_attr`` is numbers of a table, which are standardised.
        node_type: ``[N]`` int64 number of each node's type, or None.
        node_types: names of the types.
        labels: raw labels of the samples ``[n]`` or ``[n, L]``, or None.
        split: ``[n]`` of ``train``, ``valid``, ``test`` or an empty string, or None.
        level: ``node`` or ``graph``.
        graph_ptr: ``[G + 1]`` int64 first node of each graph; nodes are sorted by graph.
        graph_ids: the user's own graph ids, or None.
        notes: sentences about what was mended or left out.
        coded: features as integer codes, in place of ``features`` or ``table``, or None.
        columns: what the columns of ``coded`` are.
        skipped: what could not be read, one line each (the first hundred).
        n_skipped: how many could not be read.
        molecules: the graphs are molecules.
        streamed: an edge table that is larger than memory, in place of ``edges``, or None.
        keys: ``[N]`` ids as text, which the streamed edges are matched with.
    """

    origin: str
    edges: np.ndarray
    ids: Any
    features: np.ndarray | None = None
    table: Any = None
    kinds: dict[str, str] = field(default_factory=dict)
    edge_attr: np.ndarray | None = None
    edge_columns: tuple[str, ...] = ()
    edge_weight: np.ndarray | None = None
    edge_time: np.ndarray | None = None
    edge_table: Any = None
    edge_type: np.ndarray | None = None
    relations: tuple[str, ...] = ()
    scale_edges: bool = False
    node_type: np.ndarray | None = None
    node_types: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    split: np.ndarray | None = None
    level: str = "node"
    graph_ptr: np.ndarray | None = None
    graph_ids: Sequence[Any] | None = None
    notes: list[str] = field(default_factory=list)
    coded: CodedFeatures | None = None
    columns: tuple[NodeColumn, ...] = ()
    skipped: list[str] = field(default_factory=list)
    n_skipped: int = 0
    molecules: bool = False
    streamed: Any = None
    keys: Any = None

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.ids)

    @property
    def ptr(self) -> np.ndarray:
        """``[G + 1]`` first node of each graph."""
        return np.array([0, self.n_nodes]) if self.graph_ptr is None else self.graph_ptr


@dataclass
class CleanEdges:
    """Edges after mending: no self-loops, no duplicates, sorted by (target, source).

    Attributes:
        edge_index: ``[2, E]`` int64.
        edge_attr: ``[E, F_e]`` float32 or None; the mean over duplicates.
        edge_weight: ``[E]`` float32 or None; the mean over duplicates.
        n_self_loops: self-loops found.
        n_duplicates: duplicate edges found.
        n_isolated: nodes without any edge to another node.
        edge_type: ``[E]`` int64 or None; reversed edges have numbers of their own, and edges of
            several types between two nodes are no duplicates.
    """

    edge_index: np.ndarray
    edge_attr: np.ndarray | None
    edge_weight: np.ndarray | None
    n_self_loops: int
    n_duplicates: int
    n_isolated: int
    edge_type: np.ndarray | None = None

    def among(self, nodes: np.ndarray, n_nodes: int) -> CleanEdges:
        """Only the edges whose two ends are in ``nodes``; node numbers stay."""
        inside = np.zeros(n_nodes, dtype=bool)
        inside[nodes] = True
        kept = inside[self.edge_index].all(axis=0)
        return CleanEdges(
            self.edge_index[:, kept],
            None if self.edge_attr is None else self.edge_attr[kept],
            None if self.edge_weight is None else self.edge_weight[kept],
            self.n_self_loops,
            self.n_duplicates,
            self.n_isolated,
            None if self.edge_type is None else self.edge_type[kept],
        )


def degree_features(degrees: np.ndarray, cap: int) -> np.ndarray:
    """``[N, cap + 1]`` float32 one-hot degrees."""
    return np.eye(cap + 1, dtype=np.float32)[np.minimum(degrees, cap)]


def nearest(name: Any, known: Iterable[Any]) -> str:
    """``; the nearest is 'x'`` or an empty string."""
    known = [str(item) for item in known]
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    return f"; the nearest is {close[0]!r}" if close else ""


def clean_edges(raw: RawGraph, directed: bool) -> CleanEdges:
    """Drops self-loops and duplicates, adds the reverse edges of an undirected graph, sorts.

    Raises:
        DataError: no edge joins two different nodes.
    """
    n = raw.n_nodes
    source, target = raw.edges.astype(np.int64)
    loops = source == target
    kinds, n_kinds = _kinds(raw, directed)
    n_duplicates = len(source) - len(np.unique((source * n + target) * n_kinds + kinds))
    rows = np.flatnonzero(~loops)
    if len(rows) == 0:
        found = f"only {int(loops.sum())} self-loops" if loops.any() else "none"
        raise DataError(
            f"{raw.origin}: a graph needs edges between different nodes, found {found}; "
            f"for rows without edges use the tabular domain"
        )
    source, target, kinds = source[rows], target[rows], kinds[rows]
    if not directed:
        source, target = np.concatenate([source, target]), np.concatenate([target, source])
        kinds = np.concatenate([kinds, kinds + n_kinds // 2])
        rows = np.concatenate([rows, rows])
    keys, place, counts = np.unique(
        (target * n + source) * n_kinds + kinds, return_inverse=True, return_counts=True
    )
    pairs = keys // n_kinds
    edge_index = np.stack([pairs % n, pairs // n])
    seen = np.zeros(n, dtype=bool)
    seen[edge_index.ravel()] = True
    return CleanEdges(
        edge_index,
        _mean(raw.edge_attr, rows, place, counts),
        _mean(raw.edge_weight, rows, place, counts),
        int(loops.sum()),
        n_duplicates,
        int((~seen).sum()),
        None if raw.edge_type is None else keys % n_kinds,
    )


def _kinds(raw: RawGraph, directed: bool) -> tuple[np.ndarray, int]:
    """(``[E]`` type of each edge, number of types with the reversed ones); one type for plain edges."""
    if raw.edge_type is None:
        return np.zeros(raw.edges.shape[1], dtype=np.int64), 1
    return raw.edge_type, len(raw.relations) * (1 if directed else 2)


def _mean(
    values: np.ndarray | None, rows: np.ndarray, place: np.ndarray, counts: np.ndarray
) -> np.ndarray | None:
    """Mean of ``values[rows]`` over rows with the same place."""
    if values is None:
        return None
    total = np.zeros((len(counts), *values.shape[1:]), dtype=np.float64)
    np.add.at(total, place, values[rows])
    return (total / counts.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)


def edge_notes(edges: CleanEdges) -> list[str]:
    """Sentences about what :func:`clean_edges` mended."""
    notes = []
    if edges.n_self_loops:
        notes.append(
            f"{edges.n_self_loops} self-loops in the data were replaced by what data.self_loops says"
        )
    if edges.n_duplicates:
        notes.append(f"{edges.n_duplicates} duplicate edges were merged")
    if edges.n_isolated:
        notes.append(f"{edges.n_isolated} nodes have no edge; they are encoded from their own features alone")
    return notes


def check_features(features: np.ndarray, origin: str, ids: Sequence[Any]) -> None:
    """Raises DataError at the first NaN or infinity, with node and column."""
    bad = ~np.isfinite(features)
    if bad.any():
        node, column = np.argwhere(bad)[0]
        raise DataError(
            f"{origin}: feature {column} of node {ids[node]!r} is {features[node, column]}; "
            f"{int(bad.any(axis=1).sum())} nodes have such values, fill or remove them first"
        )
