"""Videos as files: a folder of videos, a folder of frame folders, or a table of paths."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

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
from ssl_domains.video.decode import Raw
from ssl_domains.video.listing import Listing
from ssl_domains.video.recognise import SUFFIXES

PATH_COLUMNS = ("path", "file", "filename", "file_name", "video", "video_path", "clip", "filepath")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_NUMBER = re.compile(r"(\d+)")


@dataclass
class Files:
    """Videos by their paths; a tuple of paths is a video of single frames."""

    paths: Sequence[Raw]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Raw:
        return self.paths[row]


def read_folder(folder: Path, label: str | None, group: str | None) -> Listing:
    """A folder of videos, or of folders that each hold the frames of one video.

    Folders directly below it are classes where there are at least two of them and no video lies outside;
    folders called train, valid and test are splits.

    Args:
        folder: searched to any depth; hidden files and folders are left out, other kinds of files counted.
        label: ``folder``: the folder is the class in any case; ``auto``; None: no labels.
        group: a regular expression on the path below the source; its first group (or the whole match)
            names what must stay on one side of a split.

    Raises:
        DataError: no video, videos beside class folders that were asked for, a pattern that does not match.
    """
    videos, frames, others = _walk(folder)
    if not videos and not frames:
        raise DataError(
            f"{folder} holds no video{endings(others)}; give a folder of .mp4 or like files, or of folders "
            "of frames"
        )
    notes = []
    if videos:
        found = videos
        raws: list[Raw] = [os.path.join(folder, path) for path in videos]
        if others:
            notes.append(f"Files of other kinds were left out{endings(others)}.")
    else:
        found = list(frames)
        raws = [
            tuple(os.path.join(folder, path, name) for name in sorted(names, key=_natural))
            for path, names in frames.items()
        ]
    parts = [path.split(os.sep) for path in found]
    split = folder_splits(parts)
    below = [p[1:] for p in parts] if split is not None else parts
    classes, said = folder_classes([p[0] if len(p) > 1 else None for p in below], label, str(folder), "video")
    return Listing(
        str(folder),
        [path.replace(os.sep, "/") for path in found],
        Files(raws),
        label=classes,
        split=split,
        group=None if group is None else path_groups(found, group),
        notes=notes + said,
        mark=file_marks(raws),
    )


def _walk(folder: Path) -> tuple[list[str], dict[str, list[str]], Counter[str]]:
    """Paths of videos, images by folder (two or more), endings of everything else."""
    videos: list[str] = []
    frames: dict[str, list[str]] = {}
    others: Counter[str] = Counter()
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        below = os.path.relpath(where, folder)
        images = []
        for file in sorted(files):
            if file.startswith("."):
                continue
            ending = os.path.splitext(file)[1].lower()
            if ending in SUFFIXES:
                videos.append(file if below == "." else os.path.join(below, file))
            else:
                others[ending or "no ending"] += 1
                if ending in IMAGES:
                    images.append(file)
        if len(images) > 1 and below != ".":
            frames[below] = images
    return videos, frames, others


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Frame 10 after frame 9."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in _NUMBER.split(name) if p]


def read_table(
    file: Path,
    path: str | None,
    start: str | None,
    end: str | None,
    label: str | Sequence[str] | None,
    split: str | None,
    group: str | None,
    root: str | None,
) -> Listing:
    """A CSV, TSV or Parquet file: a path a row, and maybe the seconds where the clip starts and ends.

    Rows of one file (stretches of a long video) stay on one side of a split unless ``group`` says more.

    Args:
        file: the table.
        path: column of the paths; guessed from usual names.
        start, end: columns of seconds; ``start`` and ``end`` are found by themselves.
        label: column, several columns, or None; ``auto`` takes one called ``label`` or ``class``.
        split: column of train, valid, test.
        group: column of groups.
        root: folder that relative paths start from; default: the table's.

    Raises:
        DataError: no such column, an empty path, or an end before its start; names row and column.
    """
    table = read_path_table(file)
    names = table.column_names
    column = path_column(names, path, file, PATH_COLUMNS)
    paths = table.column(column).to_pylist()
    empty = [i for i, value in enumerate(paths) if not isinstance(value, str) or not value.strip()]
    if empty:
        raise DataError(f"{file}: row {empty[0] + 1} has no path in the column {column!r}")
    base = Path(root).expanduser() if root is not None else file.parent
    full: list[Raw] = [os.path.join(base, value) for value in paths]
    wanted = label_columns(names, label)
    asked: list[tuple[str, Sequence[str | None]]] = [("start", [start]), ("end", [end]), ("label", wanted)]
    for key, given in [*asked, ("split", [split]), ("group", [group])]:
        for name in given:
            if name is not None and name not in names:
                raise DataError(f"data.{key}: {file} has no column {name!r} (it has: {', '.join(names)})")
    begin, stop = (_seconds(table, given or key, file) for given, key in ((start, "start"), (end, "end")))
    if begin is not None and stop is not None and (stop <= begin).any():
        row = int(np.flatnonzero(stop <= begin)[0])
        raise DataError(
            f"{file}: row {row + 1} ends at {stop[row]:g} s, not after its start {begin[row]:g} s"
        )
    columns = [column_values(table, name) for name in wanted]
    values = None if not columns else columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
    groups: np.ndarray | None = None
    if group is not None:
        groups = column_values(table, group)
    elif len(set(paths)) < len(paths):
        groups = np.array(paths, dtype=object)
    ids = [
        p if begin is None else f"{p}@{begin[i]:g}{'' if stop is None else f'-{stop[i]:g}'}"
        for i, p in enumerate(paths)
    ]
    return Listing(
        str(file),
        ids,
        Files(full),
        start=begin,
        end=stop,
        label=values,
        split=None if split is None else split_words(column_values(table, split), split, file),
        group=groups,
        mark=[file_marks(full), file_marks([str(file)])],
    )


def _seconds(table: pa.Table, name: str, file: Path) -> np.ndarray | None:
    """``[n]`` float64, NaN where empty; None without the column."""
    if name not in table.column_names:
        return None
    out = []
    for row, value in enumerate(table.column(name).to_pylist()):
        try:
            out.append(np.nan if value is None or value == "" else float(value))
        except (TypeError, ValueError):
            raise DataError(
                f"{file}: row {row + 1} has {value!r} in the column {name!r}; give seconds"
            ) from None
    found = np.array(out, dtype=np.float64)
    if (found < 0).any():
        raise DataError(f"{file}: row {int(np.flatnonzero(found < 0)[0]) + 1} has a negative {name!r}")
    return found
