"""HaLP: MoCo at weight 0, the pull by its formula, who gets gradient, the warm start, two processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ssl_domains
from ssl_domains.core.batch import Batch, Encoded, Tokens, View
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.methods.halp import HaLP
from ssl_domains.core.methods.momentum_contrast import MomentumContrast
from ssl_domains.core.objectives.contrastive import InfoNCE, MoCo
from ssl_domains.core.parts.latent_positives import LatentPositives, latent_positives
from ssl_domains.core.random import Draw
from ssl_domains.core.testing import run_processes

OPTIONS = {"projector": [12, 8], "projector_norm": "none", "queue_size": 32, "momentum": 0.9}
LATENT = {"positives": 6, "prototypes": 4, "recent": 24, "refresh": 3}


class Net(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.width, self.net = 10, nn.Linear(5, 10)

    def forward(self, x, mask=None, *, layers=False):
        z = self.net(x)
        return Encoded(Tokens(z[:, None]), z)


class Noise(Views):
    def __call__(self, batch, draw):
        return [View(batch.x + 0.3 * draw.normal(5)) for _ in range(2)]


def make(cls, seed: int = 0, temperature: float = 0.2, **options):
    torch.manual_seed(seed)
    return cls(Net(), MoCo(temperature), Noise(), **{**OPTIONS, **options})


def batch_of(step: int, n: int = 16) -> Batch:
    index = torch.arange(n) + n * step
    return Batch(torch.randn(n, 5, generator=torch.Generator().manual_seed(step)), index)


def steps(method, count: int, lr: float = 0.05):
    optimizer = torch.optim.SGD(method.parameters(), lr=lr)
    outputs = []
    for step in range(count):
        batch = batch_of(step)
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        method.after_step(Progress(step + 1, count))
        outputs.append(out)
    return outputs


def test_weight_zero_is_moco():
    halp, moco = make(HaLP, mu=0.0, **LATENT), make(MomentumContrast)
    a, b = steps(halp, 8), steps(moco, 8)
    assert [float(o.loss.detach()) for o in a] == [float(o.loss.detach()) for o in b]
    assert all(torch.equal(halp.state_dict()[k], v) for k, v in moco.state_dict().items())


def test_the_term_waits_for_the_queue_to_be_filled_twice():
    halp = make(HaLP, **LATENT)
    outputs = steps(halp, 10)  # 16 keys a step, 32 in the queue: more than 64 have been seen after the fifth
    assert ["latent" in o.parts for o in outputs] == [False] * 5 + [True] * 5
    assert halp.fitted_at == 8  # at step 5, and every 3 steps
    late = make(HaLP, from_epoch=2, **LATENT)
    late.before_epoch(None, 1)
    assert not any("latent" in o.parts for o in steps(late, 8))
    late.before_epoch(None, 2)
    assert "latent" in steps(late, 1)[0].parts


def test_loss_and_gradient_by_the_formula():
    halp = make(HaLP, mu=1.5, temperature=0.1, **LATENT).double()
    halp.centroids = F.normalize(torch.randn(4, 8, dtype=torch.float64), dim=1)
    query = torch.randn(7, 8, dtype=torch.float64, requires_grad=True)
    key = torch.randn(7, 8, dtype=torch.float64, requires_grad=True)
    loss, accepted = halp._latent(query, key, Draw(0, 0, torch.arange(7)))
    z, kept = latent_positives(
        F.normalize(key.detach(), dim=1), halp.centroids, Draw(0, 0, torch.arange(7)), count=6
    )
    q = F.normalize(query, dim=1)
    wanted = sum(-(q[i] @ z[i, m]) / 0.1 for i in range(7) for m in range(6) if kept[i, m]) / kept.sum()
    assert torch.allclose(loss, wanted, atol=1e-7)
    assert float(accepted) == pytest.approx(float(kept.double().mean()))
    loss.backward()
    assert key.grad is None
    pull = -(z * kept[..., None]).sum(1) / kept.sum() / 0.1
    (expected,) = torch.autograd.grad(F.normalize(query, dim=1), query, pull)
    assert torch.allclose(query.grad, expected, atol=1e-7)


def made_by_hand(monkeypatch, values: torch.Tensor, kept: bool) -> None:
    """Lets the method find these latent positives."""
    made = LatentPositives(values, torch.full(values.shape[:2], kept))
    monkeypatch.setattr("ssl_domains.core.methods.halp.latent_positives", lambda *a, **k: made)


def test_nothing_accepted_gives_zero(monkeypatch):
    halp = make(HaLP, **LATENT)
    halp.centroids = F.normalize(torch.randn(4, 8), dim=1)
    made_by_hand(monkeypatch, torch.randn(5, 6, 8), kept=False)
    query = torch.randn(5, 8, requires_grad=True)
    loss, accepted = halp._latent(query, torch.randn(5, 8), Draw(0, 0, torch.arange(5)))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(accepted) == 0.0
    assert (query.grad == 0).all()


def test_positives_that_are_the_key_give_the_cosine(monkeypatch):
    """z = k: the term is minus the mean cosine over the temperature."""
    halp = make(HaLP, temperature=0.5, **LATENT)
    halp.centroids = F.normalize(torch.randn(4, 8), dim=1)
    query, key = torch.randn(5, 8), torch.randn(5, 8)
    made_by_hand(monkeypatch, F.normalize(key, dim=1)[:, None].expand(-1, 6, -1), kept=True)
    loss, _ = halp._latent(query, key, Draw(0, 0, torch.arange(5)))
    wanted = -F.cosine_similarity(query, key).mean() / 0.5
    assert torch.allclose(loss, wanted, atol=1e-5)


def test_who_gets_gradient():
    halp = make(HaLP, **LATENT)
    steps(halp, 7)
    batch = batch_of(9)
    halp.zero_grad()
    halp(batch, Draw(0, 7, batch.index)).loss.backward()
    assert all(p.grad is not None for p in [*halp.encoder.parameters(), *halp.projector.parameters()])
    assert all(p.grad is None for n, p in halp.named_parameters() if "teacher" in n)
    assert not halp.centroids.requires_grad


def recipe(folder, **changes) -> dict:
    rng = np.random.default_rng(0)
    np.savez(folder / "x.npz", x=rng.normal(size=(96, 3, 16, 25, 1)).astype(np.float32))
    return {
        "domain": "skeleton",
        "data": {"source": str(folder / "x.npz"), "frames": 16, "valid": 0, "test": 0},
        "encoder": {"name": "bigru", "hidden": 6, "layers": 1},
        "views": {"name": "body_augment", "min_frames": 8},
        "method": {"name": "momentum_contrast", **OPTIONS},
        "objective": {"name": "moco", "temperature": 0.1},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "schedule": {"name": "constant"},
        "train": {"batch_size": 16, "steps": 6, "log_every": 1, "on_collapse": "off"},
        "evaluate": {"probes": [], "seeds": 1},
    } | changes


def test_a_moco_run_goes_on_as_halp(tmp_path):
    """The paper's schedule: the term is switched on in a run whose optimizer, queue and teacher stay."""
    from ssl_domains.trainer.run import RunDirectory

    moco = ssl_domains.pretrain(recipe(tmp_path), run=tmp_path / "moco", progress=False)
    switched = (
        "method.name=halp",
        "method.mu=1.0",
        "method.positives=6",
        "method.prototypes=4",
        "method.refresh=2",
    )
    halp = ssl_domains.fork(moco.path, *switched, steps=4, out=tmp_path / "halp", progress=False)
    rows = RunDirectory.open(halp.path).metrics()
    assert [row["step"] for row in rows if "latent" in row] == [7, 8, 9, 10]
    assert all(0 < row["accepted"] <= 1 for row in rows if "accepted" in row)
    plain = ssl_domains.fork(moco.path, steps=4, out=tmp_path / "plain", progress=False)
    off = ssl_domains.fork(moco.path, *switched, "method.mu=0", steps=4, out=tmp_path / "off", progress=False)
    losses = [[r["loss"] for r in RunDirectory.open(p.path).metrics() if "loss" in r] for p in (plain, off)]
    assert losses[0] == losses[1]
    started = recipe(tmp_path, init_from=str(moco.path))
    started["method"] = {"name": "halp", **OPTIONS, **LATENT}
    first = ssl_domains.pretrain(started, run=tmp_path / "from", progress=False)
    assert "latent" in RunDirectory.open(first.path).metrics()[0]  # the queue came with the weights


def test_resuming_is_exact(tmp_path):
    import shutil

    from ssl_domains.trainer.run import RunDirectory

    options = recipe(tmp_path)
    options["method"] = {"name": "halp", **OPTIONS, **LATENT}
    options["train"] |= {"steps": 12, "checkpoint_every": 7}
    whole = ssl_domains.pretrain(options, run=tmp_path / "whole", progress=False).path
    shutil.copytree(whole, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000012")
    again = ssl_domains.pretrain(tmp_path / "cut", resume=True, progress=False).path
    losses = [
        {r["step"]: r["loss"] for r in RunDirectory.open(p).metrics() if "loss" in r} for p in (whole, again)
    ]
    assert losses[0] == losses[1]


def half(rank: int, state, step: int, world: int):
    halp = make(HaLP, **LATENT).double()
    halp.load_state_dict(state, strict=False)
    halp.seen = 1000
    batch = batch_of(step)
    share = slice(rank * 16 // world, (rank + 1) * 16 // world)
    part = Batch(batch.x[share].double(), batch.index[share])
    out = halp(part, Draw(0, step, part.index))
    out.loss.backward()
    grads = {n: p.grad for n, p in halp.named_parameters() if p.grad is not None}
    halp.after_step(Progress(1, 1))
    return float(out.loss.detach()), grads, halp.queue.keys, halp.seen


def test_two_processes_are_one():
    halp = make(HaLP, **LATENT)
    steps(halp, 8)
    state = {k: v for k, v in halp.double().state_dict().items() if isinstance(v, torch.Tensor)}
    joined = half(0, state, 20, 1)
    first, second = run_processes(half, 2, state, 20, 2)
    assert first[0] == pytest.approx(joined[0], abs=1e-9)
    assert first[3] == joined[3]
    for name, grad in joined[1].items():
        assert torch.allclose((first[1][name] + second[1][name]) / 2, grad, atol=1e-9), name
    assert torch.allclose(first[2], joined[2])


def test_bad_options():
    for options, said in (
        ({"queue_size": 0}, "queue_size above 0"),
        ({"mu": -1.0}, "must be 0 or more"),
        ({"spread": 2.0}, "method.spread"),
        ({"prototypes": 40}, "need as many entries"),
        ({"projector_norm": "group"}, "projector_norm"),
    ):
        with pytest.raises(ValueError, match=said):
            make(HaLP, **options)
    with pytest.raises(ValueError, match="fixed temperature"):
        HaLP(Net(), InfoNCE(0.1, learn_temperature=True, in_batch=False), Noise(), **OPTIONS)
