"""The transformer on spectrogram frames of TERA and Mockingjay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask
from ssl_domains.core.parts.transformer import Transformer, init_xavier
from ssl_domains.core.registry import encoder
from ssl_domains.speech.encoders.base import FeatureEncoder, covered, positions
from ssl_domains.speech.sound import Sound, real
from ssl_domains.speech.spec import SpeechSpec

SIZES: dict[str, dict[str, int]] = {
    "base": {"width": 768, "depth": 3, "heads": 12, "ffn": 3072},
    "medium": {"width": 768, "depth": 6, "heads": 12, "ffn": 3072},
    "large": {"width": 768, "depth": 12, "heads": 12, "ffn": 3072},
    "slim": {"width": 384, "depth": 12, "heads": 8, "ffn": 1536},
}
"""TERA's encoders (section III-C; slim: a configuration of the authors' code)."""


@encoder("speech_transformer")
class SpeechTransformer(FeatureEncoder):
    """TERA's encoder (Liu, Li & Lee, TASLP 2021, section III-C): features, linear layer, sine positions,
    layer norm, post-norm transformer blocks with GELU. Hidden frames are read as a learned vector, which
    starts at 0, the mean of normalised features; the mask ``alteration`` sets its entries to 0 itself.

    Args:
        spec: the data.
        size: ``base`` (3 blocks of 768), ``medium`` (6), ``large`` (12), ``slim`` (12 of 384).
        width: D, in place of the size's.
        depth: blocks, in place of the size's.
        heads: attention heads, in place of the size's.
        ffn: hidden width of the feed-forward parts, in place of the size's.
        dropout: default 0.1 (the authors' 960-hour model; 0.3 in their 100-hour experiments).
        features: options of the features; default: 80 log-mel bands, normalised over the recording.
        stack: frames of a token. Default 1 (DeCoAR and HuBERT-like models on features take more).
        init: ``normal``: weights of deviation 0.02 (TERA, 768 wide); ``xavier``: Glorot's, for narrow
            encoders, in which features would drown in the positions.

    Raises:
        ValueError: an unknown size or init, or widths that do not divide.
    """

    def __init__(
        self,
        spec: SpeechSpec,
        size: Literal["base", "medium", "large", "slim"] = "base",
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        ffn: int | None = None,
        dropout: float = 0.1,
        features: Mapping[str, Any] | None = None,
        stack: int = 1,
        init: Literal["normal", "xavier"] = "normal",
    ) -> None:
        super().__init__(spec, features, stack)
        if size not in SIZES:
            raise ValueError(f"encoder.size must be one of {', '.join(SIZES)}, got {size!r}")
        if init not in ("normal", "xavier"):
            raise ValueError(f"encoder.init must be normal or xavier, got {init!r}")
        of = SIZES[size]
        self.width = width or of["width"]
        inner = ffn or (4 * width if width else of["ffn"])
        self.embed = nn.Linear(self.local_width, self.width)
        self.norm = nn.LayerNorm(self.width)
        self.drop = nn.Dropout(dropout)
        self.blocks = Transformer(
            self.width, depth or of["depth"], heads or of["heads"], inner, dropout, "post", "gelu"
        )
        self.mask_token = nn.Parameter(torch.zeros(self.local_width))
        if init == "xavier":
            init_xavier(self)
        for part in self.modules():
            if init == "normal" and isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
            if isinstance(part, nn.LayerNorm):
                part.eps = 1e-12

    def forward(self, x: Sound, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens ``[B, N, D]``."""
        local, lengths = self.frames(x)
        values = covered(local, mask, self.mask_token)
        tokens: Tensor = self.embed(values)
        tokens = self.drop(self.norm(tokens + positions(tokens)))
        states = self.blocks(tokens, ~real(tokens.shape[1], lengths))
        return self.encoded([tokens, *states], lengths, x, local, layers)

    def input_parameters(self) -> list[nn.Parameter]:
        """Of the linear layer on features."""
        return [*self.embed.parameters()]
