"""Labels and splits of clips; who is in train is not in test."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError

SPLITS = ("train", "valid", "test")
_WORDS = {
    "train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid",
    "dev": "valid", "test": "test", "testing": "test",
}  # fmt: skip


class SharedGroupWarning(UserWarning):
    """The same person is in train and test."""


def encode_labels(
    values: Sequence[Any], task: str | None, classes: Sequence[str] = ()
) -> tuple[np.ndarray | None, str | None, list[str] | None]:
    """Labels in the form of a source: (labels, task, class names).

    Args:
        values: one a clip; None, NaN, empty text and negative whole numbers are unknown.
        task: classification or regression; None: regression for numbers with fractions.
        classes: names that an encoder was trained with; fixes the numbers.

    Raises:
        DataError: an unknown task, or a single class.
    """
    if task not in (None, "classification", "regression"):
        raise DataError(f"data.task is {task!r}; use classification or regression")
    known = [not _unknown(v) for v in values]
    if not any(known):
        return None, None, None
    numbers = all(isinstance(v, int | float | np.number) for v, k in zip(values, known) if k)
    fractions = numbers and any(float(v) % 1 for v, k in zip(values, known) if k)
    if task == "regression" or (task is None and fractions):
        if not numbers:
            raise DataError("data.task: regression needs labels that are numbers")
        out = np.array([float(v) if k else np.nan for v, k in zip(values, known)], dtype=np.float32)
        return out, "regression", None
    texts = [str(int(v)) if numbers and k else str(v) for v, k in zip(values, known)]
    found = {t for t, k in zip(texts, known) if k}
    names = list(classes) or sorted(found, key=(lambda t: int(t)) if numbers else str)  # type: ignore[arg-type]
    if len(names) < 2:
        raise DataError(
            f"all labels are {names[0]!r}; classification needs two classes, or leave the label out"
        )
    place = {name: i for i, name in enumerate(names)}
    labels = np.array([place.get(t, -1) if k else -1 for t, k in zip(texts, known)], dtype=np.int64)
    return labels, "classification", names


def _unknown(value: Any) -> bool:
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    if isinstance(value, int | float | np.number):
        return bool(value != value) or (float(value) < 0 and float(value) == int(value))
    return False


def make_splits(
    given: Sequence[str | None],
    groups: Sequence[str | None],
    unit: np.ndarray,
    *,
    valid: float,
    test: float,
    valid_groups: Sequence[str] = (),
    test_groups: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Rows of train, valid and test.

    By what is there first: words of the data; named groups; groups drawn at random (subjects stay whole)
    where there are three or more; else recordings drawn at random, so that windows of one recording stay
    together.

    Args:
        given: train, valid or test of each clip, or None.
        groups: group of each clip, or None.
        unit: ``[n]`` recording of each clip.
        valid: share of the groups, or recordings, for validation.
        test: for the test.
        valid_groups: groups for validation.
        test_groups: groups for the test.
        seed: of the draw.

    Raises:
        DataError: an unknown word or group, shares out of range, or nothing left to train on.
    """
    for key, share in (("valid", valid), ("test", test)):
        if not 0.0 <= share < 1.0:
            raise DataError(f"data.{key} is a share and must lie in [0, 1), got {share}")
    n = len(given)
    if any(word is not None for word in given):
        names = np.array([_word(word) for word in given], dtype=object)
        _warn_shared(names, groups)
        return _rows(names)
    names = np.full(n, "train", dtype=object)
    group = np.array([g if g is not None else f" {u}" for g, u in zip(groups, unit)], dtype=object)
    for split, wanted in (("valid", valid_groups), ("test", test_groups)):
        lost = sorted({str(w) for w in wanted} - set(group))
        if lost:
            known = ", ".join(sorted(g for g in set(group) if not g.startswith(" "))) or "none"
            raise DataError(f"data.{split}_groups: there is no group {lost[0]!r} (there are: {known})")
        names[np.isin(group, [str(w) for w in wanted])] = split
    whole = len({g for g in groups if g is not None}) >= 3
    owner = group if whole else unit.astype(str).astype(object)
    rest = np.unique(owner[names == "train"].astype(str))
    order = np.random.default_rng([seed, 5]).permutation(rest)
    begin = 0
    for split, share, fixed in (("valid", valid, valid_groups), ("test", test, test_groups)):
        if len(fixed) or not share:
            continue
        count = max(round(share * len(rest)), 1) if len(rest) >= 3 else 0
        names[np.isin(owner.astype(str), order[begin : begin + count]) & (names == "train")] = split
        begin += count
    if not whole:
        _warn_shared(names, groups)
    return _rows(names)


def _word(word: str | None) -> str:
    if word is None:
        return ""
    if word.strip().lower() not in _WORDS:
        raise DataError(f"split {word!r} is not one of train, valid, test")
    return _WORDS[word.strip().lower()]


def _rows(names: np.ndarray) -> dict[str, np.ndarray]:
    found = {split: np.flatnonzero(names == split).astype(np.int64) for split in SPLITS}
    if not len(found["train"]):
        raise DataError("no clip is left to train on; lower data.valid and data.test, or name fewer groups")
    return found


def _warn_shared(names: np.ndarray, groups: Sequence[str | None]) -> None:
    of = {split: {g for g, s in zip(groups, names) if s == split and g is not None} for split in SPLITS}
    shared = sorted(of["train"] & of["test"])
    if shared:
        listed = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
        warnings.warn(
            f"{len(shared)} groups are in train and test ({listed}): scores speak of known people; "
            "split by group with data.test_groups",
            SharedGroupWarning,
            stacklevel=4,
        )
