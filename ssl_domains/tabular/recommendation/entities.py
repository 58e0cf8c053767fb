"""Users or items as a source: one row an entity, with its id among the features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.core.retrieval import Lists, RetrievalTask
from ssl_domains.tabular.convert import texts
from ssl_domains.tabular.data import TableOptions, TableSource, open_table
from ssl_domains.tabular.plan import NoColumns, fit_spec, require
from ssl_domains.tabular.readers import Reader, TableReader
from ssl_domains.tabular.recommendation.lists import encode_lists, fit_lists, is_list, padded
from ssl_domains.tabular.recommendation.spec import EntitySpec, id_column
from ssl_domains.tabular.spec import TableSpec


class EntitySource:
    """Entities as batches ``{name: {"numeric", "categorical", "missing", "lists": {column: [B, L]}}}``.

    The first three are as of :class:`~ssl_domains.tabular.data.TableSource`, the id first among
    the categories; lists are padded with 0. Row i is the i-th row of the entities' own table.
    Implements :class:`ssl_domains.core.interfaces.Source`.

    Attributes:
        retrieval: ``retrieval(split)``, what the probe of that name asks; None without interactions.
    """

    full_batch = False

    def __init__(self, spec: EntitySpec, table: TableSource, lists: Sequence[Lists], ids: list[str]) -> None:
        self.spec: Any = spec  # with interactions, that of both sides
        self.entity, self._table, self._lists, self._ids = spec, table, list(lists), ids
        self.labels, self.task, self.class_names = table.labels, table.task, table.class_names
        self.splits, self.name = table.splits, table.name
        self.retrieval: Callable[[str], RetrievalTask] | None = None

    def __len__(self) -> int:
        return len(self._table)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The entities with these row numbers, in this order, on the CPU."""
        batch = self._table.fetch(indices)
        return batch.with_x({self.entity.name: {**batch.x, "lists": self._padded(batch.index.numpy())}})

    def _padded(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        return {
            column.name: torch.from_numpy(padded(lists, rows))
            for column, lists in zip(self.entity.lists, self._lists, strict=True)
        }

    def cells(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standardised numbers ``[n, Dn]`` float32 (NaN missing), and codes ``[n, Dc]`` of categories."""
        return self._table.cells(rows)

    def list_codes(self, place: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values of the list column number ``place``: (place within ``rows`` ``[m]``, codes ``[m]``)."""
        return self._lists[place].flat(rows)

    def raw_features(self, indices: np.ndarray) -> np.ndarray:
        """``[n, F]`` float32: as of a table, without the id; then the lists' 64 most frequent values."""
        parts = [self._table.raw_features(indices)]
        for column, lists in zip(self.entity.lists, self._lists, strict=True):
            codes = padded(lists, np.asarray(indices))
            top = np.argsort(-np.array(column.counts[2:]), kind="stable")[:64] + 2
            parts += [(codes == code).any(axis=1, keepdims=True).astype(np.float32) for code in top]
        return np.concatenate(parts, axis=1)

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """The user's own ids."""
        return [self._ids[i] for i in np.asarray(indices)]

    def card(self) -> dict[str, Any]:
        """Rows, and the features with their kinds."""
        table = self._table.card()
        columns = dict(table["columns"])
        columns[self.entity.key] = {"kind": "id", "known": len(self.entity.ids)}
        for column in self.entity.lists:
            ranked = sorted(zip(column.counts[2:], column.values), key=lambda item: (-item[0], item[1]))
            columns[column.name] = {
                "kind": "list", "values": len(column.values), "longest": column.longest,
                "most_frequent": [value for _, value in ranked[:5]],
            }  # fmt: skip
        return {"source": self.name, "rows": len(self), "columns": columns, "dropped": table["dropped"]}


@dataclass(frozen=True)
class EntityOptions:
    """How a table of users or items is read.

    Attributes:
        name: ``user`` or ``item``.
        key: its id column.
        lists: columns with several values a row and their separator (None: Arrow lists).
        table: as of any table.
    """

    name: str
    key: str
    lists: dict[str, str | None] = field(default_factory=dict)
    table: TableOptions = field(default_factory=TableOptions)


def read_ids(reader: Reader, options: EntityOptions) -> pa.Array:
    """The ids of a table, as text, each once.

    Raises:
        DataError: no such column, an empty table, a missing id, or an id that stands twice.
    """
    require(options.key, f"the id column of data.{options.name}s", reader)
    chunks = [texts(batch.column(options.key)) for batch in reader.batches([options.key])]
    ids = pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())
    if not len(ids):
        raise DataError(
            f"{reader.name} holds no rows; give one for each {options.name} or leave data.{options.name}s out"
        )
    if ids.null_count:
        row = pc.index(pc.is_null(ids), True).as_py()
        raise DataError(f"{reader.where(row)}: the {options.name} has no {options.key!r}; give it one")
    counts = pc.value_counts(ids)
    if len(counts) < len(ids):
        twice = counts.field("values")[pc.index(pc.greater(counts.field("counts"), 1), True).as_py()].as_py()
        first, second = np.flatnonzero(pc.equal(ids, twice).to_numpy(zero_copy_only=False))[:2]
        raise DataError(
            f"{reader.where(int(second))}: the {options.name} {twice!r} stands here again (first in "
            f"{reader.where(int(first))}); keep one row for each {options.name}"
        )
    return ids


def ids_only(key: str, ids: pa.Array, name: str) -> Reader:
    """A table that holds nothing but ids."""
    return TableReader(pa.table({key: ids}), name)


def open_entities(
    reader: Reader, options: EntityOptions, ids: pa.Array | None = None, spec: EntitySpec | None = None
) -> EntitySource:
    """Fits and encodes a table of users or items.

    Args:
        reader: the table.
        options: see :class:`EntityOptions`.
        ids: what :func:`read_ids` gave for it; None reads them.
        spec: a fitted spec, to encode new entities with; ids that it does not know get the vector
            that stands for a hidden id.

    Raises:
        DataError: one sentence on what is wrong with the table.
    """
    ids = read_ids(reader, options) if ids is None else ids
    spec = spec or _fit(reader, options, ids)
    for column in spec.lists:
        require(column.name, f"the {spec.name} tower was trained on it; data.{spec.name}s", reader)
    table = open_table(reader, options.table, spec.table)
    lists = [encode_lists(reader, column, len(table)) for column in spec.lists]
    return EntitySource(spec, table, lists, ids.to_pylist())


def _fit(reader: Reader, options: EntityOptions, ids: pa.Array) -> EntitySpec:
    names = reader.schema.names
    for name in options.lists:
        require(name, "data.lists", reader)
    found = {name: None for name in names if is_list(reader.schema.field(name).type)}
    lists = {**found, **options.lists}
    plan = options.table.plan
    lists = {name: sign for name, sign in lists.items() if name not in plan.exclude}
    taken = [options.key, *options.table.label, *lists]
    if options.table.split is not None:
        taken.append(options.table.split)
    included = plan.include if plan.include is not None else names
    features = TableSpec((), (), plan.scaling, {}, len(ids))
    if set(included) - set(plan.exclude) - set(taken):
        try:
            features = fit_spec(reader, np.ones(len(ids), bool), plan, taken)
        except NoColumns as none:
            features = replace(features, dropped=none.dropped)
    key = id_column(options.key, tuple(ids.to_pylist()))
    table = replace(features, categorical=(key, *features.categorical))
    return EntitySpec(options.name, options.key, table, fit_lists(reader, lists, plan.max_categories))
