"""Columns of node tables: their kinds, fitting on the train split, encoding to numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.features import CodedFeatures, code_type
from ssl_domains.graph.raw import nearest
from ssl_domains.graph.spec import NodeColumn

if TYPE_CHECKING:
    import pandas as pd

MISSING = "(missing)"
KINDS = ("numeric", "categorical", "text")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")


def words_of(value: Any) -> list[str]:
    """Lower-case words of a text, an identifier (snake and camel case are split) or a list of them."""
    if isinstance(value, str):
        return [word.lower() for word in _WORD.findall(value)]
    if isinstance(value, list | tuple | set | np.ndarray):
        return [str(item).lower() for item in value if item is not None]
    return []


def _is_list(series: pd.Series) -> bool:
    first = next((v for v in series if v is not None), None)
    return isinstance(first, list | tuple | set | np.ndarray)


def guess_kind(series: pd.Series) -> str | None:
    """Kind of a column by its values; None when it looks like an identifier."""
    import pandas as pd

    if _is_list(series):
        return "text"
    if pd.api.types.is_numeric_dtype(series) or pd.api.types.is_datetime64_any_dtype(series):
        return "numeric"
    values = series.dropna().astype(str)
    if len(values) == 0:
        return "categorical"
    n_unique = values.nunique()
    many = n_unique > max(20, 0.5 * len(values))
    if many or n_unique > 400:
        return "text" if np.mean([len(words_of(v)) for v in values]) >= 3 else None
    return "categorical"


def column_kinds(
    table: pd.DataFrame,
    origin: str,
    given: dict[str, str],
    text: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> tuple[dict[str, str], list[str]]:
    """Kinds of the columns to use, and notes about those left out.

    Raises:
        DataError: ``given``, ``text`` or ``exclude`` names a column that is not there, or a
            kind does not exist.
    """
    for name in (*given, *text, *exclude):
        if name not in table.columns:
            raise DataError(f"{origin}: there is no column {name!r}{nearest(name, table.columns)}")
    kinds: dict[str, str] = {}
    notes = []
    for name in table.columns:
        if name in exclude:
            continue
        kind = "text" if name in text else given.get(name) or guess_kind(table[name])
        if kind is None:
            notes.append(
                f"column {name!r} looks like an identifier and is left out; data.columns takes it in"
            )
        elif kind not in KINDS:
            raise DataError(f"data.columns: {name!r} cannot be {kind!r}; one of {', '.join(KINDS)}")
        else:
            kinds[name] = kind
    return kinds, notes


def absent_rows(series: pd.Series, node_type: np.ndarray | None) -> np.ndarray | None:
    """``[N]`` bool: nodes of types that have no value in this column at all; None without types."""
    if node_type is None:
        return None
    known = np.bincount(node_type, weights=series.notna().to_numpy(dtype=np.float64))
    return np.asarray(known[node_type] == 0)


def numbers(
    series: pd.Series, origin: str, ids: Sequence[Any], absent: np.ndarray | None = None
) -> np.ndarray:
    """``[N]`` float64 of a numeric column, NaN for nodes that are ``absent`` (:func:`absent_rows`).

    Raises:
        DataError: a value is missing, infinite or no number; names column and node.
    """
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(series):
        days = (series - pd.Timestamp("1970-01-01", tz=series.dt.tz)) / pd.Timedelta(days=1)
        values = days.to_numpy(dtype=np.float64)
    else:
        values = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~np.isfinite(values)
    bad = np.flatnonzero(wrong if absent is None else wrong & ~absent)
    if wrong.all():
        raise DataError(
            f"{origin}: column {series.name!r} has no number at all; leave it out with data.exclude"
        )
    if len(bad):
        found = series.iloc[bad[0]]
        what = "missing" if pd.isna(found) else repr(found) if isinstance(found, str) else str(found)
        raise DataError(
            f"{origin}: column {series.name!r} is {what} at node {ids[bad[0]]!r} ({len(bad)} such nodes); "
            f"fill it, or leave the column out with data.exclude"
        )
    return values


def _categories(series: pd.Series) -> list[str]:
    return [MISSING if missing else str(v) for v, missing in zip(series, series.isna())]


def fit_column(
    series: pd.Series,
    kind: str,
    train: np.ndarray,
    origin: str,
    ids: Sequence[Any],
    max_words: int,
    max_categories: int,
    absent: np.ndarray | None = None,
) -> NodeColumn | None:
    """Fits one column on the rows ``train``; None when it is constant there.

    Args:
        series: the whole column.
        kind: numeric, categorical or text.
        train: ``[n]`` rows to fit on.
        origin: file, for messages.
        ids: node ids, for messages.
        max_words: cap of a vocabulary (the words in most documents).
        max_categories: cap of a one-hot (the most frequent categories).
        absent: ``[N]`` nodes that need no number, or None.
    """
    name = str(series.name)
    if kind == "numeric":
        values = numbers(series, origin, ids, absent)[train]
        values = values[np.isfinite(values)]
        std = float(values.std()) if len(values) else 0.0
        return NodeColumn(name, "numeric", float(values.mean()), std) if std > 0 else None
    if kind == "categorical":
        values_ = _categories(series.iloc[train])
        counts = Counter(values_)
        if len(counts) < 2:
            return None
        top = sorted(word for word, _ in counts.most_common(max_categories))
        return NodeColumn(name, "categorical", words=tuple(top))
    return _fit_text(name, [words_of(value) for value in series.iloc[train]], max_words)


def _fit_text(name: str, documents: list[list[str]], max_words: int) -> NodeColumn | None:
    """Vocabulary of words in at least 2 documents and not in all; smoothed idf, ``ln((1+n)/(1+df)) + 1``."""
    frequency = Counter(word for words in documents for word in set(words))
    n = len(documents)
    kept = [(word, df) for word, df in frequency.items() if (df >= 2 or n < 10) and df < n]
    kept = sorted(sorted(kept, key=lambda item: (-item[1], item[0]))[:max_words])
    if not kept:
        return None
    idf = tuple(float(np.log((1 + n) / (1 + df)) + 1) for _, df in kept)
    return NodeColumn(name, "text", words=tuple(word for word, _ in kept), idf=idf)


def encode_column(
    series: pd.Series, column: NodeColumn, origin: str, ids: Sequence[Any], absent: np.ndarray | None = None
) -> np.ndarray:
    """A number ``[N]`` float32, codes ``[N]`` of categories, or ``[N, width]`` of a text. Unknown
    categories (code -1) and words give zeros, as do nodes that are ``absent``."""
    if column.kind == "numeric":
        scaled = (numbers(series, origin, ids, absent) - column.mean) / column.std
        return np.nan_to_num(scaled).astype(np.float32)
    place = {word: i for i, word in enumerate(column.words)}
    if column.kind == "categorical":
        import pandas as pd

        words = series.astype(object).where(series.notna(), MISSING).astype(str)
        return pd.Categorical(words, categories=list(column.words)).codes.astype(code_type(column.width))
    out = np.zeros((len(series), column.width), dtype=np.float32)
    idf = np.asarray(column.idf, dtype=np.float32)
    for row, value in enumerate(series):
        for word, count in Counter(words_of(value)).items():
            if word in place:  # sublinear term frequency: long documents do not drown in repeats
                out[row, place[word]] = (1.0 + np.log(count)) * idf[place[word]]
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def encode(
    table: pd.DataFrame,
    columns: Sequence[NodeColumn],
    origin: str,
    ids: Sequence[Any],
    node_type: np.ndarray | None = None,
) -> np.ndarray | CodedFeatures:
    """``[N, F]`` float32 of all fitted columns; without a text column, kept as codes.

    Raises:
        DataError: a column that the encoder was trained with is missing.
    """
    parts = []
    for column in columns:
        if column.name not in table.columns:
            near = nearest(column.name, table.columns)
            raise DataError(
                f"{origin}: the encoder was trained with column {column.name!r}, which is missing{near}"
            )
        absent = absent_rows(table[column.name], node_type)
        parts.append(encode_column(table[column.name], column, origin, ids, absent))
    kinds = {column.kind for column in columns}
    if "categorical" in kinds and "text" not in kinds:
        return CodedFeatures(parts, [column.width for column in columns])
    dense = [
        part if part.ndim == 2 else CodedFeatures([part], [column.width])[:]
        for part, column in zip(parts, columns)
    ]
    return np.concatenate(dense, axis=1)
