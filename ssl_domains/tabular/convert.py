"""Arrow columns to numbers and to texts: the same values for the same data, whatever file it came from."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssl_domains.tabular.readers import is_clock, is_number
from ssl_domains.tabular.spec import FIRST_CATEGORY, MISSING, UNSEEN, ColumnSpec

DATE_PARTS = ("time", "month", "weekday", "hour")


def is_date(kind: pa.DataType) -> bool:
    """Dates and timestamps."""
    return pa.types.is_date(kind) or pa.types.is_timestamp(kind)


def is_text(kind: pa.DataType) -> bool:
    """Strings of any layout."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def numbers(array: pa.Array, part: str | None = None) -> np.ndarray:
    """``[n]`` float64, NaN where missing.

    Args:
        array: numbers, booleans, times of day (as seconds); texts are parsed, what is no
            number is missing; dates with ``part``.
        part: ``time`` (seconds since 1970, UTC), ``month`` (1..12), ``weekday`` (Monday 0) or
            ``hour`` (with minutes as fraction) of a date.
    """
    if part is not None:
        return _date_part(_dates(array), part)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if is_text(array.type):
        return _by_unique(array, to_number)
    if is_clock(array.type):
        unit = "us" if pa.types.is_duration(array.type) else None
        micro = array.cast(pa.duration(unit) if unit else pa.time64("us"), safe=False).cast(pa.int64())
        return _floats(micro) / 1e6
    if is_date(array.type):
        return _date_part(_dates(array), "time")
    return _floats(array)


def _floats(array: pa.Array) -> np.ndarray:
    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.array(values, dtype=np.float64)  # a copy: Arrow's memory is read-only


def to_number(text: str) -> float:
    """A finite or infinite number, NaN for any other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _by_unique(array: pa.Array, parse: Callable[[str], float]) -> np.ndarray:
    """Parses each distinct text once."""
    coded = array.dictionary_encode()
    table = np.array([parse(text) for text in coded.dictionary.to_pylist()] + [math.nan])
    return table[coded.indices.fill_null(len(table) - 1).to_numpy(zero_copy_only=False)]


def _dates(array: pa.Array) -> pa.Array:
    """As timestamps in UTC; texts by ISO 8601."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if is_text(array.type):
        seconds = _by_unique(array, to_seconds)
        micro = pa.array(np.nan_to_num(seconds * 1e6).astype(np.int64), mask=np.isnan(seconds))
        return micro.cast(pa.timestamp("us"))
    if not is_date(array.type):  # numbers where dates were expected: missing, like any other unreadable value
        return pa.nulls(len(array), pa.timestamp("us"))
    return array.cast(pa.timestamp("us"), safe=False)


def to_seconds(text: str) -> float:
    """Seconds since 1970 of an ISO date or time, NaN for any other text."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def looks_like_date(text: str) -> bool:
    """``2024-05-17`` with or without a time; not ``20240517``, which is rather a number."""
    return len(text) >= 10 and text[4:5] == "-" and not math.isnan(to_seconds(text))


def _date_part(moments: pa.Array, part: str) -> np.ndarray:
    if part == "time":
        return _floats(moments.cast(pa.int64())) / 1e6
    if part == "month":
        return _floats(pc.month(moments))
    if part == "weekday":
        return _floats(pc.day_of_week(moments))
    return _floats(pc.hour(moments)) + _floats(pc.minute(moments)) / 60.0


def texts(array: pa.Array) -> pa.Array:
    """Strings; whole numbers without a fraction (``3``, also from 3.0), booleans ``true`` / ``false``."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type):
        return array
    if pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        coded = array.cast(pa.float64(), safe=False).dictionary_encode()
        names = pa.array([number_text(value) for value in coded.dictionary.to_pylist()], pa.string())
        return names.take(coded.indices) if len(names) else pa.nulls(len(array), pa.string())
    return array.cast(pa.string())


def number_text(value: Any) -> str | None:
    """``3`` for 3.0, ``2.5`` for 2.5, None for NaN."""
    if value is None or value != value:
        return None
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def codes(array: pa.Array, column: ColumnSpec) -> np.ndarray:
    """``[n]`` int32 codes of a categorical column: 0 missing, 1 unseen or rare, then the categories."""
    strings = texts(array)
    known = pc.index_in(strings, value_set=pa.array(column.categories, pa.string()))
    out = known.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    out = np.where(out < 0, UNSEEN, out + FIRST_CATEGORY).astype(np.int32)
    out[strings.is_null().to_numpy(zero_copy_only=False)] = MISSING
    return out


def python_text(value: Any) -> str:
    """A value of a label or split column as text, like :func:`texts` writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return number_text(value) or ""
    return value.isoformat() if isinstance(value, date) else str(value)


def supported(kind: pa.DataType) -> bool:
    """True for what can become a number or a category."""
    if pa.types.is_dictionary(kind):
        return supported(kind.value_type)
    return is_number(kind) or is_text(kind) or is_date(kind) or is_clock(kind) or pa.types.is_boolean(kind)
