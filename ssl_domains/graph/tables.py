"""Node and edge tables (CSV, TSV, Parquet, DataFrames) to a :class:`RawGraph`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_domains.core.errors import DataError
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


def _delimited(path: Path, name: str, what: str, text_columns: Sequence[str]) -> pd.DataFrame:
    import pyarrow as pa
    from pyarrow import csv

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
    try:
        return csv.read_csv(
            path,
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=True),
        ).to_pandas()
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise DataError(f"{name}: {str(error).splitlines()[0]}") from None


def _is_id(column: str, text_columns: Sequence[str]) -> bool:
    column = column.strip().strip('"')
    ends = {end for pair in EDGE_ENDS for end in pair}
    return column in text_columns or column.lower() in ends or column.lower() in NODE_IDS


def _keys(series: pd.Series, name: str) -> np.ndarray:
    """Ids as stripped text, so that 3, 3.0 and "3" are one node."""
    import pandas as pd

    missing = np.flatnonzero(series.isna().to_numpy())
    if len(missing):
        raise DataError(f"{name}: row {missing[0] + 1} has no value in the id column {series.name!r}")
    if pd.api.types.is_float_dtype(series) and bool((series % 1 == 0).all()):
        series = series.astype(np.int64)
    return series.astype(str).str.strip().to_numpy(dtype=object)


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

    Raises:
        DataError: see the module's tests; one sentence that names file, row and field.
    """
    edge_table, edge_name = read_table(edges, "edge table", [c for c in (edge_source, edge_target) if c])
    first, second = edge_columns(edge_table, edge_source, edge_target, edge_name)
    source, target = _keys(edge_table[first], edge_name), _keys(edge_table[second], edge_name)
    if nodes is None:
        ids = np.array(sorted({*source, *target}), dtype=object)
        node_table, node_name = None, edge_name
        if label or split or graph:
            raise DataError(
                f"{edge_name}: data.label, data.split and data.graph need a node table (data.nodes)"
            )
    else:
        node_table, node_name = read_table(nodes, "node table", [c for c in (node_id, graph) if c])
        key = node_column(node_table, node_id, node_name)
        ids = _keys(node_table[key], node_name)
        node_table = node_table.drop(columns=key)
        _unique(ids, node_name)
    place = {node: i for i, node in enumerate(ids)}
    index = np.stack(
        [_place(end, c, place, edge_name, node_name) for end, c in ((source, first), (target, second))]
    )
    attr, names, weight = edge_values(edge_table.drop(columns=[first, second]), edge_name)
    raw = RawGraph(
        node_name, index, ids, table=node_table, edge_attr=attr, edge_columns=names, edge_weight=weight
    )
    return take_side_columns(raw, label, split, graph)


def _unique(ids: np.ndarray, name: str) -> None:
    seen: dict[Any, int] = {}
    for row, node in enumerate(ids, start=1):
        if node in seen:
            raise DataError(
                f"{name}: node id {node!r} stands in row {seen[node]} and again in row {row}; "
                f"ids must be unique"
            )
        seen[node] = row


def _place(
    ends: np.ndarray, column: str, place: dict[Any, int], edge_name: str, node_name: str
) -> np.ndarray:
    index = np.array([place.get(end, -1) for end in ends], dtype=np.int64)
    unknown = np.flatnonzero(index < 0)
    if len(unknown):
        row = int(unknown[0])
        raise DataError(
            f"{edge_name}: row {row + 1}, column {column!r} names node {ends[row]!r}, "
            f"which {node_name} does not have"
            f"{nearest(ends[row], place)} ({len(unknown)} such rows); add the node, or remove the edge"
        )
    return index


def edge_values(
    table: pd.DataFrame, name: str
) -> tuple[np.ndarray | None, tuple[str, ...], np.ndarray | None]:
    """(edge features, their names, edge weight) of the numeric columns besides the ids."""
    import pandas as pd

    numeric = [c for c in table.columns if pd.api.types.is_numeric_dtype(table[c])]
    for column in numeric:
        bad = np.flatnonzero(~np.isfinite(table[column].to_numpy(dtype=np.float64, na_value=np.nan)))
        if len(bad):
            raise DataError(
                f"{name}: row {bad[0] + 1} has no number in edge column {column!r} ({len(bad)} such rows)"
            )
    weights = [c for c in numeric if str(c).lower() == "weight"]
    weight = table[weights[0]].to_numpy(dtype=np.float32) if weights else None
    if weight is not None and (weight < 0).any():
        raise DataError(
            f"{name}: row {int((weight < 0).argmax()) + 1} has a negative edge weight; weights must be >= 0"
        )
    rest = [c for c in numeric if c not in weights]
    attr = table[rest].to_numpy(dtype=np.float32) if rest else None
    return attr, tuple(map(str, rest)), weight


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
    raw.table = raw.table.iloc[order].reset_index(drop=True)
    raw.labels = None if raw.labels is None else raw.labels[first]
    raw.split = None if raw.split is None else raw.split[first]
    raw.level, raw.graph_ids = "graph", list(names)
    raw.graph_ptr = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=len(names)))])
