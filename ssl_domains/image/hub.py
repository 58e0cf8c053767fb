"""Images of a Hugging Face dataset: saved on disk, on the hub, or an object in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.file_lists import EncodedRows, split_words
from ssl_domains.core.labels import SPLIT_WORDS
from ssl_domains.image.listing import Listing


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
        splits = split_words(np.array(found[split], dtype=object), split, name)
    return Listing(
        name,
        range(len(found)),
        EncodedRows(encoded.select_columns([column]), column),
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
