"""Where pairs are written down: a table with a column for each modality, a folder of equal names, an "
"array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.text.readers import COLUMNS as TEXT_COLUMNS
from ssl_domains.text.readers import TABLES, read_table

NAMES: dict[str, tuple[str, ...]] = {
    "image": ("image", "picture", "photo", "img", "image_path", "file", "path"),
    "text": TEXT_COLUMNS,
    "speech": ("audio", "sound", "speech", "wav", "recording", "audio_path", "file", "path"),
    "video": ("video", "film", "clip", "movie", "file", "path"),
    "medical3d": ("volume", "scan", "nifti", "file", "path"),
    "skeleton": ("skeleton", "motion", "file", "path"),
    "graph": ("smiles", "graph"),
    "signals": ("signal", "brain", "eeg", "meg", "file", "path"),
    "tabular": (),
}
"""Columns that are taken for a modality by themselves."""
FILES = ("image", "speech", "video", "medical3d", "signals")
"""Domains whose cells are paths."""


@dataclass
class PairTable:
    """Pairs as they were written down.

    Attributes:
        name: of the source, for messages.
        columns: by name: a value a row; arrays ``[n, ...]`` where samples are in memory.
        folder: relative paths start here.
        notes: what happened while reading.
    """

    name: str
    columns: Mapping[str, Any]
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str, what: str) -> list[Any]:
        """A column by name.

        Raises:
            DataError: there is none.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.name}: {what}: there is no column {name!r} (there are: "
                f"{', '.join(map(str, self.columns))})"
            )
        return list(self.columns[name])

    def take(self, rows: np.ndarray) -> PairTable:
        """Some rows."""
        columns = {
            key: value[rows] if isinstance(value, np.ndarray) else [value[int(i)] for i in rows]
            for key, value in self.columns.items()
        }
        return PairTable(self.name, columns, self.folder, self.notes)


def read_pairs(source: Any, domains: Mapping[str, str], columns: Mapping[str, str]) -> PairTable:
    """Reads what holds the pairs.

    Args:
        source: .csv, .tsv, .parquet or .feather; a folder; ``generated://scenes``; a DataFrame or mapping.
        domains: of the parts, by part.
        columns: by part, a column; in a folder: a subfolder, or an ending.

    Raises:
        DataError: it does not exist or is of no known kind.
    """
    if hasattr(source, "columns") and hasattr(source, "to_dict"):
        source = source.to_dict("list")
    if isinstance(source, Mapping):
        lengths = {key: len(value) for key, value in source.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(f"the table: columns have different lengths: {lengths}")
        return PairTable("the table", dict(source))
    if not isinstance(source, str | Path):
        raise DataError(
            f"data.source: {type(source).__name__} holds no pairs; give a path, a table or a mapping"
        )
    if str(source).startswith("generated://"):
        from ssl_domains.crossmodal.generated import generate

        return generate(str(source))
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(
            f"data.source: {source} does not exist; give a table with a column for each modality, or a folder"
        )
    if path.is_dir():
        return _folder(path, domains, columns)
    if path.suffix.lower() not in TABLES:
        raise DataError(f"data.source: {source} is no table; use one of {', '.join(TABLES)}")
    found = read_table(path)
    if not found or not len(next(iter(found.values()))):
        raise DataError(f"{path}: holds a header but no rows; a row is a pair")
    return PairTable(str(path), found, path.parent)


def _folder(path: Path, domains: Mapping[str, str], columns: Mapping[str, str]) -> PairTable:
    """Files of equal names (without their endings) in one folder, or in a subfolder for each modality."""
    found: dict[str, dict[str, str]] = {}
    for part, domain in domains.items():
        below = path / columns[part] if columns.get(part) else path / part
        ending = columns.get(part, "")
        if not below.is_dir():
            below = path / domain if (path / domain).is_dir() else path
        endings = (ending.lower(),) if ending.startswith(".") else endings_of(domain)
        files: dict[str, str] = {}
        for file in sorted(p for p in below.rglob("*") if p.suffix.lower() in endings and p.is_file()):
            key = file.relative_to(below).with_suffix("").as_posix()
            if key in files:
                raise DataError(
                    f"{path}: part {part}: {files[key]} and {file} have one name; which is meant? Say "
                    "its ending, "
                    f"as data.columns.{part}={file.suffix}"
                )
            files[key] = str(file)
        if not files:
            raise DataError(
                f"{path}: part {part} ({domain}): no file with an ending of {domain} in {below}; say "
                "its subfolder or "
                f"ending, as data.columns.{part}=NAME"
            )
        found[part] = files
    keys = sorted(set().union(*found.values()))
    columns_found: dict[str, Any] = {part: [files.get(key) for key in keys] for part, files in found.items()}
    for part, domain in domains.items():
        if domain == "text":
            columns_found[part] = [None if p is None else _read_text(p) for p in columns_found[part]]
    return PairTable(str(path), {**columns_found, "key": keys}, path)


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DataError(f"{path}: this is no text in UTF-8; convert it (iconv -t utf-8)") from None


def endings_of(domain: str) -> tuple[str, ...]:
    """Endings of a domain's files."""
    import importlib

    if domain == "signals":
        from ssl_domains.crossmodal.recordings import SUFFIXES

        return SUFFIXES
    known = importlib.import_module(f"ssl_domains.{domain}.recognise")
    return (".txt", ".text") if domain == "text" else tuple(known.SUFFIXES)


def column_of(
    table: PairTable, part: str, domain: str, columns: Mapping[str, str], taken: Sequence[str]
) -> str | None:
    """The column of a part; None: the table's other columns (a part of domain ``tabular``).

    Raises:
        DataError: it cannot be told.
    """
    if columns.get(part) in table.columns:
        return columns[part]
    if part in table.columns:
        return part
    if columns.get(part) and table.folder is not None and "key" not in table.columns:
        table.column(columns[part], f"data.columns.{part}")
    lower = {str(key).lower(): key for key in table.columns}
    for name in (domain, *NAMES.get(domain, ())):
        if name in lower and lower[name] not in taken:
            return str(lower[name])
    if domain == "tabular":
        return None
    raise DataError(
        f"{table.name}: which column is part {part} ({domain})? Say data.columns.{part}=COLUMN, one of "
        f"{', '.join(map(str, table.columns))}"
    )
