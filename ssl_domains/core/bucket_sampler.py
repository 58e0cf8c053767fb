"""Batches of samples of like length, within a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import sampler
from ssl_domains.core.samplers import Sampler


@sampler("bucket")
class Bucket(Sampler):
    """Rows of like length share a batch, so that little is padding, and no padded batch is over a budget.

    Rows are sorted by length and cut into ``buckets`` of equally many; in a bucket a batch holds as many
    rows as the budget allows for its longest one (and at most ``train.batch_size``). Each epoch shuffles
    the rows of a bucket and the order of all batches. The number of batches is the same in every epoch.

    Args:
        budget: largest ``rows * longest`` of a batch, in units of the source's lengths (seconds, for speech).
        buckets: number of buckets. Default 20.

    Reads ``source.lengths``: ``[len]`` numbers.

    Raises:
        ValueError: ``budget`` or ``buckets`` not above 0.
    """

    def __init__(self, budget: float, buckets: int = 20) -> None:
        if not budget > 0 or buckets < 1:
            raise ValueError(
                f"sampler.budget must be above 0 and buckets at least 1, got {budget}, {buckets}"
            )
        self.budget, self.buckets = budget, buckets
        self.lengths = np.zeros(0)

    def prepare(self, source: Source) -> None:
        lengths = getattr(source, "lengths", None)
        if lengths is None:
            raise DataError("sampler bucket needs samples of different lengths (speech); remove this section")
        self.lengths = np.asarray(lengths, dtype=np.float64)

    def _cut(self, rows: np.ndarray, batch_size: int) -> list[tuple[np.ndarray, int]]:
        """Rows of each bucket, and into how many batches they go."""
        order = rows[np.argsort(self.lengths[rows], kind="stable")]
        found = []
        for bucket in np.array_split(order, min(self.buckets, len(order))):
            longest = float(self.lengths[bucket].max())
            size = max(min(int(self.budget / max(longest, 1e-9)), batch_size), 1)
            found.append((bucket, -(-len(bucket) // size)))
        return found

    def n_batches(self, rows: np.ndarray, batch_size: int) -> int | None:
        return sum(parts for _, parts in self._cut(rows, batch_size))

    def epoch(
        self, rows: np.ndarray, batch_size: int, n_batches: int, seed: int, epoch: int
    ) -> Sequence[np.ndarray]:
        rng = np.random.default_rng([seed, epoch])
        batches = []
        for bucket, parts in self._cut(rows, batch_size):
            # Equal parts, not full ones and a rest: no batch is left with a row or two.
            batches += np.array_split(rng.permutation(bucket), parts)
        return [batches[i] for i in rng.permutation(len(batches))]


def padding_share(batches: Sequence[np.ndarray], lengths: np.ndarray) -> float:
    """Share of padded batches that is padding."""
    padded = sum(len(batch) * float(lengths[batch].max()) for batch in batches)
    return 1.0 - sum(float(lengths[batch].sum()) for batch in batches) / padded
