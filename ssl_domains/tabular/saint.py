"""SAINT's pretraining: CutMix of cells, mixup of their embeddings, contrast and denoising."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.tabular.encoders import TableEncoder
from ssl_domains.tabular.objectives import MixedReconstruction
from ssl_domains.tabular.spec import TableSpec
from ssl_domains.tabular.views import partners


@method("saint")
class SAINT(Method):
    """SAINT's self-supervision (Somepalli et al. 2021, section 4) on any encoder of tables.

    The last view of a row (``row_cutmix``) is embedded cell by cell and mixed with the
    embedding of another row's view: ``p' = alpha E(x'_i) + (1 - alpha) E(x'_b)``. The encoder
    goes on from there. Loss ``contrast_weight * contrast(g1(r), g2(r')) + reconstruction_weight
    * reconstruction``: the contrast of clean and mixed rows through two heads of their own, and
    all clean cells decoded from the mixed row's tokens, each by a head of its column.

    Intersample attention, the other half of the paper, is a matter of the encoder.

    Args:
        encoder: of tables; ``pooled: flatten`` gives the contrast all tokens, as in the paper.
        objective: the contrast, on two ``[B, D]``: ``info_nce`` in both directions, temperature 0.7.
        views: the last one is the mixed row.
        spec: the table.
        alpha: weight of the own row in the mixture, from 0 to 1. Default 0.3, that of the
            authors' code; the paper says 0.2, and its formula is the one above. 1: no mixup.
        projector: widths of each of the two contrast heads.
        decoder: widths between a token and its column's head.
        contrast_weight: default 0.5, that of the authors' code.
        reconstruction_weight: default 10, the paper's lambda.
    """

    encoder: TableEncoder

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        spec: TableSpec,
        alpha: float = 0.3,
        projector: Sequence[int] = (128, 64),
        decoder: Sequence[int] = (64,),
        contrast_weight: float = 0.5,
        reconstruction_weight: float = 10.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"method.alpha is a share and must lie in [0, 1], got {alpha}")
        if not isinstance(encoder, TableEncoder):
            raise ValueError("method 'saint' mixes embedded cells: the encoder must be a TableEncoder")
        self.encoder, self.objective, self.views = encoder, objective, views
        self.alpha, self.weights = alpha, (contrast_weight, reconstruction_weight)
        self.clean_head = mlp(encoder.pooled_width, projector, norm="none")
        self.mixed_head = mlp(encoder.pooled_width, projector, norm="none")
        self.embedding_width = projector[-1] if projector else encoder.pooled_width
        self.decoder = mlp(encoder.width, decoder, norm="none")
        self.reconstruction = MixedReconstruction(spec, decoder[-1] if decoder else encoder.width)

    def forward(self, batch: Batch, draw: Draw) -> Output:
        clean = self.encoder(batch.x)
        view = self.views(batch, draw.fork("views"))[-1]
        mixed = self.encoder.encode(self._mixed(self.encoder.tokens(view.x), draw.fork("mixup")))
        z = self.clean_head(clean.pooled)
        contrast = self.objective(z, self.mixed_head(mixed.pooled))
        latents = self.decoder(mixed.tokens.values)
        cells = self.encoder.targets(batch.x).flat()
        rebuilt = self.reconstruction(latents.flatten(0, 1), cells)
        total = self.weights[0] * contrast.total + self.weights[1] * rebuilt.total
        parts = contrast.parts | rebuilt.parts | {"contrast": contrast.total.detach()}
        return Output(total, parts, stages(clean, projector=z))

    def _mixed(self, cells: Tensor, draw: Draw) -> Tensor:
        """``[B, N, E]`` mixed with those of one other row of the batch each."""
        return self.alpha * cells + (1.0 - self.alpha) * cells[partners(draw)]
