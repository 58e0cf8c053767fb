"""Counter-based randomness: a value depends on (run seed, step, sample index), on nothing else.

Masks and views drawn this way are the same whatever the batch order, the batch size, the
number of workers or the number of processes; resuming needs no generator state. One hash
(the finaliser of splitmix64) turns counters into bits, as batched integer arithmetic on the
device of the batch.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_A = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_B = -7723592293110705685  # 0x94D049BB133111EB
_WORD = 1 << 64


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (the built-in one keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_A
    x = (x ^ _shift(x, 27)) * _MIX_B
    return x ^ _shift(x, 31)


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value


def hash_ints(*values: int) -> int:
    """A non-negative 63-bit integer that depends on all ``values``, for seeding other generators.

    The same hash as that of tensors, in Python's integers: every draw calls it, and scalar tensors would
    take ten times as long.
    """
    state = 0
    for value in values:
        x = (state + value + _GOLDEN) % _WORD
        x = ((x ^ (x >> 30)) * _MIX_A) % _WORD
        x = ((x ^ (x >> 27)) * _MIX_B) % _WORD
        state = x ^ (x >> 31)
    return state & (2**63 - 1)


@dataclass
class Draw:
    """Random numbers for the samples of one batch at one step.

    Args:
        seed: seed of the run.
        step: global step; epochs of a probe or a fixed validation mask pass a constant.
        index: ``[B]`` int64 global sample numbers (:attr:`Batch.index`).

    Every call of a method takes the next stream, so two calls give independent numbers; the
    order of calls is part of the result. ``fork(name)`` starts an independent sequence, so
    that one consumer's number of calls does not shift another's.
    """

    seed: int
    step: int
    index: Tensor
    stream: int = field(default=0)

    def fork(self, name: str) -> Draw:
        """An independent sequence for a named consumer."""
        return Draw(hash_ints(self.seed, zlib.crc32(name.encode())), self.step, self.index)

    def at(self, index: Tensor) -> Draw:
        """The same seed and step for other counters (edges, nodes, cells)."""
        return Draw(hash_ints(self.seed, self.stream, 7), self.step, index)

    def integers(self, low: int, high: int) -> int:
        """One integer in ``[low, high]`` shared by the whole step, on the host (no device sync)."""
        self.stream += 1
        return low + hash_ints(self.seed, self.step, self.stream, 11) % (high - low + 1)

    def bits(self, *shape: int) -> Tensor:
        """``[B, *shape]`` int64 hashes."""
        self.stream += 1
        base = _signed(hash_ints(self.seed, self.step, self.stream))
        device = self.index.device
        key = _mix(self.index.to(torch.int64) * _GOLDEN + base)
        n = math.prod(shape)
        if not shape:
            return _mix(key + _GOLDEN)
        cell = (torch.arange(n, device=device, dtype=torch.int64) + 1) * _MIX_A
        return _mix(key[:, None] + cell[None, :]).view(len(key), *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """``[B, *shape]`` float32 in ``[low, high)``, 24 bits of resolution."""
        unit = _shift(self.bits(*shape), 40).to(torch.float32) * 2.0**-24
        return unit if (low, high) == (0.0, 1.0) else low + (high - low) * unit

    def normal(self, *shape: int) -> Tensor:
        """``[B, *shape]`` standard normal float32 (Box-Muller)."""
        radius = torch.sqrt(-2.0 * torch.log1p(-self.uniform(*shape)))
        return radius * torch.cos(2.0 * math.pi * self.uniform(*shape))

    def bernoulli(self, p: float, *shape: int) -> Tensor:
        """``[B, *shape]`` bool, True with probability ``p``."""
        return self.uniform(*shape) < p

    def randint(self, n: int, *shape: int) -> Tensor:
        """``[B, *shape]`` int64 in ``[0, n)``; the bias is below ``n / 2**48``."""
        return _shift(self.bits(*shape), 16).remainder(n)

    def permutation(self, n: int) -> Tensor:
        """``[B, n]`` int64: an independent uniform permutation a row."""
        return self.bits(n).argsort(dim=1)
