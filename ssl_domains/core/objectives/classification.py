"""Cross-entropies for pretext tasks (rotation, jigsaw, property prediction)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.numerics import at_least_float32, full_precision, global_mean
from ssl_domains.core.registry import objective


@objective("cross_entropy")
class CrossEntropy(Objective):
    """``-log softmax(logits)[target]``, the mean over the labelled rows of all processes.

    Args:
        label_smoothing: in [0, 1). Default 0.
        ignore_index: class number of unlabelled rows, left out. Default -1.

    Worked value: logits ``(0, ln 3)``, target 1: ``ln(4 / 3) = 0.287682``. Trivial value
    "uniform": ``ln C``.

    Raises:
        UserError: label_smoothing out of range.
    """

    def __init__(self, label_smoothing: float = 0.0, ignore_index: int = -1) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise UserError(
                f"objective 'cross_entropy': label_smoothing is {label_smoothing}, expected 0 to below 1"
            )
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index

    def forward(self, logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Terms:
        """Loss of the global batch.

        Args:
            logits: ``[M, C]``.
            target: ``[M]`` int64 classes, or ``[M, C]`` probabilities.
            weights: ``[M]`` or None.

        Returns:
            Terms with the part ``accuracy``.

        Raises:
            ValueError: shapes do not match.
        """
        if logits.ndim != 2 or target.shape not in (logits.shape, logits.shape[:1]):
            raise ValueError(
                f"cross_entropy: expected logits [M, C] and target [M] or [M, C], got {list(logits.shape)} "
                f"and {list(target.shape)}"
            )
        with full_precision(logits.device):
            logits = at_least_float32(logits)
            rows, weights, classes = self._rows(logits, target, weights)
            total = global_mean(rows, weights)
            hits = (logits.detach().argmax(dim=1) == classes).to(rows.dtype)
            accuracy = global_mean(hits, weights)
        return Terms(total, {"accuracy": accuracy}, {"uniform": math.log(logits.shape[1])})

    def _rows(self, logits: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, weight and class of each row."""
        ones = logits.new_ones(len(logits)) if weights is None else weights.to(logits.dtype)
        if target.ndim == 2:
            target = target.to(logits.dtype)
            rows = F.cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing)
            return rows, ones, target.argmax(dim=1)
        rows = F.cross_entropy(
            logits,
            target,
            reduction="none",
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )
        return rows, ones * (target != self.ignore_index), target


@objective("binary_cross_entropy")
class BinaryCrossEntropy(Objective):
    """Binary cross-entropy with logits, the mean over all known elements of all processes.

    Args:
        pos_weight: factor on the loss of positives. Default 1.

    Targets that are NaN are unknown and left out (multi-label data with gaps). Worked value:
    logit 0: ``ln 2`` (trivial value "uniform", times ``(1 + pos_weight) / 2`` on balanced data).

    Raises:
        UserError: pos_weight not above 0.
    """

    def __init__(self, pos_weight: float = 1.0) -> None:
        super().__init__()
        if not pos_weight > 0:
            raise UserError(f"objective 'binary_cross_entropy': pos_weight is {pos_weight}, expected above 0")
        self.pos_weight = pos_weight

    def forward(self, logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Terms:
        """Loss of the global batch.

        Args:
            logits: ``[M]`` or ``[M, C]``; also ``[M, 1]`` for a target ``[M]``.
            target: the same shape; bool, 0 / 1, or probabilities; NaN where unknown.
            weights: ``[M]`` or None.

        Returns:
            Terms with the part ``accuracy`` (threshold 0.5).

        Raises:
            ValueError: shapes do not match.
        """
        if target.ndim == 1 and logits.ndim == 2 and logits.shape[1] == 1:
            logits = logits.squeeze(1)
        if logits.shape != target.shape or logits.ndim not in (1, 2):
            raise ValueError(
                f"binary_cross_entropy: expected logits and target of one shape [M] or [M, C], got "
                f"{list(logits.shape)} and {list(target.shape)}"
            )
        with full_precision(logits.device):
            logits, target = at_least_float32(logits), target.to(at_least_float32(logits).dtype)
            known = ~target.isnan()
            share = known.to(logits.dtype)
            if weights is not None:
                share = share * (weights if logits.ndim == 1 else weights[:, None])
            target = torch.where(known, target, torch.zeros_like(target))
            factor = logits.new_full((), self.pos_weight)
            losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=factor)
            total = global_mean(losses.flatten(), share.flatten())
            hits = ((logits.detach() > 0) == (target > 0.5)).to(logits.dtype)
            accuracy = global_mean(hits.flatten(), share.flatten())
        uniform = math.log(2.0) * (1.0 + self.pos_weight) / 2.0
        return Terms(total, {"accuracy": accuracy}, {"uniform": uniform})
