"""Generated speech, and small encoders of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_domains.core import registry
from ssl_domains.speech.sound import pad

SMALL = {"width": 16, "depth": 2, "heads": 2, "ffn": 32}
TRANSFORMERS = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
ENCODERS = {
    "transformer": ("speech_transformer", SMALL),
    "transformer-stack": ("speech_transformer", {**SMALL, "stack": 3, "features": {"kind": "fbank"}}),
    "transformer-mfcc": ("speech_transformer", {**SMALL, "features": {"kind": "mfcc", "deltas": 2}}),
    "conformer": ("speech_conformer", {**SMALL, "kernel": 5, "conv_channels": 4}),
    "conformer-stack": ("speech_conformer", {**SMALL, "kernel": 5, "subsample": "stack"}),
    "features": ("speech_features", {}),
    "gru": ("speech_gru", {"width": 16, "depth": 2}),
    "cpc": ("speech_cpc", {"width": 16, "channels": 8}),
    "wav2vec2": ("speech_wav2vec2", {"config": TRANSFORMERS}),
    "wav2vec2-group": ("speech_wav2vec2", {"config": {**TRANSFORMERS, "feat_extract_norm": "group"}}),
    "hubert": ("speech_wav2vec2", {"family": "hubert", "config": TRANSFORMERS}),
    "data2vec": (
        "speech_wav2vec2",
        {
            "family": "data2vec",
            "config": {**TRANSFORMERS, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5},
        },
    ),
    "wavlm": ("speech_wav2vec2", {"family": "wavlm", "config": TRANSFORMERS, "target": "logmel"}),
}


@pytest.fixture(scope="session")
def source():
    registry.scan_core()
    return registry.load_domain("speech")().open(
        source="generated://speech?utterances=40&speakers=5", valid=0.2, test=0.4
    )


@pytest.fixture(scope="session")
def make(source):
    """``make(kind, **options)``: a small encoder in eval mode."""

    def made(kind, **options):
        torch.manual_seed(0)
        name, given = ENCODERS[kind]
        return registry.get("encoder", name)(source.spec, **{**given, **options}).eval()

    return made


@pytest.fixture(scope="session")
def short_and_long():
    """A batch of three, and each of them alone: lengths 8,000, 12,345 and 20,000."""
    rng = np.random.default_rng(0)
    pieces = [rng.normal(0, 0.1, n).astype(np.float32) for n in (8000, 12345, 20000)]
    return pad(pieces), [pad([piece]) for piece in pieces]
