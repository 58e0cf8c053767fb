"""GraphMAE2: its two terms by hand, and who gets gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.masking import RandomMask
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction
from ssl_domains.core.objectives.regression import ScaledCosineError
from ssl_domains.core.random import Draw
from ssl_domains.graph.encoders import GAT
from ssl_domains.graph.graphmae2 import GraphMAE2


def make(source, **options):
    torch.manual_seed(0)
    encoder = GAT(source.spec, 8, heads=2, dropout=0.0, attention_dropout=0.0)
    predictor = {"dropout": 0.0, "attention_dropout": 0.0}
    return GraphMAE2(encoder, ScaledCosineError(gamma=2), RandomMask(0.4), predictor, **options)


def test_both_terms_by_hand(node_source):
    method = make(node_source, remaskings=2, latent_weight=0.7)
    with torch.no_grad():  # a teacher that differs, and a token that is seen
        method.remask_token.add_(0.3)
        for p in method.teacher_encoder.parameters():
            p.add_(0.05)
    batch = node_source.fetch(np.arange(30))
    draw = Draw(0, 5, batch.index)
    out = method(batch, draw)
    mask = method.masker(method.encoder.layout(batch.x), draw.fork("mask"))
    tokens = method.encoder(batch.x, mask).tokens.values
    h = method.predictor.project(tokens)
    at = draw.fork("remask").at(batch.x.node_index)
    rebuilt = 0.0
    for _ in range(2):
        gone = at.bits().argsort()[:15]
        shown = h.clone()
        shown[gone] = method.remask_token
        z = method.predictor.decode(shown, batch.x.edge_index, None, None)[mask.hidden]
        rebuilt = rebuilt + (1 - F.cosine_similarity(z, batch.x.x[mask.hidden])).pow(2).mean()
    seen = ~mask.hidden
    teacher = method.teacher_projector(method.teacher_encoder(batch.x).tokens.values[seen])
    mine = method.latent_predictor(method.projector(tokens[seen]))
    latent = (1 - F.cosine_similarity(mine, teacher)).mean()
    torch.testing.assert_close(out.loss, rebuilt + 0.7 * latent)
    torch.testing.assert_close(out.parts["latent"], latent.detach())


def test_without_random_remaskings_it_is_graphmae_with_a_latent_target(node_source):
    method = make(node_source, remaskings=0, latent_weight=0.7)
    plain = MaskedReconstruction(method.encoder, method.objective, method.masker)
    plain.predictor = method.predictor
    batch = node_source.fetch(np.arange(30))
    draw = Draw(0, 5, batch.index)
    out, graphmae = method(batch, draw), plain(batch, draw)
    assert method.predictor.remask
    torch.testing.assert_close(out.loss, graphmae.loss + 0.7 * out.parts["latent"])
    torch.testing.assert_close(out.parts["reconstruction"], graphmae.loss.detach())


def test_gradients_and_teacher(node_source):
    method = make(node_source)
    batch = node_source.fetch(np.arange(30))
    method(batch, Draw(0, 0, batch.index)).loss.backward()
    without = [n for n, p in method.named_parameters() if p.grad is None]
    assert without
    assert all(n.startswith("teacher") for n in without)
    old = [p.clone() for p in method.teacher_projector.parameters()]
    with torch.no_grad():
        for p in method.projector.parameters():
            p.add_(1.0)
    method.after_step(Progress(1, 10))
    for before, now in zip(old, method.teacher_projector.parameters(), strict=True):
        torch.testing.assert_close(now - before, torch.full_like(now, 0.004), rtol=1e-3, atol=1e-6)
    assert method.encoder_for_export() is method.encoder


def test_a_sampled_batch_predicts_latents_of_its_seeds(data):
    from ssl_domains.graph.domain import GraphDomain

    source = GraphDomain().open(data, neighbors=[3, 3])
    method = make(source)
    batch = source.fetch([1, 5, 9, 13, 2, 6])
    out = method(batch, Draw(0, 0, batch.index))
    mask = method.masker(method.encoder.layout(batch.x), Draw(0, 0, batch.index).fork("mask"))
    assert not mask.hidden[6:].any()  # only seeds are hidden
    tokens = method.encoder(batch.x, mask).tokens.values
    mine = method.latent_predictor(method.projector(tokens[:6]))
    teacher = method.teacher_projector(method.teacher_encoder(batch.x).tokens.values[:6])
    torch.testing.assert_close(out.parts["latent"], (1 - F.cosine_similarity(mine, teacher)).mean().detach())


@pytest.mark.parametrize("options", [{"remaskings": -1}, {"remask": 1.0}, {"latent_weight": -1.0}])
def test_wrong_options(node_source, options):
    with pytest.raises(ValueError, match="remaskings must be"):
        make(node_source, **options)


def test_a_decoder_without_neighbours_is_refused(node_source):
    encoder = GAT(node_source.spec, 8, heads=2)
    with pytest.raises(ValueError, match="for graphmae2"):
        GraphMAE2(encoder, ScaledCosineError(), RandomMask(), {"kind": "linear"})
