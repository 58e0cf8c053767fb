"""Targets of SelfTask's pretext tasks that need the whole graph: computed once, sparse or in chunks.

Nothing here holds an N x N matrix: what looks at all pairs goes row by row through blocks of at most
16 million numbers, and keeps samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

_BLOCK = 1 << 24


@dataclass
class Known:
    """What a task may know of the data before training.

    Attributes:
        adjacency: ``[N, N]`` sparse float32, 1 for an edge in either direction, no self-loops.
        features: ``[N, F]`` float32.
        labels: ``[N]`` int64 classes of the train split, -1 for all other nodes.
        n_classes: 0 without labels.
        seed: of what is drawn once.
    """

    adjacency: sparse.csr_matrix
    features: np.ndarray
    labels: np.ndarray
    n_classes: int
    seed: int

    @classmethod
    def of(cls, source: Any) -> Known:
        """From a :class:`~ssl_domains.graph.data.GraphSource`; labels outside the train split stay unseen."""
        n = source.raw.n_nodes
        a, b = source.edges.edge_index
        both = sparse.coo_matrix(
            (np.ones(2 * len(a), np.float32), (np.r_[a, b], np.r_[b, a])), (n, n)
        ).tocsr()
        both.data[:] = 1.0
        labels = np.full(n, -1, dtype=np.int64)
        n_classes = 0
        if source.labels is not None and source.task == "classification":
            train = source.splits["train"]
            labels[train] = source.labels[train]
            n_classes = len(source.class_names)
        return cls(both, np.asarray(source.features), labels, n_classes, source.seed)

    @property
    def n(self) -> int:
        """Number of nodes."""
        return self.adjacency.shape[0]

    def rng(self, salt: int) -> np.random.Generator:
        """A generator for one use."""
        return np.random.default_rng([self.seed, 50, salt])


def blocks(rows: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """``rows`` in parts whose number times ``width`` stays within the block size."""
    step = max(1, _BLOCK // max(width, 1))
    return (rows[i : i + step] for i in range(0, len(rows), step))


def near_hops(adjacency: sparse.csr_matrix, starts: np.ndarray, limit: int) -> np.ndarray:
    """``[k, N]`` int8: hops from each start, 0 for the start itself and for what is over ``limit`` away."""
    n, k = adjacency.shape[0], len(starts)
    found = np.zeros((n, k), dtype=np.int8)
    front = np.zeros((n, k), dtype=np.float32)
    front[starts, np.arange(k)] = 1.0
    seen = front > 0
    for hop in range(1, limit + 1):
        new = ((adjacency @ front) > 0) & ~seen
        found[new] = hop
        seen |= new
        front = new.astype(np.float32)
    return found.T


def inverse_hops(adjacency: sparse.csr_matrix, starts: np.ndarray) -> np.ndarray:
    """``[k, N]`` float32: 1 / hops from each start; 0 for the start itself and where there is no path."""
    hops = csgraph.dijkstra(adjacency, unweighted=True, indices=starts)
    with np.errstate(divide="ignore"):
        return np.where((hops > 0) & np.isfinite(hops), 1.0 / hops, 0.0).astype(np.float32)


class Reservoir:
    """A uniform sample of at most ``size`` pairs of all that are shown."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.pairs = np.empty((2, 0), dtype=np.int64)
        self.keys = np.empty(0)

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Shows the pairs ``(a, b)``; each gets a random key, and the smallest keys stay."""
        keys = self.rng.random(len(a))
        if len(self.keys) == self.size:
            better = keys < self.keys.max()
            a, b, keys = a[better], b[better], keys[better]
        self.pairs = np.concatenate([self.pairs, np.stack([a, b])], axis=1)
        self.keys = np.concatenate([self.keys, keys])
        if len(self.keys) > self.size:
            kept = np.argpartition(self.keys, self.size)[: self.size]
            self.pairs, self.keys = self.pairs[:, kept], self.keys[kept]


def hop_pairs(known: Known, n_classes: int, size: int, max_sources: int) -> list[np.ndarray]:
    """For each class up to ``size`` node pairs ``[2, n]``, a uniform sample: 1, 2, ... hops apart, and
    last ``n_classes`` or more hops or no path.

    Args:
        known: the graph.
        n_classes: number of classes.
        size: pairs to keep a class.
        max_sources: a graph with more nodes shows only the pairs of so many random nodes.
    """
    rng = known.rng(1)
    sources = np.sort(rng.permutation(known.n)[:max_sources])
    chosen = np.zeros(known.n, dtype=bool)
    chosen[sources] = True
    kept = [Reservoir(size, rng) for _ in range(n_classes)]
    everyone = np.arange(known.n)
    for part in blocks(sources, known.n):
        hops = near_hops(known.adjacency, part, n_classes - 1)
        fresh = ~chosen | (everyone > part[:, None])  # a pair of two sources comes up once
        fresh &= everyone != part[:, None]
        for c in range(n_classes):
            row, column = np.nonzero(fresh & (hops == (c + 1) % n_classes))
            kept[c].add(part[row], column)
    return [reservoir.pairs for reservoir in kept]


def similar_pairs(known: Known, k: int, max_sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Node pairs ``[2, M]`` and the cosine similarity ``[M]`` of their features: for each node its k
    most similar, its k least similar, and k random partners; each unordered pair once.

    Args:
        known: the graph.
        k: partners of each kind.
        max_sources: a graph with more nodes gets partners for so many random nodes.
    """
    rng = known.rng(2)
    n = known.n
    norms = np.linalg.norm(known.features, axis=1, keepdims=True)
    unit = known.features / np.where(norms > 0, norms, 1.0)
    sources = np.sort(rng.permutation(n)[:max_sources])
    k = min(k, n - 1)
    found = []
    for part in blocks(sources, n):
        cosine = unit[part] @ unit.T
        own = (np.arange(len(part)), part)
        cosine[own] = -np.inf
        high = np.argpartition(cosine, n - k, axis=1)[:, n - k :]
        cosine[own] = np.inf
        low = np.argpartition(cosine, k - 1, axis=1)[:, :k]
        other = (part[:, None] + rng.integers(1, n, (len(part), k))) % n
        ends = np.concatenate([high, low, other], axis=1)
        found.append(np.stack([np.repeat(part, ends.shape[1]), ends.ravel()]))
    pairs = np.sort(np.concatenate(found, axis=1), axis=0)
    pairs = np.unique(pairs, axis=1)
    similarity = np.empty(pairs.shape[1], dtype=np.float32)
    for rows in blocks(np.arange(pairs.shape[1]), unit.shape[1]):
        similarity[rows] = (unit[pairs[0, rows]] * unit[pairs[1, rows]]).sum(1)
    return pairs, similarity


def partition(adjacency: sparse.csr_matrix, k: int) -> np.ndarray:
    """``[N]`` part of each node: k parts of similar size, by growing bisection.

    The largest part is halved along a breadth-first search from a node at its rim (what METIS does
    on its coarsest graph), until there are k. Nodes that the search does not reach stay together.
    """
    part = np.zeros(adjacency.shape[0], dtype=np.int64)
    for new in range(1, min(k, adjacency.shape[0])):
        mine = np.flatnonzero(part == np.bincount(part).argmax())
        inner = adjacency[mine][:, mine]
        start = int(np.asarray(inner.sum(axis=1)).argmax())
        for _ in range(2):  # the last one found lies at the rim
            order = csgraph.breadth_first_order(inner, start, directed=False, return_predecessors=False)
            start = int(order[-1])
        order = csgraph.breadth_first_order(inner, start, directed=False, return_predecessors=False)
        rest = np.setdiff1d(np.arange(len(mine)), order)
        grown = np.concatenate([order, rest])
        part[mine[grown[: len(mine) // 2]]] = new
    return part


def centers(adjacency: sparse.csr_matrix, part: np.ndarray) -> np.ndarray:
    """``[k]`` the node of each part with the most neighbours inside it (the first of equals)."""
    source, target = adjacency.nonzero()
    inside = np.bincount(source[part[source] == part[target]], minlength=len(part))
    order = np.lexsort((np.arange(len(part)), -inside, part))
    return order[np.unique(part[order], return_index=True)[1]]


def node_values(adjacency: sparse.csr_matrix, what: str) -> np.ndarray:
    """``[N]`` float64: ``degree``, ``clustering`` (share of a node's pairs of neighbours that are joined)
    or ``pagerank`` (damping 0.85, times N)."""
    n = adjacency.shape[0]
    degree = np.asarray(adjacency.sum(axis=1), dtype=np.float64).ravel()
    if what == "degree":
        return degree
    if what == "clustering":
        closed = np.empty(n)
        for rows in blocks(np.arange(n), n):
            part = adjacency[rows]
            closed[rows] = np.asarray((part @ adjacency).multiply(part).sum(axis=1)).ravel()
        return closed / np.maximum(degree * (degree - 1), 1.0)
    share = adjacency.multiply(1.0 / np.maximum(degree, 1.0)[:, None]).T.tocsr()
    rank = np.full(n, 1.0)
    for _ in range(100):
        lost = rank[degree == 0].sum() / n
        rank, before = 0.15 + 0.85 * (share @ rank + lost), rank
        if np.abs(rank - before).sum() < 1e-6 * n:
            break
    return rank


def non_edges(known: Known, count: int, salt: int) -> np.ndarray:
    """``[2, m]`` at most ``count`` different pairs that no edge joins, at random."""
    rng, n = known.rng(salt), known.n
    upper = sparse.triu(known.adjacency, k=1).tocoo()
    joined = np.sort(upper.row.astype(np.int64) * n + upper.col)
    free = n * (n - 1) // 2 - len(joined)
    count = min(count, free)
    found = np.empty(0, dtype=np.int64)
    while len(found) < count:
        a, b = rng.integers(0, n, (2, 2 * (count - len(found)) + 16))
        key = np.minimum(a, b) * n + np.maximum(a, b)
        key = key[(a != b) & ~np.isin(key, joined)]
        found = np.unique(np.concatenate([found, key]))
    found = rng.permutation(found)[:count]
    return np.stack([found // n, found % n])


def principal_components(features: np.ndarray, components: int) -> np.ndarray:
    """``[N, components]`` float32 of the centred features; the features themselves if they are not wider."""
    if features.shape[1] <= components:
        return features.astype(np.float32)
    from sklearn.decomposition import PCA

    components = min(components, features.shape[0])
    found = PCA(components, svd_solver="covariance_eigh").fit_transform(features.astype(np.float64))
    return found.astype(np.float32)
