"""Node ids of any type: matched between tables as text, given back as the user wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.raw import nearest

if TYPE_CHECKING:
    import pandas as pd


def keys(series: pd.Series, name: str, first_row: int = 0) -> np.ndarray:
    """``[n]`` ids as stripped text, so that 3, 3.0 and "3" are one node in whatever table.

    Args:
        series: the id column, or a block of it.
        name: of the file, for messages.
        first_row: rows before the block.

    Raises:
        DataError: an id is missing, or one column holds a number and a text that would become one
            id, such as 1 and "1".
    """
    import pandas as pd

    missing = np.flatnonzero(series.isna().to_numpy())
    if len(missing):
        raise DataError(
            f"{name}: row {first_row + missing[0] + 1} has no value in the id column {series.name!r}"
        )
    if pd.api.types.is_float_dtype(series) and bool((series % 1 == 0).all()):
        series = series.astype(np.int64)
    if series.dtype == object:
        _refuse_mixed(series, name)
        series = series.map(_whole)
    return series.astype(str).str.strip().to_numpy(dtype=object)


def _whole(value: Any) -> Any:
    """3.0 among other ids is 3."""
    return int(value) if isinstance(value, float | np.floating) and value % 1 == 0 else value


def _refuse_mixed(series: pd.Series, name: str) -> None:
    numbers = series.map(lambda v: isinstance(v, int | float | np.number)).to_numpy(dtype=bool)
    if not numbers.any() or numbers.all():
        return
    texts = set(series[~numbers].map(str).str.strip())
    both = [v for v in series[numbers].map(_whole) if str(v) in texts]
    if both:
        raise DataError(
            f"{name}: the id column {series.name!r} mixes types: the number {both[0]} and the text "
            f"{str(both[0])!r} would be one node; write all ids as text, or all as numbers"
        )


def own_ids(series: pd.Series, ids: np.ndarray) -> list[Any]:
    """The ids as embeddings are written back with: numbers where the user has whole numbers.

    Args:
        series: the id column, or the columns of an edge table one below the other.
        ids: ``[n]`` text of :func:`keys`.
    """
    import pandas as pd

    if pd.api.types.is_integer_dtype(series) or _canonical(ids):
        return [int(i) for i in ids]
    if series.dtype == object or pd.api.types.is_string_dtype(series):
        return list(ids)
    return list(series) if len(series) == len(ids) else list(ids)


def _canonical(ids: np.ndarray) -> bool:
    """Whether each text is a whole number written the usual way (7, not 007)."""
    return all(i.isascii() and (i.isdigit() or (i[:1] == "-" and i[1:].isdigit())) for i in ids) and all(
        i == "0" or i.lstrip("-")[0] != "0" for i in ids
    )


def unique(ids: np.ndarray, name: str) -> None:
    """Refuses ids that appear twice."""
    import pandas as pd

    twice = np.flatnonzero(pd.Index(ids).duplicated())
    if len(twice):
        node = ids[twice[0]]
        first = int(np.flatnonzero(ids == node)[0])
        raise DataError(
            f"{name}: node id {node!r} stands in row {first + 1} and again in row {twice[0] + 1}; "
            f"ids must be unique"
        )


def place(
    ends: np.ndarray, column: str, ids: Any, edge_name: str, node_name: str, first_row: int = 0
) -> np.ndarray:
    """``[E]`` int64 places of the ends among the ids (an array, or a pandas Index, which is not hashed anew).

    Raises:
        DataError: an end is no id; names row, column, and the nearest id.
    """
    import pandas as pd

    index = pd.Index(ids).get_indexer(pd.Index(ends)).astype(np.int64)
    unknown = np.flatnonzero(index < 0)
    if len(unknown):
        row = int(unknown[0])
        raise DataError(
            f"{edge_name}: row {first_row + row + 1}, column {column!r} names node {ends[row]!r}, "
            f"which {node_name} does not have{nearest(ends[row], ids[:100_000])} "
            f"({len(unknown)} such rows); add the node, or remove the edge"
        )
    return index
