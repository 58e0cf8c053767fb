"""What each method does with views, masks, teachers and memory, on a toy encoder."""

import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.masking import DisjointSubsets, RandomMask
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.methods.cluster_prediction import ClusterPrediction
from ssl_domains.core.methods.joint_embedding import JointEmbedding
from ssl_domains.core.methods.latent_prediction import LatentPrediction
from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction
from ssl_domains.core.methods.momentum_contrast import MomentumContrast
from ssl_domains.core.methods.pretext import PretextTask
from ssl_domains.core.methods.self_distillation import SelfDistillation
from ssl_domains.core.objectives.classification import BinaryCrossEntropy
from ssl_domains.core.objectives.clustering import SwAV
from ssl_domains.core.objectives.contrastive import InfoNCE
from ssl_domains.core.objectives.distillation import TeacherCrossEntropy
from ssl_domains.core.objectives.redundancy import BarlowTwins
from ssl_domains.core.objectives.regression import CosineRegression, MaskedMSE
from ssl_domains.core.random import Draw


def build(name, encoder, views):
    torch.manual_seed(1)
    if name == "joint_embedding":
        return JointEmbedding(encoder, BarlowTwins(), views(), projector=[16, 8])
    if name == "simsiam":
        objective = CosineRegression()
        return JointEmbedding(encoder, objective, views(), [16, 8], predictor=[4])
    if name == "momentum_contrast":
        return MomentumContrast(
            encoder, InfoNCE(temperature=0.2, in_batch=False), views(), [16, 8], queue_size=40
        )
    if name == "byol":
        return SelfDistillation(encoder, CosineRegression(), views(), [16, 8], [16])
    if name == "dino":
        objective = TeacherCrossEntropy(width=12)
        return SelfDistillation(encoder, objective, views(3, local=1), [16, 8], (), prototypes=12)
    if name == "masked_reconstruction":
        return MaskedReconstruction(encoder, MaskedMSE(), RandomMask(0.5))
    if name == "latent_prediction":
        masker = DisjointSubsets((0.3, 0.5), (0.2, 0.4))
        return LatentPrediction(encoder, MaskedMSE(), masker)
    if name == "cluster_prediction":
        return ClusterPrediction(encoder, SwAV(), views(), [16, 8], prototypes=6)
    return PretextTask(encoder, BinaryCrossEntropy(), views(), spec=6)


NAMES = (
    *("joint_embedding", "simsiam", "momentum_contrast", "byol", "dino"),
    *("masked_reconstruction", "latent_prediction", "cluster_prediction", "pretext_task"),
)


@pytest.mark.parametrize("name", NAMES)
def test_only_students_get_gradient_and_the_loss_falls(name, encoder, views, batch):
    method = build(name, encoder, views)
    method.before_epoch(None, 1)
    optimizer = torch.optim.Adam([p for g in method.parameter_groups() for p in g["params"]], lr=3e-3)
    frozen = {n: p.clone() for n, p in method.named_parameters() if not p.requires_grad}
    losses = []
    for step in range(60):
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        if step == 0:
            for n, p in method.named_parameters():
                assert (p.grad is not None) == p.requires_grad, n
                assert n not in frozen or "teacher" in n
        optimizer.step()
        for n, p in method.named_parameters():
            if n in frozen and step == 0:
                assert torch.equal(p, frozen[n]), n
        method.after_step(Progress(step + 1, 60))
        # a moving teacher's entropy is part of DINO's loss; what learning lowers is the rest
        losses.append(float(out.parts.get("kl", out.loss).detach()))
    assert sum(losses[-10:]) < sum(losses[:10])
    assert {"tokens", "encoder"} <= set(out.stages)
    assert not any(t.requires_grad for t in out.stages.values())


@pytest.mark.parametrize("name", ["momentum_contrast", "byol", "dino", "latent_prediction"])
def test_teacher_follows_by_one_minus_momentum(name, encoder, views, batch):
    method = build(name, encoder, views)
    teacher = method.teacher if name == "latent_prediction" else method.teacher_encoder
    old = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(1.0)
    method.after_step(Progress(0, 10))
    start = 0.999 if name == "momentum_contrast" else 0.996
    for before, now in zip(old, teacher.parameters(), strict=True):
        torch.testing.assert_close(now - before, torch.full_like(now, 1 - start), rtol=1e-3, atol=1e-6)


def test_latent_prediction_over_several_masks_is_the_mean_of_each(encoder, views, batch, monkeypatch):
    """The teacher runs once a step, whatever the number of masks (V-JEPA)."""
    method = build("latent_prediction", encoder, views).eval()
    masker, calls = method.masker, []

    def take(*steps):
        found = [masker(encoder.layout(batch.x), Draw(0, i, batch.index)) for i in steps]
        monkeypatch.setattr(masker, "masks", lambda layout, draw: found)

    take(1, 2)
    method.teacher.register_forward_hook(lambda *_: calls.append(1))
    both = method(batch, Draw(0, 0, batch.index))
    assert len(calls) == 1
    alone = []
    for one in (1, 2):
        take(one)
        alone.append(method(batch, Draw(0, 0, batch.index)).loss)
    assert torch.allclose(both.loss, torch.stack(alone).mean())
    assert not torch.allclose(alone[0], alone[1])


def test_latent_prediction_momentum_is_linear_and_ends_at_one(encoder, views, batch):
    method = build("latent_prediction", encoder, views)
    assert method.momentum.value(0.5) == pytest.approx(0.998)
    assert method.momentum.value(1.0) == 1.0
    assert method.encoder_for_export() is method.teacher.module


def test_latent_targets_are_the_full_row_teacher_gathered(encoder, views, batch):
    method = build("latent_prediction", encoder, views)
    mask = method.masker(encoder.layout(batch.x), Draw(0, 0, batch.index).fork("mask"))
    full = encoder(batch.x).tokens.values
    rows = torch.stack([full[b, t] for k in mask.targets for b in range(16) for t in k[b]])
    torch.testing.assert_close(method._targets(method._taught(batch)[0], mask), rows)
    prediction = method.predictor(encoder(batch.x, mask), mask, batch.x)
    expected = F.mse_loss(prediction, rows)
    torch.testing.assert_close(method(batch, Draw(0, 0, batch.index)).loss, expected)


def test_joint_embedding_is_its_objective_on_the_projections(encoder, views, batch):
    method = build("joint_embedding", encoder, views)
    draw = Draw(0, 3, batch.index)
    first, second = views()(batch, draw.fork("views"))
    expected = BarlowTwins()(
        method.projector(encoder(first.x).pooled), method.projector(encoder(second.x).pooled)
    )
    torch.testing.assert_close(method(batch, draw).loss, expected.total)


def test_simsiam_without_stop_gradient_gets_other_gradients(encoder, views, batch):
    grads = []
    for stop in (True, False):
        method = build("simsiam", encoder, views)
        method.objective.stop_gradient = stop
        method(batch, Draw(0, 0, batch.index)).loss.backward()
        grads.append(encoder.inside.weight.grad.clone())
        encoder.zero_grad()
    assert not torch.allclose(*grads)


def test_queue_fills_after_the_step_and_own_rows_are_ignored(encoder, views, batch):
    method = build("momentum_contrast", encoder, views)
    method(batch, Draw(0, 0, batch.index))
    assert int((method.queue.index >= 0).sum()) == 0
    method.after_step(Progress(1, 10))
    assert sorted(method.queue.index[method.queue.index >= 0].tolist()) == batch.index.tolist()
    out = method(batch, Draw(0, 1, batch.index))
    query = method.projector(encoder(views()(batch, Draw(0, 1, batch.index).fork("views"))[0].x).pooled)
    key = method._teacher(views()(batch, Draw(0, 1, batch.index).fork("views"))[1])
    q, k = F.normalize(query, dim=1), F.normalize(key, dim=1)
    tau = float(method.objective.temperature)
    negatives = q @ method.queue.keys.T / tau
    negatives[method.queue.index[None] == batch.index[:, None]] = -torch.inf
    logits = torch.cat([(q * k).sum(1, keepdim=True) / tau, negatives], 1)
    expected = F.cross_entropy(logits, torch.zeros(16, dtype=torch.int64))
    torch.testing.assert_close(out.loss, expected)


def test_swav_prototypes_stay_in_the_first_epoch(encoder, views, batch):
    method = build("cluster_prediction", encoder, views)
    for epoch, moves in ((0, False), (1, True)):
        method.before_epoch(None, epoch)
        method.zero_grad()
        method(batch, Draw(0, 0, batch.index)).loss.backward()
        assert bool(method.prototypes.weight.grad.abs().max() > 0) == moves


def test_dino_prototypes_rest_in_the_first_epoch(encoder, views, batch):
    method = build("dino", encoder, views)
    for epoch, rests in ((0, True), (1, False)):
        method.before_epoch(None, epoch)
        method.zero_grad()
        method(batch, Draw(0, 0, batch.index)).loss.backward()
        assert method.projector.last.weight.grad.eq(0).all() == rests
        assert method.projector.body[0].weight.grad.abs().sum() > 0
    assert build("byol", encoder, views).freeze_epochs == 0


def test_heads_of_moco_v3_end_in_a_norm(encoder, views, batch):
    objective = InfoNCE(temperature=0.2)
    method = MomentumContrast(encoder, objective, views(), [16, 8], [16], queue_size=0, last_norm=True)
    for head in (method.projector, method.predictor):
        assert not head[-1].affine
        assert head[-2].bias is None


def test_state_travels(encoder, views, batch):
    method = build("momentum_contrast", encoder, views)
    method(batch, Draw(0, 0, batch.index))
    method.after_step(Progress(1, 10))
    torch.manual_seed(5)
    other = build("momentum_contrast", type(encoder)(), views)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.queue.index, method.queue.index)
    torch.testing.assert_close(
        other(batch, Draw(0, 1, batch.index)).loss, method(batch, Draw(0, 1, batch.index)).loss
    )


def test_momentum_is_checked(encoder, views):
    with pytest.raises(ValueError, match="momentum"):
        LatentPrediction(encoder, MaskedMSE(), DisjointSubsets(), momentum=(0.9, 1.2))
