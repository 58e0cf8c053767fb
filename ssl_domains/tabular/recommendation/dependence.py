"""Mutual information between all pairs of features of a catalogue, streamed, in bounded memory.

A feature is a random variable over the catalogue: draw an item uniformly, and where it has a
list of values one of these. Numbers count by quantile bins. Entropies are of the plain
frequencies, so the estimate is biased upwards by about ``(|V_i| - 1)(|V_j| - 1) / 2n``.

Pairs with few combinations are counted in a table; the others by sorted keys, in blocks of
codes that hold a bounded number of items. Passes over the catalogue are shared by as many pairs
as fit the budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ssl_domains.tabular.recommendation.entities import EntitySource
from ssl_domains.tabular.recommendation.spec import EMPTY

CHUNK = 65_536
BLOCK = 1 << 19
"""Items whose keys are held at a time by one pair that is counted by keys."""
BUDGET = 1 << 27
"""Bytes that the counts of one pass may take."""


class Values(NamedTuple):
    """Values of one feature in a chunk of items.

    Attributes:
        item: ``[m]`` place of the item within the chunk, in order; None when each has one value.
        code: ``[m]`` int64.
        counts: ``[n]`` values of each item; None when each has one.
    """

    item: np.ndarray | None
    code: np.ndarray
    counts: np.ndarray | None

    @property
    def weight(self) -> np.ndarray | None:
        """``[m]`` shares of the items' values; None: 1."""
        if self.item is None or self.counts is None:
            return None
        return 1.0 / self.counts[self.item]


class Catalogue:
    """The features of a source as codes, chunk after chunk.

    Args:
        source: users or items.
        bins: quantile bins of a number.
        chunk: items at a time.
    """

    def __init__(self, source: EntitySource, bins: int = 16, chunk: int = CHUNK) -> None:
        self.source, self.chunk, self.n = source, chunk, len(source)
        table = source.entity.table
        self.edges = []
        for column in table.numeric:
            inner = np.interp(
                np.arange(1, bins) / bins, np.linspace(0, 1, len(column.quantiles)), column.quantiles
            )
            self.edges.append(np.unique(((inner - column.mean) / column.std).astype(np.float32)))
        self.sizes = [len(edges) + 2 for edges in self.edges]
        self.sizes += [column.n_codes for column in table.categorical]
        self.sizes += [column.n_codes for column in source.entity.lists]

    def chunks(self) -> Iterator[list[Values]]:
        """The features of one chunk after another."""
        for start in range(0, self.n, self.chunk):
            yield self._chunk(np.arange(start, min(start + self.chunk, self.n)))

    def _chunk(self, rows: np.ndarray) -> list[Values]:
        numeric, codes = self.source.cells(rows)
        found = []
        for j, edges in enumerate(self.edges):
            place = np.searchsorted(edges, numeric[:, j], side="right") + 1
            found.append(Values(None, np.where(np.isnan(numeric[:, j]), 0, place), None))
        found += [Values(None, column.astype(np.int64), None) for column in codes.T]
        for j in range(len(self.source.entity.lists)):
            found.append(_filled(*self.source.list_codes(j, rows), len(rows)))
        return found


def _filled(item: np.ndarray, code: np.ndarray, n: int) -> Values:
    """A list feature, with the code of an empty list where there is none."""
    count = np.bincount(item, minlength=n)
    empty = np.flatnonzero(count == 0)
    item = np.concatenate([item, empty])
    order = np.argsort(item, kind="stable")
    code = np.concatenate([code.astype(np.int64), np.full(len(empty), EMPTY)])
    return Values(item[order], code[order], np.maximum(count, 1))


def joint(a: Values, b: Values) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes of both features ``[m]``, and weights (None: 1), over all pairs of an item's values."""
    if a.item is None and b.item is None:
        return a.code, b.code, None
    if b.item is None:
        return a.code, b.code[a.item], a.weight
    if a.item is None:
        return a.code[b.item], b.code, b.weight
    assert a.counts is not None
    assert b.counts is not None
    repeats = b.counts[a.item]  # each value of a meets all values of b of the same item
    item = np.repeat(a.item, repeats)
    inside = np.arange(len(item)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    first = np.cumsum(b.counts) - b.counts
    return np.repeat(a.code, repeats), b.code[first[item] + inside], 1.0 / (a.counts * b.counts)[item]


class _Table:
    """Joint counts as a table ``[|V_i| * |V_j|]``."""

    def __init__(self, i: int, j: int, sizes: list[int]) -> None:
        self.i, self.j, self.width = i, j, sizes[j]
        self.counts = np.zeros(sizes[i] * sizes[j])
        self.bytes = self.counts.nbytes

    def add(self, chunk: list[Values]) -> None:
        a, b, weight = joint(chunk[self.i], chunk[self.j])
        self.counts += np.bincount(a * self.width + b, weight, minlength=len(self.counts))

    def entropy(self) -> float:
        """Sum of ``c ln c``."""
        return _c_log_c(self.counts)


class _Keys:
    """Joint counts of the codes ``low <= a < high`` by sorted keys."""

    def __init__(self, i: int, j: int, sizes: list[int], low: int, high: int, values: float) -> None:
        self.i, self.j, self.width, self.low, self.high = i, j, sizes[j], low, high
        self.limit = 2 * BLOCK
        self.bytes = int(48 * min(values, 2 * self.limit))
        self.keys: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.held = 0

    def add(self, chunk: list[Values]) -> None:
        a, b, weight = joint(chunk[self.i], chunk[self.j])
        inside = (a >= self.low) & (a < self.high)
        keys = (a * self.width + b)[inside]
        self.keys.append(keys)
        self.weights.append(np.ones(len(keys)) if weight is None else weight[inside])
        self.held += len(keys)
        if self.held > self.limit:
            self._join()
            self.limit = max(2 * BLOCK, 2 * self.held)

    def _join(self) -> None:
        keys, place = np.unique(np.concatenate(self.keys), return_inverse=True)
        self.weights = [np.bincount(place, np.concatenate(self.weights), minlength=len(keys))]
        self.keys, self.held = [keys], len(keys)

    def entropy(self) -> float:
        """Sum of ``c ln c``."""
        self._join()
        return _c_log_c(self.weights[0])


def _c_log_c(counts: np.ndarray) -> float:
    counts = counts[counts > 0]
    return float((counts * np.log(counts)).sum())


def mutual_information(
    source: EntitySource, bins: int = 16, normalized: bool = False, budget: int = BUDGET
) -> np.ndarray:
    """``[k, k]`` float64, in nats, between all features of a catalogue; symmetric, entropies on the diagonal.

    ``sum p(v_i, v_j) ln(p(v_i, v_j) / (p(v_i) p(v_j)))``. Worked values: two identical columns of
    two equally frequent values: ln 2 = 0.693147; independent columns: 0.

    Args:
        source: users or items.
        bins: quantile bins of a number.
        normalized: divide by the geometric mean of both entropies (1 on the diagonal): a feature
            with very many values, such as the id, is then no longer the nearest to all others.
        budget: bytes that the counts of one pass may take, about.
    """
    catalogue = Catalogue(source, bins)
    k, n = len(catalogue.sizes), catalogue.n
    marginals = [np.zeros(size) for size in catalogue.sizes]
    spread = np.zeros(k)  # mean entropy of a feature given the item
    for chunk in catalogue.chunks():
        for j, values in enumerate(chunk):
            marginals[j] += np.bincount(values.code, values.weight, minlength=catalogue.sizes[j])
            spread[j] += 0.0 if values.counts is None else float(np.log(values.counts).sum()) / n
    entropies = np.array([math.log(n) - _c_log_c(counts) / n for counts in marginals])
    out = np.diag(entropies)
    jobs: list[_Table | _Keys] = []
    for i, j in combinations(range(k), 2):
        unique = [a for a, b in ((i, j), (j, i)) if marginals[a].max() <= 1.0 and spread[a] == 0.0]
        if unique:  # an id: it tells the item, and so all but what a list leaves open
            other = j if unique[0] == i else i
            out[i, j] = entropies[other] - spread[other]
        else:
            jobs += _jobs(i, j, catalogue.sizes, marginals, spread, budget)
    for group in _grouped(jobs, budget):
        for chunk in catalogue.chunks():
            for job in group:
                job.add(chunk)
        for job in group:
            i, j = sorted((job.i, job.j))
            out[i, j] += job.entropy() / n
    done = {(min(job.i, job.j), max(job.i, job.j)) for job in jobs}
    for i, j in done:
        out[i, j] += entropies[i] + entropies[j] - math.log(n)
    upper = np.triu(out, 1).clip(min=0.0)
    out = upper + upper.T + np.diag(entropies)
    if normalized:
        root = np.sqrt(entropies)
        out = out / np.where(root > 0, root, 1.0)[:, None] / np.where(root > 0, root, 1.0)
    return out


def _jobs(
    i: int, j: int, sizes: list[int], marginals: list[np.ndarray], spread: np.ndarray, budget: int
) -> list[_Table | _Keys]:
    """What counts one pair: a table, or the blocks of the feature with more values."""
    if 8 * sizes[i] * sizes[j] <= budget // 8:
        return [_Table(i, j, sizes)]
    if sizes[i] < sizes[j]:
        i, j = j, i
    # Values of both lists, at their geometric mean, multiply the pairs of an item.
    pairs = float(np.exp(spread[i] + spread[j]))
    block = np.floor((np.cumsum(marginals[i]) - 1e-9) * pairs / BLOCK).astype(np.int64).clip(min=0)
    cuts = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), sizes[i]]
    values = np.add.reduceat(marginals[i], cuts[:-1]) * pairs
    return [
        _Keys(i, j, sizes, low, high, size)
        for low, high, size in zip(cuts[:-1], cuts[1:], values, strict=True)
        if size > 0
    ]


def _grouped(jobs: list[_Table | _Keys], budget: int) -> Iterator[list[_Table | _Keys]]:
    """Jobs that share a pass."""
    group: list[_Table | _Keys] = []
    for job in jobs:
        if group and sum(other.bytes for other in group) + job.bytes > budget:
            yield group
            group = []
        group.append(job)
    if group:
        yield group
