"""Autoregressive prediction: what comes some steps later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import seen_through, stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.parts.distractors import token_draw
from ssl_domains.core.parts.quantiser import GumbelQuantiser
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


def causal(encoder: Encoder, name: str) -> None:
    """Raises ``ValueError`` unless a token depends on the past alone."""
    if not getattr(encoder, "causal", False):
        raise ValueError(
            f"method {name!r} predicts the future and wants a causal encoder, such as speech_gru"
        )


@method("autoregressive")
class Autoregressive(Method):
    """What token ``t + ahead`` holds, from what the encoder made of the tokens up to t: APC (Chung et al.,
    Interspeech 2019) and, with ``quantise``, VQ-APC (Chung et al., Interspeech 2020).

    Args:
        encoder: causal.
        objective: on ``prediction [M, T]`` and ``target [M, T]``; ``masked_l1`` in both papers.
        views: the first view is what is read; None: the batch itself.
        ahead: n. Default 3 (APC's best for phones; the review has 3 to 5).
        quantise: options of :class:`~ssl_domains.core.parts.quantiser.GumbelQuantiser` between encoder and
            prediction; default there: one group of 512 codes as wide as the encoder. None: APC.

    Raises:
        ValueError: the encoder is not causal, or options out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views | None = None,
        ahead: int = 3,
        quantise: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        from torch import nn

        causal(encoder, "autoregressive")
        if ahead < 1:
            raise ValueError(f"method.ahead must be at least 1, got {ahead}")
        self.encoder, self.objective, self.views, self.ahead = encoder, objective, views, ahead
        self.quantiser: GumbelQuantiser | None = None
        if quantise is not None:
            options = {"groups": 1, "codes": 512, "code_width": encoder.width, **quantise}
            try:
                self.quantiser = GumbelQuantiser(encoder.width, **options)
            except TypeError as error:
                raise ValueError(f"method.quantise: {error}") from None
        width = encoder.width if self.quantiser is None else self.quantiser.code_width
        self.embedding_width = objective.prediction_width(encoder.target_width, encoder.width)
        self.predict = nn.Linear(width, self.embedding_width)

    def forward(self, batch: Batch, draw: Draw) -> Output:
        batch = seen_through(self.views, batch, draw)
        encoded, held = self.encoder(batch.x), self.encoder.targets(batch.x)
        n = held.values.shape[1] - self.ahead
        if n < 1:
            raise UserError(
                f"method.ahead is {self.ahead}, and the longest sample has {n + self.ahead} tokens"
            )
        later = held.values[:, self.ahead :]
        there = (
            later.new_ones(later.shape[:2]).bool() if held.padding is None else ~held.padding[:, self.ahead :]
        )
        states, target = encoded.tokens.values[:, :n][there], later[there]
        parts = {}
        if self.quantiser is not None:
            sample, place = there.nonzero(as_tuple=True)
            draws = token_draw(draw.fork("codes"), sample, place)
            noise = (
                draws.uniform(self.quantiser.groups * self.quantiser.codes)
                if self.quantiser.training
                else None
            )
            found = self.quantiser(states, noise)
            states, parts = found.values, {"code_perplexity": found.perplexity}
        terms = self.objective(self.predict(states), target)
        return Output(terms.total, terms.parts | parts, stages(encoded), terms.trivial)

    def get_extra_state(self) -> dict[str, Any]:
        """The quantiser's temperature."""
        return {} if self.quantiser is None else {"temperature": self.quantiser.temperature}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes :meth:`get_extra_state` back."""
        if self.quantiser is not None and "temperature" in state:
            self.quantiser.temperature = float(state["temperature"])

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        if self.quantiser is not None:
            self.quantiser.at_step(progress.step)
