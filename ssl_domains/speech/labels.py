"""Labels, symbols and splits of utterances; a speaker or a recording stays on one side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.labels import SPLIT_WORDS

SPLITS = ("train", "valid", "test")


def encode_labels(
    values: Sequence[Any], task: str | None, classes: Sequence[str] = ()
) -> tuple[np.ndarray | None, str | None, list[str] | None]:
    """Labels in the form of a source: (labels, task, class names).

    Args:
        values: one an utterance; None, NaN and empty text are unknown.
        task: classification or regression; None: regression for numbers with fractions.
        classes: names that an encoder was trained with; fixes the numbers.

    Raises:
        DataError: an unknown task, or texts where numbers are wanted.
    """
    if task not in (None, "classification", "regression"):
        raise DataError(f"data.task is {task!r}; use classification or regression")
    known = [v is not None and v == v and str(v).strip() != "" for v in values]
    numbers = all(isinstance(v, int | float | np.number) for v, k in zip(values, known, strict=True) if k)
    if not any(known):
        return None, None, None
    if task == "regression" or (
        task is None and numbers and any(float(v) % 1 for v, k in zip(values, known) if k)
    ):
        if not numbers:
            raise DataError("data.task: regression needs labels that are numbers")
        out = np.array([float(v) if k else np.nan for v, k in zip(values, known)], dtype=np.float32)
        return out, "regression", None
    texts = [str(v) for v in values]
    found = {t for t, k in zip(texts, known) if k}
    names = list(classes) or sorted(found, key=(lambda t: float(t)) if numbers else str)  # type: ignore[arg-type]
    if len(names) < 2:
        return None, None, None
    place = {name: i for i, name in enumerate(names)}
    labels = np.array([place.get(t, -1) if k else -1 for t, k in zip(texts, known)], dtype=np.int64)
    return labels, "classification", names


def make_splits(
    given: Sequence[str | None], units: Sequence[str], valid: float, test: float, seed: int
) -> dict[str, np.ndarray]:
    """Rows of train, valid and test.

    Args:
        given: the data's own words, or None; rows without a word join train.
        units: what must not be torn apart: the speaker, or the file of a row.
        valid: share of the units for validation.
        test: for the test.
        seed: of the draw.

    Raises:
        DataError: an unknown word, shares out of range, or nothing left to train on.
    """
    for key, share in (("valid", valid), ("test", test)):
        if not 0.0 <= share < 1.0:
            raise DataError(f"data.{key} is a share and must lie in [0, 1), got {share}")
    if any(given):
        wrong = next((w for w in given if w and w.strip().lower() not in SPLIT_WORDS), None)
        if wrong is not None:
            raise DataError(f"split {wrong!r} is not one of train, valid, test")
        names = np.array([SPLIT_WORDS[w.strip().lower()] if w else "train" for w in given])
    else:
        owner = np.array(units, dtype=object).astype(str)
        order = np.random.default_rng([seed, 5]).permutation(np.unique(owner))
        names = np.full(len(owner), "train", dtype="<U5")
        begin = 0
        for split, share in (("valid", valid), ("test", test)):
            count = max(round(share * len(order)), 1) if share and len(order) >= 3 else 0
            names[np.isin(owner, order[begin : begin + count])] = split
            begin += count
    found = {split: np.flatnonzero(names == split).astype(np.int64) for split in SPLITS}
    if not len(found["train"]):
        raise DataError(
            "no utterance is left to train on; lower data.valid and data.test, or mark some as train"
        )
    return found


def symbols_of(texts: Sequence[str | None]) -> tuple[str, ...]:
    """The characters of the texts, in order."""
    return tuple(sorted({c for text in texts if text for c in text}))
