"""Videos of a Hugging Face dataset: saved on disk, on the hub, or an object in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.file_lists import EncodedRows, split_words
from ssl_domains.core.labels import SPLIT_WORDS
from ssl_domains.video.listing import Listing


def read_dataset(found: Any, name: str, column: str | None, label: Any, split: Any, group: Any) -> Listing:
    """A ``Dataset``, or a ``DatasetDict`` whose keys are splits.

    Args:
        found: the dataset.
        name: of the source, for messages.
        column: the video column; by default the first.
        label: a column, ``auto`` (a class-label column), or None.
        split: column of train, valid, test.
        group: column of groups.

    Raises:
        DataError: no video column, or no such column.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Video, concatenate_datasets

    splits = None
    if isinstance(found, DatasetDict):
        words = [SPLIT_WORDS.get(key.lower()) for key in found]
        if None not in words and "train" in words and split is None:
            splits = np.concatenate([np.full(len(d), w) for d, w in zip(found.values(), words, strict=True)])
        found = concatenate_datasets(list(found.values()))
    if not isinstance(found, Dataset):
        raise DataError(f"{name}: expected a dataset of rows, found {type(found).__name__}")
    features = found.features
    videos = [key for key, feature in features.items() if isinstance(feature, Video)]
    column = column or (videos[0] if videos else None)
    if column is None or column not in videos:
        raise DataError(f"{name}: {column or 'no column'} holds videos (columns: {', '.join(features)})")
    if label == "auto":
        label = next((key for key, feature in features.items() if isinstance(feature, ClassLabel)), None)
    for key, asked in (("label", label), ("split", split), ("group", group)):
        if asked is not None and asked not in features:
            raise DataError(f"data.{key}: {name} has no column {asked!r} (it has: {', '.join(features)})")
    classes = features[label] if label is not None else None
    encoded = found.cast_column(column, Video(decode=False))
    if split is not None:
        splits = split_words(np.array(found[split], dtype=object), split, name)
    return Listing(
        name,
        range(len(found)),
        EncodedRows(encoded.select_columns([column]), column),
        label=None if label is None else np.array(found[label], dtype=object),
        class_names=list(classes.names) if isinstance(classes, ClassLabel) else None,
        split=splits,
        group=None if group is None else np.array(found[group], dtype=object),
        mark=[name, found._fingerprint],
    )
