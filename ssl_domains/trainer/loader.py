"""Which samples a step sees, and how they get to the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Source
from ssl_domains.core.samplers import InOrder, Sampler, Shuffle
from ssl_domains.trainer.distributed import cut_share


class BatchOrder:
    """The samples of every step: a pure function of the seed, so a position is all a resume needs.

    A sampler cuts an epoch into batches. A batch is cut into ``accumulate`` micro-batches, and each
    of these into one equal, contiguous share a process. So the batches do not depend on the number
    of processes.

    Args:
        rows: ``[n]`` global row numbers of the training split.
        batch_size: of a step, over all processes and micro-batches.
        steps_per_epoch: from :meth:`TrainConfig.budget`.
        seed: of the run.
        accumulate: micro-batches a step.
        rank, world_size: this process, number of processes.
        shuffle: False: the rows in their order (one batch holds all of them).
        sampler: default: :class:`~ssl_domains.core.samplers.Shuffle`.
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
        sampler: Sampler | None = None,
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.batch_size, self.steps_per_epoch, self.seed = batch_size, steps_per_epoch, seed
        self.accumulate, self.rank, self.world_size = accumulate, rank, world_size
        self.sampler = sampler or (Shuffle() if shuffle else InOrder())
        self._plain = sampler is None
        self._epoch = -1
        self._batches: Sequence[np.ndarray] = ()
        self._sizes: dict[int, np.ndarray] = {}

    def position(self, step: int) -> tuple[int, int]:
        """``(epoch, batch in the epoch)`` of the step after ``step`` steps."""
        return divmod(step, self.steps_per_epoch)

    def batch(self, step: int) -> np.ndarray:
        """``[B]`` the global batch of a step."""
        epoch, number = self.position(step)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._cut(epoch)
        found = self._batches[number]
        return found[: self._whole(len(found))]

    def shares(self, step: int) -> list[np.ndarray]:
        """This process's share of each micro-batch of a step."""
        batch = self.batch(step)
        micro = [cut_share(batch, i, self.accumulate) for i in range(self.accumulate)]
        return [cut_share(part, self.rank, self.world_size) for part in micro]

    def samples(self, step: int) -> int:
        """Samples that ``step`` steps have seen, over all processes."""
        epochs, number = self.position(step)
        if self._plain:
            left = len(self.rows) - (self.steps_per_epoch - 1) * self.batch_size
            last = self._whole(min(left, self.batch_size))
            return epochs * ((self.steps_per_epoch - 1) * self.batch_size + last) + number * self.batch_size
        past = sum(int(self._seen(epoch)[-1]) for epoch in range(epochs))
        return past + (int(self._seen(epochs)[number]) if number else 0)

    def _whole(self, size: int) -> int:
        """The largest part of a batch that can be cut evenly."""
        return size - size % (self.accumulate * self.world_size)

    def _seen(self, epoch: int) -> np.ndarray:
        """``[steps_per_epoch + 1]`` samples before each batch of an epoch, and at its end."""
        if epoch not in self._sizes:
            cut = self._batches if epoch == self._epoch else self._cut(epoch)
            self._sizes[epoch] = np.cumsum([0, *(self._whole(len(batch)) for batch in cut)])
        return self._sizes[epoch]

    def _cut(self, epoch: int) -> Sequence[np.ndarray]:
        """The sampler's batches.

        Raises:
            UserError: it gave another number of them, or one too small to be cut into pieces.
        """
        cut = self.sampler.epoch(self.rows, self.batch_size, self.steps_per_epoch, self.seed, epoch)
        pieces, name = self.accumulate * self.world_size, type(self.sampler).__name__
        if len(cut) != self.steps_per_epoch:
            raise UserError(
                f"sampler {name} gave {len(cut)} batches where {self.steps_per_epoch} were wanted"
            )
        if min(map(len, cut)) < pieces:
            raise UserError(f"sampler {name} gave a batch of fewer than {pieces} rows (a row a piece)")
        return cut


def count_batches(
    sampler: Sampler | None, source: Source, rows: np.ndarray, batch_size: int | str
) -> int | None:
    """Shows a sampler the data; how many batches an epoch has, where it is the sampler who counts.

    Raises:
        UserError: one batch always holds the whole data, so there is nothing to choose.
    """
    if sampler is None:
        return None
    if source.full_batch or not isinstance(batch_size, int):
        raise UserError("sampler: one batch holds the whole data here; remove this section")
    sampler.prepare(source)
    return sampler.n_batches(rows, batch_size)


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
