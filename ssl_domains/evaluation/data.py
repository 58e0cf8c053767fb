"""What a probe sees: embeddings and labels by split, without the rows that have no label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssl_domains.core.interfaces import Source

TASKS = ("classification", "regression", "multilabel")
SPLITS = ("train", "valid", "test")


class Prediction(NamedTuple):
    """What a probe says about the test rows.

    Attributes:
        value: ``[n]`` class numbers, ``[n]`` or ``[n, L]`` real values, or ``[n, L]`` bool.
        score: ``[n, C]`` class probabilities or ``[n, L]`` label scores; None for regression.
    """

    value: np.ndarray
    score: np.ndarray | None = None


@dataclass(frozen=True)
class ProbeData:
    """Features and labels of the labelled rows.

    Attributes:
        x: ``{"train" | "valid" | "test": [n, D]}`` float features.
        y: labels by split: ``[n]`` int64 classes, float ``[n]`` or ``[n, L]``, or bool ``[n, L]``.
        task: one of :data:`TASKS`.
        n_classes: number of classes (classification), otherwise 0.
        raw: raw features by split, for a probe that joins them to ``x``; else None.
    """

    x: dict[str, np.ndarray]
    y: dict[str, np.ndarray]
    task: str
    n_classes: int = 0
    raw: dict[str, np.ndarray] | None = None

    def with_train(self, rows: np.ndarray) -> ProbeData:
        """The same data with only these rows of the training split."""
        return ProbeData(
            {**self.x, "train": self.x["train"][rows]},
            {**self.y, "train": self.y["train"][rows]},
            self.task,
            self.n_classes,
            None if self.raw is None else {**self.raw, "train": self.raw["train"][rows]},
        )


@dataclass(frozen=True)
class LabelledRows:
    """Global row numbers of the labelled rows by split, and their labels.

    Attributes:
        rows: ``{"train" | "valid" | "test": [n]}``, disjoint.
        labels: all labels of the source in the type the probes want.
        task: one of :data:`TASKS`.
        n_classes: number of classes, 0 unless classification.
        notes: what was done to get here, one sentence each.
    """

    rows: dict[str, np.ndarray]
    labels: np.ndarray
    task: str
    n_classes: int
    notes: list[str]

    def data(self, features: np.ndarray, index: np.ndarray, raw: np.ndarray | None = None) -> ProbeData:
        """Probe data from ``features [m, D]`` (and ``raw [m, F]``) of the (sorted) rows ``index [m]``."""
        at = {split: np.searchsorted(index, rows) for split, rows in self.rows.items()}
        return ProbeData(
            {split: features[where] for split, where in at.items()},
            {split: self.labels[rows] for split, rows in self.rows.items()},
            self.task,
            self.n_classes,
            None if raw is None else {split: raw[where] for split, where in at.items()},
        )


def has_label(labels: np.ndarray, task: str) -> np.ndarray:
    """``[n]`` bool: rows whose label is known (no -1 class, no NaN in any output)."""
    if labels.dtype == bool:
        return np.ones(len(labels), dtype=bool)
    flat = labels.reshape(len(labels), -1)
    known = np.isfinite(flat.astype(np.float64))
    if task != "regression":
        known &= flat >= 0
    return np.asarray(known.all(axis=1))


def labelled_rows(source: Source, max_rows: int = 50_000) -> LabelledRows | str:
    """The rows that probes use, or one sentence that says why there can be no probe.

    A source without a test split is scored on its validation split; a source without a
    validation split has a fifth of its training rows held out for choosing.

    Args:
        source: where the labels and splits are.
        max_rows: at most this many rows a split, a fixed random subset of them.
    """
    labels, task = source.labels, source.task
    if labels is None or task is None:
        return "The data has no labels, so there is no probe."
    if task not in TASKS:
        return f"The task {task!r} has no probe (there are: {', '.join(TASKS)})."
    labels = np.asarray(labels)
    known = has_label(labels, task)
    rows = {name: _known(source.splits.get(name), known) for name in SPLITS}
    notes: list[str] = []
    if not len(rows["test"]) and len(rows["valid"]):
        rows["test"], rows["valid"] = rows["valid"], rows["valid"][:0]
        notes.append("There is no labelled test row: scores are on the validation split.")
    if not len(rows["valid"]) and len(rows["train"]) >= 2:
        rows["train"], rows["valid"] = _hold_out(rows["train"])
        notes.append("There is no labelled validation row: a fifth of the training rows chose the settings.")
    for name in SPLITS:
        if len(rows[name]) > max_rows:
            notes.append(f"Probes use {max_rows:,} of the {len(rows[name]):,} labelled {name} rows.")
            rows[name] = subset(rows[name], max_rows)
    empty = [name for name in SPLITS if not len(rows[name])]
    if empty:
        return f"No row of the {empty[0]} split has a label, so there is no probe."
    if len(rows["train"]) < 2:
        return "The training split has a single labelled row, so there is no probe."
    return LabelledRows(rows, _typed(labels, known, task), task, _n_classes(source, labels, known), notes)


def subset(rows: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """A sorted random subset of at most ``n`` rows."""
    if len(rows) <= n:
        return rows
    return np.asarray(np.sort(np.random.default_rng(seed).choice(rows, n, replace=False)))


def _known(rows: np.ndarray | None, known: np.ndarray) -> np.ndarray:
    rows = np.asarray([] if rows is None else rows, dtype=np.int64)
    return np.asarray(np.sort(rows[known[rows]]))


def _hold_out(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(0).permutation(len(rows))
    n = max(1, len(rows) // 5)
    return np.sort(rows[order[n:]]), np.sort(rows[order[:n]])


def _typed(labels: np.ndarray, known: np.ndarray, task: str) -> np.ndarray:
    if task == "classification":
        return np.where(known, labels.reshape(len(labels)), -1).astype(np.int64)
    if task == "multilabel":
        return (labels == 1) if labels.dtype != bool else labels
    return labels.astype(np.float64)


def _n_classes(source: Source, labels: np.ndarray, known: np.ndarray) -> int:
    if source.task != "classification":
        return 0
    seen = int(labels[known].max()) + 1
    return max(seen, len(source.class_names or []))
