"""iBOT: DINO between views, and the same distillation between a view's hidden tokens and the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_domains.core.batch import Batch, Encoded, Mask, Output, View
from ssl_domains.core.interfaces import Encoder, Masker, Source, Views
from ssl_domains.core.methods._common import momentum_ramp, stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.base import Terms, mean_terms
from ssl_domains.core.objectives.distillation import TeacherCrossEntropy
from ssl_domains.core.parts.heads import Norm, PrototypeHead
from ssl_domains.core.parts.teacher import Teacher
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("ibot")
class IBOT(Method):
    """iBOT (Zhou et al., ICLR 2022, section 3): an online tokenizer learned by self-distillation.

    The student sees global views with hidden tokens, the teacher sees them whole. The pooled vectors of
    different views are compared as in DINO; each hidden token of the student is compared with the teacher's
    token at its place in the same view. One head serves both (section 4.3, "shared"), and each
    of the two parts has a center of its own. Every sample counts alike, however many of its tokens are
    hidden.

    Args:
        encoder: puts a learned token in place of hidden ones (``hidden: replace``).
        objective: ``teacher_cross_entropy`` between views; its settings serve the tokens, too.
        views: global views first, then local ones (role ``local``), which are never masked.
        masker: hides tokens; the paper's is ``block``, with ratios of 0.1 to 0.5.
        projector: widths of the head before its last layer; ``[2048, 2048, 256]`` (the paper's).
        prototypes: K outputs; 8,192 (the paper's).
        masked_share: share of the global views that are masked at all; 0.5 (the paper's).
        token_weight: of the token part beside the view part; 1 (the paper's).
        momentum: EMA momentum ``[start, end]`` along a cosine; ``[0.996, 1.0]``.
        freeze_prototypes_epochs: epochs at the start in which the head's last layer stays; 1 (the authors').
        projector_norm: ``none`` (the paper's), ``batch`` or ``layer`` after the head's hidden layers.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: TeacherCrossEntropy,
        views: Views,
        masker: Masker,
        projector: Sequence[int] = (2048, 2048, 256),
        prototypes: int = 8192,
        masked_share: float = 0.5,
        token_weight: float = 1.0,
        momentum: float | tuple[float, float] = (0.996, 1.0),
        freeze_prototypes_epochs: int = 1,
        projector_norm: Norm = "none",
    ) -> None:
        super().__init__()
        if encoder.drops_hidden:
            raise ValueError("method 'ibot' reads tokens in place of hidden ones; set encoder.hidden=replace")
        if not isinstance(objective, TeacherCrossEntropy):
            raise ValueError("method 'ibot' wants the objective teacher_cross_entropy")
        if not 0 < masked_share <= 1:
            raise ValueError(f"method.masked_share must lie in (0, 1], got {masked_share}")
        self.encoder, self.objective, self.views, self.masker = encoder, objective, views, masker
        self.token_objective = for_tokens(objective)
        self.projector = PrototypeHead(encoder.width, projector, prototypes, projector_norm)
        self.embedding_width = prototypes
        self.teacher_encoder, self.teacher_projector = Teacher(encoder), Teacher(self.projector)
        self.masked_share, self.token_weight = masked_share, token_weight
        self.momentum = momentum_ramp(momentum, "cosine")
        self.freeze_epochs, self.epoch = freeze_prototypes_epochs, 0

    @classmethod
    def objective_width(cls, encoder: Encoder, options: Mapping[str, Any]) -> int:
        """K."""
        return int(options.get("prototypes", 8192))

    def before_epoch(self, source: Source, epoch: int) -> None:
        self.epoch = epoch

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        masks = [self._mask(view, draw.fork(f"mask{i}")) for i, view in enumerate(views)]
        encoded = [self.encoder(view.x, mask) for view, mask in zip(views, masks, strict=True)]
        frozen = self.epoch < self.freeze_epochs
        z = [self.projector(e.pooled, frozen) for e in encoded]
        pairs = [(e, m, v) for e, m, v in zip(encoded, masks, views, strict=True) if m is not None]
        teachers = [self.teacher_encoder(view.x) for _, _, view in pairs]
        pooled = [self.teacher_projector(t.pooled) for t in teachers]
        whole = self.objective.over_views(z, pooled)
        tokens = mean_terms(
            self._tokens(e, t, m, frozen) for (e, m, _), t in zip(pairs, teachers, strict=True)
        )
        total = whole.total + self.token_weight * tokens.total
        parts = whole.parts | {"views": whole.total.detach(), "tokens": tokens.total.detach()}
        parts |= {f"token_{name}": value for name, value in tokens.parts.items()}
        trivial = {name: value * (1 + self.token_weight) for name, value in whole.trivial.items()}
        return Output(total, parts, stages(encoded[0], projector=z[0], teacher=pooled[0]), trivial)

    def _mask(self, view: View, draw: Draw) -> Mask | None:
        """The mask of a global view, empty for the images that stay whole; None for a local view."""
        if view.role == "local":
            return None
        mask = self.masker(self.encoder.layout(view.x), draw)
        if mask.hidden.ndim == 1:  # nodes of graphs: hidden over the whole batch
            return mask
        return Mask(mask.hidden & draw.fork("whole").bernoulli(self.masked_share)[:, None])

    def _tokens(self, student: Encoded, teacher: Encoded, mask: Mask, frozen: bool = False) -> Terms:
        """Hidden tokens, each weighted by one over the number of them in its sample."""
        weights = None
        if mask.hidden.ndim == 2:
            padding = student.tokens.padding  # as select: padded tokens never count
            hidden = mask.hidden if padding is None else mask.hidden & ~padding
            weights = 1.0 / hidden.sum(dim=1, keepdim=True).expand_as(hidden)[hidden]
        target = self.teacher_projector(teacher.tokens.select(mask))
        found = self.projector(student.tokens.select(mask), frozen)
        return self.token_objective(found, target, weights=weights)

    def after_step(self, progress: Progress) -> None:
        momentum = self.momentum.value(progress.fraction)
        self.teacher_encoder.update(self.encoder, momentum)
        self.teacher_projector.update(self.projector, momentum)
        super().after_step(progress)
        self.token_objective.after_step(progress.fraction)

    def encoder_for_export(self) -> Encoder:
        """The teacher's, which the paper evaluates."""
        return self.teacher_encoder.module  # type: ignore[return-value]


def for_tokens(objective: TeacherCrossEntropy) -> TeacherCrossEntropy:
    """The same settings for pairs of one view, with a center of its own."""
    ramp = objective.ramp
    return TeacherCrossEntropy(
        objective.width,
        student_temperature=objective.student_temperature,
        teacher_temperature=objective.teacher_temperature,
        teacher_temperature_end=None if ramp is None else ramp.end,
        teacher_temperature_share=0.3 if ramp is None else ramp.share,
        center_momentum=objective.center_momentum,
        centering=objective.centering,  # type: ignore[arg-type]
        sinkhorn_iterations=objective.sinkhorn_iterations,
        pairs="same_view",
    )
