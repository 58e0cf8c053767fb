"""From what was read to a source: fit columns on the train split, encode, mend edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.packaged import locate
from ssl_domains.graph.columns import absent_rows, column_kinds, encode, fit_column
from ssl_domains.graph.data import GraphSource
from ssl_domains.graph.database import is_database, read_database
from ssl_domains.graph.edges import encode_edges, match_relations, relation_names
from ssl_domains.graph.features import CodedFeatures
from ssl_domains.graph.links import hold_out
from ssl_domains.graph.molecules import Options, is_molecules, read_molecules
from ssl_domains.graph.ondisk import read_large, refuse, stored, too_large
from ssl_domains.graph.positional import positions
from ssl_domains.graph.raw import (
    CleanEdges,
    RawGraph,
    check_features,
    clean_edges,
    degree_features,
    edge_notes,
)
from ssl_domains.graph.sampling import ranges
from ssl_domains.graph.spec import GraphSpec, NodeColumn
from ssl_domains.graph.splits import encode_labels, given_splits, random_splits


def read_raw(
    source: Any,
    nodes: Any,
    edges: Any,
    *,
    node_id: str | None = None,
    edge_source: str | None = None,
    edge_target: str | None = None,
    label: str | None = None,
    graph: str | None = None,
    split: str | None = None,
    level: str | None = None,
    edge_time: str | None = None,
    edge_type: str | None = None,
    node_type: str | None = None,
    on_disk: bool | None = None,
    molecules: dict[str, Any] | None = None,
) -> RawGraph:
    """Reads ``source``, or the tables ``nodes`` and ``edges``; see :meth:`GraphDomain.open`.

    ``molecules`` are the options that only molecules have (:class:`molecules.Options`).
    """
    if is_database(source):
        nodes, edges = read_database(Path(source), nodes, edges)
        source = None
    if source is not None and (nodes is not None or edges is not None):
        raise DataError("data: give either data.source, or data.nodes and data.edges, not both")
    if isinstance(source, str) and source.startswith("package://"):
        source = locate(source)
    chemical = molecules or {}
    if source is not None and is_molecules(source, chemical.get("smiles")):
        return read_molecules(source, Options(label=label, split=split, graph=graph, **chemical))
    if isinstance(source, str | Path) and Path(source).is_dir():
        source, nodes, edges = None, *_tables_in(Path(source))
    if source is not None:
        from ssl_domains.graph.readers import read_source

        if node_type is not None:
            raise DataError("data.node_type needs a node table (data.nodes)")
        return read_source(source, label, split, level, edge_time, edge_type)
    if edges is None:
        what = "data.nodes is given but data.edges is not" if nodes is not None else "no data"
        raise DataError(f"data: {what}; give data.edges (and data.nodes), or data.source")
    if too_large(edges, on_disk):
        if graph or edge_time or edge_type or node_type:
            raise DataError(
                "data.graph, data.edge_time, data.edge_type and data.node_type are not to be had for an edge "
                "table that is kept on disk (data.on_disk)"
            )
        return read_large(
            nodes,
            edges,
            node_id=node_id,
            edge_source=edge_source,
            edge_target=edge_target,
            label=label,
            split=split,
        )
    from ssl_domains.graph.tables import read_tables

    return read_tables(
        nodes,
        edges,
        node_id=node_id,
        edge_source=edge_source,
        edge_target=edge_target,
        label=label,
        split=split,
        graph=graph,
        edge_time=edge_time,
        edge_type=edge_type,
        node_type=node_type,
    )


def _tables_in(folder: Path) -> tuple[Path | None, Path]:
    """(node table or None, edge table) of a folder: the files called nodes and edges."""
    found = {p.stem.lower(): p for p in sorted(folder.iterdir()) if p.suffix in (".csv", ".tsv", ".parquet")}
    if "edges" not in found:
        raise DataError(
            f"{folder}: a graph folder needs edges.csv (or .tsv, .parquet), and nodes.csv for node columns"
        )
    return found.get("nodes"), found["edges"]


def train_nodes(raw: RawGraph, splits: dict[str, np.ndarray]) -> np.ndarray:
    """``[n]`` nodes that statistics are fitted on: the train split and the unlabelled, that is
    all but validation and test."""
    n = raw.n_nodes if raw.level == "node" else len(raw.ptr) - 1
    train = np.setdiff1d(np.arange(n), np.concatenate([splits["valid"], splits["test"]]))
    if raw.level == "node":
        return train
    return ranges(raw.ptr[train], raw.ptr[train + 1] - raw.ptr[train])


def fit_columns(
    raw: RawGraph,
    train: np.ndarray,
    text: Sequence[str],
    exclude: Sequence[str],
    columns: dict[str, str],
    max_words: int,
    max_categories: int,
) -> tuple[NodeColumn, ...]:
    """Fitted columns of a node table; what is left out goes to ``raw.notes``."""
    if raw.coded is not None:
        return raw.columns
    if raw.table is None:
        if text or exclude or columns:
            raise DataError(f"{raw.origin}: data.text, data.exclude and data.columns need a node table")
        return ()
    kinds, notes = column_kinds(raw.table, raw.origin, {**raw.kinds, **columns}, text, exclude)
    raw.notes += notes
    fitted = []
    for name, kind in kinds.items():
        absent = absent_rows(raw.table[name], raw.node_type)
        column = fit_column(
            raw.table[name], kind, train, raw.origin, raw.ids, max_words, max_categories, absent
        )
        if column is None:
            raw.notes.append(f"column {name!r} is constant on the train split and is left out")
        else:
            fitted.append(column)
    return tuple(fitted)


def degree_of(clean: CleanEdges, n_nodes: int) -> np.ndarray:
    """``[N]`` number of incoming edges, without self-loops."""
    rows = getattr(clean, "incoming", None)
    return np.bincount(clean.edge_index[1], minlength=n_nodes) if rows is None else np.diff(rows.ptr)


def node_features(raw: RawGraph, clean: CleanEdges, spec: GraphSpec) -> np.ndarray | CodedFeatures:
    """``[N, F]`` float32: given features, encoded columns, or one-hot degrees.

    Raises:
        DataError: not finite, or not what the spec was fitted on.
    """
    if spec.degree_cap is not None:
        return degree_features(degree_of(clean, raw.n_nodes), spec.degree_cap)
    if raw.coded is not None and raw.columns == spec.columns:
        return raw.coded
    if spec.columns:
        if raw.table is None:
            wanted = ", ".join(column.name for column in spec.columns)
            raise DataError(
                f"{raw.origin}: the encoder was trained with node columns ({wanted}), the data has none"
            )
        return encode(raw.table, spec.columns, raw.origin, raw.ids, raw.node_type)
    if raw.features is None:
        raise DataError(
            f"{raw.origin}: the encoder was trained with {spec.features} node features, the data has none"
        )
    check_features(raw.features, raw.origin, raw.ids)
    if spec.features and raw.features.shape[1] != spec.features:
        raise DataError(
            f"{raw.origin}: nodes have {raw.features.shape[1]} features, "
            f"the encoder was trained with {spec.features}"
        )
    return raw.features.astype(np.float32)


def _labels(
    raw: RawGraph, task: str | None, classes: Sequence[str]
) -> tuple[Any, str | None, list[str] | None]:
    if raw.labels is None:
        return None, None, None
    return encode_labels(raw.labels, task, raw.origin, classes)


def _splits(
    raw: RawGraph, labels: np.ndarray | None, task: str | None, valid: float, test: float, seed: int
) -> dict[str, np.ndarray]:
    if raw.split is not None:
        return given_splits(raw.split, raw.origin)
    n = raw.n_nodes if raw.level == "node" else len(raw.ptr) - 1
    splits = random_splits(labels, task, n, valid, test, seed)
    if len(splits["train"]) == 0:
        raise DataError(
            f"{raw.origin}: no sample has a label; leave data.label out to pretrain without labels"
        )
    return splits


def new_spec(raw: RawGraph, clean: CleanEdges, columns: tuple[NodeColumn, ...], **known: Any) -> GraphSpec:
    """The spec of freshly fitted data; ``degree_cap`` is kept only where there are no features."""
    if columns or raw.features is not None or raw.coded is not None:
        known["degree_cap"] = None
    else:
        raw.notes.append("nodes have no features; they get their one-hot degree")
        known["degree_cap"] = min(known["degree_cap"], int(degree_of(clean, raw.n_nodes).max()))
    spec = GraphSpec(
        features=0,
        level="node" if raw.level == "node" else "graph",
        columns=columns,
        edge_features=0 if clean.edge_attr is None else clean.edge_attr.shape[1],
        edge_columns=raw.edge_columns,
        relation_names=raw.relations,
        relations=relation_names(raw.relations, known["directed"], known["self_loops"]),
        node_types=raw.node_types,
        molecules=raw.molecules,
        weighted=clean.edge_weight is not None,
        n_nodes=raw.n_nodes,
        n_edges=int(degree_of(clean, raw.n_nodes).sum()),
        n_graphs=len(raw.ptr) - 1,
        **known,
    )
    return spec


def build_source(
    raw: RawGraph,
    spec: GraphSpec | None = None,
    *,
    task: str | None = None,
    text: Sequence[str] = (),
    exclude: Sequence[str] = (),
    columns: dict[str, str] | None = None,
    max_words: int = 1000,
    max_categories: int = 100,
    degree_cap: int = 400,
    valid: float = 0.1,
    test: float = 0.1,
    directed: bool = False,
    self_loops: bool = True,
    neighbors: Sequence[int] | None = None,
    full_batch_limit: int = 200_000,
    inductive: bool = False,
    link_valid: float = 0.0,
    link_test: float = 0.0,
    random_walk: int = 0,
    laplacian: int = 0,
    seed: int = 0,
) -> GraphSource:
    """A source from what was read: fits a new spec, or applies a fitted ``spec`` to new data."""
    refuse(raw, link_test=link_test, inductive=inductive, random_walk=random_walk, laplacian=laplacian)
    raw, links = hold_out(raw, directed, link_valid, link_test, seed)
    raw, scales = encode_edges(raw, spec, max_categories)
    if spec is not None:
        match_relations(raw, spec)
    one_way = spec.directed if spec else directed
    clean: CleanEdges
    if raw.streamed is not None:
        clean = stored(raw.streamed, raw.keys, one_way, raw.origin)
        neighbors = neighbors or [10, 10]
    else:
        clean = clean_edges(raw, one_way)
    raw.notes += edge_notes(clean)
    labels, task, names = _labels(raw, task, spec.classes if spec else ())
    splits = _splits(raw, labels, task, valid, test, seed)
    if spec is None:
        fitted = fit_columns(
            raw, train_nodes(raw, splits), text, exclude, columns or {}, max_words, max_categories
        )
        spec = new_spec(
            raw,
            clean,
            fitted,
            degree_cap=degree_cap,
            directed=directed,
            self_loops=self_loops,
            edge_scales=scales,
            random_walk=random_walk,
            laplacian=laplacian,
            classes=tuple(names or ()),
        )
    _check_edges(raw, clean, spec)
    features = node_features(raw, clean, spec)
    spec = replace(spec, features=features.shape[1])
    if neighbors is None and raw.level == "node" and raw.n_nodes > full_batch_limit:
        neighbors = [10, 10]
        raw.notes.append(
            f"over {full_batch_limit} nodes (data.full_batch_limit): "
            f"neighbours are sampled, 10 in each of 2 hops"
        )
    return GraphSource(
        raw,
        clean,
        features,
        spec,
        splits,
        labels,
        task,
        names,
        neighbors=neighbors,
        inductive=inductive,
        links=links,
        positional=positions(clean, raw.ptr, spec.random_walk, spec.laplacian, raw.origin),
        seed=seed,
    )


def _check_edges(raw: RawGraph, clean: CleanEdges, spec: GraphSpec) -> None:
    """Raises DataError when edges carry other features than the spec says."""
    found = 0 if clean.edge_attr is None else clean.edge_attr.shape[1]
    if found != spec.edge_features:
        names = ", ".join(spec.edge_columns)
        raise DataError(
            f"{raw.origin}: edges have {found} features, "
            f"the encoder was trained with {spec.edge_features} ({names})"
        )
    if spec.weighted and clean.edge_weight is None:
        raise DataError(f"{raw.origin}: the encoder was trained with edge weights, the data has none")
