"""HaLP's latent positives: the closed form against what it must do, and by hand in the plane."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.parts.latent_positives import largest_step, latent_positives, slerp
from ssl_domains.core.random import Draw


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def at(degrees: float) -> torch.Tensor:
    angle = math.radians(degrees)
    return torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)


@pytest.mark.parametrize(("target", "expected"), [(60.0, 25 / 60), (120.0, 55 / 120)])
def test_by_hand_in_the_plane(target, expected):
    """Key at 0, its prototype at -10: the bisector to 60 degrees is at 25, to 120 at 55."""
    t, omega = largest_step(at(0), at(-10), at(target))
    assert float(omega) == pytest.approx(math.radians(target))
    assert float(t) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("width", [3, 16, 128])
def test_the_largest_step_is_equidistant(width):
    key, prototypes = unit(200, width), unit(5, width, seed=1)
    order = (key @ prototypes.T).argsort(dim=1, descending=True)
    nearest, target = prototypes[order[:, 0]], prototypes[order[:, 3]]
    t, omega = largest_step(key, nearest, target)
    z = slerp(key, target, omega, t)
    inside = (t > 0) & (t < 1)
    gap = ((z * nearest).sum(1) - (z * target).sum(1))[inside]
    assert inside.sum() > 100
    assert gap.abs().max() < 1e-6  # the formula itself adds 1e-8 to a denominator
    for share in (0.2, 0.7, 0.999):
        before = slerp(key, target, omega, share * t)
        assert torch.allclose(before.norm(dim=1), torch.ones(200, dtype=torch.float64))
        assert ((before * nearest).sum(1) >= (before * target).sum(1) - 1e-9).all()


def test_positives_lie_on_the_way_and_keep_their_prototype():
    key, prototypes = unit(40, 16).float(), unit(2, 16, seed=2).float()
    draw = Draw(0, 3, torch.arange(40))
    made = latent_positives(key, prototypes, draw, count=50)
    assert made.values.shape == (40, 50, 16)
    assert torch.allclose(made.values.norm(dim=-1), torch.ones(40, 50), atol=1e-5)
    assert made.kept.all()  # with two prototypes none can come between
    own = (key @ prototypes.T).argmax(1)
    plane = torch.stack([key, prototypes[1 - own]], dim=1)  # [B, 2, D]
    basis = torch.linalg.qr(plane.transpose(1, 2)).Q
    inside = torch.einsum("bmd,bdk->bmk", made.values, basis).norm(dim=-1)
    assert torch.allclose(inside, torch.ones(40, 50), atol=1e-4)


def test_third_prototypes_make_the_filter_reject():
    key, prototypes = unit(200, 4).float(), unit(20, 4, seed=3).float()
    made = latent_positives(key, prototypes, Draw(0, 0, torch.arange(200)), count=30)
    share = float(made.kept.float().mean())
    assert 0.05 < share < 0.99
    again = (made.values @ prototypes.T).argmax(-1) == (key @ prototypes.T).argmax(1)[:, None]
    assert torch.equal(again, made.kept)


def test_steps_lie_between_a_fifth_and_the_whole():
    key, prototypes = unit(60, 8), unit(2, 8, seed=5)
    made = latent_positives(key, prototypes, Draw(0, 0, torch.arange(60)), count=400)
    own = (key @ prototypes.T).argmax(1)
    t, omega = largest_step(key, prototypes[own], prototypes[1 - own])
    walked = torch.arccos((made.values * key[:, None]).sum(-1).clamp(-1, 1)) / omega[:, None] / t[:, None]
    assert 0.19 < float(walked.min()) < 0.25
    assert 0.95 < float(walked.max()) <= 1.001
    hardest = latent_positives(key, prototypes, Draw(0, 0, torch.arange(60)), count=3, spread=None)
    walked = torch.arccos((hardest.values * key[:, None]).sum(-1).clamp(-1, 1)) / omega[:, None]
    assert torch.allclose(walked, (t - 0.01).clamp_min(0)[:, None].expand(-1, 3), atol=1e-6)


def test_key_on_a_prototype_gives_no_nan():
    prototypes = torch.eye(4)[:3]
    made = latent_positives(prototypes.clone(), prototypes, Draw(0, 0, torch.arange(3)), count=5)
    assert made.values.isfinite().all()
    same = torch.stack([prototypes[0]] * 3)
    assert latent_positives(prototypes, same, Draw(0, 0, torch.arange(3)), count=5).values.isfinite().all()
