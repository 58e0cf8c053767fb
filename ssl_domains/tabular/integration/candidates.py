"""Which pairs of rows are worth comparing: each row with those that share its rarest n-grams.

n rows have n(n-1)/2 pairs; here each row gets at most k partners, found through an inverted
index of hashed word and character n-grams over the whole row (so that values may stand in another
column). Work and memory grow with the rows times the length of the lists that are looked at, and
no list may be longer than ``max_block``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from ssl_domains.core.errors import UserError
from ssl_domains.tabular.integration.source import TextTableSource

FEATURES = 1 << 20
_BLOCK = 4096
_CELLS = 4_000_000
"""Products of two rows that are held at a time: about 100 MB."""


@dataclass(frozen=True)
class CandidateOptions:
    """How pairs are chosen.

    Attributes:
        neighbours: k, partners a row. Default 10.
        rarest: n-grams of a row that are looked up, the rarest ones. Default 48.
        max_block: n-grams that more rows share are passed over. Default 1,000.
        min_similarity: pairs whose rows have a lower cosine of weighted n-grams are left out.
    """

    neighbours: int = 10
    rarest: int = 48
    max_block: int = 1000
    min_similarity: float = 0.05

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.rarest < 1 or self.max_block < 2:
            raise UserError("neighbours and rarest must be at least 1, max_block at least 2")


@dataclass(frozen=True)
class Pairs:
    """Pairs to compare.

    Attributes:
        left, right: ``[P]`` int64 row numbers, ``left < right``, sorted, each pair once.
        similarity: ``[P]`` float32 cosine of the rows' weighted n-grams.
        alone: number of rows with a value that got no partner.
    """

    left: np.ndarray
    right: np.ndarray
    similarity: np.ndarray
    alone: int = 0

    def __len__(self) -> int:
        return len(self.left)


Progress = Callable[[int, int], None]


def candidate_pairs(
    source: TextTableSource, options: CandidateOptions | None = None, progress: Progress | None = None
) -> Pairs:
    """The pairs of a table.

    Args:
        source: the table.
        options: see :class:`CandidateOptions`.
        progress: called with (rows done, rows).
    """
    options = options or CandidateOptions()
    matrix = row_features(source, options)
    lists = matrix.T.tocsr()
    n, found = matrix.shape[0], []
    for start, stop in _chunks(matrix, lists):
        found.append(_nearest(matrix[start:stop] @ lists, start, options))
        if progress is not None:
            progress(stop, n)
    left, right, similarity = (np.concatenate(part) for part in zip(*found, strict=True))
    low, high = np.minimum(left, right), np.maximum(left, right)
    key, first = np.unique(low * n + high, return_index=True)
    partnered = np.zeros(n, dtype=bool)
    partnered[left] = partnered[right] = True
    alone = int((~partnered & ~source.missing.all(axis=1)).sum())
    return Pairs(key // n, key % n, similarity[first], alone)


def row_features(source: TextTableSource, options: CandidateOptions) -> sp.csr_matrix:
    """``[n, FEATURES]`` weighted hashed n-grams of the rows, of length 1, cut to each row's rarest ones."""
    counts = _counts(source)
    n = counts.shape[0]
    shared = np.bincount(counts.indices, minlength=FEATURES)
    row = np.repeat(np.arange(n), np.diff(counts.indptr))
    weight = np.log((1.0 + n) / (1.0 + shared))[counts.indices] * np.sqrt(counts.data)
    length = np.sqrt(np.bincount(row, weight**2, minlength=n))
    usable = (shared[counts.indices] > 1) & (shared[counts.indices] <= options.max_block)
    order = np.lexsort((shared[counts.indices], ~usable, row))  # in each row the usable, rarest ones first
    rank = np.arange(len(order)) - counts.indptr[row[order]]
    kept = order[(rank < options.rarest) & usable[order]]
    values = (weight[kept] / np.maximum(length[row[kept]], 1e-12)).astype(np.float32)
    return sp.csr_matrix((values, (row[kept], counts.indices[kept])), shape=counts.shape)


def _counts(source: TextTableSource) -> sp.csr_matrix:
    """Words, and n-grams of 4 characters within words, counted."""
    from sklearn.feature_extraction.text import HashingVectorizer

    kwargs = {"n_features": FEATURES, "alternate_sign": False, "norm": None, "dtype": np.float32}
    words = HashingVectorizer(token_pattern=r"[^\s,;:/()\[\]-]+", lowercase=False, **kwargs)
    grams = HashingVectorizer(analyzer="char_wb", ngram_range=(4, 4), lowercase=False, **kwargs)
    parts = []
    for start in range(0, len(source), _BLOCK):
        texts = source.row_texts(np.arange(start, min(start + _BLOCK, len(source))))
        parts.append(words.transform(texts) + grams.transform(texts))
    return sp.vstack(parts).tocsr()


def _chunks(matrix: sp.csr_matrix, lists: sp.csr_matrix) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose products with all rows fit into :data:`_CELLS`."""
    n = matrix.shape[0]
    cost = matrix.astype(bool).astype(np.int64) @ np.diff(lists.indptr)
    total = np.cumsum(cost)
    start = 0
    while start < n:
        spent = total[start - 1] if start else 0
        stop = min(max(int(np.searchsorted(total, spent + _CELLS)), start + 1), start + _BLOCK, n)
        yield start, stop
        start = stop


def _nearest(
    products: sp.csr_matrix, first: int, options: CandidateOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k best partners of each row: rows, partners, similarities."""
    row = np.repeat(np.arange(products.shape[0]), np.diff(products.indptr))
    keep = (products.indices != row + first) & (products.data >= options.min_similarity)
    row, partner, similarity = row[keep], products.indices[keep], products.data[keep]
    order = np.lexsort((partner, -similarity, row))
    row, partner, similarity = row[order], partner[order], similarity[order]
    begins = np.searchsorted(row, np.arange(products.shape[0]))
    best = np.arange(len(row)) - begins[row] < options.neighbours
    return (row + first)[best].astype(np.int64), partner[best].astype(np.int64), similarity[best]
