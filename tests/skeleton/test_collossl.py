"""ColloSSL: the loss by the paper's formula and by hand, MMD, selection, other moments, two processes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import ssl_domains
from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.core.group_sampler import OneGroup
from ssl_domains.core.objectives.contrastive import InfoNCE
from ssl_domains.core.random import Draw
from ssl_domains.core.testing import run_processes
from ssl_domains.skeleton.collossl import ColloSSL
from ssl_domains.skeleton.encoders.device_conv import DeviceConv
from ssl_domains.skeleton.layouts import Layout
from ssl_domains.skeleton.mmd import SIGMAS, mmd
from ssl_domains.skeleton.spec import BodySpec


def info_nce(temperature: float) -> InfoNCE:
    return InfoNCE(temperature, in_batch=False, aggregate="in")


def spec(devices: int = 4, frames: int = 12) -> BodySpec:
    layout = Layout("devices", tuple(f"d{i}" for i in range(devices)), (-1,) * devices, root=-1)
    return BodySpec("sensors", layout, ("x", "y", "z"), ((0, 1, 2),), 1, frames)


def make(devices: int = 4, temperature: float = 0.5, **options) -> ColloSSL:
    torch.manual_seed(0)
    encoder = DeviceConv(spec(devices), widths=(4, 6), kernels=(3, 3), dropout=0.0)
    return ColloSSL(encoder, info_nce(temperature), **options)


def signals(n: int = 10, devices: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, 12, devices, 1, generator=generator)
    x[:, :, :, 2] = x[:, :, :, 0] + 0.02 * torch.randn(
        n, 3, 12, 1, generator=generator
    )  # worn beside the anchor
    sure = torch.ones(n, 12, devices, 1)
    return Batch({"points": x, "confidence": sure, "length": torch.full((n,), 12)}, torch.arange(n))


def loss_of(
    positive: float, negatives: list[float], temperature: float, w: list[float], w_p: float = 1.0
) -> float:
    """Vectors in the plane with these cosines to the anchor, through the objective."""

    def at(cosine: float) -> list[float]:
        return [cosine, math.sqrt(1 - cosine**2)]

    anchor = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    weights = torch.tensor([[w_p, *w]], dtype=torch.float64)
    p = torch.tensor([[at(positive)]], dtype=torch.float64)
    n = torch.tensor([[at(c) for c in negatives]], dtype=torch.float64)
    return float(info_nce(temperature)(anchor, positives=p, query_negatives=n, weights=weights).total)


def test_loss_by_hand():
    assert loss_of(0.3, [0.3] * 3, 0.5, [1.0] * 3) == pytest.approx(math.log(4), abs=1e-6)
    assert loss_of(0.3, [0.3], 0.5, [1.0]) == pytest.approx(math.log(2), abs=1e-6)
    worked = loss_of(1.0, [0.5, 0.0], 0.5, [10.0, 5.0])
    assert worked == pytest.approx(1.6781, abs=5e-5)
    assert loss_of(1.0, [0.5, 0.0], 0.5, [20.0, 10.0], 2.0) == pytest.approx(worked, abs=1e-9)
    assert loss_of(1.0, [0.0, 0.5], 0.5, [5.0, 10.0]) == pytest.approx(worked, abs=1e-9)
    assert loss_of(0.9, [0.2], 0.1, [1.0]) == pytest.approx(math.log1p(math.exp((0.2 - 0.9) / 0.1)), abs=1e-6)
    assert loss_of(0.9, [0.2], 0.5, [1.0]) < loss_of(0.5, [0.2], 0.5, [1.0])  # the sign


def test_mmd_by_its_definition():
    a, b = torch.randn(9, 5, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64) + 0.5

    def kernel(x, y):
        return sum(math.exp(-float(((x - y) ** 2).sum()) / (2 * s)) for s in SIGMAS)

    pairs = [[np.mean([kernel(x, y) for x in u for y in v]) for v in (a, b)] for u in (a, b)]
    wanted = pairs[0][0] + pairs[1][1] - 2 * pairs[0][1]
    assert float(mmd(a, b)) == pytest.approx(wanted, abs=1e-9)
    assert float(mmd(b, a)) == pytest.approx(wanted, abs=1e-9)
    assert kernel(a[0], a[0]) == 12
    assert float(mmd(a, a)) == pytest.approx(1e-4)
    assert float(mmd(a, 2 * a)) > float(mmd(a, 1.2 * a))
    present = torch.arange(9) < 5
    assert float(mmd(a, b, present)) == pytest.approx(float(mmd(a[:5], b[:5])), abs=1e-9)
    assert float(mmd(a, b, torch.zeros(9, dtype=torch.bool))) == math.inf


def test_the_closest_device_is_the_positive_and_a_negative_too():
    method = make().eval()
    batch = signals()
    draw = Draw(0, 0, batch.index)
    out = method(batch, draw)
    level, present = method._level(batch.x)
    assert torch.allclose(level[:, 1], batch.x["points"][:, :, :, 1, 0].norm(dim=1))
    distance = method._distances(level, present)
    assert method._positives(distance, draw).tolist() == [False, True, False]  # others are 1, 2, 3
    z = torch.nn.functional.normalize(method.encoder(batch.x).tokens.values, dim=-1)
    keys = Draw(0, 0, batch.index).fork("other moments").bits(3)
    rows = keys.argsort(dim=0)
    total = 0.0
    weight = (1 / distance).double()
    for i in range(len(batch)):
        positive = math.exp(float(z[i, 0] @ z[i, 2]) / 0.5)
        negative = sum(
            float(weight[n]) * math.exp(float(z[i, 0] @ z[rows[i, n], v]) / 0.5)
            for n, v in enumerate((1, 2, 3))
        )
        total += math.log(positive + negative) - math.log(positive)
    assert float(out.loss) == pytest.approx(total / len(batch), rel=1e-4)


def test_other_moments_are_drawn_anew_for_each_device():
    method = make(copies=2)
    batch = signals(64)
    z = torch.arange(64.0)[:, None, None].expand(-1, 4, 6).contiguous()
    present = torch.ones(64, 4, dtype=torch.bool)
    found, there = method._negatives(z, present, batch.index, Draw(0, 0, batch.index))
    rows = found[..., 0].long()
    assert rows.shape == (64, 6)
    assert there.all()
    assert all(rows[:, k].sort().values.tolist() == list(range(64)) for k in range(6))
    assert len({tuple(rows[:, k].tolist()) for k in range(6)}) == 6
    still = make(unsynchronised=False)
    found, _ = still._negatives(z, present, batch.index, Draw(0, 0, batch.index))
    assert (found[..., 0].long() == torch.arange(64)[:, None]).all()


def test_missing_devices_take_no_part():
    method = make().eval()
    batch = signals()
    batch.x["confidence"][3, :, 0] = 0.0  # the anchor of one window
    batch.x["confidence"][:, :, 1] = 0.0  # a device that was never there
    batch.x["points"][:, :, :, 1] = 100.0
    out = method(batch, Draw(0, 0, batch.index))
    assert out.loss.isfinite()
    batch.x["points"][:, :, :, 1] = -50.0
    assert float(method(batch, Draw(0, 0, batch.index)).loss) == pytest.approx(float(out.loss))
    batch.x["points"][3, :, :, 0] = 9.0
    assert float(method(batch, Draw(0, 0, batch.index)).loss) == pytest.approx(float(out.loss))


def test_all_devices_get_gradient_and_learning_works():
    method = make(temperature=0.1)
    batch = signals(32)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    losses = []
    for step in range(25):
        out = method(batch, Draw(0, step, batch.index))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(float(out.loss.detach()))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    x = {**batch.x, "points": batch.x["points"].clone().requires_grad_()}
    method(batch.with_x(x), Draw(0, 0, batch.index)).loss.backward()
    reach = x["points"].grad.abs().sum((0, 1, 2, 4))
    assert (reach > 0).all()


def half(rank: int, world: int):
    method = make().double()
    batch = signals(12)
    share = slice(rank * 12 // world, (rank + 1) * 12 // world)
    x = {k: (v[share].double() if v.is_floating_point() else v[share]) for k, v in batch.x.items()}
    part = Batch(x, batch.index[share])
    out = method(part, Draw(0, 4, part.index))
    out.loss.backward()
    return float(out.loss.detach()), {n: p.grad for n, p in method.named_parameters() if p.grad is not None}


def test_two_processes_are_one():
    joined = half(0, 1)
    first, second = run_processes(half, 2, 2)
    assert first[0] == pytest.approx(joined[0], abs=1e-6)
    for name, grad in joined[1].items():
        assert torch.allclose((first[1][name] + second[1][name]) / 2, grad, atol=1e-6), name


class Groups:
    """A source of three people."""

    groups = np.repeat([0, 1, 2], [20, 9, 5])


def test_batches_of_one_person():
    sampler = OneGroup(smallest=4)
    sampler.prepare(Groups())
    rows = np.arange(34)
    n = sampler.n_batches(rows, 8)
    assert n == 5  # 8 + 8 + 4, 8, 5
    batches = sampler.epoch(rows, 8, n, seed=0, epoch=0)
    assert all(len(set(Groups.groups[b])) == 1 for b in batches)
    assert all(len(b) >= 4 for b in batches)
    again = sampler.epoch(rows, 8, n, seed=0, epoch=0)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again))
    other = sampler.epoch(rows, 8, n, seed=0, epoch=1)
    assert any(not np.array_equal(a, b) for a, b in zip(batches, other))
    with pytest.raises(DataError, match="needs groups"):
        OneGroup().prepare(object())
    few = OneGroup(smallest=30)
    few.prepare(Groups())
    with pytest.raises(DataError, match="no group has 30 training rows"):
        few.n_batches(rows, 40)


def test_by_recipe_and_with_one_device_afterwards(tmp_path):
    run = ssl_domains.pretrain(
        "skeleton/collossl", "data.source=generated://wearables?clips=24&people=4",
        "data.window=3",
        "data.hop=1",

        "data.test=0.25", "data.valid=0",
        "train.steps=4", "train.epochs=null", "train.batch_size=16", "train.log_every=1",
        "evaluate.probes=[linear]",
        "evaluate.seeds=1", run=tmp_path / "run", progress=False,
    )  # fmt: skip
    assert 0 <= run.evaluation.value("linear.macro_f1") <= 1
    t = np.arange(0, 9, 1 / 30)
    import pandas as pd

    names = ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z")
    frame = pd.DataFrame({name: np.sin(t + i) for i, name in enumerate(names)}).assign(
        time=t, device="left_wrist"
    )
    frame.to_csv(tmp_path / "one.csv", index=False)
    assert run.encoder.embed(tmp_path / "one.csv").shape == (7, 96)


def test_bad_options():
    with pytest.raises(ValueError, match="at least two devices"):
        make(1)
    with pytest.raises(ValueError, match="closest_positive"):
        make(select="best")
    with pytest.raises(ValueError, match="at least 1"):
        make(copies=0)
