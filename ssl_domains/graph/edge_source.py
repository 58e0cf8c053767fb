"""Edges as samples, for embedding them with an encoder of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.graph.data import GraphSource


class EdgeSource:
    """The edges of a graph as the user gave them, row by row; no labels, no training.

    A batch is that of the edges' ends, with ``edge_ends`` ``[B, 2]``: where the two ends of each
    edge stand among the batch's nodes. Encoders then give the elementwise product of the two ends
    (node2vec, KDD 2016, table 1), as the link-prediction probe takes it.

    Args:
        source: of one graph.

    Raises:
        DataError: many small graphs, or edges that are kept on disk.
    """

    def __init__(self, source: GraphSource) -> None:
        if source.spec.level == "graph" or source.raw.streamed is not None:
            raise DataError(
                f"{source.raw.origin}: edges are embedded for one graph in memory; "
                f"leave data.level=edge out to embed its samples"
            )
        self.source, self.spec, self.full_batch = source, source.spec, source.full_batch
        self.splits: dict[str, np.ndarray] = {name: np.empty(0, dtype=np.int64) for name in source.splits}
        self.labels, self.task, self.class_names = None, None, None

    def __len__(self) -> int:
        return int(self.source.raw.edges.shape[1])

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The edges with these row numbers."""
        index = np.asarray(indices, dtype=np.int64)
        ends = self.source.raw.edges[:, index]  # [2, B]
        nodes, place = np.unique(ends, return_inverse=True)
        x = self.source.fetch(nodes).x
        x.edge_ends = x.seed_index[torch.from_numpy(place.reshape(2, -1).T.copy())]
        return Batch(x, torch.from_numpy(index))

    def raw_features(self, indices: np.ndarray) -> np.ndarray | None:
        """None: there is no baseline."""
        return None

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """``source -> target`` in the user's ids."""
        ends = self.source.raw.edges[:, np.asarray(indices)]
        ids = self.source.raw.ids
        return [f"{ids[int(a)]} -> {ids[int(b)]}" for a, b in ends.T]

    def card(self) -> dict[str, Any]:
        """That of the graph."""
        return self.source.card()
