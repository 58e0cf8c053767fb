"""Latent prediction: predict an EMA teacher's tokens at hidden positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Mask, Output, Tokens
from ssl_domains.core.interfaces import Encoder, Masker, Views
from ssl_domains.core.methods._common import momentum_ramp, seen_through, stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.base import Objective, mean_terms
from ssl_domains.core.parts.teacher import Teacher
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("latent_prediction")
class LatentPrediction(Method):
    """An EMA teacher's tokens predicted where they are hidden: I-JEPA, T-JEPA, data2vec, GraphMAE2.

    The teacher reads the whole input without gradient and its tokens are then gathered at the
    targets; the student reads the context only (T-JEPA, ICLR 2025; I-JEPA, CVPR 2023).

    Args:
        encoder: the student encoder.
        objective: a masked objective on ``prediction [M, D]`` and ``target [M, D]``;
            ``masked_mse`` for T-JEPA, ``masked_smooth_l1`` for I-JEPA.
        masker: gives contexts and targets. Where it gives several masks a step (``tube_block``), the loss is
            the mean over them and the teacher runs once (V-JEPA).
        predictor: options of the encoder's predictor.
        momentum: EMA momentum ``[start, end]``, linear in the step; ``[0.996, 1.0]``.
        normalize_targets: layer norm of each target without affine part (I-JEPA and data2vec;
            T-JEPA does not, as its encoder ends in a norm).
        export: whose encoder users get, ``teacher`` (T-JEPA's protocol) or ``student``.
        views: the first view is what is masked (a random crop, for images); None: the batch itself.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        masker: Masker,
        predictor: Mapping[str, Any] | None = None,
        momentum: float | tuple[float, float] = (0.996, 1.0),
        normalize_targets: bool = False,
        export: str = "teacher",
        views: Views | None = None,
    ) -> None:
        super().__init__()
        self.views = views
        if export not in ("teacher", "student"):
            raise ValueError(f"method.export must be teacher or student, got {export!r}")
        self.encoder, self.objective, self.masker = encoder, objective, masker
        self.embedding_width = objective.prediction_width(encoder.width, encoder.width)
        self.predictor = encoder.predictor(self.embedding_width, **(predictor or {}))
        self.teacher = Teacher(encoder)
        self.momentum = momentum_ramp(momentum, "linear")
        self.normalize_targets = normalize_targets
        self.export = export

    def forward(self, batch: Batch, draw: Draw) -> Output:
        batch = seen_through(self.views, batch, draw)
        masks = self.masker.masks(self.encoder.layout(batch.x), draw.fork("mask"))
        whole, pooled = self._taught(batch)
        seen: dict[str, Tensor] = {}
        terms = []
        for mask in masks:
            encoded = self.encoder(batch.x, mask)
            prediction = self.predictor(encoded, mask, batch.x)
            terms.append(self.objective(prediction, self._targets(whole, mask)))
            # Tokens that depend on their position alone still differ from one another; the pooled whole does
            # not. Of several masks the guard looks at the first.
            seen = seen or stages(encoded, predictor=prediction, teacher=pooled)
        total, parts, trivial = mean_terms(terms)
        return Output(total, parts, seen, trivial)

    @torch.no_grad()
    def _taught(self, batch: Batch) -> tuple[Tokens, Tensor]:
        """The teacher's tokens and its pooled vectors ``[B, D]``, both of the whole input."""
        encoded = self.teacher(batch.x)
        return encoded.tokens, encoded.pooled

    @torch.no_grad()
    def _targets(self, whole: Tokens, mask: Mask) -> Tensor:
        """``[M, D]``: the teacher's tokens where they are to be predicted."""
        target = whole.select(mask)
        return F.layer_norm(target, target.shape[-1:]) if self.normalize_targets else target

    def after_step(self, progress: Progress) -> None:
        self.teacher.update(self.encoder, self.momentum.value(progress.fraction))
        super().after_step(progress)

    def remedies(self) -> dict[str, str]:
        point = (
            "teacher and student agree on something that does not depend on the input; raise method.momentum "
            f"(it starts at {self.momentum.value(0.0):g}), lower the learning rate, or hide less"
        )
        return super().remedies() | {"point": point, "line": point}

    def encoder_for_export(self) -> Encoder:
        return self.teacher.module if self.export == "teacher" else self.encoder  # type: ignore[return-value]
