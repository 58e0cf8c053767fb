"""Which reader a source needs, and what file names and side tables say about recordings."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.recordings import Recording, Recordings


@dataclass(frozen=True)
class ReadOptions:
    """What readers need to know of the recipe's ``data`` section.

    Attributes:
        label, group, split, clip, frame, confidence: names of columns, arrays or keys.
        labels: side table by file name.
        persons: M, or None: what the format usually has.
    """

    label: str | None = None
    group: str | None = None
    split: str | None = None
    clip: str | None = None
    frame: str | None = None
    labels: str | None = None
    persons: int | None = None


Reader = Callable[[Path, ReadOptions], Recordings]


def expand(source: str | os.PathLike[str]) -> Path:
    """The path that a source names: ``package://PACKAGE/PATH`` for a file of an installed package.

    Raises:
        DataError: nothing there.
    """
    text = os.fspath(source)
    if text.startswith("package://"):
        package, _, inside = text.removeprefix("package://").partition("/")
        found = find_spec(package)
        if found is None or found.origin is None:
            raise DataError(f"{text}: package {package!r} is not installed; pip install {package}")
        path = Path(found.origin).parent / inside
    else:
        path = Path(text).expanduser()
    if not path.exists():
        raise DataError(f"{text}: there is no such file or folder; check data.source")
    return path


def read(source: str | os.PathLike[str], options: ReadOptions) -> Recordings:
    """Recordings of a file, or of all files of one kind in a folder.

    Raises:
        DataError: not there, of no known kind, of several kinds, or broken; names the file.
    """
    path = expand(source)
    reader = _reader_for(path)
    if reader is None:
        raise DataError(
            f"{path}: holds no recording that can be read (known: {', '.join(sorted(_readers()))}); check "
            "data.source"
        )
    found = reader(path, options)
    found.name = found.name or str(path)
    if not found.items:
        raise DataError(f"{path}: holds no recording; check data.source")
    if options.labels is not None:
        side_table(found.items, Path(options.labels).expanduser())
    return found


def _readers() -> dict[str, Reader]:
    from ssl_domains.skeleton.readers import arrays, bvh, c3d, ntu, pose_json, tables

    return {
        ".npz": arrays.read,
        ".npy": arrays.read,
        ".skeleton": ntu.read,
        ".json": pose_json.read,
        ".bvh": bvh.read,
        ".c3d": c3d.read,
        ".csv": tables.read,
        ".tsv": tables.read,
        ".parquet": tables.read,
    }


def _reader_for(path: Path) -> Reader | None:
    """The reader of a file, or of the one kind of files in a folder."""
    known = _readers()
    if path.is_file():
        return known.get(path.suffix.lower())
    kinds = sorted({p.suffix.lower() for p in path.rglob("*") if p.suffix.lower() in known})
    if len(kinds) > 1:
        raise DataError(
            f"{path}: holds files of several kinds ({', '.join(kinds)}); give a folder with one kind"
        )
    return known[kinds[0]] if kinds else None


def files_of(path: Path, ending: str) -> list[Path]:
    """The file itself, or all files with this ending below a folder, in order of their names."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() == ending)


def text_of(path: Path) -> str:
    """Its text.

    Raises:
        DataError: it cannot be read as text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def about(path: Path, root: Path) -> dict[str, Any]:
    """Label and group that a file's place says: NTU names (``S001C001P003R002A013``) have their own, else the
    folder below ``root`` is the label."""
    ntu = re.match(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})", path.stem)
    if ntu:
        return {"label": f"A{ntu[5]}", "group": f"P{ntu[3]}"}
    inside = path.relative_to(root).parts[:-1] if root.is_dir() else ()
    return {"label": inside[0] if inside else None, "group": None}


def side_table(items: Sequence[Recording], path: Path) -> None:
    """Sets label, group and split from a CSV with the columns ``name`` and any of ``label``, ``group``,
    ``split``; names are those of files, with or without their ending.

    Raises:
        DataError: no such file or column, or recordings that it does not name.
    """
    if not path.is_file():
        raise DataError(f"data.labels: {path} is not there")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or "name" not in rows[0]:
        raise DataError(f"data.labels: {path} needs a column `name` with the names of the files")
    table: dict[str, Mapping[str, str]] = {}
    for row in rows:
        table[row["name"]] = row
        table.setdefault(Path(row["name"]).stem, row)
    lost = [item.name for item in items if not _row(table, item.name)]
    if lost:
        raise DataError(
            f"data.labels: {path} does not name {lost[0]} (and {len(lost) - 1} others); add a row for it"
        )
    for item in items:
        found = _row(table, item.name) or {}
        item.label = found.get("label") or item.label
        item.group = found.get("group") or item.group
        item.split = found.get("split") or item.split


def _row(table: Mapping[str, Mapping[str, str]], name: str) -> Mapping[str, str] | None:
    return table.get(name) or table.get(Path(name).name) or table.get(Path(name).stem)
