"""How often each item is in a batch, estimated from the stream of batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StreamingFrequency(nn.Module):
    """Mean number of steps between two batches that hold an item; its inverse is the item's frequency.

    (Yi et al., RecSys 2019, algorithm 2.) When item y is in the batch of step t,
    ``gap[y] <- (1 - r) gap[y] + r (t - last[y])`` and ``last[y] <- t``. Items are rows of a
    catalogue, so each has a place of its own, where the original hashes. The rate r of an item's
    n-th update is ``max(rate, 1 / n)``: at first this is the plain mean, so that no guess of the
    first value stays for long.

    Args:
        n_items: size of the catalogue.
        rate: smallest weight of a new gap; larger follows a drifting stream more quickly.
    """

    gap: Tensor
    last: Tensor
    updates: Tensor

    def __init__(self, n_items: int, rate: float = 0.01) -> None:
        super().__init__()
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"method.rate must lie in (0, 1], got {rate}")
        self.rate = rate
        self.register_buffer("gap", torch.zeros(n_items))
        self.register_buffer("last", torch.zeros(n_items, dtype=torch.int64))
        self.register_buffer("updates", torch.zeros(n_items, dtype=torch.int64))

    @torch.no_grad()
    def update(self, items: Tensor, step: int) -> None:
        """Takes in the items ``[B]`` of one step, counted from 1; repeats within it count once."""
        items = items.unique()
        n = self.updates[items] + 1
        rate = torch.maximum(1.0 / n, torch.tensor(self.rate, device=n.device))
        gap = (step - self.last[items]).clamp_min(1).to(self.gap.dtype)
        self.gap[items] += rate * (gap - self.gap[items])
        self.last[items] = step
        self.updates[items] = n

    def weight(self, items: Tensor, step: int) -> Tensor:
        """``[B]`` inverse frequencies; of an item that was never met, the steps so far plus one."""
        gap = self.gap[items]
        return torch.where(self.updates[items] > 0, gap, float(step + 1)).clamp_min(1.0)
