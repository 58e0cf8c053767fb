"""Padding changes nothing: tokens, pooled vectors, targets, masks and losses."""

from __future__ import annotations

import pytest
import torch

from ssl_domains.core import registry
from ssl_domains.core.batch import Batch
from ssl_domains.core.random import Draw

MASKED = "masked_reconstruction"
KINDS = [
    "transformer", "transformer-stack", "transformer-mfcc", "conformer", "conformer-stack", "gru", "cpc",
    "wav2vec2", "wav2vec2-group", "hubert", "wavlm", "data2vec",
]  # fmt: skip
NCE = ("info_nce", {"in_batch": False, "temperature": 0.1})
METHODS = {
    "tera": ("transformer", MASKED, {}, ("masked_l1", {}), ("alteration", {"noise_share": 0.0})),
    "spans": ("transformer-stack", "masked_reconstruction", {}, ("masked_l1", {}), ("span", {})),
    "data2vec": ("conformer", "data2vec", {"target_layers": 2}, ("masked_smooth_l1", {}), ("span", {})),
    "wav2vec2": ("wav2vec2", "wav2vec2", {"codes": 8, "code_width": 8, "diversity": 0.0}, NCE, ("span", {})),
    "wav2vec2-penalty": (
        "wav2vec2-group",
        "wav2vec2",
        {"codes": 8, "code_width": 8, "diversity": 0.0, "penalty": 10.0},
        NCE,
        ("span", {}),
    ),
    "w2v_bert": (
        "conformer",
        "w2v_bert",
        {"codes": 8, "code_width": 8, "context_layer": 1, "diversity": 0.0},
        NCE,
        ("span", {}),
    ),
    "best_rq": (
        "conformer",
        "masked_prediction",
        {"targets": {"codes": 16}, "head": "linear"},
        ("cross_entropy", {}),
        ("span", {}),
    ),
    "apc": ("gru", "autoregressive", {}, ("masked_l1", {}), None),
    "vq_apc": ("gru", "autoregressive", {"quantise": {"codes": 8}}, ("masked_l1", {}), None),
    "cpc": ("cpc", "cpc", {"distractors": 8}, ("info_nce", {"in_batch": False, "normalize": "none"}), None),
    "decoar2": (
        "transformer", "quantised_reconstruction", {"codes": 8, "diversity": 0.0}, ("masked_l1", {}),
        ("span", {}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_encoders_do_not_see_padding(kind, make, short_and_long):
    batch, alone = short_and_long
    encoder = make(kind)
    together, held = encoder(batch, layers=True), encoder.targets(batch)
    assert held.values.shape[:2] == together.tokens.values.shape[:2]
    assert encoder.layout(batch).shape == (together.tokens.values.shape[1],)
    for row, x in enumerate(alone):
        own, n = encoder(x, layers=True), int(encoder.layout(x).lengths[0])
        assert int((~together.tokens.padding[row]).sum()) == n == own.tokens.values.shape[1]
        torch.testing.assert_close(
            together.tokens.values[row, :n], own.tokens.values[0], atol=2e-5, rtol=1e-4
        )
        torch.testing.assert_close(together.pooled[row], own.pooled[0], atol=2e-5, rtol=1e-4)
        for a, b in zip(together.layers, own.layers, strict=True):
            torch.testing.assert_close(a[row, :n], b[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(held.values[row, :n], encoder.targets(x).values[0], atol=2e-4, rtol=1e-4)
        local = together.extra["local"].values[row, :n]
        torch.testing.assert_close(local, own.extra["local"].values[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("case", METHODS)
def test_losses_do_not_see_padding(case, make, short_and_long):
    """The loss of a recording alone is that of the recording padded to a longer one's length."""
    kind, name, options, (objective, objective_options), mask = METHODS[case]
    batch, alone = short_and_long
    encoder = make(kind)
    if mask is not None:
        options = {**options, "masker": registry.get("mask", mask[0])(**mask[1])}
    made = registry.get("method", name)(
        encoder, registry.get("objective", objective)(**objective_options), **options
    )
    made.eval()
    if hasattr(made, "quantiser") and made.quantiser is not None:
        made.quantiser.train()  # codes are drawn, by sample and place
    for row in (0, 1):
        index = torch.tensor([row])
        own = made(Batch(alone[row], index), Draw(0, 0, index)).loss
        padded = made(Batch(batch.rows(index), index), Draw(0, 0, index)).loss
        assert torch.isfinite(own)
        torch.testing.assert_close(own, padded, atol=1e-4, rtol=1e-4)
