"""Tables and queries of DuckDB and SQLite files, streamed and never written to."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ssl_domains.core.errors import DataError
from ssl_domains.tabular.readers import (
    BATCH_ROWS,
    Reader,
    _Base,
    array_of,
    cast,
    check_names,
    file_mark,
    promote,
)


def open_database(path: Path, query: str | None, table: str | None) -> Reader:
    """Opens ``data.query`` or ``data.table`` of a database file; its first bytes tell the kind.

    Raises:
        DataError: not a database, or neither or both of query and table.
    """
    if query and table:
        raise DataError("data.query and data.table are both given; keep one of them")
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"SQLite format 3"):
        return SQLiteReader(path, query, table)
    if head[8:12] == b"DUCK":
        return DuckDBReader(path, query, table)
    raise DataError(f"{path} is neither a DuckDB nor a SQLite file; check data.source")


def _choose(path: Path, tables: list[str], query: str | None, table: str | None) -> str:
    """The SELECT to run; the only table of the file when none is named."""
    if query:
        return query.strip().rstrip(";")
    if table is None:
        if len(tables) != 1:
            raise DataError(
                f"{path} has {len(tables)} tables ({', '.join(tables[:10])}); "
                "name one by data.table or give data.query"
            )
        table = tables[0]
    if table not in tables:
        raise DataError(f"{path} has no table {table!r}; there are: {', '.join(tables[:10])}")
    return 'select * from "' + table.replace('"', '""') + '"'


class _DatabaseReader(_Base):
    """What both kinds share."""

    path: Path
    sql: str

    def fingerprint(self) -> list[Any] | None:
        """File and query."""
        return [*file_mark(self.path), self.sql]

    def _refuse(self, error: Exception) -> DataError:
        return DataError(
            f"{self.path}: the query fails ({str(error).strip().splitlines()[0]}); correct data.query"
        )

    def _check_rows(self, n_rows: int) -> int:
        if n_rows == 0:
            raise DataError(f"{self.name} gives no rows; give at least two rows")
        return n_rows


class DuckDBReader(_DatabaseReader):
    """A DuckDB file; the engine streams Arrow batches, on one thread so that the order of rows
    is the same each time (``order by`` fixes it for good)."""

    schema: pa.Schema

    def __init__(self, path: Path, query: str | None, table: str | None) -> None:
        self.path, self.name = path, str(path)
        with self._connect() as connection:
            found = connection.execute(
                "select table_name from information_schema.tables order by 1"
            ).fetchall()
            self.sql = _choose(path, [row[0] for row in found], query, table)
        with self._connect() as connection:
            try:
                # no rows: the schema without running the query
                self.schema = connection.sql(f"select * from ({self.sql}) limit 0").to_arrow_table().schema
                count = connection.execute(f"select count(*) from ({self.sql})").fetchone()
            except self._error as error:
                raise self._refuse(error) from None
        check_names(self.schema.names, self.name)
        self.n_rows = self._check_rows(int(count[0]) if count else 0)

    def _connect(self) -> Any:
        try:
            import duckdb
        except ImportError:
            raise DataError(f"{self.path} is a DuckDB file: pip install 'ssl-domains[tabular]'") from None
        self._error = duckdb.Error
        try:
            return duckdb.connect(str(self.path), read_only=True, config={"threads": 1})
        except duckdb.Error as error:
            raise DataError(
                f"{self.path} cannot be opened ({str(error).splitlines()[0]}); "
                "close other programs that use it"
            ) from None

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Rows in the order of the query."""
        names = columns if columns is not None else self.schema.names
        quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
        with self._connect() as connection:
            result = connection.sql(f"select {quoted} from ({self.sql})")
            stream = getattr(result, "to_arrow_reader", None) or result.fetch_arrow_reader
            yield from stream(BATCH_ROWS)


class SQLiteReader(_DatabaseReader):
    """A SQLite file through the standard library.

    SQLite types values, not columns; a first pass finds the narrowest type that holds each
    column. Text that is an ISO date in every row stays text here.
    """

    def __init__(self, path: Path, query: str | None, table: str | None) -> None:
        self.path, self.name = path, str(path)
        with self._connect() as connection:
            kinds = "select name from sqlite_master where type in ('table', 'view') order by 1"
            try:
                found = [row[0] for row in connection.execute(kinds)]
            except sqlite3.DatabaseError as error:
                raise DataError(f"{path} is a damaged SQLite file ({error}); restore it") from None
        self.sql = _choose(path, [name for name in found if not name.startswith("sqlite_")], query, table)
        self.schema, n_rows = self._settle()
        self.n_rows = self._check_rows(n_rows)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)

    def _rows(self) -> Iterator[tuple[list[str], list[tuple[Any, ...]]]]:
        """(names, rows) a batch at a time; at least one batch, to carry the names."""
        connection = self._connect()
        try:
            cursor = connection.execute(self.sql)
            names = [item[0] for item in cursor.description or ()]
            rows = cursor.fetchmany(BATCH_ROWS)
            yield names, rows
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield names, rows
        except sqlite3.Error as error:
            raise self._refuse(error) from None
        finally:
            connection.close()

    def _settle(self) -> tuple[pa.Schema, int]:
        types: dict[str, pa.DataType] = {}
        n_rows = 0
        for names, rows in self._rows():
            check_names(names, self.name)
            types = types or dict.fromkeys(names, pa.null())
            for name, values in zip(names, zip(*rows, strict=True)):
                types[name] = promote(types[name], array_of(values).type)
            n_rows += len(rows)
        return pa.schema(types.items()), n_rows

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Rows in the order of the query."""
        wanted = list(columns) if columns is not None else self.schema.names
        schema = pa.schema([self.schema.field(name) for name in wanted])
        for names, rows in self._rows():
            values = list(zip(*rows, strict=True))
            if values:
                picked = (values[names.index(name)] for name in wanted)
                arrays = [
                    cast(array_of(item), field.type) for item, field in zip(picked, schema, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
