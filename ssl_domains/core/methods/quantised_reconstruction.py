"""Masked reconstruction through a codebook: DeCoAR 2.0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder, Masker, Views
from ssl_domains.core.methods._common import seen_through, stages
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction, element_weights
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.parts.distractors import token_draw
from ssl_domains.core.parts.quantiser import GumbelQuantiser
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("quantised_reconstruction")
class QuantisedReconstruction(MaskedReconstruction):
    """Masked reconstruction whose predictor reads codes instead of the encoder's tokens (DeCoAR 2.0, Ling &
    Liu, 2020): tokens pass a Gumbel product quantiser before the head; ``L = L_reconstruction + diversity *
    L_diversity``. The exported encoder has no quantiser.

    Args:
        encoder: keeps hidden tokens.
        objective: as of ``masked_reconstruction``; ``masked_l1`` in the paper.
        masker: ``span``.
        predictor: as of ``masked_reconstruction``.
        views: as of ``masked_reconstruction``.
        groups: codebooks. Default 2, ``codes`` 320 (as in wav2vec 2.0).
        codes: entries of each.
        temperature: start, end, factor a step.
        diversity: weight. Default 0.1.

    Raises:
        ValueError: the encoder drops hidden tokens, or options out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        masker: Masker,
        predictor: Mapping[str, Any] | None = None,
        views: Views | None = None,
        groups: int = 2,
        codes: int = 320,
        temperature: tuple[float, float, float] = (2.0, 0.5, 0.999995),
        diversity: float = 0.1,
    ) -> None:
        if encoder.drops_hidden:
            raise ValueError("method 'quantised_reconstruction' wants an encoder that keeps hidden tokens")
        super().__init__(encoder, objective, masker, predictor, views)
        self.quantiser = GumbelQuantiser(encoder.width, groups, codes, encoder.width, temperature)
        self.diversity = diversity

    def forward(self, batch: Batch, draw: Draw) -> Output:
        batch = seen_through(self.views, batch, draw)
        mask = self.masker(self.encoder.layout(batch.x), draw.fork("mask"))
        encoded = self.encoder(batch.x, mask)
        tokens = encoded.tokens
        if tokens.ragged:
            raise UserError("method 'quantised_reconstruction' wants tokens of sequences, not of graphs")
        there = (
            tokens.values.new_ones(tokens.values.shape[:2]).bool()
            if tokens.padding is None
            else ~tokens.padding
        )
        sample, place = there.nonzero(as_tuple=True)
        noise = None
        if self.quantiser.training:
            draws = token_draw(draw.fork("codes"), sample, place)
            noise = draws.uniform(self.quantiser.groups * self.quantiser.codes)
        found = self.quantiser(tokens.values[there], noise)
        values = tokens.values.new_zeros(tokens.values.shape).index_put((sample, place), found.values)
        coded = replace(encoded, tokens=replace(tokens, values=values))
        whole = self.encoder.targets(batch.x)
        prediction = self.predictor(coded, mask, batch.x)
        terms = self.objective(prediction, whole.select(mask), **element_weights(mask, whole))
        total = terms.total + self.diversity * found.diversity
        parts = terms.parts | {
            "reconstruction": terms.total.detach(),
            "diversity": found.diversity.detach(),
            "code_perplexity": found.perplexity,
        }
        return Output(total, parts, stages(encoded, codes=found.values), terms.trivial)

    def get_extra_state(self) -> dict[str, Any]:
        """The quantiser's temperature."""
        return {"temperature": self.quantiser.temperature}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes :meth:`get_extra_state` back."""
        self.quantiser.temperature = float(state["temperature"])

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        self.quantiser.at_step(progress.step)
