"""Recordings of a Hugging Face dataset: saved on disk, on the hub, or an object in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssl_domains.core.errors import DataError
from ssl_domains.core.file_lists import EncodedRows, joined, open_hub, open_saved
from ssl_domains.speech.listing import Listing, Utterance
from ssl_domains.speech.readers import USUAL, ReadOptions


def open_dataset(name: str | Path) -> Any:
    """A folder that ``save_to_disk`` wrote, or ``hf://NAME`` or ``hf://NAME:SPLIT``.

    Raises:
        DataError: the package is missing, the folder is damaged, or it cannot be fetched.
    """
    return open_hub(str(name)) if str(name).startswith("hf://") else open_saved(Path(name))


def read_dataset(found: Any, name: str, options: ReadOptions) -> Listing:
    """A ``Dataset`` with an Audio column, or a ``DatasetDict`` whose keys are splits.

    Raises:
        DataError: no Audio column, or no column of a name that was asked for.
    """
    from datasets import Audio, ClassLabel

    found, splits = joined(found, name)
    sound = [key for key, feature in found.features.items() if isinstance(feature, Audio)]
    column = options.path or (sound[0] if sound else None)
    if column not in sound:
        have = ", ".join(found.features)
        raise DataError(f"{name}: {column or 'no column'} holds audio (columns: {have}); cast one to Audio")
    values = {key: _values(found, key, getattr(options, key), name) for key in USUAL if key not in ("path",)}
    feature = found.features.get(_name(found, "label", options.label) or "")
    if isinstance(feature, ClassLabel) and values["label"] is not None:
        values["label"] = [None if v is None or v < 0 else feature.names[v] for v in values["label"]]
    rows = []
    for number in range(len(found)):
        cell = {key: None if column is None else column[number] for key, column in values.items()}
        text, speaker = (None if cell[key] is None else str(cell[key]) for key in ("text", "speaker"))
        split = str(splits[number]) if splits is not None else cell["split"]
        start, end = float(cell["start"] or 0.0), None if cell["end"] is None else float(cell["end"])
        rows.append(Utterance(number, str(number), start, end, text, speaker, cell["label"], split))
    files = EncodedRows(found.cast_column(column, Audio(decode=False)).select_columns([column]), str(column))
    return Listing(name, files, [f"row {i}" for i in range(len(found))], rows)


def _name(found: Any, key: str, asked: str | None) -> str | None:
    if asked == "auto" or (asked is None and key != "label"):
        return next((column for column in found.features if column.lower() in USUAL[key]), None)
    return asked


def _values(found: Any, key: str, asked: str | None, name: str) -> list[Any] | None:
    column = _name(found, key, asked)
    if column is None:
        return None
    if column not in found.features:
        raise DataError(f"data.{key}: {name} has no column {column!r} (it has: {', '.join(found.features)})")
    return list(found[column])
