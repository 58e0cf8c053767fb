"""From a reader to a :class:`TableSpec`: which columns are tokens, of what kind, with what scale."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from ssl_domains.core.errors import DataError
from ssl_domains.tabular.convert import DATE_PARTS, is_date, supported
from ssl_domains.tabular.fit import NumberFit, Rows, TextFit
from ssl_domains.tabular.readers import Reader, is_clock, is_number
from ssl_domains.tabular.spec import ColumnSpec, TableSpec

KINDS = ("numeric", "categorical", "date")
SAMPLE_ROWS = 65_536


@dataclass(frozen=True)
class PlanOptions:
    """What a user may say about columns; see :meth:`Tabular.open`."""

    columns: Mapping[str, str] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    include: Sequence[str] | None = None
    max_categories: int = 1000
    scaling: str = "standard"
    inf: str = "error"
    seed: int = 0


def name_list(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """One name, several, or none."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


class NoColumns(DataError):
    """No column of a table can be a token; ``dropped`` says why, by name."""

    def __init__(self, text: str, dropped: dict[str, str]) -> None:
        super().__init__(text)
        self.dropped = dropped


def nearest(name: str, names: Iterable[str]) -> str:
    """``; did you mean 'x'?`` and the names that there are."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    lower = [other for other in names if other.lower() == name.lower()]
    hint = f"; did you mean {(lower or close)[0]!r}?" if lower or close else ""
    return f"{hint} (columns: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''})"


def require(name: str, key: str, reader: Reader) -> str:
    """The name, when the table has such a column.

    Raises:
        DataError: it has none; suggests the nearest.
    """
    if name not in reader.schema.names:
        raise DataError(f"{key}: {reader.name} has no column {name!r}{nearest(name, reader.schema.names)}")
    return name


def candidates(reader: Reader, options: PlanOptions, taken: Sequence[str]) -> list[str]:
    """Columns that may become tokens: all, or those included; not those excluded or taken."""
    for key, names in (
        ("columns", options.columns),
        ("exclude", options.exclude),
        ("include", options.include or ()),
    ):
        for name in names:
            require(name, f"data.{key}", reader)
    for name, kind in options.columns.items():
        if kind not in KINDS:
            raise DataError(f"data.columns: {name} is {kind!r}; use one of {', '.join(KINDS)}")
    names = list(options.include) if options.include is not None else reader.schema.names
    kept = [name for name in dict.fromkeys(names) if name not in options.exclude and name not in taken]
    if not kept:
        raise DataError(
            f"{reader.name}: no column is left as input; give fewer in data.exclude or more in data.include"
        )
    return kept


def fit_spec(reader: Reader, train: np.ndarray, options: PlanOptions, taken: Sequence[str] = ()) -> TableSpec:
    """Fits types, scales and vocabularies in one streaming pass (a second one when texts turn
    out to be dates or numbers).

    Args:
        reader: the table.
        train: ``[n]`` bool, the rows to take statistics from; later rows are not read.
        options: the user's word.
        taken: columns that are no input: labels, ids, the split.

    Raises:
        DataError: an infinite value, mixed numbers and texts, or no usable column.
    """
    names = candidates(reader, options, taken)
    fits, dropped = _start(reader, names, options)
    _run(reader, fits, train, options)
    found = {fit.source: fit.disguise(reader) for fit in fits if isinstance(fit, TextFit)}
    if any(found.values()):
        told = {name: kind for name, kind in found.items() if kind}
        return fit_spec(reader, train, replace(options, columns={**options.columns, **told}), taken)
    columns: list[ColumnSpec] = []
    for fit in fits:
        result = fit.result()
        if isinstance(result, ColumnSpec):
            columns.append(result)
        elif not (isinstance(fit, NumberFit) and fit.part not in (None, "time")):
            dropped[fit.source] = result
    dropped = {name: dropped[name] for name in names if name in dropped}
    if not columns:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(dropped.items())[:5])
        raise NoColumns(
            f"{reader.name} has no usable column ({reasons}); add columns that vary, or set data.columns",
            dropped,
        )
    numeric = tuple(column for column in columns if column.kind == "numeric")
    categorical = tuple(column for column in columns if column.kind == "categorical")
    return TableSpec(numeric, categorical, options.scaling, dropped, int(train.sum()))


def _start(
    reader: Reader, names: list[str], options: PlanOptions
) -> tuple[list[NumberFit | TextFit], dict[str, str]]:
    """An empty fit for each column, by its type and the user's word."""
    fits: list[NumberFit | TextFit] = []
    dropped: dict[str, str] = {}
    for name in names:
        kind = reader.schema.field(name).type
        told = options.columns.get(name)
        if pa.types.is_null(kind):
            dropped[name] = "all missing"
        elif not supported(kind):
            dropped[name] = f"values of type {kind} are neither numbers nor categories"
        elif told == "date" or (told is None and is_date(kind)):
            fits += [NumberFit(name, part) for part in DATE_PARTS]
        elif told == "numeric" or (told is None and (is_number(kind) or is_clock(kind))):
            fits.append(NumberFit(name, keep_numeric=told == "numeric"))
        else:
            plain = told is None and not pa.types.is_boolean(kind) and not pa.types.is_dictionary(kind)
            fits.append(TextFit(name, options.max_categories, forced=not plain))
    return fits, dropped


def _run(reader: Reader, fits: list[NumberFit | TextFit], train: np.ndarray, options: PlanOptions) -> None:
    """The pass."""
    if not fits:
        return
    sample = _sample(train, options.seed)
    start = 0
    for batch in reader.batches(list(dict.fromkeys(fit.source for fit in fits))):
        batch = batch.slice(0, len(train) - start)
        stop = start + len(batch)
        rows = Rows(start, train[start:stop], sample[start:stop])
        for fit in fits:
            fit.update(batch.column(fit.source), rows, reader, options.inf)
        start = stop
        if start >= len(train):
            break


def _sample(train: np.ndarray, seed: int) -> np.ndarray:
    """``[n]`` bool: at most :data:`SAMPLE_ROWS` of the train rows."""
    if train.sum() <= SAMPLE_ROWS:
        return train
    chosen = np.zeros_like(train)
    rows = np.flatnonzero(train)
    chosen[np.random.default_rng([seed, 5]).choice(rows, SAMPLE_ROWS, replace=False)] = True
    return chosen
