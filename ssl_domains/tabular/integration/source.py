"""The source of table integration: rows as tuples of texts, any format that the domain reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.tabular.convert import is_text, supported
from ssl_domains.tabular.data import SPLITS, TableOptions
from ssl_domains.tabular.integration.chars import BUCKETS, Flat, flatten, gather_cells, hashed_ngrams
from ssl_domains.tabular.integration.spec import TextColumn, TextTableSpec
from ssl_domains.tabular.labels import Labels, balance, collector, decide, draw_split, read_split
from ssl_domains.tabular.plan import nearest, require
from ssl_domains.tabular.readers import Reader, open_reader

MAX_CHARS = 128
_FIT_ROWS = 2048


def open_verbatim(source: Any, query: str | None = None, table: str | None = None) -> Reader:
    """A reader that leaves the cells of text files as they are written: ``007`` stays ``007``.

    Arguments and errors as of :func:`~ssl_domains.tabular.readers.open_reader`.
    """
    reader = open_reader(source, query, table)
    if _from_text(reader) and not all(is_text(field.type) for field in reader.schema):
        return open_reader(source, query, table, reader.schema.names)
    return reader


def _from_text(reader: Reader) -> bool:
    from ssl_domains.tabular.text import TextReader

    parts: list[Reader] = getattr(reader, "parts", [reader])
    return any(isinstance(part, TextReader) for part in parts)


_OF_NUMBERS = {"columns": None, "scaling": "standard", "max_categories": 1000, "inf": "error", "schema": None}


def refuse_for_texts(**given: Any) -> None:
    """Refuses keys of the ``data`` section that only numbers and categories have.

    Raises:
        DataError: one of them is not at its default.
    """
    for key, value in given.items():
        if value != _OF_NUMBERS[key] and value != {}:
            raise DataError(f"data.{key} has no meaning with data.cells: text; remove one of them")


class TextTableSource:
    """Rows of a table as batches ``{"chars": [B, m, L] int32, "missing": [B, m] bool}``.

    ``chars`` holds code points, 0 after the end of a cell; L is the longest cell of the batch, at
    most ``spec.max_chars``. The whole table is kept in memory, as Arrow and as code points.
    Implements :class:`ssl_domains.core.interfaces.Source`. Made by :func:`open_text_table`.

    Attributes:
        table: all columns of the data as they were read, those that are no tokens included.
    """

    full_batch = False

    def __init__(
        self,
        table: pa.Table,
        spec: TextTableSpec,
        columns: list[Flat],
        split: np.ndarray,
        labels: Labels,
        ids: pa.ChunkedArray | None,
        name: str,
    ) -> None:
        self.table, self.spec, self.name = table, spec, name
        self._columns, self._ids, self._labels = columns, ids, labels
        self.missing = np.stack([column.missing for column in columns], axis=1)
        self.labels, self.task, self.class_names = labels.values, labels.task, labels.class_names
        self.splits = {part: np.flatnonzero(split == i) for i, part in enumerate(SPLITS)}

    def __len__(self) -> int:
        return len(self.missing)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The rows with these numbers, in this order, on the CPU.

        Raises:
            IndexError: a row number outside ``[0, len)``.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row numbers must lie in [0, {len(self)}), got {rows.min()} to {rows.max()}")
        x = {
            "chars": torch.from_numpy(gather_cells(self._columns, rows)),
            "missing": torch.from_numpy(self.missing[rows]),
        }
        label = None if self.labels is None else torch.from_numpy(np.array(self.labels[rows]))
        return Batch(x, torch.from_numpy(rows), label)

    def row_texts(self, rows: np.ndarray) -> list[str]:
        """The normalised cells of rows, each row joined with spaces."""
        cells = [column.texts(rows) for column in self._columns]
        return [" ".join(filter(None, row)) for row in zip(*cells, strict=True)]

    def raw_features(self, indices: np.ndarray) -> np.ndarray:
        """``[n, 512]`` float32: hashed n-grams of the whole row, weighted by rarity, of length 1."""
        idf = torch.tensor(self.spec.idf)
        parts = []
        for rows in np.array_split(np.asarray(indices), max(len(indices) // _FIT_ROWS, 1)):
            counts = hashed_ngrams(self.fetch(rows).x["chars"]).sum(dim=1) * idf
            folded = counts.view(len(rows), -1, 512).sum(dim=1)
            parts.append(torch.nn.functional.normalize(folded, dim=1).numpy())
        return np.concatenate(parts)

    @property
    def has_ids(self) -> bool:
        """Whether the data have a column of ids."""
        return self._ids is not None

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """Values of the id column, or row numbers."""
        rows = np.asarray(indices, dtype=np.int64)
        return rows.tolist() if self._ids is None else self._ids.take(pa.array(rows)).to_pylist()

    def card(self) -> dict[str, Any]:
        """Rows, splits, columns with missing shares and lengths, what was cut or left out, and why."""
        return {
            "source": self.name,
            "rows": len(self),
            "splits": {name: len(rows) for name, rows in self.splits.items()},
            "columns": {column.name: _describe(column) for column in self.spec.columns},
            "dropped": dict(self.spec.dropped or {}),
            "rows_without_a_value": int(self.missing.all(axis=1).sum()),
            "task": self.task,
            "class_balance": balance(self._labels) if len(self.class_names or []) <= 50 else None,
        }

    def notes(self) -> list[str]:
        """One sentence for each thing that is not compared: long ends of cells, whole rows or columns."""
        said = [
            f"{flat.cut:,} cells of column {column.name!r} are longer than {self.spec.max_chars} characters "
            "(data.max_chars); only their beginnings are compared, the whole cells are kept"
            for column, flat in zip(self.spec.columns, self._columns, strict=True)
            if flat.cut
        ]
        empty = int(self.missing.all(axis=1).sum())
        if empty:
            said.append(
                f"{empty:,} rows have no value in any compared column; each is kept as a row of its own"
            )
        dropped = {k: v for k, v in (self.spec.dropped or {}).items() if k in self.table.column_names}
        said += [f"column {name!r} is not compared: {why}" for name, why in dropped.items()]
        return said


def _describe(column: TextColumn) -> dict[str, Any]:
    out: dict[str, Any] = {"kind": column.kind, "missing": round(column.missing, 6)}
    out |= {"mean_chars": round(column.mean_chars, 1), "longest": column.longest}
    return out | ({"cut": column.cut} if column.cut else {})


def open_text_table(
    reader: Reader, options: TableOptions, max_chars: int = MAX_CHARS, spec: TextTableSpec | None = None
) -> TextTableSource:
    """Reads a table as texts.

    Args:
        reader: from :func:`open_verbatim`.
        options: label, id, split and so on; of the plan, ``include`` and ``exclude``.
        max_chars: characters of a cell that the encoder sees. Default 128 (the paper: 128 word pieces).
        spec: a fitted spec for new rows; None fits one on the train rows.

    Raises:
        DataError: one sentence on what is wrong with the data or the options.
    """
    if max_chars < 4:
        raise DataError(f"data.max_chars is {max_chars}; at least 4 characters of a cell must be seen")
    if options.limit is not None and options.limit < 1:
        raise DataError(f"data.limit must be at least 1, got {options.limit}")
    taken = [*options.label, *(name for name in (options.id, options.split) if name)]
    for name in taken:
        require(name, "data.label" if name in options.label else "data.id or data.split", reader)
    table = _read(reader, options.limit)
    if len(table) < 2 and spec is None:
        what = "holds no rows" if not len(table) else "holds a single row"
        raise DataError(f"{reader.name} {what}; give at least two rows to compare")
    split = _split(reader, options, len(table))
    names, dropped = _choose(table, reader, options, taken) if spec is None else (spec.names, {})
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise DataError(
            f"{reader.name} has no column {missing[0]!r}, which the encoder was trained on"
            f"{nearest(missing[0], table.column_names)}"
        )
    limit = max_chars if spec is None else spec.max_chars
    columns = {name: flatten(table.column(name), limit) for name in names}
    if spec is None:
        spec, columns = _fit(columns, split == 0, limit, dropped, reader.name)
    return TextTableSource(
        table, spec, list(columns.values()), split, _labels(table, reader, options),
        table.column(options.id) if options.id else None, reader.name,
    )  # fmt: skip


def _read(reader: Reader, limit: int | None) -> pa.Table:
    batches, n = [], 0
    for batch in reader.batches():
        batch = batch if limit is None else batch.slice(0, limit - n)
        batches.append(batch)
        n += len(batch)
        if limit is not None and n >= limit:
            break
    schema = batches[0].schema if batches else reader.schema
    return pa.Table.from_batches(batches, schema)


def _split(reader: Reader, options: TableOptions, n: int) -> np.ndarray:
    if options.split is not None:
        return read_split(reader, options.split, n)
    return draw_split(n, options.valid, options.test, options.seed)


def _choose(
    table: pa.Table, reader: Reader, options: TableOptions, taken: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Columns that are compared, and why others are not."""
    for key, names in (("exclude", options.plan.exclude), ("include", options.plan.include or ())):
        for name in names:
            require(name, f"data.{key}", reader)
    dropped: dict[str, str] = {}
    for field in table.schema:
        if field.name in taken:
            continue
        included = options.plan.include is None or field.name in options.plan.include
        if field.name in options.plan.exclude or not included:
            dropped[field.name] = "left out by data.exclude or data.include"
        elif not supported(field.type) and not pa.types.is_null(field.type):
            dropped[field.name] = f"cells of type {field.type} are not compared"
    return [name for name in table.column_names if name not in dropped and name not in taken], dropped


def _fit(
    columns: dict[str, Flat], train: np.ndarray, max_chars: int, dropped: dict[str, str], name: str
) -> tuple[TextTableSpec, dict[str, Flat]]:
    """The spec of the train rows; columns without any value are no tokens."""
    kept = {key: flat for key, flat in columns.items() if not flat.missing[train].all()}
    dropped |= {key: "all missing" for key in columns if key not in kept}
    if not kept:
        raise DataError(f"{name} has no column with a value to compare; check data.include and data.exclude")
    described = tuple(_column(key, flat, train) for key, flat in kept.items())
    idf = _rarity(list(kept.values()), np.flatnonzero(train))
    spec = TextTableSpec(described, max_chars, idf, dropped or None, int(train.sum()))
    return spec, kept


def _column(name: str, flat: Flat, train: np.ndarray) -> TextColumn:
    known = int((~flat.missing).sum())
    return TextColumn(
        name, float(flat.missing[train].mean()), flat.total / max(known, 1), flat.longest, flat.cut
    )


def _rarity(columns: list[Flat], rows: np.ndarray, most: int = 65_536) -> tuple[float, ...]:
    """:attr:`TextTableSpec.idf`, from ``most`` of the rows, spread evenly."""
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64)]
    seen, cells = torch.zeros(BUCKETS, dtype=torch.float64), 0
    for part in np.array_split(rows, max(len(rows) // _FIT_ROWS, 1)):
        counts = hashed_ngrams(torch.from_numpy(gather_cells(columns, part))).flatten(0, 1)
        seen += (counts != 0).sum(dim=0)
        cells += int((counts != 0).any(dim=1).sum())
    return tuple((math.log1p(cells) - torch.log1p(seen) + 1.0).tolist())


def _labels(table: pa.Table, reader: Reader, options: TableOptions) -> Labels:
    collectors = [collector(name, reader) for name in options.label]
    for item in collectors:
        for chunk in _chunks(table.column(item.name)):
            item.update(chunk)
    return decide(collectors, options.task)


def _chunks(column: pa.ChunkedArray) -> Iterable[pa.Array]:
    return column.chunks or [pa.nulls(0, column.type)]
