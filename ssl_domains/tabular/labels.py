"""Label, split and id columns: they never reach the input."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ssl_domains.core.errors import DataError
from ssl_domains.tabular.convert import is_text, number_text, numbers, texts
from ssl_domains.tabular.readers import Reader

TASKS = ("classification", "regression", "multilabel")
MAX_NUMBER_CLASSES = 20
MAX_TEXT_CLASSES = 10_000
SPLIT_NAMES = {
    "train": 0, "training": 0, "valid": 1, "val": 1, "validation": 1, "dev": 1, "test": 2, "testing": 2,
}  # fmt: skip


@dataclass
class ColumnCollector:
    """One column as ``[n]`` numbers, or codes into :attr:`names` when it is text or boolean."""

    name: str
    textual: bool
    chunks: list[np.ndarray] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)

    def update(self, array: pa.Array) -> None:
        """Takes in one batch."""
        if not self.textual:
            self.chunks.append(numbers(array))
            return
        coded = texts(array).dictionary_encode()
        table = [self.names.setdefault(value, len(self.names)) for value in coded.dictionary.to_pylist()]
        if len(self.names) > MAX_TEXT_CLASSES:
            raise DataError(
                f"data.label: the texts of {self.name!r} differ in nearly every row, so they are no classes; "
                "choose another column or leave data.label out"
            )
        places = coded.indices.fill_null(len(table)).to_numpy(zero_copy_only=False)
        self.chunks.append(np.array([*table, -1], dtype=np.int32)[places])

    def values(self) -> np.ndarray:
        """``[n]`` float64 (NaN missing) or int32 codes (-1 missing)."""
        return np.concatenate(self.chunks)


def collector(name: str, reader: Reader) -> ColumnCollector:
    """An empty collector for a column."""
    kind = reader.schema.field(name).type
    textual = is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_dictionary(kind)
    return ColumnCollector(name, textual)


@dataclass
class Labels:
    """Labels in the form of :class:`ssl_domains.core.interfaces.Source`."""

    values: np.ndarray | None = None
    task: str | None = None
    class_names: list[str] | None = None


def decide(columns: list[ColumnCollector], task: str | None) -> Labels:
    """Labels from the collected columns.

    Without ``task``: several columns are ``multilabel``; texts, booleans, and whole numbers
    with at most 20 different values are ``classification``; other numbers ``regression``.

    Raises:
        DataError: all missing, a single value, or values that the task cannot use.
    """
    if task is not None and task not in TASKS:
        raise DataError(f"data.task is {task!r}; use one of {', '.join(TASKS)}")
    if not columns:
        return Labels()
    for column in columns:
        _check_varies(column)
    if task == "multilabel" or (task is None and len(columns) > 1):
        return Labels(np.stack([_flags(c) for c in columns], axis=1), "multilabel", [c.name for c in columns])
    if task == "regression" or (task is None and not _few_classes(columns[0])):
        return Labels(_regression(columns), "regression")
    if len(columns) > 1:
        raise DataError("data.task: classification takes one label column; give one, or task: multilabel")
    return _classes(columns[0])


def _check_varies(column: ColumnCollector) -> None:
    values = column.values()
    known = values[values >= 0] if column.textual else values[~np.isnan(values)]
    if len(known) == 0 or bool((known == known[0]).all()):
        what = "is missing in every row" if len(known) == 0 else "has the same value in every row"
        raise DataError(f"data.label: {column.name!r} {what}; choose another column or leave data.label out")


def _few_classes(column: ColumnCollector) -> bool:
    if column.textual:
        return True
    values = column.values()
    values = np.unique(values[~np.isnan(values)])
    return len(values) <= MAX_NUMBER_CLASSES and bool((values == np.round(values)).all())


def _classes(column: ColumnCollector) -> Labels:
    """int64 codes by sorted class name (numbers by size), -1 unknown."""
    values = column.values()
    if column.textual:
        ranked = sorted(column.names)
        table = np.full(len(ranked) + 1, -1, dtype=np.int64)
        table[[column.names[name] for name in ranked]] = np.arange(len(ranked))
        return Labels(table[values], "classification", ranked)
    known = np.unique(values[~np.isnan(values)])
    if len(known) > MAX_TEXT_CLASSES:
        raise DataError(
            f"data.label: {column.name!r} has {len(known)} different numbers; set data.task: regression"
        )
    places = np.searchsorted(known, np.nan_to_num(values, nan=known[0]))
    codes = np.where(np.isnan(values), -1, places).astype(np.int64)
    return Labels(codes, "classification", [number_text(value) or "" for value in known])


def _regression(columns: list[ColumnCollector]) -> np.ndarray:
    """``[n]`` or ``[n, L]`` float32, NaN unknown."""
    for column in columns:
        if column.textual:
            raise DataError(
                f"data.label: {column.name!r} holds texts, which data.task: regression cannot use"
            )
    values = np.stack([column.values() for column in columns], axis=1).astype(np.float32)
    return values[:, 0] if len(columns) == 1 else values


def _flags(column: ColumnCollector) -> np.ndarray:
    """``[n]`` bool from 0/1, true/false, or any two texts (the later in order is True); missing is False."""
    values = column.values()
    if not column.textual:
        known = set(np.unique(values[~np.isnan(values)]).tolist())
        if not known <= {0.0, 1.0}:
            raise DataError(
                f"data.label: {column.name!r} is no flag (0 or 1), which data.task: multilabel needs"
            )
        return np.nan_to_num(values) == 1.0
    if len(column.names) != 2:
        raise DataError(
            f"data.label: {column.name!r} has {len(column.names)} values, data.task: multilabel needs two"
        )
    return values == column.names[max(column.names)]


def read_split(reader: Reader, name: str, n_rows: int) -> np.ndarray:
    """``[n]`` int8: 0 train, 1 valid, 2 test, from a column that says so.

    Raises:
        DataError: another word, a missing value, or no train row.
    """
    column = ColumnCollector(name, textual=True)
    for batch in reader.batches([name]):
        column.update(batch.column(name))
    values = column.values()[:n_rows]
    for word in column.names:
        if word.strip().lower() not in SPLIT_NAMES:
            raise DataError(
                f"data.split: column {name!r} holds {word!r}; use the words train, valid and test"
            )
    if (values < 0).any():
        row = int((values < 0).argmax())
        raise DataError(
            f"{reader.where(row)}: column {name!r} is empty; data.split needs train, valid or test"
        )
    table = np.array([SPLIT_NAMES[word.strip().lower()] for word in column.names], dtype=np.int8)
    split = table[values]
    if not (split == 0).any():
        raise DataError(f"data.split: column {name!r} marks no row as train; mark some")
    return split


def draw_split(n: int, valid: float, test: float, seed: int) -> np.ndarray:
    """``[n]`` int8 with ``round(share * n)`` rows in valid and test, at least one in each that
    is wanted when there are three rows or more.

    Raises:
        DataError: shares outside [0, 1), or nothing left to train on.
    """
    for key, share in (("valid", valid), ("test", test)):
        if not 0.0 <= share < 1.0:
            raise DataError(f"data.{key} is a share of the rows and must lie in [0, 1), got {share}")
    floor = 1 if n >= 3 else 0
    n_valid, n_test = (max(round(share * n), floor) if share else 0 for share in (valid, test))
    if n_valid + n_test >= n:
        raise DataError(f"data.valid and data.test leave no row of {n} to train on; lower them")
    split = np.zeros(n, dtype=np.int8)
    held = np.random.default_rng([seed, 3]).permutation(n)[: n_valid + n_test]
    split[held[:n_valid]], split[held[n_valid:]] = 1, 2
    return split


def balance(labels: Labels) -> dict[str, float] | None:
    """Share of each class (rows of unknown class do not count), or None."""
    if labels.values is None or labels.class_names is None:
        return None
    if labels.task == "multilabel":
        shares = labels.values.mean(axis=0)
    else:
        counts = np.bincount(labels.values[labels.values >= 0], minlength=len(labels.class_names))
        shares = counts / max(counts.sum(), 1)
    return {
        name: round(float(s), 6)
        for name, s in zip(labels.class_names, shares, strict=True)
        if math.isfinite(s)
    }
