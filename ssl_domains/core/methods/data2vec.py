"""data2vec: the mean of a teacher's upper layers, predicted where the student's input is hidden."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Tokens
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder, Masker, Views
from ssl_domains.core.methods.latent_prediction import LatentPrediction
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.registry import method


@method("data2vec")
class Data2Vec(LatentPrediction):
    """data2vec (Baevski et al., ICML 2022, section 3): targets are the mean of the teacher's last K layers.

    Each layer's tokens are layer-normalised without affine part before the mean (section 3.3); the teacher
    reads the whole input. The authors' student puts mask tokens in place of hidden ones and predicts with one
    linear layer: an encoder with ``hidden: replace`` and ``predictor: {depth: 0}``. For
    speech and text they take the output of the feed-forward parts before the residual; here it is that of
    the blocks, as in their code for images, which every encoder gives.

    Args:
        encoder: gives its hidden states (``layers=True``), one for each block.
        objective: ``masked_smooth_l1`` (beta 2 for images, 0.25 for speech in the paper) or ``masked_mse``.
        masker: ``block`` for images, with 0.6 hidden.
        target_layers: K; 6 of 12 for images (the paper's table 5), 8 for speech, 10 for text. At most as many
        as
            the encoder has.
        options: as of ``latent_prediction``.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        masker: Masker,
        target_layers: int = 6,
        views: Views | None = None,
        **options: Any,
    ) -> None:
        super().__init__(encoder, objective, masker, views=views, **options)
        if target_layers < 1:
            raise ValueError(f"method.target_layers must be at least 1, got {target_layers}")
        self.target_layers = target_layers

    @torch.no_grad()
    def _taught(self, batch: Batch) -> tuple[Tokens, Tensor]:
        encoded = self.teacher(batch.x, layers=True)
        whole: Tokens = encoded.tokens
        states = [s for s in encoded.layers or [] if s.shape == whole.values.shape][-self.target_layers :]
        if not states:
            raise UserError("method 'data2vec' wants an encoder that gives the states of its tokens by layer")
        mean = torch.stack([F.layer_norm(s.float(), s.shape[-1:]) for s in states]).mean(dim=0)
        return Tokens(mean, whole.layout, whole.padding, whole.segment), encoded.pooled
