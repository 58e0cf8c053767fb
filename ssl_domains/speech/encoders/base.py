"""What all encoders of this domain do alike: lengths, hiding, pooling over real frames, times of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Grid
from ssl_domains.core.parts.transformer import Transformer, init_truncated_normal, sincos
from ssl_domains.speech.features import Features, blanked
from ssl_domains.speech.sound import Sound, mean_real, real
from ssl_domains.speech.spec import SpeechSpec


class SpeechEncoder(Encoder):
    """Base of the encoders. Tokens are frames, ``Grid((N,), lengths)``; hidden ones are replaced, not
    dropped.

    ``Encoded.extra["local"]`` are the tokens before the mask and the contextual network, which contrastive
    methods take their targets from. ``Encoded.layers`` begins with the input of the first block.

    Attributes:
        causal: True where a token depends on the past alone.
        step: samples from one token to the next.
        span: samples that a token looks at before the contextual network.
        local_width: width of ``extra["local"]``.
    """

    drops_hidden: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    spec: SpeechSpec
    step: int
    span: int
    local_width: int
    channels: int | None = None

    def token_lengths(self, samples: Tensor) -> Tensor:
        """``[B]`` int64 tokens of recordings of so many samples; at least 1."""
        return (torch.div(samples - self.span, self.step, rounding_mode="floor") + 1).clamp_min(1)

    def layout(self, x: Sound) -> Grid:
        """The padded grid, with the lengths of its rows."""
        n = max((x.values.shape[1] - self.span) // self.step + 1, 1)
        return Grid((n,), self.token_lengths(x.lengths), self.channels)

    def token_times(self, n: int) -> np.ndarray:
        """``[n]`` seconds of the middles of the first n tokens."""
        return np.asarray((np.arange(n) * self.step + self.span / 2) / self.spec.rate)

    def encoded(
        self,
        states: list[Tensor],
        lengths: Tensor,
        x: Sound,
        local: Tensor,
        layers: bool,
        out: Tensor | None = None,
    ) -> Encoded:
        """Tokens of the last state (or ``out``), their mean over real frames, and all states when asked."""
        last = states[-1] if out is None else out
        padding = ~real(last.shape[1], lengths)
        grid = Grid((last.shape[1],), lengths, self.channels)
        extra = {"local": Tokens(local, grid, padding)}
        return Encoded(
            Tokens(last, grid, padding), mean_real(last, lengths), states if layers else None, extra
        )

    def encode_mixture(self, first: Sound, second: Sound, rows: Tensor, share: float) -> Encoded:
        """Two recordings at once, ``share`` of the first; as long as the longer one."""
        n = max(first.values.shape[1], second.values.shape[1])
        a, b = (F.pad(s.values, (0, n - s.values.shape[1])) for s in (first, second))
        mixed = Sound(b[rows].lerp(a, share), torch.maximum(first.lengths, second.lengths[rows]))
        return self(mixed)  # type: ignore[no-any-return]

    def predictor(  # type: ignore[override]
        self,
        output_width: int,
        *,
        head: Literal["mlp", "linear"] = "mlp",
        depth: int = 0,
        width: int = 256,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> nn.Module:
        """From tokens to what is predicted at hidden ones; see :class:`FramePredictor`.

        Args:
            output_width: P of a prediction.
            head: ``mlp``: linear, GELU, layer norm, linear (TERA); ``linear`` (data2vec).
            depth: transformer blocks before the head; 0: none, as both papers.
            width: of these blocks.
            heads: of these blocks.
            dropout: in these blocks.
        """
        return FramePredictor(self.width, output_width, head, depth, width, heads, dropout)


class FramePredictor(nn.Module):
    """``p(encoded, mask, x) -> [M, P]``: a head on the tokens at hidden places. Arguments as above."""

    def __init__(
        self,
        encoder_width: int,
        output_width: int,
        head: str,
        depth: int,
        width: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if head not in ("mlp", "linear"):
            raise ValueError(f"method.predictor.head must be mlp or linear, got {head!r}")
        self.embed = nn.Linear(encoder_width, width) if depth else None
        self.blocks = Transformer(width, depth, heads, 4 * width, dropout) if depth else None
        inner = width if depth else encoder_width
        if head == "mlp":
            self.head: nn.Module = nn.Sequential(
                nn.Linear(inner, inner), nn.GELU(), nn.LayerNorm(inner), nn.Linear(inner, output_width)
            )
        else:
            self.head = nn.Linear(inner, output_width)
        init_truncated_normal(self)

    def forward(self, encoded: Encoded, mask: Mask, x: Any = None) -> Tensor:
        """``[M, P]`` in the order of ``Tokens.select(mask)``."""
        tokens = encoded.tokens
        if self.blocks is None or self.embed is None:
            return self.head(tokens.select(mask))
        values = self.embed(tokens.values)
        values = values + positions(values)
        values = self.blocks(values, tokens.padding)[-1]
        return self.head(Tokens(values, tokens.layout, tokens.padding).select(mask))


def positions(tokens: Tensor) -> Tensor:
    """``[N, D]`` fixed sine-cosine codes of the frames; an odd width is filled up with a zero."""
    n, width = tokens.shape[1:]
    codes = sincos(torch.arange(n, device=tokens.device)[:, None], width - width % 2)
    return F.pad(codes, (0, width % 2)).to(tokens.dtype)


def hidden_of(mask: Mask, n: int) -> Tensor:
    """``[B, n]``: what an encoder that replaces tokens must not see: all that is not context."""
    if mask.context is None:
        return mask.hidden
    seen = torch.zeros(len(mask.context), n, dtype=torch.bool, device=mask.context.device)
    return ~seen.scatter_(1, mask.context, True)


def covered(values: Tensor, mask: Mask | None, token: Tensor) -> Tensor:
    """``values [B, N, D]`` with the vector ``token [D]`` where the mask hides; or altered, where it
    alters."""
    if mask is None:
        return values
    if mask.alteration is not None:
        return mask.alteration.apply(values)
    return torch.where(hidden_of(mask, values.shape[1])[..., None], token.to(values.dtype), values)


class FeatureEncoder(SpeechEncoder):
    """Base of encoders on features: log-mel, MFCC, filter banks; ``stack`` of them are one token.

    Args:
        spec: the data.
        features: options of :class:`~ssl_domains.speech.features.Features` (``kind``, ``bins``, ``normalise``
            ...); default: 80 log-mel bands of 25 ms every 10 ms, normalised over the recording.
        stack: frames that are joined to one token.

    Raises:
        ValueError: an option that features do not have, or ``stack`` below 1.
    """

    def __init__(self, spec: SpeechSpec, features: Mapping[str, Any] | None, stack: int) -> None:
        super().__init__()
        if stack < 1:
            raise ValueError(f"encoder.stack must be at least 1, got {stack}")
        self.spec, self.stack = spec, stack
        try:
            self.features = Features(spec.rate, **dict(features or {}))
        except TypeError as error:
            raise ValueError(f"encoder.features: {error}") from None
        self.step = self.features.hop * stack
        self.span = self.features.span + self.features.hop * (stack - 1)
        self.local_width = self.features.width * stack
        self.channels = self.local_width

    def frames(self, x: Sound, blank: bool = True) -> tuple[Tensor, Tensor]:
        """Normalised features ``[B, N, stack * F]``, 0 in padding, and lengths ``[B]`` in tokens."""
        values, lengths = self.features(x)
        if blank:
            values = blanked(values, lengths, x.blanks)
        if self.stack == 1:
            return values, lengths
        n = max(values.shape[1] // self.stack, 1)
        values = F.pad(values, (0, 0, 0, max(n * self.stack - values.shape[1], 0)))[:, : n * self.stack]
        lengths = torch.div(lengths, self.stack, rounding_mode="floor").clamp_min(1)
        joined = values.reshape(len(values), n, -1)
        return joined.masked_fill(~real(n, lengths)[..., None], 0.0), lengths

    def targets(self, x: Sound) -> Tokens:
        """``[B, N, stack * F]``: the features, as they are without SpecAugment."""
        values, lengths = self.frames(x, blank=False)
        return Tokens(
            values, Grid((values.shape[1],), lengths, self.channels), ~real(values.shape[1], lengths)
        )

    @property
    def target_width(self) -> int:
        """stack * F."""
        return self.local_width
