"""Texts from tables, files and folders, with what is known of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError

TABLES = (".csv", ".tsv", ".parquet", ".feather", ".arrow")
COLUMNS = ("text", "caption", "sentence", "title", "description", "name", "transcript", "gloss")
"""Names under which a column of texts is found by itself."""


@dataclass
class Texts:
    """What a source holds.

    Attributes:
        name: of the source, for messages.
        texts: one a sample; empty ones are taken out later.
        ids: the user's own.
        label, split, group: a value a sample, or None.
        notes: what happened while reading.
    """

    name: str
    texts: list[str]
    ids: list[Any]
    label: list[Any] | None = None
    split: list[Any] | None = None
    group: list[Any] | None = None
    notes: list[str] = field(default_factory=list)


def read(
    source: Any, column: str | None, label: str | None, split: str | None, group: str | None, id: str | None
) -> Texts:
    """Reads a source; see ``TextDomain.open``.

    Raises:
        DataError: it does not exist, is of an unknown kind, or lacks a column.
    """
    if isinstance(source, list | tuple):
        return Texts("the list of texts", [_text(t) for t in source], list(range(len(source))))
    if hasattr(source, "columns") and hasattr(source, "to_dict"):  # a DataFrame
        return _table(source.to_dict("list"), "the table", column, label, split, group, id)
    if isinstance(source, dict):
        return _table(source, "the table", column, label, split, group, id)
    if not isinstance(source, str | Path):
        raise DataError(
            f"data.source: {type(source).__name__} is no source of texts; give a path, a list or a table"
        )
    if str(source) == "python://topics":
        return _topics()
    if str(source).startswith("python://docstrings/"):
        from ssl_domains.text.docstrings import docstrings

        names, texts = docstrings(str(source).removeprefix("python://docstrings/"))
        return Texts(str(source), texts, list(names))
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(
            f"data.source: {source} does not exist; give a .csv, .parquet or .txt file, or a folder of .txt"
        )
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() in TABLES:
        return _table(read_table(path), str(path), column, label, split, group, id)
    lines = _decoded(path).splitlines()
    return Texts(str(path), lines, [f"line {i + 1}" for i in range(len(lines))])


def _text(value: Any) -> str:
    """A cell as text; missing ones (None, NaN) are empty."""
    return "" if value is None or value != value else str(value)


def _decoded(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: this is no text in UTF-8; convert it (iconv -t utf-8)") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _folder(path: Path) -> Texts:
    """A text a ``.txt`` file at any depth; its folder, where there are several, is its label."""
    files = sorted(p for p in path.rglob("*.txt") if p.is_file())
    if not files:
        raise DataError(f"data.source: {path} holds no .txt file; give a folder of texts, or a table")
    names = [p.relative_to(path).as_posix() for p in files]
    parents = [n.rsplit("/", 1)[0] if "/" in n else "" for n in names]
    label: list[Any] | None = list(parents) if len(set(parents)) > 1 else None
    return Texts(str(path), [_decoded(p).strip() for p in files], list(names), label)


class Columns(Mapping[str, list[Any]]):
    """Columns of an Arrow table; one becomes Python values when it is first asked for.

    Args:
        table: of pyarrow.
    """

    def __init__(self, table: Any) -> None:
        self.table = table
        self._known: dict[str, list[Any]] = {}

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._known:
            if name not in self.table.column_names:
                raise KeyError(name)
            self._known[name] = self.table[name].to_pylist()
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table.column_names)

    def __len__(self) -> int:
        return len(self.table.column_names)


def read_table(path: Path) -> Columns:
    """Columns of a CSV, TSV, Parquet or Arrow file by name.

    Raises:
        DataError: it cannot be read as a table.
    """
    import pyarrow as pa

    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            table = pq.read_table(path)
        elif path.suffix.lower() in (".feather", ".arrow"):
            import pyarrow.feather as feather

            table = feather.read_table(path)
        else:
            import pyarrow.csv as pc

            table = pc.read_csv(
                path,
                parse_options=pc.ParseOptions(
                    delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True
                ),
                convert_options=pc.ConvertOptions(strings_can_be_null=True, null_values=[""]),
            )
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as a table ({str(error).splitlines()[0]}); each row wants as many "
            "cells as "
            "the header"
        ) from None
    return Columns(table)


def _table(
    columns: Mapping[str, list[Any]], name: str, column: str | None, label: str | None, split: str | None,
    group: str | None, id: str | None,
) -> Texts:  # fmt: skip
    if column is None:
        lower = {str(key).lower(): key for key in columns}
        column = next((lower[known] for known in COLUMNS if known in lower), None)
        if column is None and len(columns) == 1:
            column = next(iter(columns))
        if column is None:
            raise DataError(
                f"{name}: which column holds the texts? Say data.column, one of "
                f"{', '.join(map(str, columns))}"
            )
    for key, wanted in (("column", column), ("label", label), ("split", split), ("group", group), ("id", id)):
        if wanted is not None and wanted not in columns:
            have = ", ".join(map(str, columns))
            raise DataError(f"{name}: data.{key}: there is no column {wanted!r} (there are: {have})")
    texts = [_text(value) for value in columns[column]]
    picked = [None if key is None else list(columns[key]) for key in (label, split, group)]
    ids = list(range(len(texts))) if id is None else list(columns[id])
    return Texts(name, texts, ids, picked[0], picked[1], picked[2])


def _topics() -> Texts:
    """Paragraphs of the Python reference that ships with Python (``pydoc_data``); the topic is the label."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "data.source: python://topics wants the help texts of Python, which this Python lacks"
        ) from None
    found: dict[str, tuple[str, str]] = {}
    for topic, text in sorted(topics.items()):
        parts = [" ".join(p.split()) for p in re.split(r"\n\s*\n", text)]
        for i, part in enumerate(p for p in parts if len(p.split()) >= 8):
            found.setdefault(part, (topic, f"{topic}#{i}"))  # some paragraphs stand under several topics
    label: list[Any] = [topic for topic, _ in found.values()]
    return Texts("python://topics", list(found), [name for _, name in found.values()], label)


@dataclass
class Labels:
    """Labels as probes read them: see ``Source``."""

    values: np.ndarray | None = None
    task: str | None = None
    names: list[str] | None = None


def read_labels(found: Sequence[Any] | None, task: str | None, rare: int = 0) -> Labels:
    """Class numbers, or numbers to regress on.

    Args:
        found: a value a sample; None, NaN and "" are unknown.
        task: ``classification``, ``regression`` or None: fractions are regressed on, all else are classes.
        rare: classes of fewer samples are unknown.

    Raises:
        DataError: a label that is no number, with ``task: regression``.
    """
    if found is None:
        return Labels()
    known = [v is not None and v == v and v != "" for v in found]
    some = [v for v, k in zip(found, known, strict=True) if k]
    fractions = bool(some) and all(isinstance(v, int | float) for v in some) and any(v % 1 for v in some)
    if task == "regression" or (task is None and fractions):
        try:
            values = [float(v) if k else np.nan for v, k in zip(found, known, strict=True)]
        except (TypeError, ValueError):
            raise DataError("data.label: task is regression, and a label is no number") from None
        return Labels(np.array(values, dtype=np.float64), "regression", None)
    words = [str(v) if k else "" for v, k in zip(found, known, strict=True)]
    counts = dict.fromkeys(words, 0)
    for w in words:
        counts[w] += 1
    names = sorted(w for w in counts if w and counts[w] >= rare)
    if all(w.isdigit() for w in names):
        names.sort(key=int)
    if len(names) < 2:
        return Labels()
    place = {name: i for i, name in enumerate(names)}
    return Labels(np.array([place.get(w, -1) for w in words], dtype=np.int64), "classification", names)
