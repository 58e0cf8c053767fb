"""Self-distillation: a student predicts what its own EMA teacher says of another view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Batch, Output, View
from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.methods._common import momentum_ramp, stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.parts.heads import Norm, PrototypeHead, mlp
from ssl_domains.core.parts.teacher import Teacher
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("self_distillation")
class SelfDistillation(Method):
    """BYOL, BGRL (cosine regression with a predictor) and DINO (teacher cross-entropy on prototypes).

    Views of role ``local`` go through the student only; every other view through both. The
    objective's ``over_views`` compares each student view with each *other* teacher view.

    Args:
        encoder: the student encoder.
        objective: ``cosine_regression`` or ``teacher_cross_entropy``.
        views: global views first, then local ones.
        projector: widths of the projector; ``[4096, 256]`` as BYOL; DINO: ``[2048, 2048, 256]``.
        predictor: hidden widths of the student's predictor; ``[4096]`` as BYOL. Empty: none (DINO).
        prototypes: K, a weight-normalised last layer of K outputs in student and teacher (DINO:
            65,536). 0: none.
        momentum: EMA momentum ``[start, end]`` along a cosine; ``[0.996, 1.0]`` (both papers').
        teacher_buffers: what happens to batch-norm statistics: ``copy``, ``ema`` or ``own``.
        projector_norm: ``batch``, ``layer`` or ``none`` after the projector's hidden layers; None: ``batch``
            with ReLU (BYOL), and with prototypes ``none`` with GELU (DINO).
        freeze_prototypes_epochs: epochs at the start in which the prototypes stay. Default 1 (DINO).
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        projector: Sequence[int] = (4096, 256),
        predictor: Sequence[int] = (4096,),
        prototypes: int = 0,
        momentum: float | tuple[float, float] = (0.996, 1.0),
        teacher_buffers: str = "own",
        projector_norm: Norm | None = None,
        freeze_prototypes_epochs: int = 1,
    ) -> None:
        super().__init__()
        if teacher_buffers not in ("copy", "ema", "own"):
            raise ValueError(f"method.teacher_buffers must be copy, ema or own, got {teacher_buffers!r}")
        self.encoder, self.objective, self.views = encoder, objective, views
        if projector_norm not in (None, "batch", "layer", "none"):
            raise ValueError(f"method.projector_norm must be batch, layer or none, got {projector_norm!r}")
        width = encoder.pooled_width
        self.projector: nn.Module
        if prototypes:
            self.projector = PrototypeHead(width, projector, prototypes, projector_norm or "none")
            width = prototypes
        else:
            self.projector = mlp(width, projector, norm=projector_norm or "batch")
            width = projector[-1] if projector else width
        self.embedding_width = width
        self.predictor: nn.Module | None = mlp(width, [*predictor, width]) if predictor else None
        self.teacher_encoder = Teacher(encoder, teacher_buffers)  # type: ignore[arg-type]
        self.teacher_projector = Teacher(self.projector, teacher_buffers)  # type: ignore[arg-type]
        self.momentum = momentum_ramp(momentum, "cosine")
        self.freeze_epochs, self.epoch = freeze_prototypes_epochs if prototypes else 0, 0

    @classmethod
    def objective_width(cls, encoder: Encoder, options: Mapping[str, Any]) -> int:
        """Number of outputs of the heads: K prototypes, or the projector's width."""
        projector = options.get("projector", (4096, 256))
        return int(options.get("prototypes") or (projector[-1] if projector else encoder.pooled_width))

    def before_epoch(self, source: Source, epoch: int) -> None:
        self.epoch = epoch

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        encoded = [self.encoder(view.x) for view in views]
        frozen = {"frozen": True} if self.epoch < self.freeze_epochs else {}
        z = [self.projector(e.pooled, **frozen) for e in encoded]
        students = z if self.predictor is None else [self.predictor(v) for v in z]
        teachers = [self._teacher(view) for view in views if view.role != "local"]
        terms = self.objective.over_views(students, teachers)
        seen = stages(encoded[0], projector=z[0], teacher=teachers[0])
        return Output(terms.total, terms.parts, seen, terms.trivial)

    @torch.no_grad()
    def _teacher(self, view: View) -> Tensor:
        return self.teacher_projector(self.teacher_encoder(view.x).pooled)

    def after_step(self, progress: Progress) -> None:
        momentum = self.momentum.value(progress.fraction)
        self.teacher_encoder.update(self.encoder, momentum)
        self.teacher_projector.update(self.projector, momentum)
        super().after_step(progress)

    def encoder_for_export(self) -> Encoder:
        """The teacher's encoder, which the DINO paper evaluates; BYOL evaluates the student's,
        and both converge to one another as the momentum goes to 1."""
        return self.teacher_encoder.module  # type: ignore[return-value]
