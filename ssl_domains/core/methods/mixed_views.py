"""Joint embedding with a third pass over mixtures of the views (Mixed Barlow Twins)."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.joint_embedding import JointEmbedding
from ssl_domains.core.objectives.base import mean_terms
from ssl_domains.core.objectives.mixed_barlow_twins import MixedBarlowTwins
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method

_STEPS = 1 << 24


@method("mixed_views")
class MixedViews(JointEmbedding):
    """Joint embedding that also embeds mixtures of views: Mixed Barlow Twins (2023).

    For each pair of views A and B, the mixture ``m x_A + (1 - m) x_B[pi]`` takes a pass of its own
    (joining the passes would change batch-norm statistics), with ONE m from U(0, 1) a batch and
    a permutation pi of the batch. The objective sees the embeddings of A, B and the mixture, pi
    and m. Mixing is :meth:`Encoder.encode_mixture`: inputs, or embedded cells of a table; graphs
    cannot be interpolated.

    With a weight of 0 on the regulariser there is no third pass, and the run is that of
    ``joint_embedding`` bit for bit. Several processes share m, and each permutes its own rows,
    as in the official code; statistics are those of the global batch.

    Args:
        encoder: the domain's encoder.
        objective: ``mixed_barlow_twins``.
        views: gives at least two views of one size.
        options: those of ``joint_embedding``.

    Source: Bandara et al., Guarding Barlow Twins Against Overfitting with Mixed Samples (arXiv
    2312.02151), section 3.
    """

    objective: MixedBarlowTwins

    def __init__(self, encoder: Encoder, objective: MixedBarlowTwins, views: Views, **options: Any) -> None:
        super().__init__(encoder, objective, views, **options)
        if not isinstance(objective, MixedBarlowTwins):
            raise ValueError("method 'mixed_views' wants objective mixed_barlow_twins")
        if self.predictor is not None:
            raise ValueError("method.predictor has no place in 'mixed_views'; leave it out")

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        encoded = [self.encoder(view.x) for view in views]
        z = [self.projector(e.pooled) for e in encoded]
        mixing, terms = draw.fork("mixing"), []
        for a, b in combinations(range(len(views)), 2):
            rows, share = partners(mixing), mixing.integers(0, _STEPS) / _STEPS
            mixed: Tensor | None = None
            if self.objective.regularizer:
                mixture = self.encoder.encode_mixture(views[a].x, views[b].x, rows, share)
                mixed = self.projector(mixture.pooled)
            terms.append(self.objective(z[a], z[b], mixed, rows, share))
        total = mean_terms(terms)
        return Output(total.total, total.parts, stages(encoded[0], projector=z[0]), total.trivial)


def partners(draw: Draw) -> Tensor:
    """``[B]`` int64: a permutation of this process's rows."""
    return torch.argsort(draw.uniform())
