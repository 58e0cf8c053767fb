"""Batches of one group each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import sampler
from ssl_domains.core.samplers import Sampler


@sampler("one_group")
class OneGroup(Sampler):
    """Every batch holds rows of one group (one person, one recording) only, as ColloSSL wants it.

    A group's rows are shuffled and cut into pieces of the batch size; the batches of all groups come in
    random order. A last piece shorter than ``smallest`` is left out of that epoch.

    Args:
        smallest: rows that a batch must have. Default 8.

    Reads ``source.groups``: ``[len]`` int64, -1 for rows without a group, which count as one.
    """

    def __init__(self, smallest: int = 8) -> None:
        if smallest < 1:
            raise ValueError(f"sampler.smallest must be at least 1, got {smallest}")
        self.smallest = smallest
        self.groups = np.zeros(0, dtype=np.int64)

    def prepare(self, source: Source) -> None:
        groups = getattr(source, "groups", None)
        if groups is None:
            raise DataError("sampler one_group needs groups; say who each sample is of (data.group)")
        self.groups = np.asarray(groups, dtype=np.int64)

    def n_batches(self, rows: np.ndarray, batch_size: int) -> int | None:
        _, counts = np.unique(self.groups[rows], return_counts=True)
        whole, rest = np.divmod(counts, batch_size)
        n = int((whole + (rest >= self.smallest)).sum())
        if n == 0:
            raise DataError(
                f"no group has {self.smallest} training rows, so sampler one_group makes no batch; lower "
                "sampler.smallest"
            )
        return n

    def epoch(
        self, rows: np.ndarray, batch_size: int, n_batches: int, seed: int, epoch: int
    ) -> Sequence[np.ndarray]:
        rng = np.random.default_rng([seed, epoch])
        pieces = []
        for group in np.unique(self.groups[rows]):
            order = rng.permutation(rows[self.groups[rows] == group])
            cut = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
            pieces += [piece for piece in cut if len(piece) >= min(self.smallest, batch_size)]
        return [pieces[i] for i in rng.permutation(len(pieces))[:n_batches]]
