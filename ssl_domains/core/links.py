"""Edges held out of a graph, for the link-prediction probe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Links:
    """Pairs of samples by split. A source that holds edges out has them as ``source.links``; its
    batches must not contain the pairs of ``valid`` and ``test`` in either direction.

    Attributes:
        positive: ``{"train" | "valid" | "test": [m, 2]}`` int64 pairs of global row numbers that are
            edges; those of "train" are still in the graph.
        negative: the same keys: pairs that are no edge in the WHOLE graph, held-out edges included.
        directed: False: (u, v) and (v, u) are the same pair.
    """

    positive: dict[str, np.ndarray]
    negative: dict[str, np.ndarray]
    directed: bool = False

    def rows(self) -> np.ndarray:
        """``[n]`` all samples that stand in a pair, sorted."""
        every = [*self.positive.values(), *self.negative.values()]
        return np.unique(np.concatenate([pairs.ravel() for pairs in every]))
