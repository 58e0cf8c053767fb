"""Cross-level multi-instance distillation: samples, regions, and both tied together (CMD, EsViT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ssl_domains.core.batch import Batch, Encoded, Output
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.methods._common import momentum_ramp, stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.cross_level import CrossLevel, Levels
from ssl_domains.core.parts.heads import PrototypeHead
from ssl_domains.core.parts.pooling import InstancePooling, Pooling
from ssl_domains.core.parts.teacher import Teacher
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("cross_level_distillation")
class CrossLevelDistillation(Method):
    """Self-distillation of samples and of their regions, each sample tied to the bag of its regions.

    Student and teacher give every view logits of the whole sample and of its tokens, by two heads
    of one form (DINO's: MLP with GELU, unit length, weight-normalised outputs). Local views go
    through the student only. What is compared is the objective's affair. For any encoder with
    several tokens a sample; a node of one large graph is a single token and has no regions.

    Args:
        encoder: the student encoder.
        objective: ``cross_level``.
        views: global views first, then local ones (the paper: 2 and 8).
        projector: widths of each head; ``[2048, 2048, 256]``.
        prototypes: K, outputs of each head; 65,536. On small data from scratch a few hundred.
        momentum: EMA momentum ``[start, end]`` along a cosine; ``[0.996, 1.0]``.
        pooling: of the regions' probabilities: ``mean``, ``max`` or ``attention``.
        freeze_prototypes_epochs: epochs at the start in which the last layers stay; 1.
        teacher_buffers: what happens to batch-norm statistics: ``copy``, ``ema`` or ``own``.

    Source: CMD (arXiv 2401.08860, TIP 2025); EsViT (ICLR 2022). The paper starts from an EsViT
    checkpoint (``init_from``); from scratch on small data its K collapses easily.
    """

    objective: CrossLevel

    def __init__(
        self,
        encoder: Encoder,
        objective: CrossLevel,
        views: Views,
        projector: Sequence[int] = (2048, 2048, 256),
        prototypes: int = 65536,
        momentum: float | tuple[float, float] = (0.996, 1.0),
        pooling: Pooling = "mean",
        freeze_prototypes_epochs: int = 1,
        teacher_buffers: str = "own",
    ) -> None:
        super().__init__()
        if not isinstance(objective, CrossLevel):
            raise ValueError("method 'cross_level_distillation' wants objective cross_level")
        if teacher_buffers not in ("copy", "ema", "own"):
            raise ValueError(f"method.teacher_buffers must be copy, ema or own, got {teacher_buffers!r}")
        self.encoder, self.objective, self.views = encoder, objective, views
        self.whole_head = PrototypeHead(encoder.pooled_width, projector, prototypes, small=False)
        self.region_head = PrototypeHead(encoder.width, projector, prototypes, small=False)
        self.pooling = InstancePooling(pooling, encoder.width)
        self.embedding_width = prototypes
        parts = (encoder, self.whole_head, self.region_head)
        self.teachers = nn.ModuleList(Teacher(part, teacher_buffers) for part in parts)  # type: ignore[arg-type]
        self.momentum = momentum_ramp(momentum, "cosine")
        self.freeze_epochs, self.epoch = freeze_prototypes_epochs, 0

    @classmethod
    def objective_width(cls, encoder: Encoder, options: Mapping[str, Any]) -> int:
        """K."""
        return int(options.get("prototypes", 65536))

    def before_epoch(self, source: Source, epoch: int) -> None:
        self.epoch = epoch

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        frozen = self.epoch < self.freeze_epochs
        encoded = [self.encoder(view.x) for view in views]
        students = [self._levels(e, self.whole_head, self.region_head, frozen) for e in encoded]
        with torch.no_grad():
            encoder, whole, region = self.teachers
            teachers = [self._levels(encoder(v.x), whole, region) for v in views if v.role != "local"]
        terms = self.objective(students, teachers, self.pooling)
        seen = stages(encoded[0], teacher=teachers[0].whole)
        return Output(terms.total, terms.parts, seen, terms.trivial)

    def _levels(self, encoded: Encoded, whole: nn.Module, region: nn.Module, frozen: bool = False) -> Levels:
        try:
            features, valid = encoded.tokens.padded(len(encoded.pooled))
        except ValueError as error:
            raise UserError(
                f"method 'cross_level_distillation' wants several tokens a sample, and {error}"
            ) from error
        options = {"frozen": True} if frozen else {}
        logits = region(features.flatten(0, 1) if valid is None else features[valid], **options)
        if valid is None:
            regions = logits.unflatten(0, features.shape[:2])
        else:
            regions = logits.new_zeros(*valid.shape, logits.shape[1]).masked_scatter(valid[..., None], logits)
        return Levels(whole(encoded.pooled, **options), regions, features, valid)

    def after_step(self, progress: Progress) -> None:
        momentum = self.momentum.value(progress.fraction)
        students = (self.encoder, self.whole_head, self.region_head)
        for teacher, student in zip(self.teachers, students, strict=True):
            teacher.update(student, momentum)  # type: ignore[operator]
        super().after_step(progress)

    def encoder_for_export(self) -> Encoder:
        """The teacher's encoder, which the papers evaluate."""
        return self.teachers[0].module  # type: ignore[return-value, union-attr]
