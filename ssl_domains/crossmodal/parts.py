"""A side of the pairs: what a recipe says of it, and its source from a column of the table."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core import registry
from ssl_domains.core.cache import cache_folder, key_of
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source
from ssl_domains.crossmodal.tables import FILES, PairTable, endings_of

SPLITS = ("train", "valid", "test")
TIMED = ("speech", "video", "signals")
"""Domains whose cells may be stretches of a file."""


@dataclass(frozen=True)
class PairOptions:
    """Arguments of ``CrossModalDomain.open`` but the source and the parts."""

    columns: Mapping[str, str]
    root: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    limit: int | None = None
    strict: bool = False
    start: str | None = None
    end: str | None = None


@dataclass
class Part:
    """A modality to be opened: from the recipe, or from the towers that are there.

    Attributes:
        domain: its name.
        data: its own ``data`` section.
        encoder: name of its tower.
        options: the tower's options.
        spec: fitted before, or None.
    """

    domain: str
    data: dict[str, Any]
    encoder: str
    options: dict[str, Any]
    spec: Any = None

    def open(self, **data: Any) -> Source:
        """Opens data; with a fitted spec as new data."""
        own = registry.load_domain(self.domain)()
        if self.spec is not None:
            return own.embed_source(self.spec, **{**self.data, **data})
        return own.open(**{**self.data, **data})


def keys_of(source: Source, what: str, domain: str) -> dict[str, int]:
    """Row by key: ids as text, of files without the ending.

    Raises:
        DataError: an id is there twice.
    """
    found: dict[str, int] = {}
    endings = endings_of(domain) if domain in (*FILES, "skeleton", "text") else ()
    for row, id in enumerate(source.ids(np.arange(len(source)))):
        path, sign, window = str(id).partition("#")
        ending = next((e for e in endings if path.lower().endswith(e)), "")
        key = path[: len(path) - len(ending)] + sign + window
        if key in found:
            raise DataError(
                f"{what}: the key {key!r} is there twice (rows {found[key]} and {row}); keys join pairs"
            )
        found[key] = row
    return found


def open_column(
    part: Part, name: str, table: PairTable, column: str | None, usable: np.ndarray, which: np.ndarray,
    others: set[str], options: PairOptions,
) -> tuple[Source, np.ndarray]:  # fmt: skip
    """A part's source and ``[n]`` the row of it that each pair holds (-1: none)."""
    rows = np.full(len(table), -1, dtype=np.int64)
    if not len(usable):
        raise DataError(f"{table.name}: part {name} ({part.domain}): the column {column!r} is empty")
    if "source" in part.data or "nodes" in part.data:  # the column names ids of another source
        assert column is not None
        source = part.open()
        keys = keys_of(source, f"part {name}", part.domain)
        plain = {str(k): i for i, k in enumerate(source.ids(np.arange(len(source))))}
        cells = [str(table.columns[column][int(i)]) for i in usable]
        rows[usable] = [plain.get(c, keys.get(c, -1)) for c in cells]
        return source, rows
    if column is None:
        return _open_rest(part, table, usable, which, others, rows)
    values = table.columns[column]
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return _open_array(part, values, usable, which, rows)
    spans: list[Any] = [None] * len(usable)
    start = next((c for c in (f"{column}_start", options.start) if c in table.columns), None)
    if start is not None and part.domain in TIMED:
        end = next((c for c in (f"{column}_end", options.end) if c in table.columns), None)
        ends = table.columns[end] if end is not None else [None] * len(table)
        spans = [(table.columns[start][int(i)], ends[int(i)]) for i in usable]
    marked = [(str(values[int(i)]), span) for i, span in zip(usable, spans, strict=True)]
    unique = list(dict.fromkeys(marked))
    place = {cell: i for i, cell in enumerate(unique)}
    at = np.array([place[c] for c in marked])
    splits = np.full(len(unique), 2)
    np.minimum.at(splits, at, which[usable])  # an item of a train pair is a train item
    words = [SPLITS[int(s)] for s in splits]
    named, times = [c[0] for c in unique], [c[1] for c in unique]
    source, items = _open_items(part, table, named, times, words)
    rows[usable] = items[at]
    return source, rows


def _open_items(
    part: Part, table: PairTable, values: list[str], spans: list[Any], words: list[str]
) -> tuple[Source, np.ndarray]:
    """Different items of a column, and ``[m]`` the row of the source that each became (-1: left out)."""
    if part.domain == "text":
        source = part.open(
            source={"text": values, "split": words, "key": list(range(len(values)))},
            column="text",
            split="split",
            id="key",
        )
        rows = np.full(len(values), -1, dtype=np.int64)
        rows[np.array(source.ids(np.arange(len(source))), dtype=np.int64)] = np.arange(len(source))
        return source, rows
    if part.domain == "graph":
        import pandas as pd

        frame = pd.DataFrame({"smiles": values, "split": words})
        source = part.open(source=frame, smiles="smiles", split="split")
        return source, _matched(source, values)
    folder = table.folder or Path()
    paths = [str((folder / v).resolve()) for v in values]
    head, cells = ["path"], [paths]
    if spans[0] is not None:
        head += ["start", "end"]
        cells += [[s[0] for s in spans], [s[1] for s in spans]]
    head.append("split")
    cells.append(words)
    file = cache_folder() / "crossmodal" / f"{key_of([head, cells])}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(head)
        writer.writerows(zip(*cells, strict=True))
    more = {"start": "start", "end": "end"} if len(head) > 2 else {}
    with _called(str(file), f"{table.name} (part {part.domain})"):
        source = part.open(source=str(file), path="path", split="split", **more)
    return source, _matched(source, paths, spans if more else None)


@contextmanager
def _called(file: str, name: str) -> Iterator[None]:
    """Errors and warnings speak of the user's table, not of the list that was made of its column."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            yield
        except DataError as error:
            raise DataError(str(error).replace(file, name)) from None
    for one in said:
        warnings.warn(str(one.message).replace(file, name), one.category, stacklevel=4)


def _matched(source: Source, values: list[str], spans: list[Any] | None = None) -> np.ndarray:
    """``[m]``: the source's row of each value (-1: left out; of several windows of a long one the first).

    Rows are told by ``source.listed`` or by their ids: the value, with its stretch as recordings (``[0-2]``)
    and videos (``@0-2``) say it. Only where ids say nothing, and nothing was left out, the order tells.
    """
    found = np.full(len(values), -1, dtype=np.int64)
    listed = getattr(source, "listed", None)
    if listed is not None:
        found[listed] = np.arange(len(source))
        return found
    place: dict[str, int] = {}
    for number, value in enumerate(values):
        for name in (value, *_stretches(value, None if spans is None else spans[number])):
            place.setdefault(name, number)
    strangers = False
    for row, id in enumerate(source.ids(np.arange(len(source)))):
        at = place.get(str(id), place.get(str(id).partition("#")[0]))
        strangers |= at is None
        if at is not None and found[at] < 0:
            found[at] = row
    return np.arange(len(values)) if strangers and len(source) == len(values) else found


def _stretches(value: str, span: Any) -> list[str]:
    if span is None:
        return []
    start, end = (None if t is None or t == "" or t != t else float(t) for t in span)
    stop = "" if end is None else f"{end:g}"
    begin = f"{start or 0:g}"
    return [f"{value}[{begin}-{stop}]", f"{value}@{begin}-{stop or 'nan'}", f"{value}@{begin}"]


def _open_array(
    part: Part, values: np.ndarray, usable: np.ndarray, which: np.ndarray, rows: np.ndarray
) -> tuple[Source, np.ndarray]:
    """Samples in memory: the spec is fitted on those of train pairs, then all are opened with it."""
    rows[usable] = np.arange(len(usable))
    train = usable[which[usable] == 0]
    fitted = part
    if part.spec is None:
        first = part.open(source=values[train], valid=0.0, test=0.0)
        fitted = Part(part.domain, part.data, part.encoder, part.options, first.spec)
    source = fitted.open(source=values[usable])
    source.splits = {split: np.flatnonzero(which[usable] == n) for n, split in enumerate(SPLITS)}
    return source, rows


def _open_rest(
    part: Part, table: PairTable, usable: np.ndarray, which: np.ndarray, others: set[str], rows: np.ndarray
) -> tuple[Source, np.ndarray]:
    """A row of the table itself, without the other parts' columns, the label and the split."""
    import pandas as pd

    columns = {key: value for key, value in table.columns.items() if key not in others and key != "key"}
    columns = {k: v for k, v in columns.items() if not (isinstance(v, np.ndarray) and v.ndim > 1)}
    if not columns:
        raise DataError(f"{table.name}: no column is left for the tabular part; say which with data.columns")
    frame = pd.DataFrame({key: [value[int(i)] for i in usable] for key, value in columns.items()})
    words = "_pair_split"
    frame[words] = [SPLITS[int(which[i])] for i in usable]
    source = part.open(source=frame, split=words)
    rows[usable] = np.arange(len(usable))
    return source, rows
