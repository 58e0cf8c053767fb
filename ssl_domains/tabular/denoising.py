"""Denoising: a corrupted row in, the clean row out, and for VIME which cells were replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.objectives.classification import BinaryCrossEntropy
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.tabular.objectives import MixedReconstruction
from ssl_domains.tabular.views import changed_cells


@method("denoising")
class Denoising(Method):
    """Denoising auto-encoder of rows, and VIME's self-supervised part.

    The last view of a row is encoded; from ``pooled`` the objective decodes ALL cells of the
    clean row, changed or not (Vincent et al. 2008). With ``mask_weight`` above 0 a linear layer
    tells from ``pooled`` which cells the view changed (VIME, Yoon et al., NeurIPS 2020, section
    4.1): loss ``mask_weight * BCE + reconstruction_weight * reconstruction``. A replaced cell
    that got the value it had does not count as changed, as in the authors' code.

    Args:
        encoder: of tables.
        objective: ``mixed_columns``; one linear head a column on the decoder's output.
        views: the last one is the corrupted row.
        decoder: widths of the layers between ``pooled`` and the heads; empty (VIME): none.
        mask_weight: weight of the mask term. Default 0: a denoising auto-encoder.
        reconstruction_weight: VIME's alpha is 2 at a mask weight of 1. Default 1.
    """

    objective: MixedReconstruction

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        decoder: Sequence[int] = (),
        mask_weight: float = 0.0,
        reconstruction_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(objective, MixedReconstruction):
            raise ValueError(
                "method 'denoising' decodes the columns of a table; set objective: mixed_columns"
            )
        if mask_weight < 0 or reconstruction_weight < 0 or mask_weight + reconstruction_weight == 0:
            raise ValueError(
                "method.mask_weight and method.reconstruction_weight must not be negative, nor both 0; got "
                f"{mask_weight} and {reconstruction_weight}"
            )
        self.encoder, self.objective, self.views = encoder, objective, views
        self.mask_weight, self.reconstruction_weight = mask_weight, reconstruction_weight
        self.decoder = mlp(encoder.pooled_width, decoder, norm="none")
        self.mask_head: nn.Linear | None = None
        if mask_weight > 0:
            n_columns = encoder.spec.n_columns  # type: ignore[union-attr]
            self.mask_head = nn.Linear(encoder.pooled_width, n_columns)  # type: ignore[arg-type]
            self.mask_loss = BinaryCrossEntropy()

    @classmethod
    def objective_width(cls, encoder: Encoder, options: Mapping[str, Any]) -> int:
        """Of the decoder's last layer, else of ``pooled``."""
        return int(options["decoder"][-1]) if options.get("decoder") else encoder.pooled_width

    def forward(self, batch: Batch, draw: Draw) -> Output:
        view = self.views(batch, draw.fork("views"))[-1]
        encoded = self.encoder(view.x)
        clean = self.encoder.targets(batch.x).values
        terms = self.objective.rows(self.decoder(encoded.pooled), clean)
        total, parts = self.reconstruction_weight * terms.total, dict(terms.parts)
        trivial = {name: self.reconstruction_weight * value for name, value in terms.trivial.items()}
        if self.mask_head is not None:
            mask = self.mask_loss(self.mask_head(encoded.pooled), changed_cells(batch.x, view.x))
            total = total + self.mask_weight * mask.total
            parts |= {"mask": mask.total.detach(), "mask_accuracy": mask.parts["accuracy"]}
            trivial = {}  # of the mask term it depends on how often a new value equals the old one
        return Output(total, parts, stages(encoded), trivial)
