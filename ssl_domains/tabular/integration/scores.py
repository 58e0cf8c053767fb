"""How good pairs and sets are when the truth is known."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment


def pair_scores(sets: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 over the pairs of rows that are in one set.

    Args:
        sets: ``[n]`` set numbers.
        truth: ``[n]`` true set numbers; rows below 0 are unknown and left out.
    """
    known = truth >= 0
    sets, truth = sets[known], truth[known]
    joint = np.unique(np.stack([sets, truth]), axis=1, return_counts=True)[1]
    found, true, both = (_pairs(c) for c in (np.unique(sets, return_counts=True)[1], _sizes(truth), joint))
    return f1(both, found, true)


def f1(both: float, found: float, true: float) -> dict[str, float]:
    """Precision, recall, F1 from counts; an empty side counts as 1 when the other is empty, too, else as
    0."""
    precision = both / found if found else float(true == 0)
    recall = both / true if true else float(found == 0)
    total = precision + recall
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / total if total else 0.0}


def set_similarity(sets: np.ndarray, truth: np.ndarray) -> float:
    """Best one-to-one matching of found and true sets by Jaccard index, its sum over the larger number of
    sets (arXiv 2412.00324). 1 for equal partitions; ``1 / n^2`` for one set against n single rows.

    Only sets that share a row can match, so the assignment is solved by connected parts.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    known = truth >= 0
    _, a = np.unique(sets[known], return_inverse=True)
    _, b = np.unique(truth[known], return_inverse=True)
    if not len(a):
        return 1.0
    n_a, n_b = int(a.max()) + 1, int(b.max()) + 1
    (left, right), shared = np.unique(np.stack([a, b]), axis=1, return_counts=True)
    jaccard = shared / (np.bincount(a)[left] + np.bincount(b)[right] - shared)
    graph = csr_matrix((np.ones(len(left)), (left, right + n_a)), shape=(n_a + n_b,) * 2)
    _, part = connected_components(graph, directed=False)
    total, order = 0.0, np.argsort(part[left], kind="stable")
    _, first = np.unique(part[left][order], return_index=True)
    for group in np.split(order, first[1:]):
        rows, row = np.unique(left[group], return_inverse=True)
        columns, column = np.unique(right[group], return_inverse=True)
        matrix = np.zeros((len(rows), len(columns)))
        matrix[row, column] = jaccard[group]
        total += float(matrix[linear_sum_assignment(-matrix)].sum())
    return total / max(n_a, n_b)


def _sizes(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_counts=True)[1]


def _pairs(counts: np.ndarray) -> float:
    return float((counts * (counts - 1) // 2).sum())
