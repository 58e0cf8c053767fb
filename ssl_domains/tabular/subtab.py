"""SubTab: overlapping subsets of the columns as views of a row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Encoded, Mask, Output
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective, Terms, mean_terms
from ssl_domains.core.objectives.numerics import at_least_float32, global_mean
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.tabular.objectives import MixedReconstruction
from ssl_domains.tabular.spec import TableSpec


def column_subsets(n_columns: int, n_subsets: int, overlap: float) -> Tensor:
    """``[K, n]`` int64: K windows over the columns, in token order, that cover all of them.

    A window holds ``ceil(N / K)`` columns and ``int(overlap * N / K)`` of the window before it;
    where K divides N these are the windows of the authors' code, which otherwise leaves the last
    columns out. Worked value: N = 8, K = 4, overlap 0.5: 0-2, 1-3, 3-5, 5-7.
    """
    shared = int(overlap * n_columns / n_subsets)
    width = min(-(-n_columns // n_subsets) + shared, n_columns)
    starts = [min(max(k * n_columns // n_subsets - shared, 0), n_columns - width) for k in range(n_subsets)]
    return torch.tensor(starts)[:, None] + torch.arange(width)


@method("subtab")
class SubTab(Method):
    """SubTab (Ucar et al., NeurIPS 2021): every subset of the columns must tell the whole row.

    Each of K subsets of a (noisy) row is encoded alone, through a mask. From its ``pooled`` a
    decoder gives all cells of the clean row; a projector gives unit vectors z. Loss, a mean over
    subsets or pairs of them: ``reconstruction + contrast(z_i, z_j) + |z_i - z_j|^2`` (section
    2.3, equations 1 to 5). Reconstruction is a mean per cell, numbers and categories apart (the
    authors' code adds squared errors over the columns: raise ``reconstruction_weight`` to N).

    At test time the paper averages the vectors of the subsets; here users get the encoder of
    the whole row, which needs no subsets to be known.

    Args:
        encoder: of tables.
        objective: the contrast between two ``[B, D]``; ``nt_xent`` at temperature 0.1.
        views: noise; each subset gets noise of its own from the last view (default of the
            paper: swap noise, ``column_corruption`` per cell).
        spec: the table.
        n_subsets: K. Default 4.
        overlap: columns shared with the subset before, as a share of N / K. Default 0.75.
        projector: widths of the projector. Default two layers.
        decoder: widths between ``pooled`` and the columns' heads.
        reconstruction_weight, contrast_weight, distance_weight: of the terms; 1 in the paper.
    """

    subsets: Tensor

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        spec: TableSpec,
        n_subsets: int = 4,
        overlap: float = 0.75,
        projector: Sequence[int] = (128, 128),
        decoder: Sequence[int] = (128,),
        reconstruction_weight: float = 1.0,
        contrast_weight: float = 1.0,
        distance_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not 2 <= n_subsets <= spec.n_columns:
            raise ValueError(
                f"method.n_subsets must lie between 2 and the table's {spec.n_columns} columns, "
                f"got {n_subsets}"
            )
        if not 0.0 <= overlap <= 1.0:
            raise ValueError(f"method.overlap is a share and must lie in [0, 1], got {overlap}")
        self.encoder, self.objective, self.views = encoder, objective, views
        self.weights = (reconstruction_weight, contrast_weight, distance_weight)
        self.projector = mlp(encoder.pooled_width, projector, norm="none")
        self.embedding_width = projector[-1] if projector else encoder.pooled_width
        self.decoder = mlp(encoder.pooled_width, decoder, norm="none")
        width = decoder[-1] if decoder else encoder.pooled_width
        self.reconstruction = MixedReconstruction(spec, width)
        subsets = column_subsets(spec.n_columns, n_subsets, overlap)
        self.register_buffer("subsets", subsets, persistent=False)

    def forward(self, batch: Batch, draw: Draw) -> Output:
        encoded = [self._encode(batch, draw, k) for k in range(len(self.subsets))]
        z = [F.normalize(at_least_float32(self.projector(e.pooled)), dim=1) for e in encoded]
        clean = self.encoder.targets(batch.x).values
        rebuilt = mean_terms(self.reconstruction.rows(self.decoder(e.pooled), clean) for e in encoded)
        contrast = mean_terms(self.objective(a, b) for a, b in combinations(z, 2))
        distance = mean_terms(_distance(a, b) for a, b in combinations(z, 2))
        terms = (rebuilt, contrast, distance)
        total = torch.stack([w * t.total for w, t in zip(self.weights, terms, strict=True)]).sum()
        parts = rebuilt.parts | contrast.parts
        parts |= {"contrast": contrast.total.detach(), "distance": distance.total.detach()}
        return Output(total, parts, stages(encoded[0], projector=z[0]))

    def _encode(self, batch: Batch, draw: Draw, k: int) -> Encoded:
        """The k-th subset of a noisy copy of the rows."""
        view = self.views(batch, draw.fork(f"views {k}"))[-1]
        context = self.subsets[k].expand(len(batch), -1)
        n_columns = self.encoder.layout(view.x).n_tokens
        hidden = torch.ones(len(batch), n_columns, dtype=torch.bool, device=context.device)
        encoded: Encoded = self.encoder(view.x, Mask(hidden.scatter(1, context, False), context))
        return encoded


def _distance(a: Tensor, b: Tensor) -> Terms:
    """Mean squared distance of row pairs ``[B, D]`` over all processes."""
    return Terms(global_mean((a - b).square().sum(dim=1)), {})
