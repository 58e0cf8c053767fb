"""Assignment to prototypes as target: MSN, and PMSN with another prior than the uniform one."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.collectives import all_reduce_sum
from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.clustering import sinkhorn
from ssl_domains.core.objectives.numerics import (
    at_least_float32,
    full_precision,
    global_count,
    global_mean,
    positive,
)
from ssl_domains.core.registry import objective


@objective("msn")
class MSNObjective(Objective):
    """``mean H(q, p_a) + weight * KL(mean p || prior)`` over the anchors a of each sample.

    ``p_a = softmax(s_a / t)`` of an anchor's cosines with K prototypes, ``q = softmax(s / (t * sharpening))``
    of the target's, detached and balanced by Sinkhorn; ``mean p`` is over all anchors of the global batch.
    With the uniform prior the second term is ``ln K - H(mean p)``: MSN's entropy to be maximised.

    Source: MSN (Assran et al., ECCV 2022, arXiv 2204.07141), eq. 1 and section 4; PMSN (Assran et al., ICLR
    2023, arXiv 2210.07277) for the power-law prior.

    Args:
        temperature: t. Default 0.1.
        sharpening: factor on the target's temperature. Default 0.25 (so 0.025).
        sinkhorn_iterations: 0: none. Default 3.
        weight: of the regulariser. Default 1.
        prior_exponent: ``k ** -e`` of the prior's power law over the prototypes; 0: uniform (MSN); PMSN has
        0.25.

    Trivial value "uniform": ``ln K``. With every sample on one prototype the first term is 0 and the second
    ``ln K`` (uniform prior).

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        sharpening: float = 0.25,
        sinkhorn_iterations: int = 3,
        weight: float = 1.0,
        prior_exponent: float = 0.0,
    ) -> None:
        super().__init__()
        positive("msn", temperature=temperature, sharpening=sharpening)
        if sinkhorn_iterations < 0 or weight < 0 or prior_exponent < 0:
            raise UserError(
                "objective 'msn': sinkhorn_iterations, weight and prior_exponent must not be negative, got "
                f"{sinkhorn_iterations}, {weight}, {prior_exponent}"
            )
        self.temperature, self.sharpening, self.weight = temperature, sharpening, weight
        self.sinkhorn_iterations, self.prior_exponent = sinkhorn_iterations, prior_exponent

    def forward(self, anchors: Tensor, target: Tensor) -> Terms:
        """Loss of the global batch.

        Args:
            anchors: ``[A, B, K]`` cosines of A anchors of each sample.
            target: ``[B, K]`` cosines of its target.

        Returns:
            Terms with parts ``cross_entropy``, ``prior`` (the KL) and ``used_prototypes`` (perplexity of the
            mean prediction, from 1 to K).
        """
        if anchors.ndim != 3 or anchors.shape[1:] != target.shape:
            raise ValueError(
                f"msn: expected anchors [A, B, K] and target [B, K], got {list(anchors.shape)}, "
                f"{list(target.shape)}"
            )
        with full_precision(anchors.device):
            logs = F.log_softmax(at_least_float32(anchors) / self.temperature, dim=2)
            q = self.targets(target)
            entropy = global_mean(-(q * logs).sum(dim=2).flatten())
            rows = logs.exp().flatten(0, 1)
            mean = all_reduce_sum(rows.sum(dim=0)) / global_count(len(rows), rows)
            prior = self.prior(mean)
            kl = (mean * (mean.clamp_min(1e-12).log() - prior.log())).sum()
        used = torch.special.entr(mean.detach()).sum().exp()
        parts = {"cross_entropy": entropy.detach(), "prior": kl.detach(), "used_prototypes": used}
        return Terms(entropy + self.weight * kl, parts, {"uniform": math.log(target.shape[1])})

    @torch.no_grad()
    def targets(self, target: Tensor) -> Tensor:
        """``[B, K]`` sharpened and balanced, detached."""
        temperature = self.temperature * self.sharpening
        if self.sinkhorn_iterations:
            return sinkhorn(target, temperature, self.sinkhorn_iterations)
        return F.softmax(at_least_float32(target) / temperature, dim=1)

    def prior(self, mean: Tensor) -> Tensor:
        """``[K]``; a power law is laid over the prototypes in the order of their present use."""
        k = len(mean)
        share = torch.arange(1, k + 1, device=mean.device, dtype=mean.dtype) ** -self.prior_exponent
        share = share / share.sum()
        if self.prior_exponent == 0:
            return share
        return torch.empty_like(share).scatter_(0, mean.detach().argsort(descending=True), share)

    def remedies(self) -> dict[str, str]:
        point = (
            f"every sample is on the same prototypes; raise objective.weight ({self.weight:g}), or lower the "
            "learning rate"
        )
        uniform = (
            f"targets are nearly uniform at temperature {self.temperature * self.sharpening:g}; lower "
            "objective.sharpening or use fewer prototypes"
        )
        return {"point": point, "line": point, "uniform": uniform}

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        if views < 2:
            return [f"objective 'msn' compares anchors with a target view, got {views} view; set views to 2"]
        return []
