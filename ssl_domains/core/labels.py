"""Labels and splits of samples that are files: images, videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError

TASKS = ("classification", "regression", "multilabel")
MANY = 1000
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
"""Names of folders and of values in a split column."""


@dataclass(frozen=True)
class Labels:
    """Labels as probes want them.

    Attributes:
        values: ``[n]`` int64 classes (-1 unknown), float32 targets (NaN unknown), or ``[n, L]`` bool.
        task: one of :data:`TASKS`, or None.
        class_names: names of the classes, or None.
        note: why there is none, or "".
    """

    values: np.ndarray | None = None
    task: str | None = None
    class_names: list[str] | None = None
    note: str = ""


def read_labels(
    found: np.ndarray | None, task: str | None, names: list[str] | None, noun: str = "images"
) -> Labels:
    """Codes of texts, numbers as they are.

    Args:
        found: ``[n]`` or ``[n, L]`` values; None, NaN and "" mean unknown.
        task: one of :data:`TASKS`; None: texts and few different whole numbers are classes, other numbers
            are targets, several columns are flags.
        names: names of the class numbers in ``found``.
        noun: what the samples are, for messages.

    Raises:
        DataError: the task does not exist, or the values do not suit it.
    """
    if task is not None and task not in TASKS:
        raise DataError(f"data.task is {task!r}; use one of {', '.join(TASKS)}")
    if found is None:
        return Labels()
    if found.ndim == 2:
        return _columns(found, task)
    numbers = _numbers(found)
    if task == "regression" or (task is None and names is None and _continuous(numbers)):
        if numbers is None:
            raise DataError("data.label holds texts, which data.task: regression cannot use")
        return Labels(numbers.astype(np.float32), "regression")
    if names is not None and numbers is not None:
        codes = np.where(np.isnan(numbers), -1, numbers).astype(np.int64)
    else:
        keys = [None if _unknown(v) else v for v in found.tolist()]
        known = sorted({k for k in keys if k is not None}, key=_order)
        place = {key: i for i, key in enumerate(known)}
        codes = np.array([-1 if key is None else place[key] for key in keys], dtype=np.int64)
        names = [str(key) for key in known]
    if len(np.unique(codes[codes >= 0])) < 2:
        return Labels(note=f"All labelled {noun} are of one class, so there is no probe.")
    return Labels(codes, "classification", names)


def _columns(found: np.ndarray, task: str | None) -> Labels:
    numbers = _numbers(found.ravel())
    if numbers is None:
        raise DataError("data.label: several columns must hold numbers, or 0 and 1")
    numbers = numbers.reshape(found.shape)
    if task == "regression":
        return Labels(numbers.astype(np.float32), "regression")
    if not np.isin(numbers[~np.isnan(numbers)], (0, 1)).all():
        raise DataError("data.label: several columns must hold 0 and 1, or set data.task=regression")
    return Labels(np.nan_to_num(numbers) == 1, "multilabel")


def _numbers(values: np.ndarray) -> np.ndarray | None:
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if any(isinstance(v, str) and v != "" for v in values.tolist()):
        return None
    return np.array([np.nan if _unknown(v) else float(v) for v in values.tolist()])


def _continuous(numbers: np.ndarray | None) -> bool:
    """Fractions, or so many different whole numbers that they are no classes."""
    if numbers is None:
        return False
    known = numbers[~np.isnan(numbers)]
    if (known != np.round(known)).any():
        return True
    kinds = len(np.unique(known))
    return kinds > MANY or (len(known) >= 20 and kinds > len(known) / 2)


def _unknown(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _order(key: Any) -> tuple[int, Any]:
    return (0, key) if isinstance(key, int | float | np.number) else (1, str(key))


def draw_splits(
    n: int, valid: float, test: float, seed: int, group: np.ndarray | None, noun: str = "images"
) -> dict[str, np.ndarray]:
    """Rows by split; whole groups where there are groups.

    Args:
        n: rows.
        valid, test: shares of the rows (of the groups' rows, as near as whole groups allow).
        seed: of the draw.
        group: ``[n]`` values, or None: every row is a group of its own.
        noun: what the samples are, for messages.

    Raises:
        DataError: shares outside [0, 1), or nothing left to train on.
    """
    for key, share in (("valid", valid), ("test", test)):
        if not 0.0 <= share < 1.0:
            raise DataError(f"data.{key} is a share of the {noun} and must lie in [0, 1), got {share}")
    if group is None:
        codes, n_groups = np.arange(n), n
    else:
        names, codes = np.unique(group.astype(str), return_inverse=True)
        n_groups = len(names)
    size = np.bincount(codes, minlength=n_groups)
    order = np.random.default_rng([seed, 3]).permutation(n_groups)
    which = np.zeros(n_groups, dtype=np.int8)
    start = 0
    for number, share in ((1, valid), (2, test)):
        wanted, taken = share * n, 0
        while wanted and start < n_groups and (taken == 0 or taken + size[order[start]] / 2 <= wanted):
            if n_groups < 3 or taken >= wanted:
                break
            which[order[start]] = number
            taken += int(size[order[start]])
            start += 1
    split = which[codes]
    if not (split == 0).any():
        raise DataError(f"data.valid and data.test leave none of {n} {noun} to train on; lower them")
    return {name: np.flatnonzero(split == i) for i, name in enumerate(("train", "valid", "test"))}


def given_splits(
    words: np.ndarray, valid: float, seed: int, group: np.ndarray | None, noun: str = "images"
) -> tuple[dict[str, np.ndarray], str]:
    """Rows by split as the data say; without a valid part the share ``valid`` of the train part is drawn for
    it.

    Raises:
        DataError: nothing is marked as train.
    """
    rows = {name: np.flatnonzero(words == name) for name in ("train", "valid", "test")}
    if not len(rows["train"]):
        raise DataError(f"data.split: none of the {noun} is marked as train; mark some")
    if len(rows["valid"]) or not valid or len(rows["train"]) < 3:
        return rows, ""
    train = rows["train"]
    drawn = draw_splits(len(train), valid, 0.0, seed, None if group is None else group[train], noun)
    rows = {"train": train[drawn["train"]], "valid": train[drawn["valid"]], "test": rows["test"]}
    return rows, "The data have no validation part; a share of the train part was drawn for it."
