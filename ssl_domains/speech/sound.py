"""What a batch of this domain holds: recordings of different lengths, padded, with their lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass
class Sound:
    """Recordings of a batch.

    Attributes:
        values: ``[B, T]`` float32 samples in about [-1, 1]; 0 beyond a recording's length.
        lengths: ``[B]`` int64 samples that are real.
        blanks: ``[B, K, 3]`` float32, what SpecAugment hides, as (axis, start, stop): axis 0 is time, 1 is
            frequency, and start and stop are shares of the recording's own length or of the bands. Empty
            where start equals stop. None: nothing. Encoders read it after normalisation.
    """

    values: Tensor
    lengths: Tensor
    blanks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Sound:
        """A copy on ``device``."""
        return self._each(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Sound:
        """A copy in page-locked memory."""
        return self._each(lambda t: t.pin_memory())

    def _each(self, do) -> Sound:  # type: ignore[no-untyped-def]
        blanks = None if self.blanks is None else do(self.blanks)
        return Sound(do(self.values), do(self.lengths), blanks)

    def with_values(self, values: Tensor) -> Sound:
        """The same lengths with other samples."""
        return replace(self, values=values)

    def rows(self, index: Tensor) -> Sound:
        """Some recordings, padded as before."""
        blanks = None if self.blanks is None else self.blanks[index]
        return Sound(self.values[index], self.lengths[index], blanks)


def pad(pieces: Sequence[np.ndarray]) -> Sound:
    """Recordings ``[T_i]`` as one batch, padded with 0 to the longest."""
    longest = max((len(piece) for piece in pieces), default=0)
    values = np.zeros((len(pieces), longest), dtype=np.float32)
    for row, piece in enumerate(pieces):
        values[row, : len(piece)] = piece
    return Sound(torch.from_numpy(values), torch.tensor([len(piece) for piece in pieces], dtype=torch.int64))


def real(n: int, lengths: Tensor) -> Tensor:
    """``[B, n]`` bool: the steps within the lengths ``[B]``."""
    return torch.arange(n, device=lengths.device) < lengths[:, None]


def mean_real(values: Tensor, lengths: Tensor) -> Tensor:
    """``[B, D]``: the mean of ``values [B, N, D]`` over real steps; 0 where there are none."""
    there = real(values.shape[1], lengths)[..., None]
    total = values.masked_fill(~there, 0.0).sum(dim=1)
    return total / lengths.clamp_min(1)[:, None].to(values.dtype)
