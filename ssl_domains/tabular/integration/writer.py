"""Integrated tables into files: original cells and types, whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

from ssl_domains.core.errors import UserError
from ssl_domains.tabular.integration.pipeline import Integrated

SUFFIXES = (".csv", ".tsv", ".parquet", ".arrow", ".feather")
FROM = "integrated_from"
_JOINTS = (";", "|", " & ", " ;; ")


def integrated_table(result: Integrated) -> pa.Table:
    """The tuples: every column of the table, its cells as they were, and a last column :data:`FROM` with the
    rows that went into the tuple, by id or by number from 1, joined by ``;``."""
    table = result.source.table
    columns = {
        name: table.column(name).take(pa.array(origin, mask=origin < 0))
        for name, origin in zip(table.column_names, result.origins.T, strict=True)
    }
    name = FROM
    while name in columns:
        name += "_"
    order = np.argsort(result.sets, kind="stable")
    begins = np.searchsorted(result.sets[order], np.arange(result.n_tuples))
    names = row_names(result, order)
    joint = next((j for j in _JOINTS if not any(j in text for text in names)), _JOINTS[-1])
    spans = zip(begins, [*begins[1:], len(order)], strict=True)
    columns[name] = pa.chunked_array([pa.array([joint.join(names[i:j]) for i, j in spans], pa.string())])
    return pa.table(columns)


def row_names(result: Integrated, rows: np.ndarray) -> list[str]:
    """How a file calls rows: their ids, or their numbers from 1."""
    own = result.source.ids(rows)
    return [str(value) for value in own] if result.source.has_ids else [str(row + 1) for row in rows]


def conflict_table(result: Integrated) -> pa.Table:
    """One line for each value that was not chosen: tuple (from 1), column, chosen, its row, other, its
    row."""
    table, choices = result.source.table, result.choices
    lines = [(choice, other) for choice in choices for other in choice.others]
    chosen = np.array([choice.chosen for choice, _ in lines], dtype=np.int64)
    other = np.array([row for _, row in lines], dtype=np.int64)
    by_column: dict[str, list[Any]] = {}

    def cells(rows: np.ndarray) -> list[str]:
        out = []
        for (choice, _), row in zip(lines, rows.tolist(), strict=True):
            if choice.column not in by_column:
                by_column[choice.column] = table.column(choice.column).to_pylist()
            out.append(str(by_column[choice.column][row]))
        return out

    return pa.table(
        {
            "tuple": pa.array([choice.tuple_number + 1 for choice, _ in lines], pa.int64()),
            "column": pa.array([choice.column for choice, _ in lines], pa.string()),
            "chosen": pa.array(cells(chosen), pa.string()),
            "chosen_row": pa.array(row_names(result, chosen), pa.string()),
            "other": pa.array(cells(other), pa.string()),
            "other_row": pa.array(row_names(result, other), pa.string()),
        }
    )


def pair_table(result: Integrated) -> pa.Table:
    """The pairs that were compared: both rows, the classifier's probability, the similarity of their
    n-grams."""
    pairs = result.pairs
    return pa.table(
        {
            "row": pa.array(row_names(result, pairs.left), pa.string()),
            "other_row": pa.array(row_names(result, pairs.right), pa.string()),
            "probability": pa.array(result.probability),
            "similarity": pa.array(pairs.similarity),
        }
    )


def check_target(path: Path, source: Any = None) -> Path:
    """Refuses a name that cannot be written, before anything is computed.

    Raises:
        UserError: the suffix is unknown, it is the source itself, or its folder cannot be made.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: the name must end in one of {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file")
    if isinstance(source, str | Path) and path.resolve() == Path(source).expanduser().resolve():
        raise UserError(f"{path} is the table itself; give another file to write to")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder of {path} cannot be made ({error.strerror}); choose another") from None
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"the folder of {path} cannot be written to; choose another")
    return path


def write_tables(tables: dict[Path, pa.Table]) -> None:
    """Writes files under temporary names and renames them when all are there: after Ctrl-C, an error or a
    full disk there are the old files or none.

    Raises:
        UserError: the disk is full, or a file cannot be written.
    """
    partial = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in tables}
    try:
        for path, table in tables.items():
            _WRITERS[path.suffix.lower()](table, partial[path])
        for path, temporary in partial.items():
            os.replace(temporary, path)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = "the disk is full" if full else error.strerror or str(error)
        raise UserError(f"{', '.join(map(str, tables))}: {reason}; nothing was written") from error
    finally:
        for temporary in partial.values():
            temporary.unlink(missing_ok=True)


def _csv(separator: str) -> Callable[[pa.Table, Path], None]:
    def write(table: pa.Table, path: Path) -> None:
        options = pa.csv.WriteOptions(delimiter=separator, quoting_style="needed")
        pa.csv.write_csv(_flat(table), path, options)

    return write


def _flat(table: pa.Table) -> pa.Table:
    """Lists and other nested cells as texts, which is all that a CSV can hold."""
    for j, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            texts = [None if value is None else str(value) for value in table.column(j).to_pylist()]
            table = table.set_column(j, field.name, pa.array(texts, pa.string()))
    return table


def _arrow(table: pa.Table, path: Path) -> None:
    pa.feather.write_feather(table, str(path), compression="uncompressed")


_WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    ".csv": _csv(","),
    ".tsv": _csv("\t"),
    ".parquet": lambda table, path: pa.parquet.write_table(table, path),
    ".arrow": _arrow,
    ".feather": _arrow,
}
