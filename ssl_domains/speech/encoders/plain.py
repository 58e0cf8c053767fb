"""Features alone as an encoder: what pretrained encoders are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ssl_domains.core.batch import Encoded, Mask
from ssl_domains.core.registry import encoder
from ssl_domains.speech.encoders.base import FeatureEncoder
from ssl_domains.speech.sound import Sound
from ssl_domains.speech.spec import SpeechSpec


@encoder("speech_features")
class SpeechFeatures(FeatureEncoder):
    """Features of frames as tokens ``[B, N, stack * F]``; nothing is learned. Default: SUPERB's baseline (the
    ``fbank`` of s3prl): Kaldi's 80 filter banks with two time differences, each normalised over the
    recording.

    Args:
        spec: the data.
        features: options of the features, in place of SUPERB's.
        stack: frames that are joined to one token.
    """

    def __init__(self, spec: SpeechSpec, features: Mapping[str, Any] | None = None, stack: int = 1) -> None:
        super().__init__(spec, {"kind": "fbank", "deltas": 2} if features is None else features, stack)
        self.width = self.local_width
        self.register_buffer("nothing", torch.zeros(1), persistent=False)

    def forward(self, x: Sound, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens and their mean."""
        values, lengths = self.frames(x)
        return self.encoded([values], lengths, x, values, layers)
