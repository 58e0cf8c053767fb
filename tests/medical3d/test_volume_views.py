"""Views of volumes: the same in any batch, geometry against references, tasks and what they record."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssl_domains.core import registry
from ssl_domains.core.random import Draw
from ssl_domains.medical3d import warp
from ssl_domains.medical3d.genesis import curve
from ssl_domains.medical3d.pretext import permutations, turned


def views_of(source, name="volume_augment", **options):
    return registry.get("views", name)(source.spec, **options)


@pytest.fixture
def batch(patches):
    return patches.fetch(np.arange(6))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("volume_augment", {"family": "full"}),
        ("volume_augment", {"family": "simclr", "local_views": 1, "local_size": [8, 8, 8]}),
        ("volume_rotation", {"copies": 2}),
        ("volume_jigsaw", {}),
        ("genesis", {}),
    ],
)
def test_a_sample_has_the_same_view_in_any_batch(patches, batch, name, options):
    views = views_of(patches, name, **options)
    whole = views(batch, Draw(1, 5, batch.index))
    some = patches.fetch([4, 2])
    part = views(some, Draw(1, 5, some.index))
    for a, b in zip(whole, part, strict=True):
        assert torch.allclose(a.x[[4, 2]], b.x, atol=1e-6)
        assert all(torch.equal(a.params[k][[4, 2]], b.params[k]) for k in a.params)
    other = views(batch, Draw(1, 6, batch.index))
    assert not torch.equal(whole[-1].x, other[-1].x)


def test_without_strengths_a_view_is_the_sample(patches, batch):
    found = views_of(patches, family="none", n_views=1)(batch, Draw(0, 0, batch.index))[0]
    assert torch.equal(found.x, batch.x)


def test_flip_and_crop_are_slices(patches, batch):
    mirrored = views_of(patches, family="none", n_views=1, flip=1.0)(batch, Draw(0, 0, batch.index))[0]
    assert torch.allclose(mirrored.x, batch.x.flip(2, 3, 4), atol=1e-5)
    # Half the side, at the output's own resolution, around the middle: no interpolation.
    theta = warp.affine(
        torch.zeros(6, 3), torch.full((6, 3), 0.5), torch.zeros(6, 3, dtype=torch.bool), None, (16, 16, 16)
    )
    grid = F.affine_grid(theta, [6, 1, 8, 8, 8], align_corners=False)
    found = warp.sample(batch.x, grid, torch.zeros(1))
    assert torch.allclose(found, batch.x[:, :, 4:12, 4:12, 4:12], atol=1e-5)


def test_a_quarter_turn_is_rot90_also_in_oblong_volumes():
    torch.manual_seed(0)
    x = torch.randn(1, 1, 6, 10, 10)
    turn = warp.rotation(torch.tensor([[0.0, 0.0, np.pi / 2]], dtype=torch.float32))
    theta = warp.affine(
        torch.zeros(1, 3), torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool), turn, x.shape[2:]
    )
    found = warp.sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), torch.zeros(1))
    candidates = [torch.rot90(x, k, (a, b)) for k in (1, 3) for a, b in ((3, 4), (2, 3), (2, 4))]
    assert any(c.shape == found.shape and torch.allclose(c, found, atol=1e-4) for c in candidates)
    # An angle of 30 degrees keeps lengths in voxels, though the sides differ.
    matrix = warp.affine(
        torch.zeros(1, 3), torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool),
        warp.rotation(torch.tensor([[0.0, 0.0, np.pi / 6]], dtype=torch.float32)), (6, 10, 20),
    )[0, :, :3]  # fmt: skip
    sides = torch.tensor([20.0, 10.0, 6.0])
    in_voxels = matrix * sides[:, None] / sides[None]
    assert torch.allclose(in_voxels @ in_voxels.T, torch.eye(3), atol=1e-5)


def test_blur_equals_scipy():
    from scipy.ndimage import gaussian_filter

    torch.manual_seed(0)
    x = torch.randn(2, 1, 12, 12, 12)
    found = warp.blur(x, torch.tensor([1.0, 0.0]), 3)
    expected = gaussian_filter(x[0, 0].numpy(), 1.0, mode="nearest", radius=3)
    assert np.allclose(found[0, 0].numpy(), expected, atol=1e-4)
    assert torch.allclose(found[1], x[1])


def test_elastic_bends_are_smooth_and_of_the_told_size(patches, batch):
    field = warp.elastic(Draw(0, 0, torch.arange(500)), 4, 0.1, (8, 8, 8))
    assert field.shape == (500, 8, 8, 8, 3)
    assert float(field[:, 0, 0, 0].std()) == pytest.approx(0.1, rel=0.1)  # corners are control points
    assert float((field[:, 1:] - field[:, :-1]).std()) < 0.1


def test_cut_out_and_outside_are_background(patches, batch):
    shifted = batch.with_x(batch.x + 1.0)
    cut = views_of(patches, family="none", n_views=1, cut_out=2, cut_size=[0.3, 0.5])
    found = cut(shifted, Draw(0, 0, batch.index))[0].x
    share = (found == patches.spec.background[0]).float().mean(dim=(1, 2, 3, 4))
    assert bool((share > 0.02).all())
    assert bool((share < 0.5).all())


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_curves_are_monotonic(seed):
    x = torch.linspace(0, 1, 50).expand(4, 1, 50)
    found = curve(x, Draw(seed, 0, torch.arange(4)))[:, 0]
    steps = found[:, 1:] - found[:, :-1]
    rising, falling = (steps >= -1e-6).all(dim=1), (steps <= 1e-6).all(dim=1)
    assert bool((rising | falling).all())
    assert float(found.min()) >= -1e-6
    assert float(found.max()) <= 1 + 1e-6


def test_genesis_spoils_the_second_view_only(patches, batch):
    clean, spoilt = views_of(patches, "genesis", flip=0.0)(batch, Draw(0, 0, batch.index))
    assert torch.allclose(clean.x, batch.x)
    assert bool(((spoilt.x - clean.x).abs().amax(dim=(1, 2, 3, 4)) > 0.05).any())
    none = views_of(patches, "genesis", nonlinear=0.0, shuffle=0.0, paint=0.0, flip=0.0)
    assert torch.allclose(none(batch, Draw(0, 0, batch.index))[1].x, batch.x, atol=1e-6)


def test_turns_are_all_different_and_can_be_told(patches):
    torch.manual_seed(0)
    x = torch.randn(1, 1, 4, 4, 4).repeat(10, 1, 1, 1, 1)
    found = turned(x, torch.arange(10))
    assert torch.equal(found[0], x[0])
    assert torch.equal(found[4], torch.rot90(x[0], 1, (1, 3)))
    assert len({tuple(f.flatten().tolist()) for f in found}) == 10
    views = views_of(patches, "volume_rotation")
    assert views.target_width("rotation", patches.spec) == 10
    with pytest.raises(KeyError, match="'rotation', not"):
        views.target_width("crop", patches.spec)


def test_puzzles_can_be_put_together(patches, batch):
    views = views_of(patches, "volume_jigsaw", gap=0, scale=[1.0, 1.0])
    found = views(batch, Draw(0, 0, batch.index))[0]
    order = views.orders[found.params["permutation"]]
    back = views.shuffled(found.x, order.argsort(dim=1))
    assert torch.allclose(back, batch.x, atol=1e-6)
    assert views.target_width("permutation", patches.spec) == 100
    chosen = permutations(8, 100)
    assert len(torch.unique(chosen, dim=0)) == 100
    distance = (chosen[:, None] != chosen[None]).sum(dim=2) + 99 * torch.eye(100, dtype=torch.int64)
    assert int(distance.min()) >= 5
    assert len(permutations(3, 100)) == 6


def test_mistakes_end_in_sentences(patches, slices):
    with pytest.raises(ValueError, match=r"views.scale must be \[low, high\]"):
        views_of(patches, scale=[0.5, 2.0])
    with pytest.raises(ValueError, match=r"views.family must be one of"):
        views_of(patches, family="dinov9")
    with pytest.raises(ValueError, match=r"views.size must be 3 sides"):
        views_of(patches, size=[8, 8])
    with pytest.raises(ValueError, match=r"views.parts 3 does not divide samples"):
        views_of(patches, "volume_jigsaw", parts=3)
