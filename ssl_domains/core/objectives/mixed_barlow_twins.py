"""Barlow Twins with a regulariser on mixtures (Mixed Barlow Twins)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_domains.core.collectives import all_reduce_sum, world_size
from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.base import Terms
from ssl_domains.core.objectives.numerics import at_least_float32, full_precision, global_count, same_shape
from ssl_domains.core.objectives.redundancy import BarlowTwins, correlation_penalties, standardise
from ssl_domains.core.registry import objective


@objective("mixed_barlow_twins")
class MixedBarlowTwins(BarlowTwins):
    """Barlow Twins, and mixtures whose cross-correlations must be mixtures of cross-correlations.

    With ``Z`` standardised projector outputs, each over its own batch, ``M`` of the mixed inputs
    ``m x_A + (1 - m) x_B[pi]``::

        T_MA = m Z_A^T Z_A + (1 - m) Z_B[pi]^T Z_A      T_MB = m Z_A^T Z_B + (1 - m) Z_B[pi]^T Z_B
        R = |Z_M^T Z_A - T_MA|^2 / B^2 + |Z_M^T Z_B - T_MB|^2 / B^2     over ALL entries
        L = L_BarlowTwins + regularizer * lambda * R

    Nothing is detached. Both differences are ``E^T Z / B`` with ``E = Z_M - m Z_A - (1 - m)
    Z_B[pi]``, so two products do the work of six. m = 1 and m = 0 give R = 0.

    Source: Bandara et al. 2023 (arXiv 2312.02151), section 3. The official ImageNet code has
    ``Z_B^T Z_B`` in T_MB, against the paper and its own small-data code; here it is the paper's.
    It also halves the regulariser: its weights are twice the ones here.

    Args:
        lambda_: weight of the off-diagonal terms. Default 1 / 128, the authors' for CIFAR and width
            1024.
        regularizer: weight of R beside lambda. Default 4, the authors' for CIFAR (2 on STL; on
            ImageNet 1 to 3, which is 0.5 to 1.5 here). 0: Barlow Twins.
        ramp: share of the run over which the weight of R rises from 0. Default 0; ImageNet: 10 of
            300 epochs.
        normalize_rows: bring each projector output to unit length before the columns are
            standardised, as the authors' small-data code does (not in the paper).
        eps: added to the variance.
        scale: factor on the whole loss.

    Raises:
        UserError: an argument is out of range.
    """

    weight: Tensor

    def __init__(
        self,
        lambda_: float = 0.0078125,
        regularizer: float = 4.0,
        ramp: float = 0.0,
        normalize_rows: bool = False,
        eps: float = 1e-5,
        scale: float = 1.0,
    ) -> None:
        super().__init__(lambda_, eps, scale)
        if regularizer < 0 or not 0.0 <= ramp <= 1.0:
            raise UserError(
                "objective 'mixed_barlow_twins': regularizer must not be negative and ramp lie in 0 to 1, "
                f"got {regularizer} and {ramp}"
            )
        self.regularizer, self.ramp, self.normalize_rows = regularizer, ramp, normalize_rows
        # A buffer, so that a resumed run goes on with the weight it stopped at.
        self.register_buffer("weight", torch.tensor(0.0 if ramp else 1.0))

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        mixed: Tensor | None = None,
        rows: Tensor | None = None,
        share: float = 1.0,
    ) -> Terms:
        """Loss of the global batch.

        Args:
            z1: ``[B, D]``, projector outputs of view A.
            z2: ``[B, D]``, of view B.
            mixed: ``[B, D]``, of the mixed inputs; None: no regulariser.
            rows: ``[B]`` int64, pi over this process's rows.
            share: m.

        Returns:
            Terms with parts ``invariance``, ``redundancy``, ``barlow_twins`` (their weighted sum)
            and ``mixture`` (R), the last unweighted.
        """
        same_shape("mixed_barlow_twins", z1, z2)
        with full_precision(z1.device):
            count = global_count(len(z1), at_least_float32(z1))
            first, second = self._standard(z1, count), self._standard(z2, count)
            invariance, redundancy = correlation_penalties(first, second, count)
            base = invariance + self.lambda_ * redundancy
            parts = {"invariance": invariance, "redundancy": redundancy, "barlow_twins": base}
            total = base
            if mixed is not None and rows is not None:
                same_shape("mixed_barlow_twins", z1, mixed)
                miss = self._standard(mixed, count) - share * first - (1.0 - share) * second[rows]
                parts["mixture"] = _product_norm(miss, first, count) + _product_norm(miss, second, count)
                total = base + self.weight * (self.regularizer * self.lambda_) * parts["mixture"]
        named = {name: value.detach() for name, value in parts.items()}
        return Terms(self.scale * total, named, {"constant": self.scale * z1.shape[1]})

    def _standard(self, z: Tensor, count: Tensor) -> Tensor:
        z = at_least_float32(z)
        if self.normalize_rows:
            z = torch.nn.functional.normalize(z, dim=1)
        return standardise(z, count, self.eps)

    def after_step(self, fraction: float) -> None:
        """Moves the ramp."""
        if self.ramp:
            self.weight.fill_(min(fraction / self.ramp, 1.0))


def _product_norm(a: Tensor, b: Tensor, count: Tensor) -> Tensor:
    """``|a^T b / count|^2`` over all entries and all processes' rows.

    On one process with fewer rows than columns it is the sum of ``(a a^T) * (b b^T)``, which is
    the same number from ``[B, B]`` matrices.
    """
    if world_size() == 1 and len(a) < a.shape[1]:
        return ((a @ a.T) * (b @ b.T)).sum() / count.square()
    return (all_reduce_sum(a.T @ b) / count).square().sum()
