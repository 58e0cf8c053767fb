"""Images of a Hugging Face dataset: saved on disk, on the hub, or an object in memory."""

from __future__ import annotations

from typing import Any

from ssl_domains.core.file_lists import dataset_columns
from ssl_domains.image.listing import Listing


def read_dataset(found: Any, name: str, column: str | None, label: Any, split: Any, group: Any) -> Listing:
    """A ``Dataset``, or a ``DatasetDict`` whose keys are splits.

    Args:
        found: the dataset.
        name: of the source, for messages.
        column: the image column; by default the first.
        label: a column, ``auto`` (a class-label column), or None.
        split: column of train, valid, test.
        group: column of groups.

    Raises:
        DataError: no image column, or no such column.
    """
    from datasets import Image

    own = dataset_columns(found, name, Image, column=column, label=label, split=split, group=group)
    return Listing(
        name,
        range(len(own.files)),
        own.files,
        label=own.label,
        class_names=own.class_names,
        split=own.split,
        group=own.group,
        mark=own.mark,
    )
