"""Causal encoders: the GRU of APC, and the convolutions and GRU of CPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.registry import encoder
from ssl_domains.speech.encoders.base import FeatureEncoder, SpeechEncoder, covered
from ssl_domains.speech.features import Features
from ssl_domains.speech.sound import Sound, real
from ssl_domains.speech.spec import SpeechSpec


@encoder("speech_gru")
class SpeechGRU(FeatureEncoder):
    """Unidirectional GRU layers with residuals on features (APC, Chung et al., Interspeech 2019).

    Args:
        spec: the data.
        width: of each layer. Default 512, ``depth`` 3: APC.
        depth: layers.
        features: options of the features; default: 80 log-mel bands, normalised over the recording.
        stack: frames of a token.
        dropout: between layers.
    """

    causal: ClassVar[bool] = True

    def __init__(
        self,
        spec: SpeechSpec,
        width: int = 512,
        depth: int = 3,
        features: Mapping[str, Any] | None = None,
        stack: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, features, stack)
        self.width = width
        widths = [self.local_width] + [width] * (depth - 1)
        self.layers = nn.ModuleList(nn.GRU(before, width, batch_first=True) for before in widths)
        self.drop = nn.Dropout(dropout)
        self.mask_token = nn.Parameter(torch.zeros(self.local_width))

    def forward(self, x: Sound, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens ``[B, N, D]``; ``layers`` begin with the output of the first layer."""
        local, lengths = self.frames(x)
        values = covered(local, mask, self.mask_token)
        states: list[Tensor] = []
        for layer in self.layers:
            out = layer(values)[0]
            values = self.drop(out) + values if values.shape == out.shape else self.drop(out)
            states.append(values)
        return self.encoded(states, lengths, x, local, layers)


@encoder("speech_cpc")
class SpeechCPC(SpeechEncoder):
    """CPC's network (van den Oord et al., 2018, section 3.1): five convolutions on the waveform, one vector
    every 10 ms at 16 kHz, and a GRU.

    Convolutions are not padded, so that no token sees padding. Each is followed by a layer norm over channels
    (Riviere et al., ICASSP 2020), which the first paper does not have.

    Args:
        spec: the data.
        channels: of the convolutions. Default 512, ``width`` 256: the paper's.
        width: of the GRU.
        depth: GRU layers. Default 1.
        kernels: default (10, 8, 4, 4, 4), ``strides`` (5, 4, 2, 2, 2): the paper's.
        strides: of the convolutions.
    """

    causal: ClassVar[bool] = True

    def __init__(
        self,
        spec: SpeechSpec,
        channels: int = 512,
        width: int = 256,
        depth: int = 1,
        kernels: Sequence[int] = (10, 8, 4, 4, 4),
        strides: Sequence[int] = (5, 4, 2, 2, 2),
    ) -> None:
        super().__init__()
        if len(kernels) != len(strides):
            raise ValueError("encoder.kernels and encoder.strides must have the same length")
        self.spec, self.width, self.local_width = spec, width, channels
        self.step, self.span = field_of(kernels, strides)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(1 if i == 0 else channels, channels, k, s)
            for i, (k, s) in enumerate(zip(kernels, strides, strict=True))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in kernels)
        self.gru = nn.GRU(channels, width, depth, batch_first=True)
        self.mask_token = nn.Parameter(torch.zeros(channels))
        self.plain = Features(spec.rate, "logmel", 40, samples=(self.span, self.step))

    def forward(self, x: Sound, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens ``[B, N, D]`` (contexts); ``extra["local"]`` are the convolutions' output."""
        values = filled_up(x.values, self.span)[:, None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            values = F.relu(norm(convolution(values).transpose(1, 2))).transpose(1, 2)
        local, lengths = values.transpose(1, 2), self.token_lengths(x.lengths)
        states = self.gru(covered(local, mask, self.mask_token))[0]
        return self.encoded([states], lengths, x, local, layers)

    def targets(self, x: Sound) -> Tokens:
        """``[B, N, 40]``: log-mel bands of the samples that a token looks at."""
        values, lengths = self.plain(x)
        return Tokens(values, self.layout(x), ~real(values.shape[1], lengths))

    @property
    def target_width(self) -> int:
        """40."""
        return self.plain.width


def field_of(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """(samples from one output to the next, samples that one looks at) of convolutions without padding."""
    step, span = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        span += (kernel - 1) * step
        step *= stride
    return step, span


def filled_up(values: Tensor, n: int) -> Tensor:
    """``values [B, T]``, with zeros at the end where T is below n."""
    return F.pad(values, (0, max(n - values.shape[1], 0)))
