"""What an evaluation by retrieval needs: who asks, what can be found, what is right."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ssl_domains.core.interfaces import Source


@dataclass
class Lists:
    """A list of whole numbers for each row, one after another.

    Attributes:
        offsets: ``[n + 1]`` int64: row i holds ``values[offsets[i]:offsets[i + 1]]``.
        values: ``[m]`` integers.
    """

    offsets: np.ndarray
    values: np.ndarray

    @classmethod
    def group(cls, rows: np.ndarray, values: np.ndarray, n: int) -> Lists:
        """``n`` lists from pairs ``[m]``; each list is sorted and holds a value once."""
        width = int(values.max()) + 1 if len(values) else 1
        pairs = np.unique(rows.astype(np.int64) * width + values)
        return cls(np.searchsorted(pairs, np.arange(n + 1, dtype=np.int64) * width), pairs % width)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """``[n]``."""
        return np.diff(self.offsets)

    def flat(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lists of some rows ``[r]``: places ``[m]`` within ``rows``, and values ``[m]``."""
        counts = self.lengths[rows]
        place = np.repeat(np.arange(len(rows)), counts)
        inside = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return place, self.values[self.offsets[rows][place] + inside]


@dataclass
class RetrievalTask:
    """Queries that rank candidates by the cosine of their embeddings.

    A source offers one by a method ``retrieval(split)``; the probe ``retrieval`` asks for it.

    Attributes:
        queries: source of the queries; the encoder embeds both sides.
        rows: ``[Q]`` row numbers of the queries that are asked.
        candidates: source of the candidates, all of them.
        relevant: for each of the Q queries the rows of the right candidates, at least one.
        seen: for each of the Q queries the rows that are left out of its ranking.
        popularity: ``[N]`` how often each candidate was right in training; ranks the baseline.
        slices: ``[N]`` bool by name: groups of candidates that are scored by themselves.
    """

    queries: Source
    rows: np.ndarray
    candidates: Source
    relevant: Lists
    seen: Lists
    popularity: np.ndarray
    slices: dict[str, np.ndarray] = field(default_factory=dict)
