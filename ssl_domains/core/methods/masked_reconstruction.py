"""Masked reconstruction: predict what the hidden tokens held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ssl_domains.core.batch import Batch, Mask, Output, Tokens
from ssl_domains.core.interfaces import Encoder, Masker, Views
from ssl_domains.core.methods._common import seen_through, stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


def element_weights(mask: Mask, whole: Tokens) -> dict[str, Tensor]:
    """``{"weights": [M, P]}`` of a mask that alters numbers within tokens, 1 where they count. Else empty."""
    if mask.alteration is None:
        return {}
    counted = mask.alteration.counted.to(whole.values.dtype)
    return {"weights": Tokens(counted, whole.layout, whole.padding).select(mask)}


@method("masked_reconstruction")
class MaskedReconstruction(Method):
    """What hidden tokens held: MAE, SimMIM, GraphMAE, TERA, masked columns.

    The encoder sees the batch through the mask, the encoder's own predictor gives ``[M, P]``
    for the hidden tokens, and the objective compares them with ``encoder.targets(x)``.

    Args:
        encoder: the domain's encoder.
        objective: a masked objective on ``prediction [M, P]`` and ``target [M, T]``.
        masker: hides tokens.
        predictor: options of the encoder's predictor (its signature lists them).
        views: the first view is what is masked (a random crop, for images); None: the batch itself.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        masker: Masker,
        predictor: Mapping[str, Any] | None = None,
        views: Views | None = None,
    ) -> None:
        super().__init__()
        self.views = views
        self.encoder, self.objective, self.masker = encoder, objective, masker
        width = objective.prediction_width(encoder.target_width, encoder.width)
        self.embedding_width = width
        self.predictor = encoder.predictor(width, **(predictor or {}))

    def forward(self, batch: Batch, draw: Draw) -> Output:
        batch = seen_through(self.views, batch, draw)
        mask = self.masker(self.encoder.layout(batch.x), draw.fork("mask"))
        encoded = self.encoder(batch.x, mask)
        prediction = self.predictor(encoded, mask, batch.x)
        whole = self.encoder.targets(batch.x)
        terms = self.objective(prediction, whole.select(mask), **element_weights(mask, whole))
        return Output(terms.total, terms.parts, stages(encoded), terms.trivial)
