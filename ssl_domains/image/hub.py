"""Images of a Hugging Face dataset: saved on disk, on the hub, or an object in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.labels import SPLIT_WORDS
from ssl_domains.image.decode import Raw
from ssl_domains.image.listing import Listing

_MISSING = "needs the package datasets: pip install 'ssl-domains[hf]'"


@dataclass
class Rows:
    """Encoded images of a dataset's Image column, not decoded by it."""

    dataset: Any
    column: str

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Raw:
        value = self.dataset[row][self.column]
        if value is None:
            return b""
        found: Raw = value["bytes"] if value.get("bytes") is not None else value["path"]
        return found


def open_saved(path: Path) -> Any:
    """A dataset that ``save_to_disk`` wrote.

    Raises:
        DataError: the package is missing, or the folder is damaged.
    """
    try:
        from datasets import load_from_disk
    except ImportError:
        raise DataError(f"{path} {_MISSING}") from None
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
        raise DataError(f"{name} {_MISSING}") from None
    where, _, split = name.removeprefix("hf://").partition(":")
    try:
        return load_dataset(where, split=split or None)
    except (OSError, ValueError) as error:
        raise DataError(
            f"data.source: {name} cannot be loaded ({str(error).splitlines()[0]}); check name and network"
        ) from None


def read_dataset(found: Any, name: str, column: str | None, label: Any, split: Any, group: Any) -> Listing:
    """A ``Dataset``, or a ``DatasetDict`` whose keys are splits.

    Args:
        found: the dataset.
        name: of the source, for messages.
        column: the image column; by default the first that holds images.
        label: a column, ``auto`` (a class-label column), or None.
        split: column of train, valid, test.
        group: column of groups.

    Raises:
        DataError: no image column, or no such column.
    """
    from datasets import Dataset, DatasetDict, Image, concatenate_datasets

    splits = None
    if isinstance(found, DatasetDict):
        words = [SPLIT_WORDS.get(key.lower()) for key in found]
        if None not in words and "train" in words and split is None:
            splits = np.concatenate([np.full(len(d), w) for d, w in zip(found.values(), words, strict=True)])
        found = concatenate_datasets(list(found.values()))
    if not isinstance(found, Dataset):
        raise DataError(f"{name}: expected a dataset of rows, found {type(found).__name__}")
    features = found.features
    images = [key for key, feature in features.items() if isinstance(feature, Image)]
    column = column or (images[0] if images else None)
    if column is None or column not in images:
        raise DataError(f"{name}: {column or 'no column'} holds images (columns: {', '.join(features)})")
    wanted, names = _label(features, label, name)
    for key, asked in (("split", split), ("group", group)):
        if asked is not None and asked not in features:
            raise DataError(f"data.{key}: {name} has no column {asked!r} (it has: {', '.join(features)})")
    encoded = found.cast_column(column, Image(decode=False))
    if split is not None:
        splits = np.array([SPLIT_WORDS.get(str(v).lower(), "") for v in found[split]])
    return Listing(
        name,
        range(len(found)),
        Rows(encoded.select_columns([column]), column),
        label=None if wanted is None else np.array(found[wanted], dtype=object),
        class_names=names,
        split=splits,
        group=None if group is None else np.array(found[group], dtype=object),
        mark=[name, found._fingerprint],
    )


def _label(features: Any, label: Any, name: str) -> tuple[str | None, list[str] | None]:
    from datasets import ClassLabel

    if label is None:
        return None, None
    if label == "auto":
        label = next((key for key, feature in features.items() if isinstance(feature, ClassLabel)), None)
        if label is None:
            return None, None
    if isinstance(label, Sequence) and not isinstance(label, str):
        raise DataError(f"data.label: give one column of {name}")
    if label not in features:
        raise DataError(f"data.label: {name} has no column {label!r} (it has: {', '.join(features)})")
    feature = features[label]
    return label, list(feature.names) if isinstance(feature, ClassLabel) else None
