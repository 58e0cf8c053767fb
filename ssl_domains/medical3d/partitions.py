"""Batches of one sample from each part of the body of several volumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import sampler
from ssl_domains.core.samplers import Sampler
from ssl_domains.medical3d.data import AXES, VolumeSource, box_of


def parts_of(depth: np.ndarray, parts: int) -> np.ndarray:
    """``[n]`` int64 part of each relative depth in 0 to 1."""
    return np.clip((depth * parts).astype(np.int64), 0, parts - 1)


@sampler("partitions")
class Partitions(Sampler):
    """Partition-aware batches (Chaitanya et al., NeurIPS 2020, arXiv 2006.10511, section 3.1): each volume of
    a batch is cut into S equal parts along its depth, and one drawn sample of each part is taken.

    A batch holds ``batch_size / S`` volumes, volume after volume, in each from the first part to the last. An
    epoch has as many batches as go into its rows; every volume comes equally often, to within one. Depth
    is relative, since volumes have different numbers of slices.

    Args:
        parts: S. Default 4 (the paper's).

    Raises:
        DataError: batches that S does not divide, fewer than two volumes with samples in all parts.
    """

    def __init__(self, parts: int = 4) -> None:
        if parts < 2:
            raise ValueError(f"sampler.parts must be at least 2, got {parts}")
        self.parts = parts
        self.volume = self.part = np.zeros(0, dtype=np.int64)

    def prepare(self, source: Source) -> None:
        if not isinstance(source, VolumeSource):
            raise DataError("sampler partitions goes by the depth in a volume; use it on medical volumes")
        axis = AXES[source.spec.axis] if source.spec.axis else 0
        sides = np.array([f.shape[axis] for f in source.volumes.facts])[source.samples.volume]
        middle = source.samples.corner[:, axis] + box_of(source.spec)[axis] / 2
        self.volume, self.part = source.samples.volume, parts_of(middle / sides, self.parts)

    def _volumes(self, batch_size: int) -> int:
        if batch_size % self.parts or batch_size < 2 * self.parts:
            raise DataError(
                f"sampler partitions takes {self.parts} samples a volume and at least two volumes; "
                f"train.batch_size {batch_size} must be a multiple of {self.parts} from {2 * self.parts} on"
            )
        return batch_size // self.parts

    def n_batches(self, rows: np.ndarray, batch_size: int) -> int | None:
        self._volumes(batch_size)
        return max(len(rows) // batch_size, 1)

    def _pools(self, rows: np.ndarray) -> dict[int, list[np.ndarray]]:
        """Rows by volume and part, of the volumes that have samples in every part."""
        pools = {}
        for volume in np.unique(self.volume[rows]):
            own = rows[self.volume[rows] == volume]
            found = [own[self.part[own] == s] for s in range(self.parts)]
            if all(len(f) for f in found):
                pools[int(volume)] = found
        return pools

    def epoch(
        self, rows: np.ndarray, batch_size: int, n_batches: int, seed: int, epoch: int
    ) -> Sequence[np.ndarray]:
        count, pools = self._volumes(batch_size), self._pools(rows)
        if len(pools) < count:
            raise DataError(
                f"{len(pools)} volumes have samples in all {self.parts} parts, a batch wants {count}; lower "
                "train.batch_size, sampler.parts or data.foreground"
            )
        rng = np.random.default_rng([seed, epoch, 3])
        order: list[int] = []
        batches = []
        for _ in range(n_batches):
            chosen: list[int] = []
            while len(chosen) < count:
                if not order:
                    order = [int(v) for v in rng.permutation(sorted(pools))]
                # The rest of an order may hold a volume that this batch has already: it waits.
                at = next((i for i, v in enumerate(order) if v not in chosen), None)
                if at is None:
                    order = [int(v) for v in rng.permutation(sorted(pools))]
                    continue
                chosen.append(order.pop(at))
            picks = [pools[v][s][rng.integers(len(pools[v][s]))] for v in chosen for s in range(self.parts)]
            batches.append(np.array(picks, dtype=np.int64))
        return batches
