"""How the training rows of an epoch become batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import sampler


class Sampler:
    """Base of all samplers. Constructor arguments are the keys of the recipe's ``sampler`` section.

    A batch is of the whole step: over all processes and micro-batches, which share it out
    themselves. What a sampler returns depends on its arguments only, so that a run resumes from a
    step number alone.
    """

    def prepare(self, source: Source) -> None:
        """Once before training, and after a resume: lengths, groups, clusters of the rows.

        Raises:
            UserError: the data lack what this sampler goes by.
        """

    def n_batches(self, rows: np.ndarray, batch_size: int) -> int | None:
        """Batches in every epoch over ``rows [n]``; None: as many as ``train.batch_size`` and
        ``train.drop_last`` say."""
        return None

    def epoch(
        self, rows: np.ndarray, batch_size: int, n_batches: int, seed: int, epoch: int
    ) -> Sequence[np.ndarray]:
        """The batches of an epoch: ``n_batches`` arrays of global row numbers.

        Args:
            rows: ``[n]`` global row numbers of the training split.
            batch_size: rows of a batch; a sampler that goes by something else may differ.
            n_batches: how many.
            seed: of the run.
            epoch: number of the epoch.
        """
        raise TypeError(f"{type(self).__name__} does not define epoch")


@sampler("shuffle")
class Shuffle(Sampler):
    """A permutation of the rows made from ``(seed, epoch)``, cut into contiguous pieces. The default."""

    def epoch(
        self, rows: np.ndarray, batch_size: int, n_batches: int, seed: int, epoch: int
    ) -> Sequence[np.ndarray]:
        order = np.random.default_rng([seed, epoch]).permutation(rows)
        return cut(order, batch_size, n_batches)


class InOrder(Sampler):
    """The rows as they are: one batch holds all of them."""

    def epoch(
        self, rows: np.ndarray, batch_size: int, n_batches: int, seed: int, epoch: int
    ) -> Sequence[np.ndarray]:
        return cut(rows, batch_size, n_batches)


def cut(order: np.ndarray, batch_size: int, n_batches: int) -> list[np.ndarray]:
    """The first ``n_batches`` pieces of ``batch_size`` rows; the last may be shorter."""
    return [order[i * batch_size : (i + 1) * batch_size] for i in range(n_batches)]
