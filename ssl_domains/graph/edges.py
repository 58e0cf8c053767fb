"""Columns of edges: weights, times, relations, numbers and categories."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.raw import RawGraph, nearest
from ssl_domains.graph.spec import GraphSpec

if TYPE_CHECKING:
    import pandas as pd


def take_edge_columns(
    raw: RawGraph, table: pd.DataFrame, name: str, time: str | None, kind: str | None
) -> None:
    """Fills the edge fields of ``raw`` from the columns of an edge table besides the ids.

    A column called ``weight`` is the weight, other numbers are features; ``time`` orders edges and
    ``kind`` names their relation; what remains are categories (``raw.edge_table``) or, dates, left out.

    Args:
        raw: is filled.
        table: E rows.
        name: of the file, for messages.
        time: name of the column with times, or None.
        kind: name of the column with relations, or None.

    Raises:
        DataError: a column is missing, a number or relation is, or a weight is negative.
    """
    import pandas as pd

    for key, column in (("edge_time", time), ("edge_type", kind)):
        if column is not None and column not in table.columns:
            raise DataError(
                f"{name}: data.{key} names column {column!r}, "
                f"which is not there{nearest(column, table.columns)}"
            )
    if time is not None:
        raw.edge_time = _times(table[time], name)
    if kind is not None:
        raw.edge_type, raw.relations = _relations(table[kind], name)
    rest = table.drop(columns=[c for c in (time, kind) if c is not None])
    dates = [c for c in rest.columns if pd.api.types.is_datetime64_any_dtype(rest[c])]
    if dates:
        raw.notes.append(
            f"edge column {dates[0]!r} holds times and is left out; "
            f"data.edge_time={dates[0]} orders edges by it"
        )
    raw.edge_attr, raw.edge_columns, raw.edge_weight = edge_values(rest, name)
    raw.scale_edges = raw.edge_attr is not None
    words = [c for c in rest.columns if c not in dates and not pd.api.types.is_numeric_dtype(rest[c])]
    raw.edge_table = rest[words] if words else None


def _times(series: pd.Series, name: str) -> np.ndarray:
    import pandas as pd

    values = (
        series
        if pd.api.types.is_numeric_dtype(series)
        else pd.to_datetime(series, errors="coerce", utc=True, format="mixed")
    )
    bad = np.flatnonzero(values.isna().to_numpy())
    if len(bad):
        found = series.iloc[bad[0]]
        what = "no time" if pd.isna(found) else f"{found!r}, which is no time,"
        raise DataError(
            f"{name}: row {bad[0] + 1} has {what} in edge column {series.name!r} ({len(bad)} such rows)"
        )
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy(dtype=np.float64)
    days = (values - pd.Timestamp("1970-01-01", tz="UTC")) / pd.Timedelta(days=1)
    return days.to_numpy(dtype=np.float64)


def _relations(series: pd.Series, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    missing = np.flatnonzero(series.isna().to_numpy())
    if len(missing):
        raise DataError(
            f"{name}: row {missing[0] + 1} has no relation in edge column {series.name!r} "
            f"({len(missing)} such rows)"
        )
    names, codes = np.unique(series.astype(str).to_numpy(dtype=str), return_inverse=True)
    return codes.astype(np.int64), tuple(map(str, names))


def edge_values(
    table: pd.DataFrame, name: str
) -> tuple[np.ndarray | None, tuple[str, ...], np.ndarray | None]:
    """(edge features, their names, edge weight) of the numeric columns besides the ids."""
    import pandas as pd

    numeric = [c for c in table.columns if pd.api.types.is_numeric_dtype(table[c])]
    for column in numeric:
        bad = np.flatnonzero(~np.isfinite(table[column].to_numpy(dtype=np.float64, na_value=np.nan)))
        if len(bad):
            raise DataError(
                f"{name}: row {bad[0] + 1} has no number in edge column {column!r} ({len(bad)} such rows)"
            )
    weights = [c for c in numeric if str(c).lower() == "weight"]
    weight = table[weights[0]].to_numpy(dtype=np.float32) if weights else None
    if weight is not None and (weight < 0).any():
        raise DataError(
            f"{name}: row {int((weight < 0).argmax()) + 1} has a negative edge weight; weights must be >= 0"
        )
    rest = [c for c in numeric if c not in weights]
    attr = table[rest].to_numpy(dtype=np.float32) if rest else None
    return attr, tuple(map(str, rest)), weight


def encode_edges(
    raw: RawGraph, spec: GraphSpec | None, max_categories: int
) -> tuple[RawGraph, tuple[tuple[float, float], ...]]:
    """Edge features as numbers: those of tables standardised, categories one-hot (``column=category``).

    Edges belong to no split, so scales and categories come from all edges that are left after
    held-out links were taken away.

    Args:
        raw: as read.
        spec: of a trained encoder, or None: scales and categories are found anew.
        max_categories: a column with more categories looks like an identifier and is left out.

    Returns:
        The graph with ``edge_attr`` and ``edge_columns`` complete, and (mean, deviation) of each
        scaled column.
    """
    scales = spec.edge_scales if spec is not None else _scales(raw)
    parts, names = [], list(raw.edge_columns)
    if raw.edge_attr is not None:
        values = raw.edge_attr
        if scales and len(scales) == values.shape[1]:
            values = (values - np.array([m for m, _ in scales])) / np.array([s for _, s in scales])
        parts.append(values.astype(np.float32))
    raw = replace(raw, notes=raw.notes)
    categories = _trained(raw, spec) if spec is not None else _categories(raw, max_categories)
    for column, words in categories.items():
        parts.append(_one_hot(raw, column, words))
        names += [f"{column}={word}" for word in words]
    raw.edge_attr = np.concatenate(parts, axis=1) if parts else None
    raw.edge_columns, raw.edge_table = tuple(names), None
    return raw, scales


def _scales(raw: RawGraph) -> tuple[tuple[float, float], ...]:
    if not raw.scale_edges or raw.edge_attr is None:
        return ()
    mean, std = raw.edge_attr.mean(axis=0, dtype=np.float64), raw.edge_attr.std(axis=0, dtype=np.float64)
    return tuple((float(m), float(s) if s > 0 else 1.0) for m, s in zip(mean, std))


def _categories(raw: RawGraph, most: int) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for column in raw.edge_table.columns if raw.edge_table is not None else ():
        words = raw.edge_table[column].dropna().astype(str).unique()
        if len(words) > min(most, max(len(raw.edge_table) // 2, 2)):
            raw.notes.append(f"edge column {column!r} looks like an identifier and is left out")
        elif len(words) > 1:
            found[str(column)] = tuple(sorted(words))
    return found


def _trained(raw: RawGraph, spec: GraphSpec) -> dict[str, tuple[str, ...]]:
    """Categories that an encoder was trained with, of columns that are not numbers here already."""
    found: dict[str, list[str]] = {}
    for name in spec.edge_columns:
        if name not in raw.edge_columns and "=" in name:
            column, word = name.split("=", 1)
            found.setdefault(column, []).append(word)
    for column in found:
        if raw.edge_table is None or column not in raw.edge_table.columns:
            raise DataError(
                f"{raw.origin}: the encoder was trained with edge column {column!r}, which is missing"
            )
    return {column: tuple(words) for column, words in found.items()}


def _one_hot(raw: RawGraph, column: str, words: tuple[str, ...]) -> np.ndarray:
    import pandas as pd

    codes = pd.Categorical(raw.edge_table[column].astype(str), categories=list(words)).codes
    out = np.zeros((len(codes), len(words)), dtype=np.float32)
    known = np.flatnonzero(codes >= 0)
    out[known, codes[known]] = 1.0
    return out


def match_relations(raw: RawGraph, spec: GraphSpec) -> None:
    """Numbers ``raw.edge_type`` as the trained encoder does.

    Raises:
        DataError: there are no relations, or one that training has not seen.
    """
    if not spec.relation_names:
        raw.edge_type, raw.relations = None, ()
        return
    if raw.edge_type is None:
        raise DataError(
            f"{raw.origin}: the encoder was trained with relations; name them with data.edge_type"
        )
    place = {name: i for i, name in enumerate(spec.relation_names)}
    for name in raw.relations:
        if name not in place:
            raise DataError(
                f"{raw.origin}: the encoder was trained without the relation {name!r}{nearest(name, place)}"
            )
    table = np.array([place[name] for name in raw.relations], dtype=np.int64)
    raw.edge_type, raw.relations = table[raw.edge_type], spec.relation_names


def relation_names(names: Any, directed: bool, self_loops: bool) -> tuple[str, ...]:
    """All relations that an encoder tells apart: given ones, their reverses, the self-loop."""
    names = tuple(names)
    if not names:
        return ()
    reverse = () if directed else tuple(f"{name} (reverse)" for name in names)
    return (*names, *reverse, *(("self-loop",) if self_loops else ()))
