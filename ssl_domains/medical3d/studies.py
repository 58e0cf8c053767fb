"""Which studies there are: a folder, a table, or one file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_domains.core.errors import DataError
from ssl_domains.medical3d.readers import SUFFIXES, suffix_of

TABLES = (".csv", ".tsv", ".parquet")
_COLUMNS = {
    "path": ("path", "image", "file", "volume", "filename"),
    "patient": ("patient", "patient_id", "subject", "subject_id", "case"),
    "label": ("label", "class", "diagnosis", "target"),
    "mask": ("mask", "segmentation", "seg", "labelmap"),
    "split": ("split", "set", "fold"),
}
SPLIT_WORDS = {"train": "train", "training": "train", "valid": "valid", "val": "valid", "test": "test"}


@dataclass
class Study:
    """One volume to be read.

    Attributes:
        name: what reports call it: its path below the source.
        files: one a channel; each a file or a folder of DICOM slices.
        patient: who it is of; "" when nobody said.
        mask: file of a label map, or None.
        label: what the table says.
        split: train, valid, test or None.
    """

    name: str
    files: list[Path]
    patient: str = ""
    mask: Path | None = None
    label: Any = None
    split: str | None = None


@dataclass
class Studies:
    """What a reader found, before any volume is opened."""

    name: str
    items: list[Study]
    notes: list[str] = field(default_factory=list)


def find_studies(
    source: Path,
    *,
    path: str | Sequence[str] | None = None,
    patient: str | None = None,
    label: str | None = None,
    mask: str | None = None,
    split: str | None = None,
    root: str | None = None,
) -> Studies:
    """Studies of a source.

    Args:
        source: a table, a folder, or one file.
        path: column of paths; several: one a channel.
        patient: column; for folders a regular expression on the path whose first group is the patient.
        label: column. ``folder`` takes the name of the folder that a volume lies in.
        mask: column; for folders the ending that tells masks from images, such as ``_seg``.
        split: column of train, valid, test; for folders such names are found by themselves.
        root: where relative paths of a table start; by default the table's folder.

    Raises:
        DataError: nothing there, or a column that is missing.
    """
    if not source.exists():
        raise DataError(f"data.source: {source} does not exist")
    if source.is_file() and source.suffix.lower() in TABLES:
        return _table(source, path, patient, label, mask, split, root)
    if source.is_file():
        return Studies(str(source), [Study(_stem(source), [source])])
    return _folder(source, patient, label, mask)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _folder(source: Path, patient: str | None, label: str | None, mask: str | None) -> Studies:
    """Files at any depth, and folders that hold DICOM slices; each is a study."""
    from ssl_domains.medical3d.dicom import is_dicom

    ending = "_mask" if mask is None else mask
    found = sorted(p for p in source.rglob("*") if p.is_file() and suffix_of(p) in SUFFIXES)
    found = [p for p in found if suffix_of(p) != ".img"]  # its .hdr names it
    masks = {p for p in found if _stem(p).endswith(ending)}
    images = [p for p in found if p not in masks]
    by_name = {(p.parent, _stem(p)): p for p in masks}
    series = sorted({p.parent for p in source.rglob("*") if p.is_file() and is_dicom(p)})
    items = []
    for place in [*images, *series]:
        below = str(place.relative_to(source)) if place != source else place.name
        item = Study(below, [place], mask=by_name.get((place.parent, _stem(place) + ending)))
        item.patient = _patient(below, patient)
        words = [SPLIT_WORDS.get(part.lower()) for part in Path(below).parts[:-1]]
        item.split = next((w for w in words if w is not None), None)
        if label == "folder":
            item.label = place.parent.name
        items.append(item)
    if not items:
        raise DataError(
            f"{source} holds no volumes; give a folder of {', '.join(SUFFIXES)} or DICOM series, or a table "
            "with a column of paths"
        )
    orphans = masks - {item.mask for item in items}
    notes = [f"{len(orphans)} masks have no image of their name"] if orphans else []
    if label not in (None, "folder"):
        raise DataError(
            f"data.label: {label!r} is a column, and {source} is a folder; use folder, or a table"
        )
    if patient is None:
        notes.append("data.patient is not set: every volume counts as a patient of its own")
    return Studies(str(source), items, notes)


def _patient(name: str, pattern: str | None) -> str:
    if pattern is None:
        return ""
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise DataError(f"data.patient: {pattern!r} is no regular expression ({error})") from None
    if found is None:
        raise DataError(f"data.patient: {pattern!r} does not fit {name!r}")
    return found.group(1) if found.groups() else found.group(0)


def _table(
    source: Path,
    path: str | Sequence[str] | None,
    patient: str | None,
    label: str | None,
    mask: str | None,
    split: str | None,
    root: str | None,
) -> Studies:
    import pandas as pd

    try:
        if source.suffix.lower() == ".parquet":
            table = pd.read_parquet(source)
        else:
            table = pd.read_csv(source, sep="\t" if source.suffix.lower() == ".tsv" else ",", dtype=str)
    except Exception as error:
        raise DataError(f"{source}: cannot be read as a table ({str(error).splitlines()[0]})") from None
    if not len(table):
        raise DataError(f"{source} has no rows")
    given = {"patient": patient, "label": label, "mask": mask, "split": split}
    columns = {name: _column(table, value, name, source) for name, value in given.items()}
    paths: Sequence[str | None] = [path] if path is None or isinstance(path, str) else path
    files = [c for c in (_column(table, p, "path", source) for p in paths) if c is not None]
    if not files:
        raise DataError(f"{source} has no column of paths; say which with data.path (has: {_some(table)})")
    base = source.parent if root is None else Path(root).expanduser()
    notes = [] if columns["patient"] else ["no column of patients: every row counts as a patient of its own"]
    items = []
    for number, row in enumerate(table.to_dict("records")):
        values = {name: None if c is None or pd.isna(row[c]) else row[c] for name, c in columns.items()}
        if any(pd.isna(row[c]) for c in files):
            raise DataError(f"{source}: row {number + 1} has no {files[0]!r}; fill it or remove the row")
        item = Study(str(row[files[0]]), [base / str(row[c]) for c in files])
        item.patient = "" if values["patient"] is None else str(values["patient"])
        if columns["patient"] and not item.patient:
            raise DataError(f"{source}: row {number + 1} has no {columns['patient']!r}; who is it?")
        item.mask = None if values["mask"] is None else base / str(values["mask"])
        item.label, item.split = values["label"], _word(values["split"], source, number)
        items.append(item)
    return Studies(str(source), items, notes)


def _word(value: Any, source: Path, number: int) -> str | None:
    if value is None:
        return None
    word = SPLIT_WORDS.get(str(value).strip().lower())
    if word is None:
        raise DataError(f"{source}: row {number + 1}: split {value!r} is not one of train, valid, test")
    return word


def _column(table: Any, named: str | None, what: str, source: Path) -> str | None:
    """The named column, or one of the usual names; None when there is none."""
    if named is not None:
        if named not in table.columns:
            raise DataError(f"data.{what}: {source} has no column {named!r} (has: {_some(table)})")
        return named
    low = {str(c).lower(): str(c) for c in table.columns}
    return next((low[name] for name in _COLUMNS[what] if name in low), None)


def _some(table: Any) -> str:
    names = [str(c) for c in table.columns]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
