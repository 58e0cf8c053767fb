"""Redundancy reduction: Barlow Twins and VICReg. All statistics are over the global batch."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssl_domains.core.collectives import all_reduce_sum, world_size
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.numerics import (
    at_least_float32,
    full_precision,
    global_count,
    global_mean,
    positive,
    same_shape,
)
from ssl_domains.core.registry import objective


@objective("barlow_twins")
class BarlowTwins(Objective):
    """Pushes the cross-correlation matrix of two views' embeddings to the identity.

    ``zhat = (z - mean) / sqrt(var + eps)`` for each view and column, with the biased variance
    of the global batch of N rows; ``C = zhat_1^T zhat_2 / N``, ``[D, D]``;
    ``L = sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2``. Nothing is detached.

    Source: Zbontar et al. 2021 (arXiv 2103.03230), with the official code's ``lambda_`` and
    ``eps``. lambda is tuned for D = 8192: with another width scale it roughly as 1 / D.

    Args:
        lambda_: weight of the off-diagonal terms. Default 0.0051.
        eps: added to the variance. Default 1e-5.
        scale: factor on the whole loss. Default 1.

    Worked value: with ``z1 = z2 = [[1, 1], [1, -1], [-1, 1], [-1, -1]]`` the loss is 0, with
    ``z2 = -z1`` it is ``4 D = 8``. A constant embedding gives ``D`` (trivial value "constant").

    Raises:
        UserError: ``lambda_`` is negative, or ``eps`` or ``scale`` not above 0.
    """

    def __init__(self, lambda_: float = 0.0051, eps: float = 1e-5, scale: float = 1.0) -> None:
        super().__init__()
        positive("barlow_twins", eps=eps, scale=scale, **({} if lambda_ == 0 else {"lambda_": lambda_}))
        self.lambda_, self.eps, self.scale = lambda_, eps, scale

    def forward(self, z1: Tensor, z2: Tensor) -> Terms:
        """Loss of the global batch.

        Args:
            z1: ``[B, D]``, projector outputs of view 1.
            z2: ``[B, D]``, projector outputs of view 2, rows aligned.

        Returns:
            Terms with parts ``invariance`` and ``redundancy`` (both unweighted).
        """
        same_shape("barlow_twins", z1, z2)
        with full_precision(z1.device):
            count = global_count(len(z1), at_least_float32(z1))
            first = standardise(at_least_float32(z1), count, self.eps)
            second = standardise(at_least_float32(z2), count, self.eps)
            invariance, redundancy = correlation_penalties(first, second, count)
            total = self.scale * (invariance + self.lambda_ * redundancy)
        parts = {"invariance": invariance.detach(), "redundancy": redundancy.detach()}
        return Terms(total, parts, {"constant": self.scale * z1.shape[1]})

    def remedies(self) -> dict[str, str]:
        weight = f"the redundancy term weighs too little (objective.lambda_ {self.lambda_:g})"
        views = "the views of a sample have nothing in common; use milder views or lower the learning rate"
        return {
            "line": f"{weight}; raise it (0.0051 at width 8192, and more the narrower: as 1 / width)",
            "constant": views,
            "point": views,
        }

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        return _check("barlow_twins", batch_size, width, views)


@objective("vicreg")
class VICReg(Objective):
    """Variance, invariance and covariance of two views' embeddings.

    ``L = invariance_weight * mse(z1, z2) + variance_weight * (v(z1) + v(z2)) / 2 +
    covariance_weight * (c(z1) + c(z2))`` with ``v(z) = mean_j max(0, margin - sqrt(var_j + eps))``
    and ``c(z) = sum_{i != j} Cov_ij^2 / D``; unbiased (N - 1) statistics of the global batch.

    Source: Bardes et al. 2022 (arXiv 2105.04906), section 4. As in the official code the mean
    squared error is over N and D, and the two hinges are halved.

    Args:
        invariance_weight: default 25.
        variance_weight: default 25.
        covariance_weight: default 1.
        eps: added to the variance under the root. Default 1e-4.
        margin: target standard deviation (gamma). Default 1.

    Worked value: a constant embedding gives ``variance_weight (margin - sqrt(eps)) = 24.75``
    (trivial value "constant").

    Raises:
        UserError: a weight is negative, or ``eps`` or ``margin`` not above 0.
    """

    def __init__(
        self,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        eps: float = 1e-4,
        margin: float = 1.0,
    ) -> None:
        super().__init__()
        weights = {
            "invariance": invariance_weight,
            "variance": variance_weight,
            "covariance": covariance_weight,
        }
        positive("vicreg", eps=eps, margin=margin, **{f"{k}_weight": w for k, w in weights.items() if w != 0})
        self.weights, self.eps, self.margin = weights, eps, margin

    def forward(self, z1: Tensor, z2: Tensor) -> Terms:
        """Loss of the global batch.

        Args:
            z1: ``[B, D]``, projector outputs of view 1.
            z2: ``[B, D]``, projector outputs of view 2, rows aligned.

        Returns:
            Terms with unweighted parts ``invariance``, ``variance`` and ``covariance``.
        """
        same_shape("vicreg", z1, z2)
        with full_precision(z1.device):
            z1, z2 = at_least_float32(z1), at_least_float32(z2)
            count = global_count(len(z1), z1)
            (variance1, covariance1), (variance2, covariance2) = (self._spread(z, count) for z in (z1, z2))
            terms = {
                "invariance": global_mean((z1 - z2).square().mean(dim=1)),
                "variance": (variance1 + variance2) / 2,
                "covariance": covariance1 + covariance2,
            }
            total = sum((self.weights[name] * term for name, term in terms.items()), z1.new_zeros(()))
        constant = self.weights["variance"] * max(self.margin - math.sqrt(self.eps), 0.0)
        return Terms(total, {name: term.detach() for name, term in terms.items()}, {"constant": constant})

    def _spread(self, z: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Hinge on the standard deviations, and squared covariances, of one view."""
        centred = z - all_reduce_sum(z.sum(dim=0)) / count
        freedom = (count - 1).clamp_min(1)
        variance = all_reduce_sum(centred.square().sum(dim=0)) / freedom
        hinge = torch.relu(self.margin - torch.sqrt(variance + self.eps)).mean()
        _, squares = correlation_penalties(centred, centred, freedom)
        return hinge, squares / z.shape[1]

    def remedies(self) -> dict[str, str]:
        variance, covariance = self.weights["variance"], self.weights["covariance"]
        point = (
            f"nothing in the loss keeps samples apart (objective.variance_weight {variance:g}); raise it to "
            f"invariance_weight ({self.weights['invariance']:g}), or lower the learning rate"
        )
        line = (
            f"the features are copies of one another (objective.covariance_weight {covariance:g}); raise it, "
            "or lower the learning rate"
        )
        return {"point": point, "constant": point, "line": line}

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        return _check("vicreg", batch_size, width, views)


def standardise(z: Tensor, count: Tensor, eps: float) -> Tensor:
    """Columns of ``z [B, D]`` to mean 0 and biased variance 1 over the ``count`` global rows."""
    centred = z - all_reduce_sum(z.sum(dim=0)) / count
    variance = all_reduce_sum(centred.square().sum(dim=0)) / count
    return centred * torch.rsqrt(variance + eps)


def correlation_penalties(a: Tensor, b: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """``sum_i (C_ii - 1)^2`` and ``sum_{i != j} C_ij^2`` of ``C = a^T b / count``, with gradient.

    Args:
        a: ``[B, D]``, this process's rows; C is summed over the processes.
        b: ``[B, D]``.
        count: scalar divisor.

    Returns:
        Two scalars. One ``[D, D]`` matrix is the only memory beyond the inputs, kept for the
        backward; the written-out form needs three more.
    """
    return _CorrelationPenalties.apply(a, b, count)


class _CorrelationPenalties(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        matrix = a.T @ b
        if world_size() > 1:
            dist.all_reduce(matrix)  # in place: no second matrix
        matrix.div_(count)
        miss = matrix.diagonal() - 1.0
        # Zeroed, not subtracted: the diagonal is near D when the rest is near 0.
        matrix.diagonal().zero_()
        ctx.save_for_backward(a, b, count, matrix, miss)
        return miss.square().sum(), torch.linalg.vector_norm(matrix).square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_diagonal: Tensor, grad_rest: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b, count, matrix, miss = ctx.saved_tensors
        # As in all_reduce_sum: the gradients that all processes send back are summed.
        grads = all_reduce_sum(torch.stack([grad_diagonal, grad_rest])) * (2.0 / count)
        column = grads[0] * miss
        with full_precision(a.device):
            grad_a = torch.addcmul((b @ matrix.T).mul_(grads[1]), b, column)
            grad_b = torch.addcmul((a @ matrix).mul_(grads[1]), a, column)
        return grad_a, grad_b, None


def _check(name: str, batch_size: int, width: int, views: int) -> list[str]:
    """Preconditions of objectives on a D x D matrix estimated from N rows."""
    problems = []
    if views < 2:
        problems.append(f"objective {name!r} compares two views of each sample, got {views}; set views to 2")
    if batch_size < 2:
        problems.append(
            f"objective {name!r} needs statistics over the batch, and batch_size is {batch_size}; "
            "use at least 2"
        )
    elif batch_size * 32 < width:  # the papers' smallest: batch 256 at width 8192
        problems.append(
            f"objective {name!r} estimates a {width} x {width} matrix from {batch_size} rows, whose "
            f"sampling noise outweighs the signal; use a batch_size of at least {math.ceil(width / 32)} "
            "or a narrower projector"
        )
    return problems
