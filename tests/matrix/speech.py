"""Speech in the matrix of methods and domains."""

from __future__ import annotations

from ssl_domains.core import registry


def speech_source(folder):
    data = "generated://speech?utterances=60&speakers=5"
    return registry.load_domain("speech")().open(source=data, valid=0.2, test=0.2, max_seconds=1.0)


COMMON = {
    "source": speech_source,
    "objective": "masked_l1",
    "latent_mask": "span",
    "predictor": {"head": "linear"},
    "views": ("sound_augment", {"crop": 0.5, "room": None}),
    "pretext": {"views": "sound_augment", "target": "applied", "objective": "binary_cross_entropy"},
}
SMALL = {"width": 16, "depth": 2, "heads": 2, "ffn": 32}
BANDS = {"features": {"bins": 24, "hop": 0.02}}
QUICK = {"simclr", "masked_reconstruction", "data2vec"}
KINDS = {
    "speech": {**COMMON, "encoder": ("speech_transformer", {**SMALL, **BANDS, "dropout": 0.0})},
    "speech-conformer": {
        **COMMON,
        "encoder": ("speech_conformer", {**SMALL, "kernel": 5, "conv_channels": 4, "features": {"bins": 24}}),
        "quick": QUICK,
    },
}
