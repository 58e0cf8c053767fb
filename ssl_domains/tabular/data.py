"""The tabular source: encoded once, fetched a whole batch at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.tabular import store
from ssl_domains.tabular.convert import codes, numbers
from ssl_domains.tabular.fit import finite
from ssl_domains.tabular.labels import Labels, balance, collector, decide, draw_split, read_split
from ssl_domains.tabular.plan import PlanOptions, fit_spec, nearest, require
from ssl_domains.tabular.readers import Reader
from ssl_domains.tabular.spec import SCALINGS, ColumnSpec, TableSpec
from ssl_domains.tabular.store import Folder, Matrix

ONE_HOT_LIMIT = 64
SPLITS = ("train", "valid", "test")


@dataclass
class Encoded:
    """An encoded table.

    Attributes:
        spec: what it was encoded with.
        numeric: ``[n, Dn]`` float32, standardised by the train rows' mean and deviation, NaN missing.
        codes: ``[n, Dc]`` int32.
        split: ``[n]`` int8: 0 train, 1 valid, 2 test.
        labels: see :class:`Labels`.
        ids: the user's id column, or None.
        name: of the source, for messages.
        folder: keeps a temporary folder alive.
    """

    spec: TableSpec
    numeric: np.ndarray
    codes: np.ndarray
    split: np.ndarray
    labels: Labels
    ids: pa.ChunkedArray | None
    name: str
    folder: Folder | None = None


class TableSource:
    """Rows of a table as batches ``{"numeric": [B, Dn] float32, "categorical": [B, Dc] int64,
    "missing": [B, Dn] bool}``; a missing number is 0 in ``numeric``.

    Implements :class:`ssl_domains.core.interfaces.Source`. Made by :func:`open_table`.
    """

    full_batch = False

    def __init__(self, table: Encoded) -> None:
        self.spec, self.name = table.spec, table.name
        self._table = table
        self._numeric, self._codes = Matrix(table.numeric), Matrix(table.codes)
        self.labels, self.task = table.labels.values, table.labels.task
        self.class_names = table.labels.class_names
        self.splits = {name: np.flatnonzero(table.split == i) for i, name in enumerate(SPLITS)}

    def __len__(self) -> int:
        return len(self._table.numeric)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The rows with these numbers, in this order, on the CPU.

        Raises:
            IndexError: a row number outside ``[0, len)``.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row numbers must lie in [0, {len(self)}), got {rows.min()} to {rows.max()}")
        numeric = self._numeric.rows(rows)
        missing = np.isnan(numeric)
        scaled = self.spec.scale(numeric)
        scaled[missing] = 0.0
        x = {
            "numeric": torch.from_numpy(scaled),
            "categorical": torch.from_numpy(self._codes.rows(rows).astype(np.int64)),
            "missing": torch.from_numpy(missing),
        }
        label = None if self.labels is None else torch.from_numpy(np.array(self.labels[rows]))
        return Batch(x, torch.from_numpy(rows), label)

    def cells(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standardised numbers ``[n, Dn]`` float32 (NaN missing) before scaling, and codes ``[n, Dc]``."""
        return self._numeric.rows(rows), self._codes.rows(rows)

    def raw_features(self, indices: np.ndarray) -> np.ndarray:
        """``[n, F]`` float32: standardised numbers with the train mean where missing, then one-hot
        categories (missing ones, too), the 64 most frequent of each column."""
        rows = np.asarray(indices, dtype=np.int64)
        parts = [np.nan_to_num(self._numeric.rows(rows), nan=0.0)]
        values = self._codes.rows(rows)
        for j, column in enumerate(self.spec.categorical):
            counts = np.array(column.counts)
            kept = [int(code) for code in np.argsort(-counts, kind="stable")[:ONE_HOT_LIMIT] if counts[code]]
            parts.append((values[:, j : j + 1] == np.array(kept)).astype(np.float32))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """Values of the id column, or row numbers."""
        rows = np.asarray(indices, dtype=np.int64)
        return rows.tolist() if self._table.ids is None else pick(self._table.ids, rows)

    def card(self) -> dict[str, Any]:
        """Rows, splits, columns with types, missing shares and cardinalities, what was dropped
        and why, label, task, class balance."""
        return {
            "source": self.name,
            "rows": len(self),
            "splits": {name: len(rows) for name, rows in self.splits.items()},
            "columns": {column.name: _describe(column) for column in self.spec.columns},
            "dropped": dict(self.spec.dropped or {}),
            "task": self.task,
            "class_balance": balance(self._table.labels),
        }


def pick(column: pa.ChunkedArray, rows: np.ndarray) -> list[Any]:
    """The values at these rows. (``ChunkedArray.take`` joins all chunks first, for each batch anew.)"""
    stops = np.cumsum([len(chunk) for chunk in column.chunks])
    which = np.searchsorted(stops, rows, side="right")
    out: list[Any] = [None] * len(rows)
    for number in np.unique(which):
        places = np.flatnonzero(which == number)
        inside = rows[places] - (stops[number] - len(column.chunk(number)))
        for place, value in zip(places, column.chunk(number).take(pa.array(inside)).to_pylist(), strict=True):
            out[place] = value
    return out


def _describe(column: ColumnSpec) -> dict[str, Any]:
    out: dict[str, Any] = {"kind": column.kind, "missing": round(column.missing, 6)}
    if column.kind == "categorical":
        ranked = sorted(zip(column.counts[2:], column.categories), key=lambda item: (-item[0], item[1]))
        out |= {"categories": len(column.categories), "most_frequent": [value for _, value in ranked[:5]]}
        if column.counts[1]:
            out["rare_rows"] = column.counts[1]
        return out
    return out | {key: getattr(column, key) for key in ("mean", "std", "min", "median", "max")}


@dataclass(frozen=True)
class TableOptions:
    """Everything but the columns' plan that decides what an encoded table holds."""

    label: Sequence[str] = ()
    task: str | None = None
    id: str | None = None
    split: str | None = None
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    limit: int | None = None
    plan: PlanOptions = field(default_factory=PlanOptions)


def cached_table(reader_mark: list[Any] | None, options: TableOptions, spec: TableSpec | None) -> str | None:
    """Name of the cache entry, or None for data without a fingerprint."""
    if reader_mark is None:
        return None
    return store.key_of([reader_mark, asdict(options), None if spec is None else spec.to_dict()])


def open_table(reader: Reader, options: TableOptions, spec: TableSpec | None = None) -> TableSource:
    """Fits and encodes a table, or finds it encoded in the cache.

    Args:
        reader: the data.
        options: see :class:`TableOptions`.
        spec: a fitted spec to encode new data with; None fits one on the train rows.

    Raises:
        DataError: one sentence on what is wrong with the data or the options.
    """
    if options.plan.scaling not in SCALINGS:
        raise DataError(f"data.scaling is {options.plan.scaling!r}; use one of {', '.join(SCALINGS)}")
    if options.plan.inf not in ("error", "missing"):
        raise DataError(f"data.inf is {options.plan.inf!r}; use error or missing")
    key = cached_table(reader.fingerprint(), options, spec)
    found = store.find(key) if key is not None else None
    if found is not None:
        return TableSource(_load(found, reader.name))
    n = _count(reader, options, spec)
    # One of several processes (or runs) encodes a large table; the others wait, then map it.
    large = 4 * n * len(reader.schema.names) > store.IN_MEMORY_BYTES
    with store.locked(key if large else None):
        found = store.find(key) if key is not None and large else None
        if found is not None:
            return TableSource(_load(found, reader.name))
        return _open_anew(reader, options, spec, n, key)


def _open_anew(
    reader: Reader, options: TableOptions, spec: TableSpec | None, n: int, key: str | None
) -> TableSource:
    """Fits and encodes the first ``n`` rows."""
    taken = [*options.label, *(name for name in (options.id, options.split) if name)]
    for name in taken:
        require(name, "data.label" if name in options.label else "data.id or data.split", reader)
    if options.split is not None:
        split = read_split(reader, options.split, n)
    else:
        split = draw_split(n, options.valid, options.test, options.seed)
    if spec is None:
        spec = fit_spec(reader, split == 0, options.plan, taken)
    else:
        _require_columns(spec, reader)
    return TableSource(_encode(reader, spec, split, options, key))


def _count(reader: Reader, options: TableOptions, spec: TableSpec | None) -> int:
    """Number of rows to use."""
    if options.limit is not None and options.limit < 1:
        raise DataError(f"data.limit must be at least 1, got {options.limit}")
    n = reader.n_rows if options.limit is None else min(reader.n_rows, options.limit)
    if n == 0:
        raise DataError(f"{reader.name} holds no rows; give at least two")
    if n == 1 and spec is None:
        raise DataError(f"{reader.name} holds a single row; pretraining needs at least two")
    return n


def _require_columns(spec: TableSpec, reader: Reader) -> None:
    for name in spec.sources:
        if name not in reader.schema.names:
            raise DataError(
                f"{reader.name} has no column {name!r}, which the encoder was trained on"
                f"{nearest(name, reader.schema.names)}"
            )


def _encode(
    reader: Reader, spec: TableSpec, split: np.ndarray, options: TableOptions, key: str | None
) -> Encoded:
    """One streaming pass into arrays, in memory or on disk."""
    n, d_n, d_c = len(split), len(spec.numeric), len(spec.categorical)
    if 4 * n * (d_n + d_c) <= store.IN_MEMORY_BYTES:
        numeric, coded = np.empty((n, d_n), np.float32), np.empty((n, d_c), np.int32)
        kept: list[pa.Array] = []
        labels = _fill(reader, spec, options, numeric, coded, kept.append)
        ids = pa.chunked_array(kept) if options.id else None
        return Encoded(spec, numeric, coded, split, labels, ids, reader.name)
    with store.writing(key) as folder:
        numeric = folder.array("numeric", (n, d_n), np.float32)
        coded = folder.array("codes", (n, d_c), np.int32)
        with _ids_file(folder, options.id, reader) as keep:
            labels = _fill(reader, spec, options, numeric, coded, keep)
        del numeric, coded
        _save(folder, spec, split, labels)
    return _load(folder.path, reader.name, folder)


@contextmanager
def _ids_file(folder: Folder, name: str | None, reader: Reader) -> Iterator[Callable[[pa.Array], Any]]:
    """Takes the id column a batch at a time into ``ids.arrow``."""
    if name is None:
        yield lambda _: None
        return
    schema = pa.schema([pa.field("id", reader.schema.field(name).type)])
    with pa.OSFile(str(folder.path / "ids.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as out:
        yield lambda array: out.write_batch(pa.RecordBatch.from_arrays([array], schema=schema))


def _fill(
    reader: Reader,
    spec: TableSpec,
    options: TableOptions,
    numeric: np.ndarray,
    coded: np.ndarray,
    keep_ids: Callable[[pa.Array], Any],
) -> Labels:
    """Writes the rows, hands on the ids; returns the labels."""
    collectors = [collector(name, reader) for name in options.label]
    wanted = list(dict.fromkeys([*spec.sources, *options.label, *([options.id] if options.id else [])]))
    n, start = len(numeric), 0
    for batch in reader.batches(wanted):
        batch = batch.slice(0, n - start)
        rows = slice(start, start + len(batch))
        for j, column in enumerate(spec.numeric):
            values = finite(numbers(batch.column(column.source), column.part), start, column.source, reader,
                            options.plan.inf)  # fmt: skip
            numeric[rows, j] = (values - column.mean) / column.std
        for j, column in enumerate(spec.categorical):
            coded[rows, j] = codes(batch.column(column.source), column)
        for item in collectors:
            item.update(batch.column(item.name))
        if options.id:
            keep_ids(batch.column(options.id))
        _settle(numeric, coded)
        start += len(batch)
        if start >= n:
            break
    if start < n:
        raise DataError(
            f"{reader.name} gave {start} rows where {n} were expected; it changed while it was read"
        )
    return decide(collectors, options.task)


def _settle(*arrays: np.ndarray) -> None:
    """Lets the system write mapped pages and take them back."""
    for array in arrays:
        Matrix(array).release()


def _save(folder: Folder, spec: TableSpec, split: np.ndarray, labels: Labels) -> None:
    folder.save("split", split)
    if labels.values is not None:
        folder.save("labels", labels.values)
    folder.meta({"spec": spec.to_dict(), "task": labels.task, "class_names": labels.class_names})


def _load(path: Path, name: str, folder: Folder | None = None) -> Encoded:
    """Opens a complete cache entry, memory-mapped."""
    try:
        meta = json.loads((path / "meta.json").read_text())
        arrays = {key: store.load_array(path, key) for key in ("numeric", "codes", "split", "labels")}
        numeric, coded, split = (arrays[key] for key in ("numeric", "codes", "split"))
        if numeric is None or coded is None or split is None:
            raise ValueError("an array is missing")
    except (OSError, ValueError):
        raise DataError(f"the cache entry {path} is damaged; delete that folder and start again") from None
    ids = None
    if (path / "ids.arrow").exists():
        ids = pa.ipc.open_file(pa.memory_map(str(path / "ids.arrow"))).read_all().column("id")
    labels = Labels(arrays["labels"], meta["task"], meta["class_names"])
    return Encoded(TableSpec.from_dict(meta["spec"]), numeric, coded, split, labels, ids, name, folder)
