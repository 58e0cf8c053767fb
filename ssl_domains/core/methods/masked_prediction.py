"""Masked prediction: the numbers of hidden tokens, which something else has given them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Output, Tokens
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder, Masker, Source, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective, mean_terms
from ssl_domains.core.parts.quantiser import perplexity
from ssl_domains.core.parts.token_targets import make_targets
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


class CosineHead(nn.Module):
    """``cos(A h, e_c) / temperature`` for each code c (HuBERT, equation 3): ``[M, D] -> [M, K]``.

    Args:
        width: D.
        codes: K.
        inner: width in which they are compared. Default 256.
        temperature: default 0.1.
    """

    def __init__(self, width: int, codes: int, inner: int = 256, temperature: float = 0.1) -> None:
        super().__init__()
        self.project = nn.Linear(width, inner)
        self.codes = nn.Parameter(torch.empty(codes, inner).uniform_())
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Logits in float32."""
        with torch.autocast(x.device.type, enabled=False):
            seen = F.normalize(self.project(x.float()), dim=-1)
            return seen @ F.normalize(self.codes.float(), dim=-1).T / self.temperature


@method("masked_prediction")
class MaskedPrediction(Method):
    """The numbers of hidden tokens predicted by cross-entropy: HuBERT, WavLM, BEST-RQ, DiscreteBERT.

    * HuBERT (Hsu et al., TASLP 2021): ``targets: {name: clusters, rounds: ...}``, ``head: cosine``
    * WavLM (Chen et al., JSTSP 2022): the same with ``views: utterance_mixing``; the encoder sees the first
    view,
      targets are those of the view of role ``clean``
    * BEST-RQ (Chiu et al., ICML 2022): ``targets: {name: random_projection}``, ``head: linear``

    Args:
        encoder: keeps hidden tokens.
        objective: ``cross_entropy``.
        masker: ``span``.
        views: the first view is what the encoder sees; None: the batch itself.
        targets: see :mod:`ssl_domains.core.parts.token_targets`.
        head: ``cosine`` or ``linear``.
        head_width: in which the cosine is taken. Default 256.
        temperature: of the cosine. Default 0.1.
        visible_weight: weight of the loss on visible tokens. Default 0 (HuBERT's final choice, and BEST-RQ).

    Raises:
        ValueError: the encoder drops hidden tokens, or options out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        masker: Masker,
        views: Views | None = None,
        targets: Mapping[str, Any] | None = None,
        head: Literal["cosine", "linear"] = "cosine",
        head_width: int = 256,
        temperature: float = 0.1,
        visible_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if encoder.drops_hidden:
            raise ValueError(
                "method 'masked_prediction' reads tokens in the places of hidden ones; this encoder drops "
                "them"
            )
        if head not in ("cosine", "linear") or not temperature > 0 or visible_weight < 0:
            raise ValueError(
                "method.head must be cosine or linear, temperature above 0, weights not negative"
            )
        self.encoder, self.objective, self.masker, self.views = encoder, objective, masker, views
        self.targets = make_targets(targets or {}, encoder)
        self.visible_weight = visible_weight

        def make(codes: int) -> nn.Module:
            if head == "cosine":
                return CosineHead(encoder.width, codes, head_width, temperature)
            return nn.Linear(encoder.width, codes)

        groups = self.targets.groups
        self.heads = nn.ModuleList(
            nn.ModuleList(make(codes) for _ in range(groups)) for codes in self.targets.sizes
        )
        self.embedding_width = max(self.targets.sizes)

    def before_epoch(self, source: Source, epoch: int) -> None:
        self.targets.before_epoch(source, self.encoder, epoch)

    def restarts(self) -> Sequence[int]:
        return self.targets.restarts()

    def forward(self, batch: Batch, draw: Draw) -> Output:
        seen = clean = batch.x
        if self.views is not None:
            made = self.views(batch, draw.fork("views"))
            seen = made[0].x
            clean = next((view.x for view in made[1:] if view.role == "clean"), seen)
        mask = self.masker(self.encoder.layout(seen), draw.fork("mask"))
        encoded = self.encoder(seen, mask)
        tokens, ids = encoded.tokens, self.targets(clean, self.encoder)
        if tokens.ragged or ids.shape[:2] != tokens.values.shape[:2]:
            raise UserError(
                "method 'masked_prediction' wants a number for each token of a sequence; its views must keep "
                "the length"
            )
        hidden = mask.hidden if tokens.padding is None else mask.hidden & ~tokens.padding
        terms = self._terms(tokens, ids, hidden)
        total = terms.total
        parts = terms.parts | {"masked": terms.total.detach()}
        if self.visible_weight:
            visible = ~mask.hidden if tokens.padding is None else ~mask.hidden & ~tokens.padding
            shown = self._terms(tokens, ids, visible)
            total = total + self.visible_weight * shown.total
            parts["visible"] = shown.total.detach()
        with torch.no_grad():
            size = self.targets.sizes[self.targets.round]
            parts["code_perplexity"] = perplexity(F.one_hot(ids[hidden], size).float()) / self.targets.groups
        return Output(total, parts, stages(encoded), {} if self.visible_weight else terms.trivial)

    def _terms(self, tokens: Tokens, ids: Tensor, where: Tensor) -> Any:
        states, codes = tokens.values[where], ids[where]
        heads = self.heads[self.targets.round]
        assert isinstance(heads, nn.ModuleList)
        return mean_terms(self.objective(head(states), codes[:, g]) for g, head in enumerate(heads))
