"""Speech in the matrix of methods and domains."""

from __future__ import annotations

from ssl_domains.core import registry


def speech_source(folder):
    data = "generated://speech?utterances=60&speakers=5"
    return registry.load_domain("speech")().open(source=data, rate=4000, valid=0.2, test=0.2, max_seconds=1.0)


COMMON = {
    "source": speech_source,
    "objective": "masked_l1",
    "latent_mask": "span",
    "predictor": {"head": "linear"},
    "views": ("sound_augment", {"crop": 0.5, "room": None, "speed": None}),
    "pretext": {"views": "sound_augment", "target": "applied", "objective": "binary_cross_entropy"},
}
SMALL = {"width": 16, "depth": 2, "heads": 2, "ffn": 32}
BANDS = {"features": {"bins": 24, "hop": 0.02, "window": 0.04}}
QUICK = {"masked_reconstruction", "data2vec", "w2v_bert", "best_rq"}
GRU = {"width": 16, "depth": 2, **BANDS}
NCE = {"in_batch": False, "temperature": 0.1}
CODES = {
    "codes": 8,
    "code_width": 8,
    "width": 8,
    "distractors": 10,
    "temperature": [2.0, 1.0, 0.99],
    "diversity": 0.5,
}
ROUNDS = [{"codes": 6}]
METHODS = {
    "wav2vec2": ("wav2vec2", CODES, "info_nce", NCE, "both"),
    "w2v_bert": ("w2v_bert", {**CODES, "context_layer": 1}, "info_nce", NCE, "both"),
    "best_rq": (
        "masked_prediction",
        {"head": "linear", "targets": {"codes": 16}},
        "cross_entropy",
        {},
        "both",
    ),
    "hubert": (
        "masked_prediction",
        {"head_width": 8, "targets": {"name": "clusters", "rounds": ROUNDS}},
        "cross_entropy",
        {},
        "both",
    ),
    "decoar2": ("quantised_reconstruction", {"codes": 8}, "masked_l1", {}, "masker"),
    "apc": ("autoregressive", {}, "masked_l1", {}, "views"),
    "vq_apc": ("autoregressive", {"quantise": {"codes": 8}}, "masked_l1", {}, "views"),
    "cpc": ("cpc", {"ahead": 3, "distractors": 8}, "info_nce", {**NCE, "normalize": "none"}, "views"),
}
CAUSAL = {"apc": "causal", "vq_apc": "causal", "cpc": "causal"}
KINDS = {
    "speech": {
        **COMMON,
        "encoder": ("speech_transformer", {**SMALL, **BANDS, "dropout": 0.0}),
        "not_on": CAUSAL,
        "quick": QUICK
        | {"byol", "moco", "barlow_twins", "latent_prediction", "hubert", "wav2vec2", "decoar2", "apc"},
    },
    "speech-conformer": {
        **COMMON,
        "encoder": (
            "speech_conformer",
            {**SMALL, "kernel": 5, "conv_channels": 4, "features": {"bins": 24, "window": 0.04}},
        ),
        "not_on": CAUSAL,
        "quick": QUICK,
    },
    "speech-gru": {**COMMON, "encoder": ("speech_gru", GRU), "quick": {"apc", "vq_apc", "cpc"}},
}
