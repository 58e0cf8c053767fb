"""wav2vec 2.0: the quantised content of hidden tokens, told from that of other hidden tokens of the
sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Batch, Encoded, Mask, Output, Tokens
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder, Masker, Views
from ssl_domains.core.methods._common import seen_through, stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.numerics import global_mean
from ssl_domains.core.parts.distractors import in_sample, token_draw
from ssl_domains.core.parts.quantiser import GumbelQuantiser, Quantised
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


def local_tokens(encoded: Encoded, encoder: Encoder, x: Any) -> Tokens:
    """The tokens before mask and context: ``extra["local"]`` where the encoder gives it, else what they
    held."""
    found: Tokens = encoded.extra.get("local") or encoder.targets(x)
    return found


def local_width(encoder: Encoder) -> int:
    """Width of :func:`local_tokens`."""
    return int(getattr(encoder, "local_width", None) or encoder.target_width)


class Contrast(NamedTuple):
    """Attributes: the contrastive terms, the quantiser's output, what it compares, and the mean square of the
    convolutions' output (None: not penalised)."""

    terms: Terms
    quantised: Quantised
    context: Tensor
    target: Tensor
    size: Tensor | None = None


@method("wav2vec2")
class Wav2Vec2(Method):
    """wav2vec 2.0 (Baevski et al., NeurIPS 2020, sections 2 and 3.2).

    The encoder reads the batch with spans hidden; at hidden places its output must find the quantised local
    features of that place among ``distractors`` from other hidden places of the same sample. ``L = L_contrast
    + diversity * L_diversity``. A distractor whose code is the target's is left out. With a collapsed
    codebook all are, and the loss is 0: ``code_perplexity`` in the log tells.

    Targets are the encoder's ``extra["local"]``, the features before mask and context.

    Args:
        encoder: keeps hidden tokens.
        objective: ``info_nce`` with ``in_batch: false`` and temperature 0.1 (the paper's).
        masker: ``span``.
        views: the first view is what is masked; None: the batch itself.
        groups: G codebooks. Default 2, ``codes`` 320, ``code_width`` 256, ``width`` 256: the base model.
        codes: entries of a codebook.
        code_width: of the codes of all groups together.
        width: in which contexts and codes are compared.
        temperature: of the Gumbel softmax: start, end, factor a step.
        distractors: K. Default 100.
        diversity: weight. Default 0.1.
        context_layer: after how many blocks the context is taken; None: the encoder's output.
        penalty: weight of the mean square of the convolutions' output (section 4.2: an L2 penalty on the last
            layer of the feature encoder). Default 0, as in the authors' configuration of large models, whose
            convolutions have layer norms (as ``speech_wav2vec2`` by default); in that of the base model it is
            10 (fairseq, ``wav2vec2_base_librispeech.yaml``), with ``encoder.config: {feat_extract_norm:
            group}`` and ``encoder.conv_gradient: 0.1``.

    Raises:
        ValueError: the encoder drops hidden tokens or has no convolutions to penalise, or options out of
            range.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        masker: Masker,
        views: Views | None = None,
        groups: int = 2,
        codes: int = 320,
        code_width: int = 256,
        width: int = 256,
        temperature: tuple[float, float, float] = (2.0, 0.5, 0.999995),
        distractors: int = 100,
        diversity: float = 0.1,
        context_layer: int | None = None,
        penalty: float = 0.0,
    ) -> None:
        super().__init__()
        if encoder.drops_hidden:
            name = getattr(self, "registered_name", "wav2vec2")
            raise ValueError(
                f"method {name!r} reads tokens in the places of hidden ones; this encoder drops them"
            )
        if distractors < 1 or min(diversity, penalty) < 0:
            raise ValueError("method.distractors must be at least 1, diversity and penalty not negative")
        if penalty and not getattr(encoder, "gives_convolved", False):
            raise ValueError("method.penalty wants an encoder with convolutions, such as speech_wav2vec2")
        self.encoder, self.objective, self.masker, self.views = encoder, objective, masker, views
        self.quantiser = GumbelQuantiser(local_width(encoder), groups, codes, code_width, temperature)
        self.project_code = nn.Linear(code_width, width)
        self.project_context = nn.Linear(encoder.width, width)
        self.embedding_width = width
        self.distractors, self.diversity, self.context_layer = distractors, diversity, context_layer
        self.penalty = penalty

    def forward(self, batch: Batch, draw: Draw) -> Output:
        batch = seen_through(self.views, batch, draw)
        mask = self.masker(self.encoder.layout(batch.x), draw.fork("mask"))
        encoded = self.encoder(batch.x, mask, layers=self.context_layer is not None)
        found = self.contrast(encoded, mask, batch, draw)
        total = self.total(found)
        seen = stages(encoded, projector=found.context, codes=found.target)
        return Output(total, self.parts(found), seen, found.terms.trivial)

    def contrast(self, encoded: Encoded, mask: Mask, batch: Batch, draw: Draw) -> Contrast:
        """The contrastive part on the hidden tokens of a batch."""
        local = local_tokens(encoded, self.encoder, batch.x)
        if local.ragged or mask.hidden.ndim != 2:
            raise UserError("this method compares tokens of sequences; graphs have no places in a row")
        hidden = mask.hidden if local.padding is None else mask.hidden & ~local.padding
        sample, place = hidden.nonzero(as_tuple=True)
        draws = token_draw(draw.fork("codes"), sample, place)
        noise = (
            draws.uniform(self.quantiser.groups * self.quantiser.codes) if self.quantiser.training else None
        )
        quantised = self.quantiser(local.values[hidden], noise)
        target = self.project_code(quantised.values)
        context = self.project_context(self.context(encoded)[hidden])
        rows, there = in_sample(sample, self.distractors, token_draw(draw.fork("distractors"), sample, place))
        same = (quantised.ids[rows] == quantised.ids[:, None]).all(dim=-1)
        terms = self.objective(
            context, target, query_negatives=target[rows], query_weights=there.to(target.dtype),
            ignore_mask=torch.cat([torch.zeros_like(same[:, :1]), same], dim=1),
        )  # fmt: skip
        size = None
        if self.penalty:
            convolved: Tokens = encoded.extra["convolved"]
            values = convolved.values if convolved.padding is None else convolved.values[~convolved.padding]
            size = global_mean(values.float().square().flatten(0, -2).mean(dim=1))
        return Contrast(terms, quantised, context, target, size)

    def total(self, found: Contrast) -> Tensor:
        """``L_contrast + diversity * L_diversity + penalty * mean(features ** 2)``."""
        total = found.terms.total + self.diversity * found.quantised.diversity
        return total if found.size is None else total + self.penalty * found.size

    def context(self, encoded: Encoded) -> Tensor:
        """``[B, N, D]`` of the layer that the contrast reads.

        Raises:
            UserError: the encoder has fewer layers.
        """
        if self.context_layer is None:
            return encoded.tokens.values
        layers = encoded.layers or []
        if not 0 < self.context_layer < len(layers):
            raise UserError(
                f"method.context_layer is {self.context_layer}, and the encoder has {len(layers) - 1} blocks"
            )
        return layers[self.context_layer]

    def parts(self, found: Contrast) -> dict[str, Tensor]:
        """Named numbers for the log."""
        size = {} if found.size is None else {"feature_size": found.size.detach()}
        return (
            found.terms.parts
            | size
            | {
                "contrast": found.terms.total.detach(),
                "diversity": found.quantised.diversity.detach(),
                "code_perplexity": found.quantised.perplexity,
            }
        )

    def get_extra_state(self) -> dict[str, Any]:
        """The temperature, which a resumed run goes on with."""
        return {"temperature": self.quantiser.temperature}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes :meth:`get_extra_state` back."""
        self.quantiser.temperature = float(state["temperature"])

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        self.quantiser.at_step(progress.step)

    def remedies(self) -> dict[str, str]:
        few = (
            "few codes are in use (code_perplexity in the log); raise method.diversity or the first value of "
            "method.temperature, or lower the learning rate"
        )
        return super().remedies() | {"point": few, "line": few}
