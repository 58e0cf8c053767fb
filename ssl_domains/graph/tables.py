"""Node and edge tables (CSV, TSV, Parquet, DataFrames) to a :class:`RawGraph`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.edges import take_edge_columns
from ssl_domains.graph.ids import keys, own_ids, place, unique
from ssl_domains.graph.raw import RawGraph, nearest

if TYPE_CHECKING:
    import pandas as pd

NODE_IDS = ("id", "node_id", "node", "nodeid", "name")
EDGE_ENDS = (
    ("source", "target"),
    ("src", "dst"),
    ("from", "to"),
    ("source_id", "target_id"),
    ("head", "tail"),
    ("u", "v"),
    ("node1", "node2"),
)


def read_table(source: Any, what: str, text_columns: Sequence[str] = ()) -> tuple[pd.DataFrame, str]:
    """A table and its name for messages.

    Args:
        source: path of a .csv, .tsv, .txt or .parquet file, or a DataFrame.
        what: ``node table`` or ``edge table``, for messages.
        text_columns: columns that stay text even if they look like numbers (ids such as 007).

    Raises:
        DataError: missing, empty, header only, binary, ragged, or with duplicate column names.
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        table, name = source, what
    else:
        path = Path(source)
        name = str(path)
        if not path.is_file():
            raise DataError(f"{name}: no such file{_near_file(path)}")
        if path.suffix == ".parquet":
            table = _parquet(path, name)
        else:
            table = _delimited(path, name, what, text_columns)
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise DataError(f"{name}: the column name {twice[0]!r} appears twice; rename one")
    if len(table) == 0:
        raise DataError(f"{name}: the {what} has no rows; give at least one")
    return table.reset_index(drop=True), name


def _near_file(path: Path) -> str:
    folder = path.parent
    return nearest(path.name, (p.name for p in folder.iterdir())) if folder.is_dir() else ""


def _parquet(path: Path, name: str) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{name}: not a Parquet file ({str(error).splitlines()[0]})") from None


def delimited_options(path: Path, what: str, text_columns: Sequence[str]) -> tuple[Any, Any]:
    """(parse options, convert options) of Arrow for a text file; looks at its first bytes alone.

    Raises:
        DataError: the file is empty or binary.
    """
    import pyarrow as pa
    from pyarrow import csv

    name = str(path)
    with path.open("rb") as file:
        start = file.read(65536)
    if not start.strip():
        raise DataError(f"{name}: the file is empty; a {what} needs a header and rows")
    if b"\0" in start:
        raise DataError(f"{name}: this is a binary file, not text; give CSV, TSV or Parquet")
    header = start.splitlines()[0].decode("utf-8", "replace").lstrip("\ufeff")
    delimiter = "\t" if path.suffix in (".tsv", ".tab") else max(",;\t|", key=header.count)
    types = {
        column.strip().strip('"'): pa.string()
        for column in header.split(delimiter)
        if _is_id(column, text_columns)
    }
    return (
        csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        csv.ConvertOptions(column_types=types, strings_can_be_null=True),
    )


def _delimited(path: Path, name: str, what: str, text_columns: Sequence[str]) -> pd.DataFrame:
    import pyarrow as pa
    from pyarrow import csv

    parse, convert = delimited_options(path, what, text_columns)
    try:
        return csv.read_csv(path, parse_options=parse, convert_options=convert).to_pandas()
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise DataError(f"{name}: {str(error).splitlines()[0]}") from None


def _is_id(column: str, text_columns: Sequence[str]) -> bool:
    column = column.strip().strip('"')
    ends = {end for pair in EDGE_ENDS for end in pair}
    return column in text_columns or column.lower() in ends or column.lower() in NODE_IDS


def node_column(table: pd.DataFrame, given: str | None, name: str) -> str:
    """The id column of a node table."""
    if given is not None:
        return _present(table, given, name, "data.node_id")
    lower = {str(c).lower(): c for c in table.columns}
    for guess in NODE_IDS:
        if guess in lower:
            return str(lower[guess])
    raise DataError(
        f"{name}: no id column found (looked for {', '.join(NODE_IDS)} "
        f"among {', '.join(map(str, table.columns[:8]))}); "
        f"name it with data.node_id"
    )


def edge_columns(table: pd.DataFrame, source: str | None, target: str | None, name: str) -> tuple[str, str]:
    """The two id columns of an edge table: given, by usual names, or the first two."""
    if table.shape[1] < 2:
        raise DataError(
            f"{name}: an edge table needs two id columns (source and target), found only {table.columns[0]!r}"
        )
    if source is not None or target is not None:
        if source is None or target is None:
            raise DataError(f"{name}: data.edge_source and data.edge_target must both be given, or neither")
        return _present(table, source, name, "data.edge_source"), _present(
            table, target, name, "data.edge_target"
        )
    lower = {str(c).lower(): c for c in table.columns}
    for first, second in EDGE_ENDS:
        if first in lower and second in lower:
            return str(lower[first]), str(lower[second])
    if table.shape[1] == 2:
        return str(table.columns[0]), str(table.columns[1])
    raise DataError(
        f"{name}: cannot tell the two id columns among {', '.join(map(str, table.columns))}; "
        f"name them with data.edge_source and data.edge_target"
    )


def _present(table: pd.DataFrame, column: str, name: str, key: str) -> str:
    if column not in table.columns:
        raise DataError(
            f"{name}: {key} names column {column!r}, which is not there{nearest(column, table.columns)}"
        )
    return column


def read_tables(
    nodes: Any,
    edges: Any,
    *,
    node_id: str | None = None,
    edge_source: str | None = None,
    edge_target: str | None = None,
    label: str | None = None,
    split: str | None = None,
    graph: str | None = None,
    edge_time: str | None = None,
    edge_type: str | None = None,
    node_type: str | None = None,
) -> RawGraph:
    """A graph from a node table and an edge table.

    Args:
        nodes: one row a node; None: the nodes are those that the edges name.
        edges: one row an edge; numeric columns besides the ids become edge features, one
            called ``weight`` the edge weight.
        node_id: id column of the node table; guessed from usual names.
        edge_source: source id column of the edge table; guessed.
        edge_target: target id column of the edge table; guessed.
        label: label column of the node table, or None.
        split: column with train, valid or test, or None.
        graph: column that says which graph a node belongs to: samples become graphs.
        edge_time: column of the edge table that orders edges in time, or None.
        edge_type: column with each edge's relation, or None.
        node_type: column with each node's type, or None.

    Raises:
        DataError: see the module's tests; one sentence that names file, row and field.
    """
    edge_table, edge_name = read_table(edges, "edge table", [c for c in (edge_source, edge_target) if c])
    first, second = edge_columns(edge_table, edge_source, edge_target, edge_name)
    source, target = keys(edge_table[first], edge_name), keys(edge_table[second], edge_name)
    if nodes is None:
        ids = np.array(sorted({*source, *target}), dtype=object)
        own = own_ids(edge_table[first], ids)
        node_table, node_name = None, edge_name
        if label or split or graph or node_type:
            raise DataError(
                f"{edge_name}: data.label, data.split, data.graph and data.node_type need a node table "
                f"(data.nodes)"
            )
    else:
        node_table, node_name = read_table(nodes, "node table", [c for c in (node_id, graph) if c])
        key = node_column(node_table, node_id, node_name)
        ids = keys(node_table[key], node_name)
        own = own_ids(node_table[key], ids)
        node_table = node_table.drop(columns=key)
        unique(ids, node_name)
    index = np.stack(
        [place(end, c, ids, edge_name, node_name) for end, c in ((source, first), (target, second))]
    )
    raw = RawGraph(node_name, index, own, table=node_table)
    take_edge_columns(raw, edge_table.drop(columns=[first, second]), edge_name, edge_time, edge_type)
    if node_type is not None and node_table is not None:
        _node_types(raw, _present(node_table, node_type, node_name, "data.node_type"))
    return take_side_columns(raw, label, split, graph)


def _node_types(raw: RawGraph, column: str) -> None:
    """Numbers the node types; the column stays a feature, one-hot."""
    values = raw.table[column]
    missing = np.flatnonzero(values.isna().to_numpy())
    if len(missing):
        raise DataError(f"{raw.origin}: node {raw.ids[missing[0]]!r} has no type in column {column!r}")
    names, codes = np.unique(values.astype(str).to_numpy(dtype=str), return_inverse=True)
    raw.node_type, raw.node_types = codes.astype(np.int64), tuple(map(str, names))
    raw.kinds[column] = "categorical"


def take_side_columns(raw: RawGraph, label: str | None, split: str | None, graph: str | None) -> RawGraph:
    """Moves label, split and graph columns out of the feature table; groups nodes by graph."""
    if raw.table is None:
        return raw
    sides = {key: name for key, name in (("label", label), ("split", split), ("graph", graph)) if name}
    for key, column in sides.items():
        _present(raw.table, column, raw.origin, f"data.{key}")
    values = {key: raw.table[column].to_numpy() for key, column in sides.items()}
    raw.table = raw.table.drop(columns=list(dict.fromkeys(sides.values())))
    raw.labels = values.get("label")
    raw.split = values.get("split")
    if "graph" in values:
        _group(raw, values["graph"].astype(str))
    return raw


def _group(raw: RawGraph, graph_of: np.ndarray) -> None:
    """Sorts nodes by graph; labels and splits become those of the graphs."""
    names, first, place = np.unique(graph_of, return_index=True, return_inverse=True)
    source, target = raw.edges
    across = np.flatnonzero(place[source] != place[target])
    if len(across):
        a, b = raw.ids[source[across[0]]], raw.ids[target[across[0]]]
        raise DataError(
            f"{raw.origin}: an edge joins node {a!r} and node {b!r}, which belong to different graphs"
        )
    for what, values in (("label", raw.labels), ("split", raw.split)):
        if values is not None:
            differ = np.flatnonzero(values.astype(str) != values[first][place].astype(str))
            if len(differ):
                raise DataError(
                    f"{raw.origin}: node {raw.ids[differ[0]]!r} has another {what} "
                    f"than its graph's first node; "
                    f"with data.graph the {what} belongs to the graph"
                )
    order = np.argsort(place, kind="stable")
    new = np.empty_like(order)
    new[order] = np.arange(len(order))
    raw.edges = new[raw.edges]
    raw.ids = [raw.ids[i] for i in order]
    raw.node_type = None if raw.node_type is None else raw.node_type[order]
    raw.table = raw.table.iloc[order].reset_index(drop=True)
    raw.labels = None if raw.labels is None else raw.labels[first]
    raw.split = None if raw.split is None else raw.split[first]
    raw.level, raw.graph_ids = "graph", list(names)
    raw.graph_ptr = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=len(names)))])
