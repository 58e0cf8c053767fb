"""Graphs from PyG, NetworkX, GraphML and import graphs; tables are read in :mod:`.tables`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.edges import take_edge_columns
from ssl_domains.graph.raw import RawGraph, nearest
from ssl_domains.graph.tables import take_side_columns

_FILES = (".graphml", ".gml", ".gexf")
_SPLITS = (("train", "train_mask"), ("valid", "val_mask"), ("test", "test_mask"))


def read_source(
    source: Any,
    label: str | None = None,
    split: str | None = None,
    level: str | None = None,
    edge_time: str | None = None,
    edge_type: str | None = None,
) -> RawGraph:
    """Reads anything that is not a pair of tables.

    Args:
        source: PyG ``Data``, ``Dataset`` or list of ``Data``; a NetworkX graph; a path of a
            .graphml, .gml or .gexf file; ``import-graph://PACKAGE`` (modules and imports of an
            installed package); ``ast-graph://PACKAGE`` (its functions' syntax trees);
            ``pyg://CLASS?root=...&name=...`` (a class of ``torch_geometric.datasets``).
        label: node attribute with the label (NetworkX, GraphML), or None.
        split: node attribute with train, valid or test, or None.
        level: ``node`` or ``graph``; None: a single graph is ``node``, several are ``graph``.
        edge_time: edge attribute that orders edges in time (NetworkX, GraphML), or None.
        edge_type: edge attribute with the relation (NetworkX, GraphML), or None.
    """
    if isinstance(source, str | Path):
        return _read_address(str(source), label, split, level, edge_time, edge_type)
    import networkx as nx
    from torch_geometric.data import Data, HeteroData

    if isinstance(source, nx.Graph):
        return from_networkx(source, "NetworkX graph", label, split, edge_time, edge_type)
    if isinstance(source, HeteroData):
        from ssl_domains.graph.hetero import from_hetero

        return from_hetero(source, label)
    if isinstance(source, Data):
        return from_pyg([source], level or "node", type(source).__name__)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        graphs = [source[i] for i in range(len(source))]
        if graphs and all(isinstance(graph, Data) for graph in graphs):
            return from_pyg(graphs, level or ("node" if len(graphs) == 1 else "graph"), type(source).__name__)
    raise DataError(
        f"data.source: cannot read a graph from {type(source).__name__}; "
        f"give PyG Data, HeteroData, a list of Data, a Dataset, a NetworkX graph or a path"
    )


def _read_address(
    source: str,
    label: str | None,
    split: str | None,
    level: str | None,
    edge_time: str | None,
    edge_type: str | None,
) -> RawGraph:
    if source.startswith("import-graph://"):
        from ssl_domains.graph.import_graph import read_import_graph

        return read_import_graph(source.removeprefix("import-graph://"))
    if source.startswith("ast-graph://"):
        from ssl_domains.graph.ast_graphs import read_ast_graphs

        return read_ast_graphs(source.removeprefix("ast-graph://"))
    if source.startswith("code-graph://"):
        from ssl_domains.graph.code_graph import read_code_graph

        return read_code_graph(source.removeprefix("code-graph://"))
    if source.startswith("pyg://"):
        return _pyg_dataset(source, level)
    path = Path(source)
    if path.suffix not in _FILES:
        tables = path.suffix in (".csv", ".tsv", ".parquet")
        hint = "; node and edge tables go to data.nodes and data.edges" if tables else ""
        raise DataError(
            f"data.source: {source!r} is no graph that can be read ({', '.join(_FILES)}, a folder with "
            f"nodes.csv and edges.csv, import-graph://PACKAGE, ast-graph://PACKAGE, code-graph://PACKAGE, pyg://CLASS?root=FOLDER){hint}"
        )
    if not path.is_file():
        raise DataError(f"{source}: no such file")
    import networkx as nx

    try:
        graph = getattr(nx, f"read_{path.suffix[1:]}")(path)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{source}: not a {path.suffix[1:]} file ({reason})") from None
    return from_networkx(graph, source, label, split, edge_time, edge_type)


def _pyg_dataset(source: str, level: str | None) -> RawGraph:
    from torch_geometric import datasets

    parts = urlsplit(source)
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    if parts.netloc not in datasets.__all__:
        raise DataError(
            f"data.source: torch_geometric has no data set {parts.netloc!r}"
            f"{nearest(parts.netloc, datasets.__all__)}"
        )
    options = {key: int(value) if value.isdigit() else value for key, value in options.items()}
    try:
        dataset = getattr(datasets, parts.netloc)(**options)
    except TypeError as error:
        raise DataError(f"data.source: {parts.netloc} cannot be made from {source!r}: {error}") from None
    return read_source(dataset, level=level)


def from_networkx(
    graph: Any,
    origin: str,
    label: str | None = None,
    split: str | None = None,
    edge_time: str | None = None,
    edge_type: str | None = None,
) -> RawGraph:
    """A graph whose node attributes are typed columns and whose numeric edge attributes are features."""
    import pandas as pd

    ids = list(graph.nodes)
    if not ids:
        raise DataError(f"{origin}: the graph has no nodes")
    place = {node: i for i, node in enumerate(ids)}
    edges = [(place[u], place[v]) for u, v in graph.edges()]
    table = _expand_vectors(pd.DataFrame([dict(graph.nodes[node]) for node in ids]), origin, ids)
    values = pd.DataFrame([data for *_, data in graph.edges(data=True)])
    values = values.drop(columns=[c for c in values.columns if c in ("id", "key")])
    raw = RawGraph(
        origin,
        np.array(edges, dtype=np.int64).reshape(-1, 2).T,
        ids,
        table=table if table.shape[1] or label or split else None,
    )
    take_edge_columns(raw, values, origin, edge_time, edge_type)
    raw = take_side_columns(raw, label, split, None)
    if raw.table is not None and raw.table.shape[1] == 0:
        raw.table = None
    return raw


def _expand_vectors(table: Any, origin: str, ids: Sequence[Any]) -> Any:
    """A column of number lists, all equally long, becomes one column a number."""
    import pandas as pd

    for name in list(table.columns):
        first = table[name].iloc[0]
        if not isinstance(first, list | tuple | np.ndarray) or not all(
            isinstance(v, int | float | np.number) for v in first
        ):
            continue
        lengths = [len(v) if isinstance(v, list | tuple | np.ndarray) else -1 for v in table[name]]
        odd = next((i for i, n in enumerate(lengths) if n != lengths[0]), None)
        if odd is not None:
            raise DataError(
                f"{origin}: attribute {name!r} of node {ids[odd]!r} does not hold {lengths[0]} numbers "
                f"as the first node's does"
            )
        vectors = np.stack([np.asarray(v, dtype=np.float64) for v in table[name]])
        wide = pd.DataFrame(vectors, columns=[f"{name}_{i}" for i in range(vectors.shape[1])])
        table = pd.concat([table.drop(columns=name), wide], axis=1)
    return table


def from_pyg(graphs: Sequence[Any], level: str, origin: str) -> RawGraph:
    """One PyG graph, or many side by side; ``y``, masks, ``edge_attr`` and ``edge_weight`` are used."""
    if level not in ("node", "graph"):
        raise DataError(f"data.level: must be node or graph, got {level!r}")
    counts = []
    for i, graph in enumerate(graphs):
        where = origin if len(graphs) == 1 else f"{origin}[{i}]"
        n = graph.num_nodes
        if not n:
            raise DataError(f"{where}: the graph has no nodes")
        if graph.edge_index is None:
            raise DataError(f"{where}: there is no edge_index, so no edges")
        if (
            graph.edge_index.numel()
            and not 0 <= int(graph.edge_index.min()) <= int(graph.edge_index.max()) < n
        ):
            edge = int(((graph.edge_index < 0) | (graph.edge_index >= n)).any(0).int().argmax())
            pair = graph.edge_index[:, edge].tolist()
            raise DataError(
                f"{where}: edge {edge} joins nodes {pair[0]} and {pair[1]}, but the nodes are 0 to {n - 1}"
            )
        if graph.x is not None and len(graph.x) != n:
            raise DataError(f"{where}: x has {len(graph.x)} rows for {n} nodes")
        counts.append(n)
    if not counts:
        raise DataError(f"{origin}: there are no graphs")
    ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    edges = np.concatenate([g.edge_index.numpy() + p for g, p in zip(graphs, ptr)], axis=1)
    attr = _stack(graphs, "edge_attr", origin)
    weight = _stack(graphs, "edge_weight", origin)
    if attr is not None and attr.ndim == 1:
        attr = attr[:, None]
    return RawGraph(
        origin,
        edges,
        ids=range(int(ptr[-1])),
        features=_stack(graphs, "x", origin),
        edge_attr=attr,
        edge_columns=tuple(f"edge_attr_{i}" for i in range(attr.shape[1])) if attr is not None else (),
        edge_weight=weight,
        labels=_pyg_labels(graphs, level, counts, origin),
        split=_pyg_masks(graphs) if level == "node" else None,
        level=level,
        graph_ptr=ptr,
        graph_ids=range(len(graphs)) if level == "graph" else None,
    )


def _stack(graphs: Sequence[Any], key: str, origin: str) -> np.ndarray | None:
    """All graphs' values under ``key`` one below the other, or None when none has any."""
    values = [graph.get(key) for graph in graphs]
    having = [v is not None for v in values]
    if not any(having):
        return None
    widths = {tuple(v.shape[1:]) for v in values if v is not None}
    if not all(having) or len(widths) > 1:
        odd = next((i for i, v in enumerate(values) if v is None or v.shape[1:] != values[0].shape[1:]), 0)
        raise DataError(f"{origin}[{odd}]: {key} is missing or of another width than in the other graphs")
    stacked = np.concatenate([v.numpy() for v in values]).astype(np.float32)
    return stacked[:, None] if key == "x" and stacked.ndim == 1 else stacked


def _pyg_labels(graphs: Sequence[Any], level: str, counts: Sequence[int], origin: str) -> np.ndarray | None:
    values = [graph.get("y") for graph in graphs]
    if any(v is None for v in values):
        return None
    rows = []
    for i, (y, n) in enumerate(zip(values, counts)):
        array = np.asarray(y)
        if level == "graph":
            array = array.reshape(1, -1)
        elif len(array) != n:
            raise DataError(
                f"{origin}[{i}]: y has {len(array)} rows for {n} nodes; "
                f"for labels of whole graphs say data.level=graph"
            )
        rows.append(array)
    if level == "graph" and len({row.shape[1] for row in rows}) > 1:
        odd = next(i for i, row in enumerate(rows) if row.shape[1] != rows[0].shape[1])
        raise DataError(
            f"{origin}[{odd}]: y has {rows[odd].shape[1]} values, that of the first graph "
            f"{rows[0].shape[1]}; for labels of nodes say data.level=node"
        )
    labels = np.concatenate(rows)
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _pyg_masks(graphs: Sequence[Any]) -> np.ndarray | None:
    """Splits from boolean masks; of several columns of masks the first is taken."""
    if not all(graph.get(key) is not None for graph in graphs for _, key in _SPLITS):
        return None
    split = np.full(sum(g.num_nodes for g in graphs), "", dtype=object)
    for name, key in _SPLITS:
        masks = [g[key][:, 0] if g[key].ndim == 2 else g[key] for g in graphs]
        split[np.concatenate([m.numpy() for m in masks]).astype(bool)] = name
    return split
