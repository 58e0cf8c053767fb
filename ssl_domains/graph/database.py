"""Node and edge tables inside a DuckDB or SQLite file; never written to."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_domains.core.errors import DataError
from ssl_domains.graph.raw import nearest

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".db", ".sqlite", ".sqlite3", ".duckdb")


def is_database(source: Any) -> bool:
    """Whether a path ends as databases do."""
    return isinstance(source, str | Path) and Path(source).suffix.lower() in ENDINGS


def read_database(path: Path, nodes: Any, edges: Any) -> tuple[pd.DataFrame | None, pd.DataFrame]:
    """(node table or None, edge table) of a database file.

    Args:
        path: the file; its first bytes tell the kind.
        nodes: name of a table or a SELECT; None: the table ``nodes`` where there is one.
        edges: likewise; None: the table ``edges``.

    Raises:
        DataError: no database, no such table, or a query that fails.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"SQLite format 3"):
        connection: Any = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        listing = "select name from sqlite_master where type in ('table', 'view') order by 1"
    elif head[8:12] == b"DUCK":
        connection = _duckdb(path)
        listing = "select table_name from information_schema.tables order by 1"
    else:
        raise DataError(f"{path} is neither a DuckDB nor a SQLite file; check data.source")
    try:
        tables = [row[0] for row in connection.execute(listing).fetchall()]
        if nodes is None and "nodes" in tables:
            nodes = "nodes"
        found = _select(connection, path, tables, "edges" if edges is None else edges, "edges")
        return None if nodes is None else _select(connection, path, tables, nodes, "nodes"), found
    finally:
        connection.close()


def _duckdb(path: Path) -> Any:
    try:
        import duckdb
    except ImportError:
        raise DataError(f"{path} is a DuckDB file: pip install duckdb") from None
    try:
        return duckdb.connect(str(path), read_only=True)
    except duckdb.Error as error:
        raise DataError(f"{path} cannot be opened ({str(error).splitlines()[0]})") from None


def _select(connection: Any, path: Path, tables: list[str], what: Any, key: str) -> pd.DataFrame:
    import pandas as pd

    text = str(what).strip().rstrip(";")
    if not text.lower().startswith(("select", "with")):
        if text not in tables:
            raise DataError(
                f"{path} has no table {text!r}{nearest(text, tables)} "
                f"(there are: {', '.join(tables[:10]) or 'none'}); name one by data.{key}, or give a SELECT"
            )
        text = 'select * from "' + text.replace('"', '""') + '"'
    try:
        cursor = connection.execute(text)
        names = [item[0] for item in cursor.description]
        return pd.DataFrame(cursor.fetchall(), columns=names)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: the query of data.{key} fails ({reason}); correct it") from None
