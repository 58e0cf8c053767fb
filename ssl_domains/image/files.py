"""Images as files: a folder, or a table of paths."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ssl_domains.core.errors import DataError
from ssl_domains.core.labels import SPLIT_WORDS
from ssl_domains.image.listing import SUFFIXES, Listing, Paths

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "img", "img_path", "filepath")


def read_folder(folder: Path, label: str | None, group: str | None) -> Listing:
    """A folder of images, with or without class folders, with or without train / valid / test folders.

    Args:
        folder: searched to any depth; hidden files and folders are left out.
        label: ``folder``: the folder directly below the source or split folder is the class; ``auto``: so
        when
            there are at least two of them that hold two images or more on average and no image lies outside;
            None: no labels.
        group: a regular expression on the path below the source; its first group (or the whole match)
            names what must stay on one side of a split.

    Raises:
        DataError: no image, images beside class folders that were asked for, a pattern that does not match.
    """
    found, others = _walk(folder)
    if not found:
        raise DataError(
            f"{folder} holds no image{_endings(others)}; give a folder of .jpg, .png or like files"
        )
    parts = [path.split(os.sep) for path in found]
    split = _folder_splits(parts)
    below = [p[1:] for p in parts] if split is not None else parts
    classes, notes = _folder_classes([p[0] if len(p) > 1 else None for p in below], label, str(folder))
    return Listing(
        str(folder),
        [path.replace(os.sep, "/") for path in found],
        Paths([os.path.join(folder, path) for path in found]),
        label=classes,
        split=split,
        group=None if group is None else _groups(found, group),
        notes=notes,
        mark=_mark([os.path.join(folder, path) for path in found]),
    )


def _walk(folder: Path) -> tuple[list[str], Counter[str]]:
    found: list[str] = []
    others: Counter[str] = Counter()
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        below = os.path.relpath(where, folder)
        for file in sorted(files):
            ending = os.path.splitext(file)[1].lower()
            if file.startswith("."):
                continue
            if ending in SUFFIXES:
                found.append(file if below == "." else os.path.join(below, file))
            else:
                others[ending or "no ending"] += 1
    return found, others


def _endings(others: Counter[str]) -> str:
    listed = ", ".join(f"{n} {ending}" for ending, n in others.most_common(4))
    return f" (files: {listed})" if listed else " (it is empty)"


def _folder_splits(parts: list[list[str]]) -> np.ndarray | None:
    """Splits from the first folder when every image lies in one of that name, and some in ``train``."""
    words = [SPLIT_WORDS.get(p[0].lower()) if len(p) > 1 else None for p in parts]
    if None in words or "train" not in words:
        return None
    return np.array(words)


def _folder_classes(
    names: list[str | None], label: str | None, where: str
) -> tuple[np.ndarray | None, list[str]]:
    if label is None:
        return None, []
    inside = [name for name in names if name is not None]
    if label == "folder":
        if len(inside) < len(names):
            raise DataError(
                f"data.label: folder, but {len(names) - len(inside)} images of {where} lie in no class "
                "folder; move them into one, or leave the label out"
            )
        return np.array(names, dtype=object), []
    if not inside:
        return None, []
    kinds = len(set(inside))
    if len(inside) < len(names):
        return None, ["Some images lie outside the folders, so the folders are not taken for classes."]
    if kinds == 1:
        return None, [f"All images lie in one folder ({inside[0]}), so there is no label."]
    if len(inside) < 2 * kinds:
        return None, ["Most folders hold a single image, so they are not taken for classes."]
    return np.array(names, dtype=object), []


def _groups(paths: Sequence[str], pattern: str) -> np.ndarray:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"data.group: {pattern!r} is no regular expression ({error})") from None
    out = []
    for path in paths:
        match = expression.search(path.replace(os.sep, "/"))
        if match is None:
            raise DataError(f"data.group: {pattern!r} does not match the path {path}")
        out.append(match.group(1) if expression.groups else match.group(0))
    return np.array(out, dtype=object)


def read_table(
    file: Path,
    path: str | None,
    label: str | Sequence[str] | None,
    split: str | None,
    group: str | None,
    root: str | None,
) -> Listing:
    """A CSV, TSV or Parquet file with a column of paths.

    Args:
        file: the table.
        path: column of the paths; guessed from usual names.
        label: column, several columns, or None; ``auto`` takes a column called ``label`` or ``class``.
        split: column of train, valid, test.
        group: column of groups.
        root: folder that relative paths start from; default: the table's.

    Raises:
        DataError: no such column, or an empty path; names row and column.
    """
    table = _table(file)
    names = table.column_names
    column = _path_column(names, path, file)
    paths = table.column(column).to_pylist()
    empty = [i for i, value in enumerate(paths) if not isinstance(value, str) or not value.strip()]
    if empty:
        raise DataError(f"{file}: row {empty[0] + 1} has no path in the column {column!r}")
    base = Path(root) if root is not None else file.parent
    full = [os.path.join(base, value) for value in paths]
    wanted = _label_columns(names, label)
    for key, asked in (("label", wanted), ("split", [split]), ("group", [group])):
        for name in asked:
            if name is not None and name not in names:
                raise DataError(f"data.{key}: {file} has no column {name!r} (it has: {', '.join(names)})")
    columns = [_values(table, name) for name in wanted]
    values = None if not columns else columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
    return Listing(
        str(file),
        paths,
        Paths(full),
        label=values,
        split=None if split is None else _splits(_values(table, split), split, file),
        group=None if group is None else _values(table, group),
        mark=[_mark(full), str(file)],
    )


def _table(file: Path) -> pa.Table:
    try:
        if file.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(file)
        import pyarrow.csv as csv

        tabs = csv.ParseOptions(delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        table = csv.read_csv(file, parse_options=tabs)
        table.column_names  # noqa: B018  (a header in another encoding fails here)
        return table
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a table ({str(error).splitlines()[0]})") from None


def _path_column(names: list[str], path: str | None, file: Path) -> str:
    if path is not None:
        if path not in names:
            raise DataError(f"data.path: {file} has no column {path!r} (it has: {', '.join(names)})")
        return path
    for name in names:
        if name.lower() in PATH_COLUMNS:
            return name
    raise DataError(
        f"{file} has no column of paths that can be told (columns: {', '.join(names)}); "
        "say which with data.path=COLUMN"
    )


def _label_columns(names: list[str], label: str | Sequence[str] | None) -> list[str]:
    if label is None:
        return []
    if label == "auto":
        return [name for name in names if name.lower() in ("label", "class")][:1]
    return [label] if isinstance(label, str) else list(label)


def _values(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table.column(name).to_pylist(), dtype=object)


def _splits(values: np.ndarray, name: str, file: Path) -> np.ndarray:
    words = [SPLIT_WORDS.get(str(v).strip().lower()) for v in values]
    if None in words:
        row = words.index(None)
        raise DataError(
            f"{file}: row {row + 1} has {values[row]!r} in the split column {name!r}; "
            "use train, valid or test"
        )
    return np.array(words)


def _mark(paths: Sequence[str]) -> Any:
    """Names, sizes and times of the files: what a cache of them depends on."""
    out = []
    for path in paths:
        try:
            stat = os.stat(path)
            out.append([path, stat.st_size, stat.st_mtime_ns])
        except OSError:
            out.append([path, -1, -1])
    return out
