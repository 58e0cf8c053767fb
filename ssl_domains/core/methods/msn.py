"""Masked siamese networks: masked views find the prototypes of an unmasked one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.interfaces import Encoder, Masker, Views
from ssl_domains.core.methods._common import momentum_ramp, stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.parts.prototypes import Prototypes
from ssl_domains.core.parts.teacher import Teacher
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("masked_siamese")
class MaskedSiamese(Method):
    """MSN and PMSN (Assran et al., ECCV 2022, ICLR 2023): anchors with few visible tokens, matched to
    prototypes.

    The first view is the target, seen whole by the teacher; all others are anchors for the student, of which
    the global ones lose tokens by the mask and the local ones stay whole. Prototypes are learned by the
    anchors' side alone.

    Args:
        encoder: drops hidden tokens, so that anchors are cheap (or replaces them).
        objective: ``msn``.
        views: the target view, then the anchors.
        masker: ``random``; the paper hides 0.15 for the smallest ViT and up to 0.7 for the largest.
        projector: widths of the projector; ``[2048, 2048, 256]`` (the paper's).
        prototypes: K; 1,024 (the paper's).
        momentum: EMA momentum ``[start, end]``, linear; ``[0.996, 1.0]``.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        masker: Masker,
        projector: Sequence[int] = (2048, 2048, 256),
        prototypes: int = 1024,
        momentum: float | tuple[float, float] = (0.996, 1.0),
    ) -> None:
        super().__init__()
        self.encoder, self.objective, self.views, self.masker = encoder, objective, views, masker
        self.projector = mlp(encoder.pooled_width, projector)
        self.embedding_width = projector[-1] if projector else encoder.pooled_width
        self.prototypes = Prototypes(self.embedding_width, prototypes)
        self.teacher_encoder, self.teacher_projector = Teacher(encoder), Teacher(self.projector)
        self.momentum = momentum_ramp(momentum, "linear")

    def forward(self, batch: Batch, draw: Draw) -> Output:
        target_view, *anchor_views = self.views(batch, draw.fork("views"))
        encoded = []
        for i, view in enumerate(anchor_views):
            whole = view.role == "local"
            mask = None if whole else self.masker(self.encoder.layout(view.x), draw.fork(f"mask{i}"))
            encoded.append(self.encoder(view.x, mask))
        z = [self.projector(e.pooled) for e in encoded]
        anchors = torch.stack([self.prototypes(v) for v in z])  # [A, B, K]
        target, pooled = self._target(target_view.x)
        terms = self.objective(anchors, target)
        seen = stages(encoded[0], projector=z[0], teacher=pooled)
        return Output(terms.total, terms.parts, seen, terms.trivial)

    @torch.no_grad()
    def _target(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.teacher_projector(self.teacher_encoder(x).pooled)
        return self.prototypes(pooled), pooled

    def after_step(self, progress: Progress) -> None:
        momentum = self.momentum.value(progress.fraction)
        self.teacher_encoder.update(self.encoder, momentum)
        self.teacher_projector.update(self.projector, momentum)
        super().after_step(progress)

    def encoder_for_export(self) -> Encoder:
        """The teacher's, which the paper evaluates."""
        return self.teacher_encoder.module  # type: ignore[return-value]
