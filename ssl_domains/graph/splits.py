"""Labels and splits of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.raw import nearest

TASKS = ("classification", "regression", "multilabel")
_NAMES = {
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}


def _missing(values: np.ndarray) -> np.ndarray:
    if values.dtype == object:
        return np.array([v is None or v != v or (isinstance(v, str) and not v.strip()) for v in values])
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)


def encode_labels(
    values: np.ndarray, task: str | None, origin: str, classes: Sequence[str] = ()
) -> tuple[np.ndarray, str, list[str] | None]:
    """(labels, task, class names) from raw values.

    Args:
        values: ``[n]`` or ``[n, L]``; missing values are unknown (-1, NaN in regression), as
            is -1 among whole-number classes.
        task: None: guessed (two axes: multilabel; fractions: regression; else classification).
        origin: for messages.
        classes: names that an encoder was trained with; fixes the numbers.

    Raises:
        DataError: unknown task, one class only, or labels that are no numbers in regression.
    """
    if task is not None and task not in TASKS:
        raise DataError(f"data.task: {task!r} is not one of {', '.join(TASKS)}")
    if values.ndim == 2:
        if task == "regression":
            return values.astype(np.float32), task, None
        return values.astype(bool), "multilabel", None
    missing = _missing(values)
    known = values[~missing]
    if known.dtype == object and len(known) and all(isinstance(v, int | float | np.number) for v in known):
        known = known.astype(np.float64)
    number = known.dtype.kind in "fiu"
    fractions = number and known.dtype.kind == "f" and bool((known % 1 != 0).any())
    if task == "regression" or (task is None and fractions):
        if not number:
            raise DataError(f"{origin}: regression needs numbers as labels, found {known[0]!r}")
        out = np.full(len(values), np.nan, dtype=np.float32)
        out[~missing] = known
        return out, "regression", None
    if number:
        whole = np.full(len(values), -1, dtype=np.int64)
        whole[~missing] = known.astype(np.int64)
        missing, values = whole < 0, whole
    names = list(classes) or _class_names(values[~missing])
    if len(names) < 2:
        raise DataError(f"{origin}: the label has {len(names)} class; classification needs at least 2")
    place = {name: i for i, name in enumerate(names)}
    labels = np.array([-1 if m else place.get(str(v), -1) for v, m in zip(values, missing)], dtype=np.int64)
    return labels, "classification", names


def _class_names(known: np.ndarray) -> list[str]:
    if known.dtype.kind in "iu":
        return [str(v) for v in np.unique(known)]
    return sorted({str(v) for v in known})


def known_rows(labels: np.ndarray | None, n: int) -> np.ndarray:
    """``[m]`` rows with a label; all rows when there are no labels."""
    if labels is None or labels.dtype == bool:
        return np.arange(n)
    if labels.dtype.kind == "f":
        known = np.isfinite(labels).reshape(n, -1).all(axis=1)
    else:
        known = labels >= 0
    return np.flatnonzero(known)


def given_splits(split: np.ndarray, origin: str) -> dict[str, np.ndarray]:
    """Splits from a column of names; rows without a name belong to none."""
    missing = _missing(split)
    names = np.array(["" if m else str(v).strip().lower() for v, m in zip(split, missing)], dtype=object)
    for name in np.unique(names):
        if name and name not in _NAMES:
            raise DataError(
                f"{origin}: split {name!r} is not one of train, valid, test{nearest(name, _NAMES)}"
            )
    out = {}
    for name in ("train", "valid", "test"):
        out[name] = np.array([i for i, v in enumerate(names) if _NAMES.get(v) == name], dtype=np.int64)
    if len(out["train"]) == 0:
        raise DataError(f"{origin}: no row has the split 'train'")
    return out


def random_splits(
    labels: np.ndarray | None, task: str | None, n: int, valid: float, test: float, seed: int
) -> dict[str, np.ndarray]:
    """Random shares of the labelled rows, stratified by class.

    Args:
        labels: encoded labels or None.
        task: classification stratifies.
        n: number of samples.
        valid: share for validation.
        test: share for the test.
        seed: seeds the shuffle.
    """
    if valid < 0 or test < 0 or valid + test >= 1:
        raise DataError(
            f"data.valid and data.test are shares and must leave some for training, got {valid} and {test}"
        )
    rng = np.random.default_rng([seed, 60])
    rows = rng.permutation(known_rows(labels, n))
    if task == "classification" and labels is not None:
        rows = _spread(rows, labels)
    cut = round(valid * len(rows)), round((valid + test) * len(rows))
    parts = {"train": rows[cut[1] :], "valid": rows[: cut[0]], "test": rows[cut[0] : cut[1]]}
    return {name: np.sort(part).astype(np.int64) for name, part in parts.items()}


def _spread(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Orders shuffled rows so that every stretch holds the classes in proportion."""
    place = np.empty(len(rows))
    for value in np.unique(labels[rows]):
        mine = np.flatnonzero(labels[rows] == value)
        place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    return rows[np.argsort(place, kind="stable")]
