"""Columns with several values a row: their vocabulary, and their codes as flat arrays."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssl_domains.core.errors import DataError
from ssl_domains.core.retrieval import Lists
from ssl_domains.tabular.convert import is_text, texts
from ssl_domains.tabular.readers import Reader
from ssl_domains.tabular.recommendation.spec import ListSpec
from ssl_domains.tabular.spec import FIRST_CATEGORY, UNSEEN


def is_list(kind: pa.DataType) -> bool:
    """Arrow lists of any layout."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def split_lists(array: pa.Array, separator: str | None) -> tuple[np.ndarray, pa.Array]:
    """A column as (row of each value ``[m]``, values ``[m]`` text), without empty ones and repeats in a row.

    Args:
        array: lists, or texts with a separator.
        separator: a space means any white space.
    """
    if separator is not None:
        strings = texts(array).fill_null("")
        array = (
            pc.utf8_split_whitespace(strings) if separator == " " else pc.split_pattern(strings, separator)
        )
    rows = pc.list_parent_indices(array).to_numpy(zero_copy_only=False)
    values = pc.utf8_trim_whitespace(texts(pc.list_flatten(array)))
    kept = pc.and_(pc.is_valid(values), pc.not_equal(values, "")).to_numpy(zero_copy_only=False).astype(bool)
    coded = values.dictionary_encode()
    code = coded.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    _, first = np.unique(rows.astype(np.int64) * max(len(coded.dictionary), 1) + code, return_index=True)
    chosen = np.zeros(len(rows), bool)
    chosen[first] = True
    at = np.flatnonzero(chosen & kept)
    return rows[at].astype(np.int64), values.take(pa.array(at))


def fit_lists(reader: Reader, separators: dict[str, str | None], max_categories: int) -> tuple[ListSpec, ...]:
    """Vocabularies of list columns, in one streaming pass.

    Args:
        reader: the table.
        separators: by column; None for columns of lists.
        max_categories: rarer values beyond these share one code.

    Raises:
        DataError: a column that is neither text nor lists, or holds no value at all.
    """
    counters: dict[str, Counter[str]] = {name: Counter() for name in separators}
    empty, longest = dict.fromkeys(separators, 0), dict.fromkeys(separators, 1)
    for name, separator in separators.items():
        kind = reader.schema.field(name).type
        if separator is not None and not is_text(kind):
            raise DataError(
                f"data.lists: column {name!r} of {reader.name} holds {kind}, no texts to be split at "
                f"{separator!r}; take it out"
            )
    for batch in reader.batches(list(separators)) if separators else ():
        for name, separator in separators.items():
            rows, values = split_lists(batch.column(name), separator)
            for item in pc.value_counts(values).to_pylist():
                counters[name][item["values"]] += item["counts"]
            lengths = np.bincount(rows, minlength=len(batch))
            empty[name] += int((lengths == 0).sum())
            longest[name] = max(longest[name], int(lengths.max(initial=0)))
    return tuple(
        _spec(reader, name, separators[name], counters[name], empty[name], longest[name], max_categories)
        for name in separators
    )


def _spec(
    reader: Reader,
    name: str,
    separator: str | None,
    counter: Counter[str],
    empty: int,
    longest: int,
    most: int,
) -> ListSpec:
    if not counter:
        raise DataError(f"data.lists: column {name!r} of {reader.name} holds no value; take it out")
    ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    kept = sorted(value for value, _ in ranked[:most])
    rare = sum(count for _, count in ranked[most:])
    return ListSpec(name, separator, tuple(kept), (empty, rare, *(counter[v] for v in kept)), longest)


def encode_lists(reader: Reader, spec: ListSpec, n: int) -> Lists:
    """Codes of one list column for all rows, as flat arrays (int32)."""
    vocabulary = pa.array(spec.values, pa.string())
    lengths, codes, start = np.zeros(n, np.int64), [], 0
    for batch in reader.batches([spec.name]):
        rows, values = split_lists(batch.column(spec.name), spec.separator)
        known = pc.index_in(values, value_set=vocabulary).fill_null(-1).to_numpy(zero_copy_only=False)
        codes.append(np.where(known < 0, UNSEEN, known + FIRST_CATEGORY).astype(np.int32))
        lengths[start : start + len(batch)] = np.bincount(rows, minlength=len(batch))
        start += len(batch)
    flat = np.concatenate(codes) if codes else np.zeros(0, np.int32)
    return Lists(np.concatenate([[0], np.cumsum(lengths)]), flat)


def padded(lists: Lists, rows: np.ndarray) -> np.ndarray:
    """``[B, L]`` int64 codes of some rows, filled with 0; L is the longest list of these rows, at least 1."""
    place, values = lists.flat(rows)
    lengths = lists.lengths[rows]
    out = np.zeros((len(rows), max(int(lengths.max(initial=1)), 1)), np.int64)
    inside = np.arange(len(place)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    out[place, inside] = values
    return out
