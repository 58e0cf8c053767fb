"""The file that curation writes, and the rows of a source that it keeps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source, pretrain_rows

COLUMNS = ("row", "id", "split", "kept", "duplicate_of", "similarity")


def write_filter(path: Path, columns: dict[str, list[object]]) -> Path:
    """Writes ``.parquet`` or ``.csv`` with the columns :data:`COLUMNS`, under a temporary name first.

    Raises:
        DataError: another ending, or the file cannot be written.
    """
    table = pa.table({name: columns[name] for name in COLUMNS})
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pa.parquet.write_table(table, partial)
        elif path.suffix == ".csv":
            pa.csv.write_csv(table, partial)
        else:
            raise DataError(f"{path}: write to a .parquet or .csv file")
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def kept_rows(source: Source, path: str | Path) -> np.ndarray:
    """Rows of a source's pretraining rows that a filter file keeps; rows that it does not name stay out.

    Args:
        source: the data that the file was made for.
        path: written by :func:`write_filter`.

    Raises:
        DataError: no such file, other columns, made for other data (ids differ), or nothing is left.
    """
    table = _read(Path(path))
    rows = np.asarray(table.column("row").to_numpy(zero_copy_only=False), dtype=np.int64)
    kept = np.asarray(table.column("kept").to_numpy(zero_copy_only=False)).astype(bool)
    if len(rows) and (rows.min() < 0 or rows.max() >= len(source)):
        raise DataError(
            f"{path} was made for other data: it names row {rows.max()}, the data have {len(source)}"
        )
    ids = [str(value) for value in source.ids(rows)]
    named = [str(value) for value in table.column("id").to_pylist()]
    if ids != named:
        at = next(i for i, (a, b) in enumerate(zip(ids, named, strict=True)) if a != b)
        raise DataError(
            f"{path} was made for other data: its row {rows[at]} is {named[at]!r}, here it is {ids[at]!r}; "
            "run curate again"
        )
    chosen = np.intersect1d(pretrain_rows(source), rows[kept])
    if not len(chosen):
        raise DataError(f"{path} keeps no row that pretraining goes over")
    return chosen


def _read(path: Path) -> pa.Table:
    try:
        table = pa.parquet.read_table(path) if path.suffix == ".parquet" else pa.csv.read_csv(path)
    except FileNotFoundError:
        raise DataError(f"train.rows: {path} does not exist; ssl-domains curate writes such files") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"train.rows: {path} cannot be read ({str(error).splitlines()[0]})") from None
    missing = [name for name in ("row", "id", "kept") if name not in table.column_names]
    if missing:
        raise DataError(
            f"train.rows: {path} has no column {missing[0]!r}; ssl-domains curate writes such files"
        )
    return table
