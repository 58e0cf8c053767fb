"""Contrastive predictive coding: the local features some steps later, told from others."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import seen_through, stages
from ssl_domains.core.methods.autoregressive import causal
from ssl_domains.core.methods.base import Method
from ssl_domains.core.methods.wav2vec2 import local_tokens, local_width
from ssl_domains.core.objectives.base import Objective, mean_terms
from ssl_domains.core.parts.distractors import in_sample, token_draw
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("cpc")
class CPC(Method):
    """CPC (van den Oord et al., 2018, sections 2 and 3.1): for each ``k = 1 .. ahead`` a linear map ``W_k``
    of the context at t must find the local features at ``t + k`` among ``distractors``. The loss is the
    mean over k.

    Args:
        encoder: causal; gives its local features as ``extra["local"]``.
        objective: ``info_nce`` with ``in_batch: false, normalize: none, temperature: 1`` (the paper's
            log-bilinear form).
        views: the first view is what is read; None: the batch itself.
        ahead: K steps. Default 12.
        distractors: for each anchor. Default 128 (the authors of "CPC audio"; the paper leaves it open).
        of: distractors of the same ``sample`` (which share speaker and channel), or of the whole ``batch``.

    Raises:
        ValueError: the encoder is not causal, or options out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views | None = None,
        ahead: int = 12,
        distractors: int = 128,
        of: Literal["sample", "batch"] = "sample",
    ) -> None:
        super().__init__()
        causal(encoder, "cpc")
        if ahead < 1 or distractors < 1 or of not in ("sample", "batch"):
            raise ValueError("method.ahead and distractors must be at least 1, and method.of sample or batch")
        self.encoder, self.objective, self.views = encoder, objective, views
        self.distractors, self.of = distractors, of
        width = local_width(encoder)
        self.steps = nn.ModuleList(nn.Linear(encoder.width, width, bias=False) for _ in range(ahead))
        self.embedding_width = width

    def forward(self, batch: Batch, draw: Draw) -> Output:
        batch = seen_through(self.views, batch, draw)
        encoded = self.encoder(batch.x)
        local = local_tokens(encoded, self.encoder, batch.x)
        z, c = local.values, encoded.tokens.values
        there = z.new_ones(z.shape[:2]).bool() if local.padding is None else ~local.padding
        usable = min(len(self.steps), z.shape[1] - 1)
        if usable < 1:
            raise UserError(
                "method 'cpc' wants samples of at least 2 tokens; this batch has shorter ones only"
            )
        terms = []
        for k in range(1, usable + 1):
            sample, place = there[:, k:].nonzero(as_tuple=True)
            if not len(sample):
                break
            target, predicted = z[sample, place + k], self.steps[k - 1](c[sample, place])
            draws = token_draw(draw.fork(f"step{k}"), sample, place)
            rows, alone = self._distractors(sample, draws)
            terms.append(
                self.objective(
                    predicted, target, query_negatives=target[rows], query_weights=(~alone).to(target.dtype)
                )
            )
        found = mean_terms(terms)
        parts = found.parts | {f"step_{k}": terms[k - 1].total.detach() for k in (1, len(terms))}
        return Output(found.total, parts, stages(encoded), found.trivial)

    def _distractors(self, sample: Tensor, draws: Draw) -> tuple[Tensor, Tensor]:
        """Rows ``[M, K]``, and which anchors have none ``[M]``."""
        if self.of == "sample":
            rows, there = in_sample(sample, self.distractors, draws)
            return rows, ~there
        rows, there = in_sample(torch.zeros_like(sample), self.distractors, draws)
        return rows, ~there
