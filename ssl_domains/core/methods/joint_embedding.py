"""Joint embedding: two or more views through one encoder, compared by an objective."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("joint_embedding")
class JointEmbedding(Method):
    """Views compared by an objective: SimCLR, Barlow Twins, VICReg, SimSiam, SCARF, GRACE, GraphCL, GroCo.

    Each view passes by itself (batch-norm statistics are per view, as in the papers). Without
    a predictor the objective sees all views at once (:meth:`Objective.over_peers`: by default
    each unordered pair ``(z_i, z_j)``); with one, each ordered pair ``(predictor(z_i), z_j)``,
    whose second side the objective detaches (SimSiam, CVPR 2021, section 3).

    Args:
        encoder: the domain's encoder.
        objective: called with two ``[B, D]``.
        views: gives at least two views, local ones last.
        projector: widths of the projector's layers. Default ``[2048, 2048, 2048]`` (VICReg and
            SimSiam use three layers; Barlow Twins 8192 wide). Empty: none.
        predictor: hidden widths of the predictor, whose output is as wide as the projector's.
            Empty: none.
        projector_norm: ``batch`` (the papers') or ``none`` (GRACE).
        projector_last_norm: affine-free batch norm after the projector (SimSiam).
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        projector: Sequence[int] = (2048, 2048, 2048),
        predictor: Sequence[int] = (),
        projector_norm: str = "batch",
        projector_last_norm: bool = False,
    ) -> None:
        super().__init__()
        if projector_norm not in ("batch", "layer", "none"):
            raise ValueError(f"method.projector_norm must be batch, layer or none, got {projector_norm!r}")
        self.encoder, self.objective, self.views = encoder, objective, views
        self.projector = mlp(
            encoder.pooled_width,
            projector,
            norm=projector_norm,  # type: ignore[arg-type]
            last_norm=projector_last_norm,
            last_bias=False,
        )
        self.embedding_width = projector[-1] if projector else encoder.pooled_width
        self.predictor: nn.Module | None = None
        if predictor:
            self.predictor = mlp(self.embedding_width, [*predictor, self.embedding_width])

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        encoded = [self.encoder(view.x) for view in views]
        z = [self.projector(e.pooled) for e in encoded]
        seen = stages(encoded[0], projector=z[0])
        if self.predictor is None:
            terms = self.objective.over_peers(z, n_global=sum(view.role != "local" for view in views))
        else:
            predicted = [self.predictor(v) for v in z]
            terms = self.objective.over_views(predicted, z)
            seen["predictor"] = predicted[0].detach()
        return Output(terms.total, terms.parts, seen, terms.trivial)
