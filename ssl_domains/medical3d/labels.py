"""Labels of samples: of a study, or of the structure in the middle of a patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_domains.core.errors import DataError

if TYPE_CHECKING:
    from ssl_domains.medical3d.data import VolumeSource

Labels = tuple[np.ndarray | None, str | None, list[str] | None]


def study_labels(values: Sequence[Any], task: str | None) -> Labels:
    """(labels ``[v]``, task, class names) of the studies; unknown ones are -1, or NaN for numbers.

    Args:
        values: one a study; None and empty text are unknown.
        task: classification or regression; None: regression for numbers with fractions.

    Raises:
        DataError: an unknown task, text for a regression.
    """
    if task not in (None, "classification", "regression"):
        raise DataError(f"data.task is {task!r}; use classification or regression")
    known = [v is not None and str(v).strip() not in ("", "nan") for v in values]
    if not any(known):
        return None, None, None
    numbers = [_number(v) if k else None for v, k in zip(values, known, strict=True)]
    numeric = all(n is not None for n, k in zip(numbers, known, strict=True) if k)
    fractions = numeric and any(n % 1 for n in numbers if n is not None)
    if task == "regression" or (task is None and fractions):
        if not numeric:
            raise DataError("data.task: regression needs labels that are numbers")
        return np.array([np.nan if n is None else n for n in numbers], np.float32), "regression", None
    texts = [
        str(int(n)) if numeric and n is not None else str(v) for n, v in zip(numbers, values, strict=True)
    ]
    found = {t for t, k in zip(texts, known, strict=True) if k}
    names = sorted(found, key=(lambda t: int(t)) if numeric else str)  # type: ignore[arg-type]
    if len(names) < 2:
        return None, None, None  # one class: nothing to tell apart
    place = {name: i for i, name in enumerate(names)}
    labels = [place[t] if k else -1 for t, k in zip(texts, known, strict=True)]
    return np.array(labels, dtype=np.int64), "classification", names


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def position_labels(source: VolumeSource) -> np.ndarray:
    """``[n, 3]`` float32: where the middle of a sample lies in its volume, as shares of the sides."""
    from ssl_domains.medical3d.data import box_of

    shapes = np.array([f.shape for f in source.volumes.facts])[source.samples.volume]
    middle = source.samples.corner + np.array(box_of(source.spec)) / 2
    return np.asarray(middle / shapes, dtype=np.float32)


def mask_labels(source: VolumeSource) -> Labels:
    """The structure that fills most of the middle of each sample, a box of half its sides; -1 where only
    background is there.

    Raises:
        DataError: no masks, or fewer than two structures in the middle of any sample.
    """
    from ssl_domains.medical3d.data import box_of

    if source.dense_classes is None:
        raise DataError("data.label: mask needs masks; give a column, or files that end with data.mask")
    box = np.array(box_of(source.spec))
    half = np.maximum(box // 2, 1)
    low = source.samples.corner + (box - half) // 2
    count = len(source.dense_classes)
    labels = np.full(len(source), -1, dtype=np.int64)
    for volume in np.unique(source.samples.volume):
        mask = source.volumes.mask(int(volume))
        if mask is None:
            continue
        classes = source.classes_of(np.asarray(mask))
        for row in np.flatnonzero(source.samples.volume == volume):
            start = low[row].clip(0)
            inside = tuple(
                slice(int(a), int(b)) for a, b in zip(start, (low[row] + half).clip(0), strict=True)
            )
            seen = np.bincount(classes[inside].reshape(-1), minlength=count)[1:]
            labels[row] = seen.argmax() if seen.any() else -1
    if len(np.unique(labels[labels >= 0])) < 2:
        raise DataError("data.label: mask finds fewer than two structures; use smaller patches or strides")
    return labels, "classification", source.dense_classes[1:]
