"""Which samples a step sees, and how they get to the loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ssl_domains.core.batch import Batch
from ssl_domains.core.interfaces import Source
from ssl_domains.trainer.distributed import cut_share


class BatchOrder:
    """The samples of every step: a pure function of the seed, so a position is all a resume needs.

    An epoch is a permutation of the training rows made from ``(seed, epoch)``; its batches are
    contiguous pieces. A batch is cut into ``accumulate`` micro-batches, and each of these into
    one equal, contiguous share a process. So the batches do not depend on the number of processes.

    Args:
        rows: ``[n]`` global row numbers of the training split.
        batch_size: of a step, over all processes and micro-batches.
        steps_per_epoch: from :meth:`TrainConfig.budget`.
        seed: of the run.
        accumulate: micro-batches a step.
        rank, world_size: this process, number of processes.
        shuffle: False: the rows in their order (one batch holds all of them).
    """

    def __init__(
        self,
        rows: np.ndarray,
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
        *,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.batch_size, self.steps_per_epoch, self.seed = batch_size, steps_per_epoch, seed
        self.accumulate, self.rank, self.world_size, self.shuffle = accumulate, rank, world_size, shuffle
        self._epoch, self._order = -1, self.rows

    def position(self, step: int) -> tuple[int, int]:
        """``(epoch, batch in the epoch)`` of the step after ``step`` steps."""
        return divmod(step, self.steps_per_epoch)

    def batch(self, step: int) -> np.ndarray:
        """``[B]`` the global batch of a step."""
        epoch, number = self.position(step)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permutation(epoch)
        found = self._order[number * self.batch_size : (number + 1) * self.batch_size]
        pieces = self.accumulate * self.world_size
        return found[: len(found) - len(found) % pieces]

    def shares(self, step: int) -> list[np.ndarray]:
        """This process's share of each micro-batch of a step."""
        batch = self.batch(step)
        micro = [cut_share(batch, i, self.accumulate) for i in range(self.accumulate)]
        return [cut_share(part, self.rank, self.world_size) for part in micro]

    def samples(self, step: int) -> int:
        """Samples that ``step`` steps have seen, over all processes."""
        epochs, number = self.position(step)
        left = len(self.rows) - (self.steps_per_epoch - 1) * self.batch_size
        last = min(left, self.batch_size)
        last -= last % (self.accumulate * self.world_size)
        return epochs * ((self.steps_per_epoch - 1) * self.batch_size + last) + number * self.batch_size

    def _permutation(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return self.rows
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows)


def batches(
    source: Source, order: BatchOrder, start: int, stop: int, *, workers: int, pin: bool, labels: bool
) -> Iterator[list[Batch]]:
    """The micro-batches of steps ``start`` to ``stop - 1``, on the CPU.

    Args:
        source: fetches whole batches.
        order: which rows.
        workers: processes that fetch ahead (2 batches each); 0: fetch here. They live for the
            whole run, across epochs.
        pin: hand out pinned memory, for copies to a GPU that overlap with computing.
        labels: False: take the labels away.
    """
    if workers == 0:
        for step in range(start, stop):
            yield [_fetch(source, share, labels) for share in order.shares(step)]
        return
    loader: DataLoader[Any] = DataLoader(
        _Fetched(source, labels),
        sampler=_Shares(order, start, stop),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=True,
        generator=torch.Generator(),  # its own, so that workers do not move the run's random state
    )
    stream = iter(loader)
    for _ in range(start, stop):
        yield [Batch(*next(stream)) for _ in range(order.accumulate)]


def _fetch(source: Source, rows: np.ndarray, labels: bool) -> Batch:
    batch = source.fetch(rows)
    return batch if labels or batch.label is None else replace(batch, label=None)


class _Shares:
    """Yields the row numbers of one fetch after another."""

    def __init__(self, order: BatchOrder, start: int, stop: int) -> None:
        self.order, self.start, self.stop = order, start, stop

    def __iter__(self) -> Iterator[np.ndarray]:
        for step in range(self.start, self.stop):
            yield from self.order.shares(step)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.order.accumulate


class _Fetched(Dataset):
    """Whole batches by their rows, as plain tuples, since these can be pinned."""

    def __init__(self, source: Source, labels: bool) -> None:
        self.source, self.labels = source, labels

    def __getitem__(self, rows: np.ndarray) -> tuple[Any, ...]:
        batch = _fetch(self.source, rows, self.labels)
        return batch.x, batch.index, batch.label, batch.meta
