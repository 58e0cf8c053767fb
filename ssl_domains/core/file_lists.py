"""Samples that are files: what folders, tables of paths and datasets say of them, whatever the files hold."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.labels import SPLIT_WORDS

if TYPE_CHECKING:
    import pyarrow as pa

_NO_DATASETS = "needs the package datasets: pip install 'ssl-domains[hf]'"


def endings(others: Counter[str]) -> str:
    """The commonest endings of files that no reader takes, for a message."""
    listed = ", ".join(f"{n} {ending}" for ending, n in others.most_common(4))
    return f" (files: {listed})" if listed else " (it is empty)"


def folder_splits(parts: list[list[str]]) -> np.ndarray | None:
    """Splits from the first folder of each path when every one is called like a split, and some ``train``."""
    words = [SPLIT_WORDS.get(p[0].lower()) if len(p) > 1 else None for p in parts]
    if None in words or "train" not in words:
        return None
    return np.array(words)


def folder_classes(
    names: list[str | None], label: str | None, where: str, thing: str
) -> tuple[np.ndarray | None, list[str]]:
    """Classes from folders, and sentences for the card.

    Args:
        names: of the folder of each file directly below the source; None: it lies in none.
        label: ``folder``: they are the classes; ``auto``: so when there are at least two that hold two files
            or more on average, and none lies outside; None: no labels.
        where: the source, for messages.
        thing: what a file is (``image``), for messages.

    Raises:
        DataError: classes were asked for and files lie outside.
    """
    if label is None:
        return None, []
    outside = sum(name is None for name in names)
    if label == "folder":
        if outside:
            raise DataError(
                f"data.label: folder, but {outside} {thing}s of {where} lie in no class folder; move them "
                "into one, or leave the label out"
            )
        return np.array(names, dtype=object), []
    kinds = len({name for name in names if name is not None})
    if kinds == 0:
        return None, []
    if outside:
        return None, [f"Some {thing}s lie outside the folders, so the folders are not taken for classes."]
    if kinds == 1:
        return None, [f"All {thing}s lie in one folder ({names[0]}), so there is no label."]
    if len(names) < 2 * kinds:
        return None, [f"Most folders hold a single {thing}, so they are not taken for classes."]
    return np.array(names, dtype=object), []


def path_groups(paths: Sequence[str], pattern: str) -> np.ndarray:
    """``[n]`` first group (or whole match) of a regular expression on each path.

    Raises:
        DataError: no regular expression, or it does not match a path.
    """
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


def read_path_table(file: Path) -> pa.Table:
    """A CSV, TSV or Parquet file.

    Raises:
        DataError: it cannot be read.
    """
    import pyarrow as pa

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


def path_column(names: list[str], path: str | None, file: Path, usual: Sequence[str]) -> str:
    """The column of paths: the one that was named, or the first of a usual name.

    Raises:
        DataError: no such column, or none can be told.
    """
    if path is not None:
        if path not in names:
            raise DataError(f"data.path: {file} has no column {path!r} (it has: {', '.join(names)})")
        return path
    for name in names:
        if name.lower() in usual:
            return name
    raise DataError(
        f"{file} has no column of paths that can be told (columns: {', '.join(names)}); "
        "say which with data.path=COLUMN"
    )


def label_columns(names: list[str], label: str | Sequence[str] | None) -> list[str]:
    """Columns that ``data.label`` names; ``auto``: the first called label or class."""
    if label is None:
        return []
    if label == "auto":
        return [name for name in names if name.lower() in ("label", "class")][:1]
    return [label] if isinstance(label, str) else list(label)


def column_values(table: pa.Table, name: str) -> np.ndarray:
    """``[n]`` values of a column as found."""
    return np.array(table.column(name).to_pylist(), dtype=object)


def split_words(values: np.ndarray, name: str, where: Any) -> np.ndarray:
    """``[n]`` of train, valid, test from what a column says.

    Raises:
        DataError: another word; names the row.
    """
    words = [SPLIT_WORDS.get(str(v).strip().lower()) for v in values]
    if None in words:
        row = words.index(None)
        raise DataError(
            f"{where}: row {row + 1} has {values[row]!r} in the split column {name!r}; "
            "use train, valid or test"
        )
    return np.array(words)


def file_marks(raws: Sequence[Any]) -> Any:
    """Names, sizes and times of files (or tuples of files): what a cache of them depends on."""
    out = []
    for raw in raws:
        for path in raw if isinstance(raw, tuple) else (raw,):
            try:
                stat = os.stat(path)
                out.append([str(path), stat.st_size, stat.st_mtime_ns])
            except OSError:
                out.append([str(path), -1, -1])
    return out


@dataclass
class EncodedRows:
    """Encoded files of a dataset's column (Image, Video), not decoded by it: bytes, or a path."""

    dataset: Any
    column: str

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Any:
        value = self.dataset[row][self.column]
        if value is None:
            return b""
        return value["bytes"] if value.get("bytes") is not None else value["path"]


@dataclass
class DatasetColumns:
    """What the columns of a dataset say of its rows.

    Attributes:
        files: encoded files.
        label: ``[n]`` values as found, or None.
        class_names: of a column of class labels, or None.
        split: ``[n]`` of train, valid, test, or None.
        group: ``[n]`` values, or None.
        mark: changes when the dataset changes.
    """

    files: EncodedRows
    label: np.ndarray | None
    class_names: list[str] | None
    split: np.ndarray | None
    group: np.ndarray | None
    mark: list[Any]


def joined(found: Any, name: str) -> tuple[Any, np.ndarray | None]:
    """One ``Dataset``, and ``[n]`` splits where it was a ``DatasetDict`` with such keys.

    Raises:
        DataError: it is neither.
    """
    from datasets import Dataset, DatasetDict, concatenate_datasets

    splits = None
    if isinstance(found, DatasetDict):
        words = [SPLIT_WORDS.get(key.lower()) for key in found]
        if None not in words and "train" in words:
            splits = np.concatenate([np.full(len(d), w) for d, w in zip(found.values(), words, strict=True)])
        found = concatenate_datasets(list(found.values()))
    if not isinstance(found, Dataset):
        raise DataError(f"{name}: expected a dataset of rows, found {type(found).__name__}")
    return found, splits


def dataset_columns(
    found: Any, name: str, kind: type, *, column: str | None, label: Any, split: Any, group: Any
) -> DatasetColumns:
    """A Hugging Face ``Dataset``, or a ``DatasetDict`` whose keys are splits.

    Args:
        found: the dataset.
        name: of the source, for messages.
        kind: the feature that holds files: ``datasets.Image`` or ``datasets.Video``.
        column: of this kind; by default the first.
        label: a column, ``auto`` (a class-label column), or None.
        split: column of train, valid, test.
        group: column of groups.

    Raises:
        DataError: no column of this kind, or no such column.
    """
    from datasets import ClassLabel

    found, splits = joined(found, name)
    features = found.features
    filed = [key for key, feature in features.items() if isinstance(feature, kind)]
    column = column or (filed[0] if filed else None)
    if column is None or column not in filed:
        what = f"{kind.__name__.lower()}s"
        raise DataError(f"{name}: {column or 'no column'} holds {what} (columns: {', '.join(features)})")
    if label == "auto":
        label = next((key for key, feature in features.items() if isinstance(feature, ClassLabel)), None)
    for key, asked in (("label", label), ("split", split), ("group", group)):
        if asked is not None and not isinstance(asked, str):
            raise DataError(f"data.{key}: give one column of {name}")
        if asked is not None and asked not in features:
            raise DataError(f"data.{key}: {name} has no column {asked!r} (it has: {', '.join(features)})")
    if split is not None:
        splits = split_words(np.array(found[split], dtype=object), split, name)
    encoded = found.cast_column(column, kind(decode=False)).select_columns([column])
    classes = features[label] if label is not None else None
    return DatasetColumns(
        EncodedRows(encoded, column),
        None if label is None else np.array(found[label], dtype=object),
        list(classes.names) if isinstance(classes, ClassLabel) else None,
        splits,
        None if group is None else np.array(found[group], dtype=object),
        [name, found._fingerprint],
    )


def open_saved(path: Path) -> Any:
    """A Hugging Face dataset that ``save_to_disk`` wrote.

    Raises:
        DataError: the package is missing, or the folder is damaged.
    """
    try:
        from datasets import load_from_disk
    except ImportError:
        raise DataError(f"{path} {_NO_DATASETS}") from None
    try:
        return load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no complete saved dataset ({str(error).splitlines()[0]})") from None


def open_hub(name: str) -> Any:
    """``hf://NAME`` or ``hf://NAME:SPLIT``.

    Raises:
        DataError: the package is missing, or it cannot be fetched.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"{name} {_NO_DATASETS}") from None
    where, _, split = name.removeprefix("hf://").partition(":")
    try:
        return load_dataset(where, split=split or None)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"data.source: {name} cannot be loaded ({reason}); check name and network") from None
