"""Regression of targets: cosine (BYOL, SimSiam), masked L1 / MSE / smooth L1, scaled cosine error.

All take ``prediction [M, P]``, ``target [M, P]`` and optional ``weights [M]``, and average over
the rows of all processes, of which each may hold another number.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.collectives import all_reduce_sum
from ssl_domains.core.errors import UserError
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

_NO_BETTER = {
    "constant_prediction": "the hidden content is not predicted from the visible; raise the learning rate or "
    "train longer, hide less, or check that columns or neighbours depend on one another"
}


class _Regression(Objective):
    """Shared frame: checks, precision, target normalisation, stop-gradient."""

    def __init__(self, *, normalize_target: bool = False, stop_gradient: bool = True) -> None:
        super().__init__()
        self.normalize_target, self.stop_gradient = normalize_target, stop_gradient

    def prepare(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Both in at least float32; the target detached and row-normalised as configured."""
        same_shape(getattr(self, "registered_name", type(self).__name__), prediction, target)
        prediction = at_least_float32(prediction)
        target = (target.detach() if self.stop_gradient else target).to(prediction.dtype)
        if self.normalize_target:
            target = F.layer_norm(target, target.shape[-1:], eps=1e-6)
        return prediction, target


@objective("cosine_regression")
class CosineRegression(_Regression):
    """Cosine regression of one view's prediction on the other view's projection.

    ``form="byol"``: ``2 - 2 cos(p, z)``, the squared distance of the unit vectors (Grill et
    al. 2020, eq. 2). ``form="simsiam"``: ``-cos(p, z)`` (Chen & He 2021, eq. 1). The
    symmetric loss is :meth:`over_views`, the mean of both directions (BYOL's code adds them).

    Args:
        form: see above. Default ``byol``.
        stop_gradient: detach the target, as both papers do; False is the known way into
            collapse. Default True.
        eps: floor of the norms, as in ``F.normalize``. Default 1e-12.

    Worked value: ``p = (1, 0)``, ``z = (1, 1)``: byol 0.585786, simsiam -0.707107. Trivial
    value "constant" (all rows alike): byol 0, simsiam -1.

    Raises:
        UserError: an unknown form, or ``eps`` not above 0.
    """

    def __init__(
        self, form: Literal["byol", "simsiam"] = "byol", stop_gradient: bool = True, eps: float = 1e-12
    ) -> None:
        super().__init__(stop_gradient=stop_gradient)
        if form not in ("byol", "simsiam"):
            raise UserError(f"objective 'cosine_regression': form {form!r} is not one of byol, simsiam")
        positive("cosine_regression", eps=eps)
        self.form, self.eps = form, eps
        self.offset, self.scale = (2.0, 2.0) if form == "byol" else (0.0, 1.0)

    def forward(self, prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Terms:
        """Loss of the global batch.

        Args:
            prediction: ``[M, P]``, the predictor's outputs.
            target: ``[M, P]``, the target projections.
            weights: ``[M]`` or None.

        Returns:
            Terms with the part ``cosine``.
        """
        with full_precision(prediction.device):
            prediction, target = self.prepare(prediction, target)
            cosine = global_mean(_cosine(prediction, target, self.eps), weights)
        total = self.offset - self.scale * cosine
        return Terms(total, {"cosine": cosine.detach()}, {"constant": self.offset - self.scale})

    def remedies(self) -> dict[str, str]:
        cause = (
            "a constant solves the loss, and nothing slows the target; give the online side a predictor "
            "(method.predictor), raise method.momentum, or lower the learning rate"
            if self.stop_gradient
            else "both sides move towards each other; set objective.stop_gradient: true"
        )
        return {"point": cause, "line": cause, "constant": cause}

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        if views >= 2:
            return []
        return [
            f"objective 'cosine_regression' predicts one view from another, got {views} view; set views to 2"
        ]


@objective("scaled_cosine")
class ScaledCosineError(_Regression):
    """``mean_i (1 - cos(x_i, z_i))^gamma``: easy rows weigh less as gamma grows.

    Source: GraphMAE (arXiv 2205.10803), section 3.1. Gamma is kept per data set (1 to 3);
    at 1 it is half of BYOL's regression loss.

    Args:
        gamma: exponent, at least 1. Default 3 (Cora).
        eps: floor of the norms, as in ``F.normalize``; a row of zeros has cosine 0. Default 1e-12.
        normalize_target: layer norm of each target row first. Default False.
        stop_gradient: detach the target. Default True.

    Worked value: ``x = (1, 0)``, ``z = (1, 1)``: 0.292893, 0.085786, 0.025126 for gamma 1, 2, 3.
    Rows of zeros give 1 (trivial value "zero").

    Raises:
        UserError: gamma below 1, or ``eps`` not above 0.
    """

    def __init__(
        self,
        gamma: float = 3.0,
        eps: float = 1e-12,
        normalize_target: bool = False,
        stop_gradient: bool = True,
    ) -> None:
        super().__init__(normalize_target=normalize_target, stop_gradient=stop_gradient)
        if not gamma >= 1:
            raise UserError(f"objective 'scaled_cosine': gamma is {gamma}, expected at least 1")
        positive("scaled_cosine", eps=eps)
        self.gamma, self.eps = gamma, eps

    def forward(self, prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Terms:
        """Loss of all masked rows.

        Args:
            prediction: ``[M, P]``.
            target: ``[M, P]``, the input features that were hidden.
            weights: ``[M]`` or None.

        Returns:
            Terms with the parts ``cosine`` and ``constant_prediction``: the error of the targets'
            mean direction (1, that of a zero, if it is less), with which the guard compares the loss.
        """
        with full_precision(prediction.device):
            prediction, target = self.prepare(prediction, target)
            cosine = _cosine(prediction, target, self.eps)
            # Rounding can push a cosine above 1, and a power of a negative number is NaN.
            total = global_mean((1.0 - cosine).clamp_min(0.0) ** self.gamma, weights)
            mean = global_mean(cosine.detach(), weights)
            constant = self._constant_prediction(target.detach(), weights)
        return Terms(total, {"cosine": mean, "constant_prediction": constant}, {"zero": 1.0})

    @torch.no_grad()
    def _constant_prediction(self, target: Tensor, weights: Tensor | None) -> Tensor:
        """The error of the targets' mean direction for every row, or of rows of zeros if that is less."""
        mean = all_reduce_sum(F.normalize(target, dim=1, eps=self.eps).sum(dim=0))
        cosine = _cosine(mean.expand_as(target), target, self.eps)
        return global_mean((1.0 - cosine).clamp_min(0.0) ** self.gamma, weights).clamp_max(1.0)

    def remedies(self) -> dict[str, str]:
        return dict(_NO_BETTER)


class _MaskedError(_Regression):
    """Mean elementwise error over masked rows.

    Args:
        normalize_target: layer norm of each target row first (biased variance, eps 1e-6), as
            data2vec; MAE's normalised pixels are the same but for the unbiased variance.
        stop_gradient: detach the target. Default True.
    """

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Elementwise error ``[M, P]``."""
        raise TypeError(f"{type(self).__name__} does not define error")

    def forward(self, prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Terms:
        """Mean over all elements of all processes' rows.

        Args:
            prediction: ``[M, P]``.
            target: ``[M, P]``.
            weights: ``[M]``, or ``[M, P]`` of single elements (TERA), or None.

        Returns:
            Terms with the part ``constant_prediction``: the error of predicting the batch's
            mean target for every row, with which the guard compares the loss.
        """
        prediction, target = self.prepare(prediction, target)
        if weights is not None and weights.ndim == 2:
            return self._elements(prediction, target, weights.to(prediction.dtype))
        total = global_mean(self.error(prediction, target).mean(dim=1), weights)
        with torch.no_grad():
            mean = all_reduce_sum(target.detach().sum(dim=0)) / global_count(len(target), target)
            constant = global_mean(self.error(mean.expand_as(target), target.detach()).mean(dim=1), weights)
        return Terms(total, {"constant_prediction": constant}, {})

    def _elements(self, prediction: Tensor, target: Tensor, weights: Tensor) -> Terms:
        """The mean over single elements: ``sum w e / sum w``."""
        total = global_mean(self.error(prediction, target).flatten(), weights.flatten())
        with torch.no_grad():
            columns = all_reduce_sum(torch.stack([(weights * target.detach()).sum(0), weights.sum(0)]))
            mean = columns[0] / columns[1].clamp_min(1e-12)
            error = self.error(mean.expand_as(target), target.detach())
            constant = global_mean(error.flatten(), weights.flatten())
        return Terms(total, {"constant_prediction": constant}, {})

    def remedies(self) -> dict[str, str]:
        return dict(_NO_BETTER)


@objective("masked_l1")
class MaskedL1(_MaskedError):
    """``mean |prediction - target|`` over masked rows (TERA, SimMIM, w2v-style regression).

    Args:
        normalize_target: layer norm of each target row first (eps 1e-6). Default False.
        stop_gradient: detach the target. Default True.

    Worked value: prediction ``(1, 2)``, target ``(0, 4)``: 1.5.
    """

    def __init__(self, normalize_target: bool = False, stop_gradient: bool = True) -> None:
        super().__init__(normalize_target=normalize_target, stop_gradient=stop_gradient)

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs()


@objective("masked_mse")
class MaskedMSE(_MaskedError):
    """``mean (prediction - target)^2`` over masked rows (MAE; He et al. 2022).

    Args:
        normalize_target: layer norm of each target row first (eps 1e-6). Default False.
        stop_gradient: detach the target. Default True.

    Worked value: prediction ``(1, 2)``, target ``(0, 4)``: 2.5.
    """

    def __init__(self, normalize_target: bool = False, stop_gradient: bool = True) -> None:
        super().__init__(normalize_target=normalize_target, stop_gradient=stop_gradient)

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square()


@objective("masked_smooth_l1")
class MaskedSmoothL1(_MaskedError):
    """``e^2 / (2 beta)`` below beta, ``|e| - beta / 2`` above, over masked rows (data2vec, I-JEPA).

    Args:
        beta: where the square turns into the line; 0 is L1. Default 1.
        normalize_target: layer norm of each target row first (eps 1e-6). Default False.
        stop_gradient: detach the target. Default True.

    Worked value: prediction ``(1, 2)``, target ``(0, 4)``, beta 1: ``(0.5 + 1.5) / 2 = 1``.

    Raises:
        UserError: beta is negative.
    """

    def __init__(self, beta: float = 1.0, normalize_target: bool = False, stop_gradient: bool = True) -> None:
        super().__init__(normalize_target=normalize_target, stop_gradient=stop_gradient)
        if not beta >= 0:
            raise UserError(f"objective 'masked_smooth_l1': beta is {beta}, expected 0 or more")
        self.beta = beta

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(prediction, target, reduction="none", beta=self.beta)


def _cosine(first: Tensor, second: Tensor, eps: float) -> Tensor:
    """Cosine of each row pair, ``[M]``; 0 for a row of zeros."""
    return (F.normalize(first, dim=1, eps=eps) * F.normalize(second, dim=1, eps=eps)).sum(dim=1)
