"""Guessing the labels of all nodes from a few, and what is made of the guesses."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ssl_domains.core.errors import DataError
from ssl_domains.graph.selftask_targets import Known, blocks, inverse_hops

GUESSERS = ("label_propagation", "ica", "ensemble")
MAX_CONTEXT = 100_000_000
"""Pairs of nodes one or two hops apart that are kept."""


def one_hot(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """``[N, C]`` float32; rows of zeros for -1."""
    out = np.zeros((len(labels), n_classes), dtype=np.float32)
    rows = np.flatnonzero(labels >= 0)
    out[rows, labels[rows]] = 1.0
    return out


def label_propagation(known: Known, iterations: int = 30) -> np.ndarray:
    """``[N, C]`` class probabilities by the harmonic function (Zhu et al., ICML 2003): each node takes
    the mean of its neighbours, labelled nodes stay as they are. Nodes that nothing reaches get the
    shares of the known labels."""
    clamped = one_hot(known.labels, known.n_classes)
    degree = np.asarray(known.adjacency.sum(axis=1)).ravel()
    free = (known.labels < 0) / np.maximum(degree, 1.0)
    walk = sparse.diags(free.astype(np.float32)) @ known.adjacency
    values = np.zeros_like(clamped)
    for _ in range(iterations):
        values = walk @ values + clamped
    total = values.sum(axis=1, keepdims=True)
    prior = clamped.sum(axis=0) / clamped.sum()
    return np.where(total > 0, values / np.where(total > 0, total, 1.0), prior)


def iterative_classification(known: Known, iterations: int = 10) -> np.ndarray:
    """``[N, C]`` class probabilities by ICA (Sen et al., AI Magazine 2008): logistic regression on a
    node's features and the labels counted among its neighbours, which are guessed in turn.

    The first guess comes from features alone. Labelled nodes stay as they are.
    """
    labelled = np.flatnonzero(known.labels >= 0)
    y = known.labels[labelled]
    features = sparse.csr_matrix(known.features)
    clamped = one_hot(known.labels, known.n_classes)

    def clamp(probability: np.ndarray) -> np.ndarray:
        probability = probability.astype(np.float32)
        probability[labelled] = clamped[labelled]
        return probability

    def joined(probability: np.ndarray) -> sparse.csr_matrix:
        votes = one_hot(probability.argmax(axis=1), known.n_classes)
        return sparse.hstack([features, sparse.csr_matrix(known.adjacency @ votes)]).tocsr()

    values = clamp(_fitted(features[labelled], y, known.n_classes)(features))
    predict = _fitted(joined(values)[labelled], y, known.n_classes)
    for _ in range(iterations):
        values = clamp(predict(joined(values)))
    return values


def _fitted(x: sparse.csr_matrix, y: np.ndarray, n_classes: int):  # type: ignore[no-untyped-def]
    """A function from features to ``[n, C]`` probabilities; classes without a label get 0."""
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(y)) == 1:
        return lambda rows: np.repeat(one_hot(y[:1], n_classes), rows.shape[0], axis=0)
    model = LogisticRegression(max_iter=500).fit(x, y)

    def predict(rows: sparse.csr_matrix) -> np.ndarray:
        out = np.zeros((rows.shape[0], n_classes))
        out[:, model.classes_] = model.predict_proba(rows)
        return out

    return predict


def guess(known: Known, guesser: str) -> np.ndarray:
    """``[N]`` a class for every node: the known one, or the guessed one.

    Args:
        known: the graph and its known labels.
        guesser: ``label_propagation``, ``ica``, or ``ensemble``: the sum of both's probabilities.
    """
    values = np.zeros((known.n, known.n_classes))
    if guesser in ("label_propagation", "ensemble"):
        values += label_propagation(known)
    if guesser in ("ica", "ensemble"):
        values += iterative_classification(known)
    return np.where(known.labels >= 0, known.labels, values.argmax(axis=1))


def context_rows(adjacency: sparse.csr_matrix, rows: np.ndarray, hops: int) -> sparse.csr_matrix:
    """``[n, N]`` 1 for each neighbour of the rows, and with ``hops`` 2 one more for each node that two
    steps lead to; a node that is both counts twice, the node itself never."""
    near = adjacency[rows]
    if hops == 1:
        return near
    far = (near @ adjacency).tocsr()
    far.data[:] = 1.0
    owner = np.repeat(np.arange(len(rows)), np.diff(far.indptr))
    far.data[far.indices == rows[owner]] = 0.0
    far.eliminate_zeros()
    return (near + far).tocsr()


def context_matrix(known: Known, hops: int) -> sparse.csr_matrix:
    """``[N, N]`` sparse: shares of each node's context, rows that sum to 1 (0 without neighbours).

    Raises:
        DataError: a hub joins so many nodes that over 100 million pairs are two hops apart.
    """
    parts, total = [], 0
    upper = np.asarray(known.adjacency.sum(axis=1)).ravel()
    reach = int(np.max(known.adjacency @ upper, initial=1.0)) + 1
    for rows in blocks(np.arange(known.n), min(reach, known.n)):
        part = context_rows(known.adjacency, rows, hops)
        total += part.nnz
        if total > MAX_CONTEXT:
            raise DataError(
                f"the graph has over {MAX_CONTEXT:,} pairs of nodes within {hops} hops; "
                "set hops: 1 in the task's options"
            )
        parts.append(part)
    matrix = sparse.vstack(parts).tocsr()
    counts = np.asarray(matrix.sum(axis=1)).ravel()
    return (sparse.diags((1.0 / np.maximum(counts, 1.0)).astype(np.float32)) @ matrix).tocsr()


def labelled_distances(known: Known, per_class: int) -> np.ndarray:
    """``[N, C]`` float32: the mean of ``1 / hops`` to the labelled nodes of each class, 0 for no path.

    Args:
        known: the graph and its known labels.
        per_class: at most so many labelled nodes of a class are used, at random.
    """
    rng = known.rng(6)
    out = np.zeros((known.n, known.n_classes), dtype=np.float32)
    for c in range(known.n_classes):
        mine = np.flatnonzero(known.labels == c)
        mine = rng.permutation(mine)[:per_class]
        for part in blocks(mine, known.n):
            out[:, c] += inverse_hops(known.adjacency, part).sum(axis=0)
        out[:, c] /= max(len(mine), 1)
    return out
