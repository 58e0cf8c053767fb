"""Views and masks: what each operation does, by its own definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssl_domains.core.errors import DataError
from ssl_domains.core.layout import Grid
from ssl_domains.core.random import Draw
from ssl_domains.skeleton.masks import BodyPartMask
from ssl_domains.skeleton.temporal import bone, motion, resample, stream, whole
from ssl_domains.skeleton.views import BodyAugment, rotation_matrices, turn

OFF = {"crop": None, "shear": 0.0, "corrupt": 0.0}


def one(source, rows=range(12), **options):
    batch = source.fetch(list(rows))
    view = BodyAugment(source.spec, **{**OFF, **options})(batch, Draw(0, 1, batch.index))[0]
    plain = whole(batch.x, source.spec.frames)
    return view, plain


def test_resampling_is_that_of_interpolate():
    x = torch.randn(2, 3, 20, 5, 1)
    sure = torch.ones(2, 20, 5, 1)
    made = resample({"points": x, "confidence": sure}, torch.tensor([0, 4]), torch.tensor([20, 11]), 16)
    for b, (start, span) in enumerate(((0, 20), (4, 11))):
        flat = x[b, :, start : start + span].permute(0, 2, 3, 1).reshape(1, -1, span)
        wanted = F.interpolate(flat, size=16, mode="linear", align_corners=False)
        wanted = wanted.reshape(3, 5, 1, 16).permute(0, 3, 1, 2)
        assert torch.allclose(made["points"][b], wanted, atol=1e-5)
    assert torch.allclose(made["confidence"], torch.ones_like(made["confidence"]))


def test_missing_points_do_not_leak_into_their_neighbours_in_time():
    x = torch.ones(1, 1, 8, 1, 1) * 5.0
    sure = torch.ones(1, 8, 1, 1)
    x[:, :, 3:5], sure[:, 3:5] = 0.0, 0.0
    made = resample({"points": x, "confidence": sure}, torch.tensor([0]), torch.tensor([8]), 32)
    values = made["points"].flatten()
    assert set(values.unique().tolist()) == {0.0, 5.0}
    assert torch.equal(values > 0, made["confidence"].flatten() > 0)


def test_streams_by_hand(motions):
    x = whole(motions.fetch([0, 1]).x, 64)
    points, parents = x["points"], motions.spec.layout.parents
    for v, p in enumerate(parents):
        wanted = points[:, :, :, v] - points[:, :, :, p] if p >= 0 else torch.zeros_like(points[:, :, :, v])
        assert torch.equal(bone(points, parents)[:, :, :, v], wanted)
    assert torch.equal(motion(points)[:, :, :-1], points.diff(dim=2))
    assert (motion(points)[:, :, -1] == 0).all()
    x["confidence"][:, 10, 5] = 0.0
    moved, bones = stream(x, "motion", parents), stream(x, "bone", parents)
    assert (moved[:, :, 9:11, 5] == 0).all()
    assert (bones[:, :, 10, [5, 6]] == 0).all()  # elbow, and the wrist that hangs on it


def test_rotation_keeps_lengths_and_turns_everything_alike(motions):
    view, plain = one(motions, rotate=90.0, combine="all")
    a, b = view.x["points"], plain["points"]
    assert torch.allclose(a.norm(dim=1), b.norm(dim=1), atol=1e-4)
    assert not torch.allclose(a, b, atol=0.1)
    lengths = [(p[:, :, :, 5] - p[:, :, :, 6]).norm(dim=1) for p in (a, b)]
    assert torch.allclose(*lengths, atol=1e-4)
    about_z = rotation_matrices(torch.tensor([0.0, 0.0, math.pi / 2]))
    assert torch.allclose(about_z @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6)


def test_each_device_turns_by_itself_with_all_its_vectors(wearables):
    view, plain = one(wearables, rotate=180.0, combine="all")
    a, b = view.x["points"], plain["points"]
    for axes in ([0, 1, 2], [3, 4, 5]):
        assert torch.allclose(a[:, axes].norm(dim=1), b[:, axes].norm(dim=1), atol=1e-4)
    acc = [torch.linalg.lstsq(b[0, :3, :, v, 0].T, a[0, :3, :, v, 0].T).solution for v in (0, 1)]
    gyr = torch.linalg.lstsq(b[0, 3:, :, 0, 0].T, a[0, 3:, :, 0, 0].T).solution
    assert torch.allclose(acc[0], gyr, atol=1e-3)
    assert not torch.allclose(acc[0], acc[1], atol=0.05)


def test_shear_scale_jitter(motions):
    view, plain = one(motions, shear=1.0, combine="all")
    a, b = view.x["points"][3].flatten(1), plain["points"][3].flatten(1)
    matrix = torch.linalg.lstsq(b.T, a.T).solution.T
    assert torch.allclose(matrix.diagonal(), torch.ones(3), atol=1e-3)
    assert matrix.abs().max() <= 1.001
    view, plain = one(motions, scale=(0.5, 2.0), combine="all")
    factor = (view.x["points"].flatten(1).norm(dim=1) / plain["points"].flatten(1).norm(dim=1)).numpy()
    assert factor.min() > 0.5
    assert factor.max() < 2.0
    assert np.ptp(factor) > 0.2
    view, plain = one(motions, jitter=0.1, combine="all")
    assert float((view.x["points"] - plain["points"]).std()) == pytest.approx(0.1, abs=0.005)


def test_mirror_image_swaps_the_sides(motions):
    view, plain = one(motions, flip=1.0, combine="all")
    a, b = view.x["points"], plain["points"]
    left, right = motions.spec.layout.pairs[0]
    assert torch.equal(a[:, 1:, :, left], b[:, 1:, :, right])
    assert torch.equal(a[:, 0, :, left], -b[:, 0, :, right])
    with pytest.raises(ValueError, match="no mirror image"):
        BodyAugment(None, flip=0.5)


def test_corruption_of_15_of_25_joints(motions):
    view, plain = one(motions, range(32), corrupt=0.6, combine="all")
    which = view.params["corrupted"]
    assert (which.sum(1) == 15).all()
    a, b = view.x["points"], plain["points"]
    kept = (~which)[:, None, None, :, None].expand_as(a)
    assert torch.equal(a[kept], b[kept])
    zeroed = 0
    for row in range(32):
        bad, good = a[row][:, :, which[row]], b[row][:, :, which[row]]
        if (bad == 0).all():
            zeroed += 1
            assert (view.x["confidence"][row][:, which[row]] == 0).all()
            continue
        matrix = torch.linalg.lstsq(good.flatten(1).T, bad.flatten(1).T).solution.T
        assert torch.allclose(matrix @ good.flatten(1), bad.flatten(1), atol=1e-3)
        assert matrix.abs().max() <= 1.01
    assert 8 <= zeroed <= 24


def test_one_operation_a_sample(motions):
    view, plain = one(motions, range(32), shear=1.0, corrupt=0.6, combine="one")
    corrupted = view.params["corrupted"].any(1)
    assert 6 <= int(corrupted.sum()) <= 26
    same = (view.x["points"] == plain["points"]).flatten(2).all(2).all(1)
    assert not same.any()


def test_crops_lie_within_the_real_frames(motions):
    """A ramp in time shows where a crop begins and ends."""
    batch = motions.fetch(list(range(30)))
    time = torch.arange(batch.x["points"].shape[2], dtype=torch.float32)
    batch.x["points"] = time[None, None, :, None, None].expand_as(batch.x["points"]).clone()
    views = BodyAugment(motions.spec, crop=(0.1, 1.0), min_frames=40, shear=0.0, corrupt=0.0)
    ramp = views(batch, Draw(0, 0, batch.index))[0].x["points"][:, 0, :, 0, 0]
    assert ramp.shape == (30, 64)
    length = batch.x["length"].float()
    assert (ramp[:, -1] <= length - 1).all()
    span = ramp[:, -1] - ramp[:, 0]
    assert (span >= 38.4).all()  # 40 frames, whose corners are not aligned
    assert span.std() > 3
    short = BodyAugment(motions.spec, min_frames=500, shear=0.0, corrupt=0.0)(batch, Draw(0, 0, batch.index))[
        0
    ].x["points"]
    assert abs(short[0, 0, -1, 0, 0] - (length[0] - 1)) < 1  # a clip shorter than the crop is taken whole


def test_views_do_not_depend_on_the_batch(motions):
    views = BodyAugment(motions.spec, rotate=20, jitter=0.1, scale=(0.9, 1.1), combine="all")
    whole_, part = motions.fetch([4, 9, 2]), motions.fetch([9])
    a = views(whole_, Draw(5, 7, whole_.index))[1].x["points"][1]
    b = views(part, Draw(5, 7, part.index))[1].x["points"][0]
    assert torch.allclose(a, b, atol=1e-5)


def test_options_out_of_range():
    for options, said in (
        ({"crop": (0.0, 1.0)}, "views.crop"),
        ({"scale": (2.0, 1.0)}, "views.scale"),
        ({"corrupt": 2.0}, "views.corrupt"),
        ({"jitter": -1.0}, "cannot be negative"),
        ({"combine": "some"}, "views.combine"),
    ):
        with pytest.raises(ValueError, match=said):
            BodyAugment(None, **options)


def test_parts_are_hidden_whole(motions):
    spec = motions.spec
    mask = BodyPartMask(spec, ratio=0.5, span=4)
    made = mask(Grid((16, 25)), Draw(0, 0, torch.arange(20)))
    hidden = made.hidden.view(20, 4, 4, 25)
    assert (made.hidden.sum(1) == 200).all()
    broken = 0
    for _, places in spec.layout.parts:
        share = hidden[..., list(places)].float().mean((2, 3))
        broken += int(((share > 0) & (share < 1)).sum())
    assert broken <= 20  # one pair a sample may be cut
    assert torch.equal(made.hidden.sum(1) + made.context.shape[1], torch.full((20,), 400))
    tubes = BodyPartMask(spec, ratio=0.4)(Grid((16, 25)), Draw(0, 0, torch.arange(4))).hidden.view(4, 16, 25)
    assert (tubes.float().mean(1) > 0.99).any()
    with pytest.raises(DataError, match="grid of time and points"):
        mask(Grid((16,)), Draw(0, 0, torch.arange(4)))


def test_turn_of_planar_vectors():
    x = torch.randn(3, 2, 4, 5, 1)
    matrix = rotation_matrices(torch.tensor([0.0, 0.0, 0.7])).expand(3, 1, 3, 3)
    assert torch.allclose(turn(x, matrix, ((0, 1),)).norm(dim=1), x.norm(dim=1), atol=1e-5)
