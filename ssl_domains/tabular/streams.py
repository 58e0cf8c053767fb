"""Data that can be read only once and have no known length: written to disk as they come."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from ssl_domains.core.errors import DataError
from ssl_domains.tabular.readers import TableReader, array_of, check_names, frame_table
from ssl_domains.tabular.store import cache_folder, refuse

HUB_BATCH = 8192


def is_stream(source: Any) -> bool:
    """A ``pyarrow.RecordBatchReader``, a Hugging Face ``IterableDataset``, or any iterator."""
    if isinstance(source, pa.RecordBatchReader) or _is_hub_stream(source):
        return True
    return hasattr(source, "__next__") and not isinstance(source, str | bytes)


def _is_hub_stream(source: Any) -> bool:
    return hasattr(source, "with_format") and hasattr(source, "iter") and not hasattr(source, "__len__")


def spool(source: Any) -> TableReader:
    """Writes a stream into an Arrow file in the cache folder, one piece in memory at a time, and
    opens it memory-mapped. The file goes when the reader does.

    Args:
        source: see :func:`is_stream`; an iterator's items are DataFrames, Arrow tables or
            batches, or mappings of columns, all with the same columns.

    Raises:
        DataError: an item is none of these, or its columns differ from the first one's.
    """
    root = cache_folder() / "tabular"
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".stream-", dir=root))
    except OSError as error:
        raise refuse(root, error) from None
    path = folder / "rows.arrow"
    try:
        _write(path, _pieces(source))
        reader = TableReader(pa.ipc.open_file(pa.memory_map(str(path))).read_all(), "the stream")
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise refuse(root, error) from None
        raise
    weakref.finalize(reader, shutil.rmtree, folder, ignore_errors=True)
    return reader


def _write(path: Path, pieces: Iterator[pa.Table]) -> None:
    """All pieces in the types of the first."""
    first = next(pieces, None)
    if first is None:
        raise DataError("the stream gave no rows; check what it reads")
    check_names(first.column_names, "the stream")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, first.schema) as writer:
        writer.write_table(first)
        for number, piece in enumerate(pieces, 2):
            writer.write_table(_like(piece, first.schema, number))


def _like(piece: pa.Table, schema: pa.Schema, number: int) -> pa.Table:
    """The columns of the first piece, in its order and types.

    Raises:
        DataError: names the column that differs.
    """
    odd = set(schema.names) ^ set(piece.column_names)
    if odd:
        raise DataError(
            f"piece {number} of the stream has other columns than the first ({min(odd)!r} is in one of them "
            "only); give all pieces the same columns"
        )
    arrays = []
    for field in schema:
        column = piece.column(field.name)
        try:
            arrays.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise DataError(
                f"piece {number} of the stream: column {field.name!r} holds {column.type}, in the first "
                f"piece {field.type}; cast it before"
            ) from None
    return pa.Table.from_arrays(arrays, schema=schema)


def _pieces(source: Any) -> Iterator[pa.Table]:
    """Tables with rows."""
    if _is_hub_stream(source):
        source = source.with_format("arrow").iter(batch_size=HUB_BATCH)
    items: Iterable[Any] = source
    try:
        for number, item in enumerate(items, 1):
            table = _table(item, number)
            if table.num_rows:
                yield table
    except pa.ArrowInvalid as error:
        raise DataError(f"the stream cannot be read ({str(error).splitlines()[0]}); check it") from None


def _table(item: Any, number: int) -> pa.Table:
    if isinstance(item, pa.Table):
        return item
    if isinstance(item, pa.RecordBatch):
        return pa.Table.from_batches([item])
    if hasattr(item, "columns") and hasattr(item, "iloc"):
        return frame_table(item)
    if isinstance(item, Mapping):
        return pa.table({str(name): array_of(values) for name, values in item.items()})
    raise DataError(
        f"piece {number} of the stream is a {type(item).__name__}; give DataFrames, Arrow tables or batches, "
        "or mappings of columns"
    )
