"""Maximum mean discrepancy between the signals of devices."""

from __future__ import annotations

import torch
from torch import Tensor

SIGMAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 100.0)
"""Variances of the kernels that are summed (the released code of ColloSSL)."""
FLOOR = 1e-4


@torch.no_grad()
def kernel_mean(x: Tensor, y: Tensor, weight_x: Tensor, weight_y: Tensor, chunk: int = 1024) -> Tensor:
    """Weighted mean over pairs of ``sum over sigma of exp(-|x - y|^2 / (2 sigma))``, in blocks of rows.

    Args:
        x: ``[B, W]``; y: ``[B', W]``.
        weight_x: ``[B]`` shares that sum to 1; weight_y: ``[B']``.
        chunk: rows of x at a time.
    """
    total = x.new_zeros(())
    for part, weight in zip(x.split(chunk), weight_x.split(chunk)):
        apart = torch.cdist(part, y, compute_mode="donot_use_mm_for_euclid_dist").square()
        for sigma in SIGMAS:
            total = total + weight @ torch.exp(apart / (-2.0 * sigma)) @ weight_y
    return total


@torch.no_grad()
def mmd(x: Tensor, y: Tensor, present: Tensor | None = None) -> Tensor:
    """Squared MMD of two batches ``[B, W]``, the biased estimate, not below 1e-4 (ColloSSL, section 3.2).

    Args:
        x: signals of one device.
        y: of another, row by row at the same times.
        present: ``[B]`` bool: rows that both devices have; None: all. With none, infinity.
    """
    x, y = (v if v.dtype == torch.float64 else v.float() for v in (x, y))
    weight = torch.ones(len(x), dtype=x.dtype, device=x.device) if present is None else present.to(x.dtype)
    count = weight.sum()
    share = weight / count.clamp_min(1.0)
    found = (
        kernel_mean(x, x, share, share)
        + kernel_mean(y, y, share, share)
        - 2 * kernel_mean(x, y, share, share)
    )
    return torch.where(count > 0, found.clamp_min(FLOOR), torch.inf)
