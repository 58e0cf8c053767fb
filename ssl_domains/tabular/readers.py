"""One interface over all tabular sources: a schema, a row count, and a stream of Arrow batches."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from ssl_domains.core.errors import DataError
from ssl_domains.core.packaged import locate

BATCH_ROWS = 65_536
TEXT = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": None, ".inter": "\t", ".item": "\t", ".user": "\t"}
PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".feather", ".ipc")
DATABASE = (".db", ".duckdb", ".sqlite", ".sqlite3")
KNOWN = "csv, tsv, parquet, arrow, feather, duckdb, sqlite"


class Reader(Protocol):
    """A table that can be read more than once, in the same order.

    Attributes:
        name: how messages call it.
        schema: column names, each once, with types that hold for every row.
        n_rows: number of rows.
    """

    name: str
    schema: pa.Schema
    n_rows: int

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows in order, a few ten thousand at a time; only these columns."""

    def where(self, row: int) -> str:
        """How to name row ``row`` (from 0) to a person: ``line 12 of my.csv``."""

    def fingerprint(self) -> list[Any] | None:
        """JSON values that change when the data does; None when nothing can tell."""


def check_names(names: Sequence[str], where: str) -> None:
    """Refuses duplicate and nameless columns, and a table without columns."""
    if not names:
        raise DataError(f"{where} has no columns; give a table with named columns")
    seen: set[str] = set()
    for place, name in enumerate(names):
        if name == "":
            raise DataError(f"{where}: column {place + 1} has no name; name it in the header")
        if name in seen:
            raise DataError(f"{where}: two columns are called {name!r}; rename one of them")
        seen.add(name)


def promote(old: pa.DataType, new: pa.DataType) -> pa.DataType:
    """The narrowest type that holds both: nothing < whole numbers < numbers < text."""
    if old == new or pa.types.is_null(new):
        return old
    if pa.types.is_null(old):
        return new
    if is_number(old) and is_number(new):
        return pa.float64()
    if pa.types.is_temporal(old) and pa.types.is_temporal(new) and not is_clock(old) and not is_clock(new):
        return pa.timestamp("us")
    return pa.string()


def is_number(kind: pa.DataType) -> bool:
    """Integers, floats, decimals."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_clock(kind: pa.DataType) -> bool:
    """Times of day and durations: temporal, but no dates."""
    return pa.types.is_time(kind) or pa.types.is_duration(kind)


class _Base:
    """Naming rows, for readers whose rows have no line numbers."""

    name: str

    def where(self, row: int) -> str:
        """``row 12 of NAME``, from 1."""
        return f"row {row + 1} of {self.name}"


class TableReader(_Base):
    """A pyarrow Table or memory-mapped Arrow file."""

    def __init__(self, table: pa.Table, name: str, source: list[Any] | None = None) -> None:
        check_names(table.column_names, name)
        self.table, self.name, self.schema, self.n_rows = table, name, table.schema, table.num_rows
        self._source = source

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Slices of the table, without copies."""
        table = self.table if columns is None else self.table.select(list(columns))
        yield from table.to_batches(max_chunksize=BATCH_ROWS)

    def fingerprint(self) -> list[Any] | None:
        """Of the file; None for a table in memory."""
        return self._source


class ParquetReader(_Base):
    """One Parquet file, read by row group."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{path} is not a Parquet file that can be read ({_first(error)}); write it again"
            ) from None
        self.schema, self.n_rows = file.schema_arrow.remove_metadata(), file.metadata.num_rows
        check_names(self.schema.names, self.name)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Decoded batch by batch."""
        # With no columns Parquet still knows its row count, but yields batches without rows.
        names = list(columns) if columns else None
        with pq.ParquetFile(self.path, pre_buffer=False) as file:
            try:
                yield from file.iter_batches(BATCH_ROWS, columns=names)
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"{self.name} is damaged ({_first(error)}); write the file again") from None

    def fingerprint(self) -> list[Any] | None:
        """Path, size, time of change."""
        return file_mark(self.path)


class Concat(_Base):
    """Several files as one table: equal column names, types widened to hold all."""

    def __init__(self, parts: list[Reader], name: str) -> None:
        self.parts, self.name = parts, name
        names = parts[0].schema.names
        types = dict(zip(names, parts[0].schema.types, strict=True))
        for part in parts[1:]:
            odd = set(names) ^ set(part.schema.names)
            if odd:
                raise DataError(
                    f"{part.name} and {parts[0].name} have different columns ({min(odd)!r} is in one of them "
                    "only); the files of one source need the same header"
                )
            for column in names:
                types[column] = promote(types[column], part.schema.field(column).type)
        self.schema = pa.schema(types.items())
        self.n_rows = sum(part.n_rows for part in parts)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """File after file, cast to the common types."""
        names = list(columns) if columns is not None else self.schema.names
        schema = pa.schema([self.schema.field(name) for name in names])
        for part in self.parts:
            for batch in part.batches(names):
                arrays = [cast(batch.column(field.name), field.type) for field in schema]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def where(self, row: int) -> str:
        """Names the file that holds the row."""
        for part in self.parts:
            if row < part.n_rows:
                return part.where(row)
            row -= part.n_rows
        return f"row {row + 1} after the end of {self.name}"

    def fingerprint(self) -> list[Any] | None:
        """Of all files."""
        marks = [part.fingerprint() for part in self.parts]
        return None if any(mark is None for mark in marks) else marks


class HubReader(_Base):
    """A Hugging Face ``datasets.Dataset``, by its Arrow iterator (its row selection holds)."""

    def __init__(self, dataset: Any, name: str, source: list[Any] | None = None) -> None:
        self.dataset, self.name, self._source = dataset.with_format("arrow"), name, source
        self.schema, self.n_rows = dataset.features.arrow_schema.remove_metadata(), len(dataset)
        check_names(self.schema.names, name)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Decoded batch by batch."""
        data = self.dataset if columns is None else self.dataset.select_columns(list(columns))
        for table in data.iter(batch_size=BATCH_ROWS):
            yield from table.combine_chunks().to_batches()

    def fingerprint(self) -> list[Any] | None:
        """Of the saved folder; else the data set's own fingerprint."""
        own = getattr(self.dataset, "_fingerprint", None)
        return self._source or ([own] if own else None)


def cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Casts, also numbers and dates to text."""
    if array.type == kind:
        return array
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(kind, safe=False)


def file_mark(path: Path) -> list[Any]:
    """[path, size, time of change]."""
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def open_reader(
    source: Any, query: str | None = None, table: str | None = None, text_columns: Sequence[str] = ()
) -> Reader:
    """Opens any tabular source.

    Args:
        source: path of a file, a folder or a glob; ``package://PACKAGE/PATH`` for a file
            inside an installed package (which is not imported); a pandas DataFrame, pyarrow
            Table or RecordBatch, Hugging Face ``Dataset``, polars DataFrame, or 2-d numpy array;
            a stream of them (:func:`ssl_domains.tabular.streams.is_stream`);
            ``hf://NAME`` or ``hf://NAME:SPLIT`` for a data set of the Hugging Face hub.
        query: SQL for a database file.
        table: a table of a database file.
        text_columns: CSV columns to read as text, whatever they look like.

    Raises:
        DataError: with one sentence on what is wrong and what to do.
    """
    if not isinstance(source, str | os.PathLike):
        return _from_memory(source)
    if str(source).startswith("hf://"):
        return _from_hub(str(source))
    path = locate(str(source))
    if (query or table) and path.suffix.lower() not in DATABASE:
        raise DataError(f"data.query and data.table are for database files (duckdb, sqlite), not for {path}")
    if path.is_dir():
        return _from_folder(path, text_columns)
    files = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    files = [file for file in files if file.is_file()]
    if not files:
        raise DataError(f"data.source: {source} does not exist; give the path of a file, a folder or a glob")
    readers = [_from_file(file, query, table, text_columns) for file in files]
    return readers[0] if len(readers) == 1 else Concat(readers, str(source))


def _from_memory(source: Any) -> Reader:
    """DataFrame, Table, RecordBatch, Dataset, stream, told apart by what they can do."""
    from ssl_domains.tabular.streams import is_stream, spool

    if is_stream(source):
        return spool(source)
    if isinstance(source, pa.Table):
        return TableReader(source, "the Arrow table")
    if isinstance(source, pa.RecordBatch):
        return TableReader(pa.Table.from_batches([source]), "the Arrow batch")
    if hasattr(source, "with_format") and hasattr(source, "features"):
        return HubReader(source, "the dataset")
    if hasattr(source, "with_format") and hasattr(source, "keys"):
        raise DataError(f"data.source holds several datasets ({', '.join(source)}); give one of them")
    if hasattr(source, "columns") and hasattr(source, "iloc"):
        return TableReader(frame_table(source), "the DataFrame")
    if hasattr(source, "to_arrow"):  # polars, DuckDB relations
        return TableReader(source.to_arrow(), "the DataFrame")
    if isinstance(source, np.ndarray) and source.ndim == 2 and source.dtype.kind in "biuf":
        return TableReader(pa.table({f"x{j}": column for j, column in enumerate(source.T)}), "the array")
    raise DataError(
        f"data.source is a {type(source).__name__}; give a path, a DataFrame, an Arrow table or "
        "a Hugging Face dataset"
    )


def frame_table(frame: Any) -> pa.Table:
    """A DataFrame without its index; columns of mixed objects become text."""
    names = [str(name) for name in frame.columns]
    check_names(names, "the DataFrame")
    return pa.table({name: array_of(frame.iloc[:, j]) for j, name in enumerate(names)})


def array_of(values: Any, kind: pa.DataType | None = None) -> pa.Array:
    """Python or pandas values as an Arrow array; what does not fit one type becomes text."""
    try:
        return pa.array(values, type=kind, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        texts = [None if value is None or value != value else str(value) for value in values]
        return pa.array(texts, type=pa.string())


def _from_folder(path: Path, text_columns: Sequence[str]) -> Reader:
    """A saved Hugging Face dataset, or all tabular files of one kind."""
    if (path / "dataset_dict.json").exists():
        inner = sorted(item.name for item in path.iterdir() if item.is_dir())
        raise DataError(
            f"{path} holds several datasets ({', '.join(inner)}); "
            f"give the folder of one, such as {path / inner[0]}"
        )
    if (path / "dataset_info.json").exists() and (path / "state.json").exists():
        return _from_hub_folder(path)
    suffixes = (*TEXT, *PARQUET, *ARROW)
    files = sorted(file for file in path.rglob("*") if file.is_file() and _suffix(file) in suffixes)
    if not files:
        raise DataError(f"the folder {path} holds no tabular file ({KNOWN}); check the path")
    kinds = sorted({_suffix(file) for file in files})
    if len(kinds) > 1:
        raise DataError(
            f"the folder {path} mixes {' and '.join(kinds)} files; "
            f"name one kind by a glob, such as {path}/*{kinds[0]}"
        )
    readers = [_from_file(file, None, None, text_columns) for file in files]
    return readers[0] if len(readers) == 1 else Concat(readers, str(path))


def _from_hub(source: str) -> Reader:
    """``hf://NAME[:SPLIT]``, by default the split "train"; ``datasets`` downloads and caches it."""
    name, _, split = source.removeprefix("hf://").partition(":")
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"{source} needs the package datasets: pip install 'ssl-domains[hf]'") from None
    try:
        return HubReader(load_dataset(name, split=split or "train"), source)
    except (OSError, ValueError) as error:
        raise DataError(
            f"data.source: {source} cannot be loaded ({_first(error)}); check name and split"
        ) from None


def _from_hub_folder(path: Path) -> Reader:
    try:
        from datasets import load_from_disk
    except ImportError:
        raise DataError(f"{path} is a saved Hugging Face dataset: pip install 'ssl-domains[hf]'") from None
    return HubReader(load_from_disk(str(path)), str(path), file_mark(path / "state.json"))


def _suffix(path: Path) -> str:
    """Lower-case extension, looking through ``.gz`` and the like."""
    parts = [suffix.lower() for suffix in path.suffixes]
    return parts[-2] if len(parts) > 1 and parts[-1] in (".gz", ".bz2", ".zst") else (parts or [""])[-1]


def _from_file(path: Path, query: str | None, table: str | None, text_columns: Sequence[str]) -> Reader:
    from ssl_domains.tabular.database import open_database
    from ssl_domains.tabular.text import TextReader

    suffix = _suffix(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; give a file with a header and at least two rows")
    if suffix in TEXT:
        return TextReader(path, TEXT[suffix], text_columns)
    if suffix in PARQUET:
        return ParquetReader(path)
    if suffix in ARROW:
        return TableReader(_arrow_file(path), str(path), file_mark(path))
    if suffix in DATABASE:
        return open_database(path, query, table)
    raise DataError(f"{path}: the extension {suffix!r} is not known; use one of {KNOWN}")


def _arrow_file(path: Path) -> pa.Table:
    """An Arrow file or stream, memory-mapped."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid:
        try:
            return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{path} is not an Arrow file that can be read ({_first(error)}); write it again"
            ) from None
