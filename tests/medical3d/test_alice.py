"""Alice (2302.05615): pairs, masks, who gets gradient, what each term looks at, references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core import registry
from ssl_domains.core.errors import DataError, UserError
from ssl_domains.core.layout import Grid
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.random import Draw
from ssl_domains.medical3d.alice import CrossAttention
from ssl_domains.medical3d.correspondence import ExactOracle

K = 16


def make(source, oracle="exact", **options):
    torch.manual_seed(0)
    unet = registry.get("encoder", "monai_unet")
    encoder = unet(source.spec, features=(4, 4, 8), norm="batch", decoder=True)
    objective = registry.get("objective", "teacher_cross_entropy")(
        K, teacher_temperature=0.008, teacher_temperature_end=0.01
    )
    views = registry.get("views", "anatomical_pairs")(source.spec, oracle=oracle)
    masker = registry.get("mask", "tube")(0.75)
    given = {"projector": [16, 8], "prototypes": K, "heads": 2, "ffn": 16, "freeze_last": 0} | options
    method = registry.get("method", "alice")(encoder, objective, views, masker, source.spec, **given)
    method.before_training(source)
    return method


@pytest.fixture(scope="module")
def alice(patches):
    return make(patches)


@pytest.fixture
def batch(patches):
    return patches.fetch(patches.splits["train"][:6])


def test_exact_pairs_show_the_same_anatomy(patches, alice, batch):
    query, anchor = alice.views(batch, Draw(0, 3, batch.index))
    first, second = query.params["volume"].numpy(), anchor.params["volume"].numpy()
    patient, train = patches.cohort.patient, patches.groups[patches.splits["train"]]
    assert (patient[first] != patient[second]).all()
    assert np.isin(patient[second], train).all()  # no held-out patient is shown
    for b in range(len(batch)):
        u = patches.anatomies[first[b]].canonical(query.params["point"][b].numpy()[None])
        v = patches.anatomies[second[b]].canonical(anchor.params["point"][b].numpy()[None])
        assert np.allclose(u, v, atol=1e-4)
    # The middle of a crop is the point, up to rounding.
    corner = np.round(query.params["point"].numpy() - 7.5).astype(np.int64)
    assert np.array_equal(query.x.numpy(), patches.cut(first, corner))


def test_pairs_do_not_depend_on_the_batch(alice, patches, batch):
    whole = alice.views(batch, Draw(0, 3, batch.index))
    some = patches.fetch(batch.index[2:4].numpy())
    part = alice.views(some, Draw(0, 3, some.index))
    for a, b in zip(whole, part, strict=True):
        assert torch.equal(a.x[2:4], b.x)


def test_corresponding_voxels_belong_to_one_organ(patches):
    oracle, rng = ExactOracle(patches), np.random.default_rng(0)
    points = rng.integers(0, 24, (4000, 3))
    found, score = oracle.match(0, points, 1)
    mine = patches.volumes.mask(0)[tuple(points.T)]
    at = np.round(found[score > 0.5]).astype(int)
    other = patches.volumes.mask(1)[tuple(at.T)]
    organs = mine[score > 0.5] > 0
    agree = (mine[score > 0.5] == other)[organs].mean()
    assert agree > 0.7  # rounding moves points over the edges of organs that are few voxels wide
    assert agree > (mine[score > 0.5] == rng.permutation(other))[organs].mean() + 0.3


def test_mask_hides_columns(alice, patches, batch):
    masker = registry.get("mask", "tube")(0.75)
    hidden = masker(Grid((4, 4, 4)), Draw(0, 0, batch.index)).hidden.view(-1, 4, 16)
    assert (hidden.sum(dim=2) == 12).all()
    assert (hidden == hidden[:, :1]).all()
    shown = alice.visible(batch.x, Draw(0, 0, batch.index))
    assert float(shown.mean()) == 0.25
    assert (shown == shown[:, :, :1]).all()


def test_no_gradient_reaches_the_teacher(patches, batch):
    method = make(patches)
    out = method(batch, Draw(0, 0, batch.index))
    out.loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    without = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    before = [p.detach().clone() for p in method.teacher.parameters()]
    torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1).step()
    method.after_step(Progress(0, 10))
    students = method.student.parameters()
    for old, new, student in zip(before, method.teacher.parameters(), students, strict=True):
        assert torch.allclose(new, 0.996 * old + 0.004 * student, atol=1e-6)


def test_uniform_outputs_give_ln_k(patches, batch):
    method = make(patches, align=False)
    with torch.no_grad():
        for net in (method.student, method.teacher.module):
            for last in (net.last_pooled, net.last_tokens):
                last.weight[:] = last.weight[:1]
    parts = method(batch, Draw(0, 0, batch.index)).parts
    assert float(parts["class"]) == pytest.approx(math.log(K), abs=1e-4)
    assert float(parts["tokens"]) == pytest.approx(math.log(K), abs=1e-4)


def test_class_term_alone_looks_across_patients(patches, alice, batch, monkeypatch):
    """Other anchors to the same queries change the class term alone; tokens and voxels stay in their view."""
    for part in (alice.student, alice.teacher.module):  # far from the start, where all crops look alike
        monkeypatch.setattr(part.trunk, "forward", lambda z: torch.sin(40 * z[..., :8]))
    monkeypatch.setattr(alice.objective, "ramp", None)
    monkeypatch.setattr(alice.objective, "teacher_temperature", 0.1)
    made = alice.views(batch, Draw(0, 0, batch.index))
    order = torch.roll(torch.arange(len(batch)), 1)

    def terms(rows):
        anchor = type(made[1])(made[1].x[rows], "global", {})
        with monkeypatch.context() as patch:
            patch.setattr(alice, "views", lambda b, d: [made[0], anchor])
            patch.setattr(alice, "visible", lambda x, d: torch.ones_like(x[:, :1]))
            return alice(batch, Draw(0, 0, batch.index)).parts

    alice.eval()  # batch statistics and centers stand still
    one, two = terms(torch.arange(len(batch))), terms(order)
    alice.train()
    assert float(one["tokens"]) == pytest.approx(float(two["tokens"]), rel=1e-4)
    assert float(one["mse"]) == pytest.approx(float(two["mse"]), rel=1e-4)
    assert abs(float(one["class"]) - float(two["class"])) > 1e-4


def test_terms_equal_lightly(patches):
    """The class term is DINO's loss of two views; its first call has no center yet."""
    lightly = pytest.importorskip("lightly.loss", reason="wants the package lightly: pip install lightly")
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, K), torch.randn(2, 5, K)
    objective = registry.get("objective", "teacher_cross_entropy")(K, teacher_temperature=0.04)
    options = {"warmup_teacher_temp": 0.04, "teacher_temp": 0.04, "warmup_teacher_temp_epochs": 1}
    theirs = lightly.DINOLoss(output_dim=K, **options)
    expected = theirs(list(teacher), list(student), teacher_temp=0.04)
    assert torch.allclose(objective(list(student), list(teacher)).total, expected.squeeze(), atol=1e-5)


def test_attention_has_no_positions():
    torch.manual_seed(0)
    casa = CrossAttention(16, 2, 32).eval()
    query, keys = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    out, order = casa(query, keys), torch.randperm(9)
    assert torch.allclose(casa(query, keys[:, order]), out, atol=1e-5)
    order = torch.randperm(5)
    assert torch.allclose(casa(query[:, order], keys), out[:, order], atol=1e-5)


def test_attention_equals_torch():
    """The block against ``nn.MultiheadAttention`` with the same weights."""
    torch.manual_seed(0)
    casa = CrossAttention(16, 2, 32).eval()
    other = torch.nn.MultiheadAttention(16, 2, bias=False, batch_first=True)
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([casa.query.weight, casa.key.weight, casa.value.weight]))
        other.out_proj.weight.copy_(casa.out.weight)
    query, keys = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    x = casa.norm1(query + other(query, keys, keys)[0])
    assert torch.allclose(casa(query, keys), casa.norm2(x + casa.ffn(x)), atol=1e-5)


def test_reconstruction_is_over_all_voxels(alice, batch, monkeypatch):
    made = alice.views(batch, Draw(0, 0, batch.index).fork("views"))
    monkeypatch.setattr(alice.reconstruct, "forward", lambda x: torch.zeros(len(x), 1, *x.shape[2:]))
    parts = alice(batch, Draw(0, 0, batch.index)).parts
    expected = F.mse_loss(torch.zeros_like(torch.cat([v.x for v in made])), torch.cat([v.x for v in made]))
    assert float(parts["mse"]) == pytest.approx(float(expected), rel=1e-5)


def test_last_layers_stand_still_at_first(patches, batch):
    method = make(patches, freeze_last=1)
    method.before_epoch(patches, 0)
    method(batch, Draw(0, 0, batch.index)).loss.backward()
    assert float(method.student.last_pooled.weight.grad.abs().max()) == 0.0
    method.zero_grad()
    method.before_epoch(patches, 1)
    method(batch, Draw(0, 1, batch.index)).loss.backward()
    assert float(method.student.last_pooled.weight.grad.abs().max()) > 0.0


def test_embedding_oracle_finds_a_point_of_its_own_volume(patches, tmp_path):
    """With any encoder a point's nearest neighbour in its own volume is the point, to the stride."""
    from ssl_domains.medical3d.correspondence import EmbeddingOracle
    from ssl_domains.trainer.checkpoint import save_encoder

    torch.manual_seed(0)
    options = {"features": [8, 8, 16], "norm": "instance"}
    encoder = registry.get("encoder", "monai_unet")(patches.spec, **options)
    save_encoder(
        tmp_path / "encoder", encoder, domain="medical3d", encoder_name="monai_unet", encoder_options=options,
        spec=patches.spec,
    )  # fmt: skip
    oracle = EmbeddingOracle(patches, str(tmp_path))
    points = np.random.default_rng(0).integers(6, 18, (20, 3)).astype(np.float64)
    found, score = oracle.match(0, points, 0)
    assert (np.abs(found - points).max(axis=1) <= 1).mean() > 0.8
    assert np.abs(found - points).max() < 4
    assert score.min() > 0.7  # coarse vectors are interpolated
    pairs = registry.get("views", "anatomical_pairs")
    views = pairs(patches.spec, oracle="embedding", embedding=str(tmp_path))
    views.prepare(patches)
    batch = patches.fetch(patches.splits["train"][:3])
    assert views(batch, Draw(0, 0, batch.index))[1].x.shape == batch.x.shape


def test_mistakes_end_in_sentences(patches, slices, tmp_path):
    from ssl_domains.medical3d.correspondence import load_encoder

    views = registry.get("views", "anatomical_pairs")
    with pytest.raises(ValueError, match="the data are slices"):
        views(slices.spec)
    with pytest.raises(ValueError, match="go together"):
        views(patches.spec, oracle="embedding")
    with pytest.raises(UserError, match="holds no exported encoder"):
        load_encoder(str(tmp_path))

    class Scan:
        anatomies = None

    with pytest.raises(DataError, match="is for generated phantoms"):
        ExactOracle(Scan())
