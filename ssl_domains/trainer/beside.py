"""Further loaders beside the run's own, each with a sampling distribution of its own."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Source
from ssl_domains.core.random import hash_ints
from ssl_domains.trainer.distributed import rank, world_size
from ssl_domains.trainer.loader import BatchOrder, batches

if TYPE_CHECKING:
    from ssl_domains.trainer.loop import Trainer


class Beside:
    """The second loaders of a trainer, by name.

    Each of their epochs is a permutation of the rows without replacement. Like the run's own
    order it is a function of seed and step alone, so a resume needs nothing of it.
    """

    def __init__(self) -> None:
        self._streams: dict[str, tuple[int, Iterator[list[Batch]]]] = {}

    def next(
        self, trainer: Trainer, name: str, source: Source, rows: np.ndarray, batch_size: int
    ) -> list[Batch]:
        """See :meth:`Trainer.beside`."""
        at, stream = self._streams.pop(name, (-1, None))
        if stream is None or at != trainer.step:
            stream = self._begin(trainer, name, source, rows, batch_size)
        found = trainer.fetch(stream)
        self._streams[name] = (trainer.step + 1, stream)
        return found

    @staticmethod
    def _begin(
        trainer: Trainer, name: str, source: Source, rows: np.ndarray, batch_size: int
    ) -> Iterator[list[Batch]]:
        config = trainer.config
        seed = hash_ints(config.seed, zlib.crc32(name.encode()))
        order = order_of(rows, batch_size, seed, config.accumulate, rank(), world_size())
        return batches(
            source, order, trainer.step, trainer.budget.total_steps, workers=config.num_workers,
            pin=trainer.device.type == "cuda", labels=trainer.method.uses_labels,
        )  # fmt: skip


def order_of(
    rows: np.ndarray, batch_size: int, seed: int, accumulate: int, rank: int, world_size: int
) -> BatchOrder:
    """Whole batches of at most all rows, in an order of their own.

    Raises:
        UserError: fewer rows than micro-batches times processes.
    """
    pieces = accumulate * world_size
    size = min(batch_size, len(rows)) // pieces * pieces
    if size < 1:
        raise UserError(
            f"{len(rows)} rows of the second loader cannot be cut into {pieces} pieces; lower "
            "train.accumulate or the number of processes"
        )
    return BatchOrder(
        rows, size, len(rows) // size, seed, accumulate=accumulate, rank=rank, world_size=world_size
    )
