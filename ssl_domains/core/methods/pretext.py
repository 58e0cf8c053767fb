"""Pretext tasks: predict what was done to a view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective, mean_terms
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("pretext_task")
class PretextTask(Method):
    """A recorded parameter of a view predicted: corrupted cells, dropped edges, rotations.

    The target is a recorded parameter of a view; the objective decides its kind:
    ``cross_entropy`` for class numbers ``[B]``, ``binary_cross_entropy`` for booleans
    ``[B, W]``, ``masked_mse`` for numbers ``[B, W]``.

    Args:
        encoder: the domain's encoder.
        objective: on ``prediction [B, W]`` and the target.
        views: records the parameter; views without it are skipped.
        spec: the data's spec, which the views need to know W.
        target: name of the parameter.
        head: hidden widths of the head on the pooled vector; empty: a linear layer.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        spec: Any,
        target: str = "corrupted",
        head: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.encoder, self.objective, self.views, self.target = encoder, objective, views, target
        self.embedding_width = views.target_width(target, spec)
        self.head = mlp(encoder.pooled_width, [*head, self.embedding_width])

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = [v for v in self.views(batch, draw.fork("views")) if self.target in v.params]
        encoded = [self.encoder(view.x) for view in views]
        terms = mean_terms(
            self.objective(self.head(e.pooled), view.params[self.target])
            for e, view in zip(encoded, views, strict=True)
        )
        return Output(terms.total, terms.parts, stages(encoded[0]), terms.trivial)
