"""Images as files: a folder, or a table of paths."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.file_lists import (
    column_values,
    endings,
    file_marks,
    folder_classes,
    folder_splits,
    label_columns,
    path_column,
    path_groups,
    read_path_table,
    split_words,
)
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
            f"{folder} holds no image{endings(others)}; give a folder of .jpg, .png or like files"
        )
    parts = [path.split(os.sep) for path in found]
    split = folder_splits(parts)
    below = [p[1:] for p in parts] if split is not None else parts
    classes, notes = folder_classes(
        [p[0] if len(p) > 1 else None for p in below], label, str(folder), "image"
    )
    return Listing(
        str(folder),
        [path.replace(os.sep, "/") for path in found],
        Paths([os.path.join(folder, path) for path in found]),
        label=classes,
        split=split,
        group=None if group is None else path_groups(found, group),
        notes=notes,
        mark=file_marks([os.path.join(folder, path) for path in found]),
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
    table = read_path_table(file)
    names = table.column_names
    column = path_column(names, path, file, PATH_COLUMNS)
    paths = table.column(column).to_pylist()
    empty = [i for i, value in enumerate(paths) if not isinstance(value, str) or not value.strip()]
    if empty:
        raise DataError(f"{file}: row {empty[0] + 1} has no path in the column {column!r}")
    base = Path(root) if root is not None else file.parent
    full = [os.path.join(base, value) for value in paths]
    wanted = label_columns(names, label)
    for key, asked in (("label", wanted), ("split", [split]), ("group", [group])):
        for name in asked:
            if name is not None and name not in names:
                raise DataError(f"data.{key}: {file} has no column {name!r} (it has: {', '.join(names)})")
    columns = [column_values(table, name) for name in wanted]
    values = None if not columns else columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
    return Listing(
        str(file),
        paths,
        Paths(full),
        label=values,
        split=None if split is None else split_words(column_values(table, split), split, file),
        group=None if group is None else column_values(table, group),
        mark=[file_marks(full), str(file)],
    )
