"""w2v-BERT: codes from a contrastive task below, and their prediction above, trained together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.interfaces import Encoder, Masker, Views
from ssl_domains.core.methods._common import seen_through, stages
from ssl_domains.core.methods.wav2vec2 import Wav2Vec2
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.objectives.numerics import global_mean
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("w2v_bert")
class W2VBERT(Wav2Vec2):
    """w2v-BERT (Chung et al., ASRU 2021, section III), with the choices of fairseq2's implementation where
    the paper is silent.

    The contrastive task of wav2vec 2.0 reads the encoder after ``context_layer`` blocks. The blocks above go
    on from there, without another mask and with gradient, and a linear layer on the last one predicts the
    code that was DRAWN for each hidden token; no gradient goes to the codes. ``L = beta * (L_contrast +
    diversity * L_diversity) + gamma * L_prediction``, both from the first step.

    ``gamma: 0`` is wav2vec 2.0 on the lower blocks, ``beta: 0`` the prediction of codes that nothing trains.

    Args:
        encoder: ``speech_conformer``, or any that keeps hidden tokens and gives its layers. No layer may be
            skipped at random.
        objective: as of ``wav2vec2``.
        masker: ``span``.
        views: as of ``wav2vec2``.
        context_layer: blocks of the contrastive module. Default 8 (of 24: fairseq2).
        groups: default 1, ``codes`` 1024, ``code_width`` 1024, ``width`` 768, ``temperature`` (2, 0.1,
            0.999995).
        codes: entries of a codebook.
        code_width: of the codes of all groups together.
        width: in which contexts and codes are compared.
        temperature: of the Gumbel softmax: start, end, factor a step.
        beta: weight of the contrastive part. Default 1.
        gamma: weight of the prediction. Default 1.
        options: ``distractors``, ``diversity`` and ``penalty``, as of ``wav2vec2``.

    Raises:
        ValueError: weights that are negative, or both 0.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        masker: Masker,
        views: Views | None = None,
        context_layer: int = 8,
        groups: int = 1,
        codes: int = 1024,
        code_width: int = 1024,
        width: int = 768,
        temperature: tuple[float, float, float] = (2.0, 0.1, 0.999995),
        beta: float = 1.0,
        gamma: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(
            encoder, objective, masker, views, groups, codes, code_width, width, temperature,
            context_layer=context_layer, **options,
        )  # fmt: skip
        if min(beta, gamma) < 0 or beta + gamma == 0:
            raise ValueError(f"method.beta and gamma cannot be negative or both 0, got {beta}, {gamma}")
        self.beta, self.gamma = beta, gamma
        self.predict = nn.Linear(encoder.width, groups * codes)

    def forward(self, batch: Batch, draw: Draw) -> Output:
        batch = seen_through(self.views, batch, draw)
        mask = self.masker(self.encoder.layout(batch.x), draw.fork("mask"))
        encoded = self.encoder(batch.x, mask, layers=True)
        found = self.contrast(encoded, mask, batch, draw)
        lower = self.total(found)
        upper, accuracy = self.prediction(encoded.tokens.select(mask), found.quantised.ids)
        parts = self.parts(found) | {"prediction": upper.detach(), "code_accuracy": accuracy}
        seen = stages(encoded, projector=found.context, codes=found.target)
        return Output(self.beta * lower + self.gamma * upper, parts, seen)

    def prediction(self, states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the codes ``ids [M, G]`` given ``states [M, D]``, the mean over tokens and groups;
        and the share of right ones."""
        with torch.autocast(states.device.type, enabled=False):
            logits = self.predict(states.float()).view(-1, self.quantiser.codes)
            rows = F.cross_entropy(logits, ids.flatten(), reduction="none")
            hits = (logits.detach().argmax(dim=1) == ids.flatten()).float()
            return global_mean(rows), global_mean(hits)
