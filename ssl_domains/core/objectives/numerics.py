"""What several objectives share: precision, and means over the global batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_domains.core.collectives import all_reduce_sum
from ssl_domains.core.errors import UserError


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` itself in float32 or float64, else a float32 copy (gradient passes)."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def full_precision(device: torch.device) -> torch.autocast:
    """Context in which autocast leaves matrix products alone: batch statistics need float32."""
    return torch.autocast(device.type, enabled=False)


def same_shape(name: str, first: Tensor, second: Tensor) -> None:
    """Raises ``ValueError`` unless both have one shape ``[N, D]``."""
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            f"{name}: expected two matrices of one shape [N, D], "
            f"got {list(first.shape)} and {list(second.shape)}"
        )


def positive(name: str, **values: float) -> None:
    """Raises :class:`UserError` unless every named value is above 0."""
    for key, value in values.items():
        if not value > 0:
            raise UserError(f"objective {name!r}: {key} is {value}, expected a number above 0")


def global_count(rows: int, like: Tensor) -> Tensor:
    """Scalar: number of rows over all processes, which may hold different numbers; at least 1."""
    return all_reduce_sum(like.new_full((), float(rows))).clamp_min(1.0)


def global_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of ``values`` over the rows of all processes, with gradient.

    Processes may hold different numbers of rows (masked positions), or none: rows count
    alike wherever they are, so it is a ratio of global sums and not a mean of local means.

    Args:
        values: ``[M]``.
        weights: ``[M]``, not negative; the weighted mean ``sum w v / sum w`` then.

    Returns:
        Scalar; 0 when the weights of all rows of all processes sum to 0.
    """
    if weights is not None:
        weights = weights.detach().to(values.dtype)
        values = values * weights
    amount = values.new_full((), float(len(values))) if weights is None else weights.sum()
    total, amount = all_reduce_sum(torch.stack([values.sum(), amount])).unbind()
    return total / torch.where(amount == 0, torch.ones_like(amount), amount)
