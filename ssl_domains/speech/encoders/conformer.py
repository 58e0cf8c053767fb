"""The conformer on log-mel frames of w2v-BERT and BEST-RQ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Grid
from ssl_domains.core.parts.conformer import ConformerBlock
from ssl_domains.core.registry import encoder
from ssl_domains.speech.encoders.base import FeatureEncoder, covered
from ssl_domains.speech.features import blanked
from ssl_domains.speech.sound import Sound, real
from ssl_domains.speech.spec import SpeechSpec

FIELD = 7
"""Frames that two convolutions of kernel 3 and stride 2 look at."""


@encoder("speech_conformer")
class SpeechConformer(FeatureEncoder):
    """Log-mel, two convolutions of stride 2 (time is reduced 4 times), linear layer, conformer blocks: the
    network of w2v-BERT (Chung et al., ASRU 2021, section III-A) and BEST-RQ (Chiu et al., ICML 2022).

    Convolutions are not padded in time, so that no token sees padding. Positions are rotary (relative)
    instead of Transformer-XL's. ``extra["local"]`` is the output of the convolutions after layer norm; the
    mask is laid on it, before the linear layer into the blocks.

    Args:
        spec: the data.
        width: D. Default 1024, ``heads`` 16, ``ffn`` 4096, ``kernel`` 31, ``dropout`` 0, ``depth`` 24: the
            defaults of fairseq2's w2v-BERT.
        depth: conformer blocks in all; w2v-BERT's method says after which one it takes the context.
        heads: attention heads.
        ffn: hidden width of the feed-forward parts; None: four times ``width``.
        kernel: of the depthwise convolutions.
        dropout: on all branches.
        subsample: ``conv`` (the paper's), or ``stack``: ``stack`` frames are joined, as fairseq2 does with 2.
        conv_channels: of the two convolutions.
        stack: frames of a token for ``subsample: stack``.
        mask_vector: what stands in for hidden tokens: one ``learned`` vector (fairseq2), or ``noise``: a
            normal vector a token (wav2vec 2.0 of the paper's authors); without training zeros stand for it.
        features: options of the features; default: 80 log-mel bands, normalised over the recording.

    Raises:
        ValueError: options out of range.
    """

    def __init__(
        self,
        spec: SpeechSpec,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        ffn: int | None = None,
        kernel: int = 31,
        dropout: float = 0.0,
        subsample: Literal["conv", "stack"] = "conv",
        conv_channels: int = 256,
        stack: int = 2,
        mask_vector: Literal["learned", "noise"] = "learned",
        features: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(spec, features, stack if subsample == "stack" else 1)
        if subsample not in ("conv", "stack"):
            raise ValueError(f"encoder.subsample must be conv or stack, got {subsample!r}")
        if mask_vector not in ("learned", "noise"):
            raise ValueError(f"encoder.mask_vector must be learned or noise, got {mask_vector!r}")
        self.width, self.subsample, self.noise = width, subsample, mask_vector == "noise"
        self.input_width = self.features.width * (4 if subsample == "conv" else stack)
        if subsample == "conv":
            self.step, self.span = self.features.hop * 4, self.features.span + self.features.hop * (FIELD - 1)
            self.channels = None
            self.convolutions = nn.Sequential(
                nn.Conv2d(1, conv_channels, 3, 2, (0, 1)), nn.ReLU(),
                nn.Conv2d(conv_channels, conv_channels, 3, 2, (0, 1)), nn.ReLU(),
            )  # fmt: skip
            left = ((self.features.width + 1) // 2 + 1) // 2
            self.project: nn.Module = nn.Sequential(
                nn.Linear(conv_channels * left, width), nn.LayerNorm(width)
            )
            self.local_width = width
        else:
            self.project = nn.Identity()
            self.local_width = self.input_width
        self.enter = nn.Linear(self.local_width, width)
        self.mask_token = nn.Parameter(torch.zeros(self.local_width), requires_grad=not self.noise)
        self.blocks = nn.ModuleList(
            ConformerBlock(width, heads, ffn or 4 * width, kernel, dropout) for _ in range(depth)
        )
        if not self.noise:
            nn.init.normal_(self.mask_token, std=0.02)

    def local(self, x: Sound) -> tuple[Tensor, Tensor]:
        """Tokens before the mask ``[B, N, local_width]``, and lengths ``[B]``."""
        if self.subsample == "stack":
            return self.frames(x)
        values, lengths = self.features(x)
        values = blanked(values, lengths, x.blanks)
        if values.shape[1] < FIELD:
            values = F.pad(values, (0, 0, 0, FIELD - values.shape[1]))
        maps = self.convolutions(values[:, None])  # [B, C, N, F / 4]
        return self.project(maps.permute(0, 2, 1, 3).flatten(2)), self.token_lengths(x.lengths)

    def forward(self, x: Sound, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens ``[B, N, D]``; ``layers`` are the input of the first block and the output of each."""
        local, lengths = self.local(x)
        padding = ~real(local.shape[1], lengths)
        values = covered(local, mask, self.mask_token)
        if mask is not None and self.noise and mask.alteration is None and self.training:
            values = torch.where(mask.hidden[..., None], torch.randn_like(values), values)
        states = [self.enter(values)]
        for block in self.blocks:
            states.append(block(states[-1], padding))
        return self.encoded(states, lengths, x, local, layers)

    def targets(self, x: Sound) -> Tokens:
        """``[B, N, 4 * F]`` (or ``stack * F``): the features that a token stands for, without SpecAugment."""
        if self.subsample == "stack":
            return super().targets(x)
        values, _ = self.features(x)
        lengths = self.token_lengths(x.lengths)
        n = max((x.values.shape[1] - self.span) // self.step + 1, 1)
        values = F.pad(values, (0, 0, 0, max(4 * n - values.shape[1], 0)))[:, : 4 * n]
        joined = values.reshape(len(values), n, -1)
        padding = ~real(n, lengths)
        return Tokens(joined.masked_fill(padding[..., None], 0.0), Grid((n,), lengths), padding)

    @property
    def target_width(self) -> int:
        """Four frames, or ``stack``."""
        return self.input_width
