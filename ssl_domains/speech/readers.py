"""Readers: folders of recordings, manifests, datasets of Hugging Face."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.labels import SPLIT_WORDS
from ssl_domains.speech.listing import SUFFIXES, Listing, Utterance
from ssl_domains.speech.segments import find_segments, segments_of_table

TABLES = (".csv", ".tsv", ".parquet")
USUAL = {
    "path": ("path", "file", "filename", "file_name", "audio", "audio_filepath", "wav"),
    "start": ("start", "begin", "offset", "start_time"),
    "end": ("end", "stop", "end_time"),
    "text": ("text", "sentence", "transcript", "transcription"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk"),
    "label": ("label", "class", "keyword", "intent"),
    "split": ("split", "subset"),
}
"""Names under which columns are found by themselves."""


@dataclass(frozen=True)
class ReadOptions:
    """The recipe's ``data`` section, as far as readers take it; names as in the domain's ``open``."""

    path: str | None = None
    start: str | None = None
    end: str | None = None
    text: str | None = None
    speaker: str | None = None
    label: str | None = "auto"
    split: str | None = None
    root: str | None = None
    segments: str | None = None


@dataclass
class Paths:
    """Files by their paths."""

    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> str:
        return self.paths[number]


def read_folder(place: Path, options: ReadOptions) -> Listing:
    """All recordings below a folder.

    The folder of a recording is its label when there are several folders with two or more recordings each, as
    in Speech Commands; folders called train, valid and test are splits. ``options.speaker`` and a ``label``
    other than auto and folder are regular expressions on the path below the folder, whose first group
    counts.

    Raises:
        DataError: there is no recording, or an expression that does not match a path.
    """
    files = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise DataError(f"{place} holds no recording (looked for {', '.join(SUFFIXES)} at any depth)")
    inside = [p.relative_to(place) for p in files]
    splits = [SPLIT_WORDS.get(p.parts[0].lower()) if len(p.parts) > 1 else None for p in inside]
    split = all(splits) and "train" in splits
    names = [p.parts[1:-1] if split else p.parts[:-1] for p in inside]
    texts = _transcripts(place, files)
    rows = []
    for number, path in enumerate(inside):
        spoken = texts.get(str(files[number].with_suffix("")))
        rows.append(Utterance(number, path.as_posix(), text=spoken, split=splits[number] if split else None))
        rows[-1].speaker = _matched(options.speaker, path.as_posix(), "speaker")
    notes = _folder_labels(rows, names, options.label)
    paths = [str(p) for p in files]
    found = _segments(paths, options)
    return Listing(str(place), Paths(paths), [p.as_posix() for p in inside], rows, found, notes)


def _folder_labels(rows: list[Utterance], folders: list[tuple[str, ...]], label: str | None) -> list[str]:
    """Fills in labels; sentences for the card."""
    if label is None or label == "speaker":
        for row in rows:
            row.label = row.speaker if label else None
        return []
    if label not in ("auto", "folder"):
        for row in rows:
            row.label = _matched(label, row.id, "label")
        return []
    kinds = [parts[-1] if parts else "" for parts in folders]
    several = len(set(kinds)) > 1 and all(kinds) and len(rows) >= 2 * len(set(kinds))
    if label == "folder" and not several:
        raise DataError("data.label: folder wants two or more folders with two or more recordings each")
    if several:
        for row, kind in zip(rows, kinds, strict=True):
            row.label = kind
        return ["The folder of a recording is its label."]
    return []


def _matched(pattern: str | None, path: str, key: str) -> str | None:
    if pattern is None:
        return None
    try:
        match = re.search(pattern, path)
    except re.error as error:
        raise DataError(f"data.{key}: {pattern!r} is no regular expression ({error})") from None
    if match is None:
        raise DataError(f"data.{key}: {pattern!r} does not match the path {path}")
    return match.group(1) if match.re.groups else match.group(0)


def _transcripts(place: Path, files: Sequence[Path]) -> dict[str, str]:
    """Texts by path without ending: LibriSpeech's ``*.trans.txt``, or a ``.txt`` beside a recording."""
    found: dict[str, str] = {}
    for file in place.rglob("*.trans.txt"):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, text = line.partition(" ")
            found[str(file.parent / name)] = text.strip()
    for path in files:
        beside = path.with_suffix(".txt")
        if str(path.with_suffix("")) not in found and beside.is_file() and beside.stat().st_size < 100_000:
            found[str(path.with_suffix(""))] = beside.read_text(encoding="utf-8", errors="replace").strip()
    return found


def read_manifest(file: Path, options: ReadOptions) -> Listing:
    """A CSV, TSV or Parquet file, a row an utterance: path, and optionally start and end in seconds, text,
    speaker, label, split.

    Raises:
        DataError: no such column, an empty path, or a time that is no number; names row and column.
    """
    table = read_table(file)
    columns = {key: _column(table, key, getattr(options, key), file) for key in USUAL}
    if columns["path"] is None:
        raise DataError(
            f"{file} has no column of paths that can be told (columns: {', '.join(table)}); "
            "say data.path=COLUMN"
        )
    base = Path(options.root) if options.root is not None else file.parent
    numbers: dict[str, int] = {}
    names: list[str] = []
    rows = []
    for at in range(len(next(iter(table.values())))):
        cell = {key: None if name is None else table[name][at] for key, name in columns.items()}
        if not isinstance(cell["path"], str) or not cell["path"].strip():
            raise DataError(f"{file}: row {at + 1} has no path in the column {columns['path']!r}")
        path = os.path.join(base, cell["path"])
        if path not in numbers:
            numbers[path] = len(names)
            names.append(cell["path"])
        start, end = (_seconds(cell[key], key, at, file) for key in ("start", "end"))
        stretch = (
            "" if start is None and end is None else f"[{start or 0:g}-{'' if end is None else f'{end:g}'}]"
        )
        rows.append(
            Utterance(
                numbers[path],
                cell["path"] + stretch,
                start or 0.0,
                end,
                _text(cell["text"]),
                _text(cell["speaker"]),
                cell["label"],
                _text(cell["split"]),
            )
        )
    paths = list(numbers)
    return Listing(str(file), Paths(paths), names, rows, _segments(paths, options))


def _segments(paths: list[str], options: ReadOptions) -> list[Any] | None:
    if options.segments is not None and options.segments.endswith(TABLES):
        found = segments_of_table(Path(options.segments), paths)
    else:
        found = find_segments(paths, options.segments)
    if options.segments is not None and not any(found):
        raise DataError(f"data.segments: {options.segments} names none of the recordings")
    return found if any(found) else None


def read_table(file: Path) -> dict[str, list[Any]]:
    """The columns of a CSV, TSV or Parquet file; empty cells are None.

    Raises:
        DataError: it cannot be read, or has no row.
    """
    import pyarrow as pa

    try:
        if file.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            table = pq.read_table(file)
        else:
            import pyarrow.csv as csv

            tabs = csv.ParseOptions(delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
            table = csv.read_csv(file, parse_options=tabs)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a table ({str(error).splitlines()[0]})") from None
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{file} has no row")
    return columns


def _column(table: dict[str, list[Any]], key: str, name: str | None, file: Path) -> str | None:
    """The column that was asked for, or one of a usual name."""
    if name == "auto" or (name is None and key != "label"):
        return next((column for column in table if column.lower() in USUAL[key]), None)
    if name is None:
        return None
    if name == "speaker" and name not in table:  # label: speaker
        return _column(table, "speaker", None, file)
    if name not in table:
        raise DataError(f"data.{key}: {file} has no column {name!r} (it has: {', '.join(table)})")
    return name


def _seconds(value: Any, key: str, at: int, file: Path) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = float("nan")
    if not np.isfinite(seconds) or seconds < 0:
        raise DataError(
            f"{file}: row {at + 1} has {value!r} as {key}, expected seconds from the file's beginning"
        )
    return seconds


def _text(value: Any) -> str | None:
    return None if value is None or str(value).strip() == "" else str(value).strip()
