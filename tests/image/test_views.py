"""Views: every operation against torchvision's, boxes, families, independence of the batch."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.batch import Batch
from ssl_domains.core.parts import resample as resampling
from ssl_domains.core.parts.colour import Jitter, blur, colour_jitter, shift_hue, solarise, to_grey
from ssl_domains.core.parts.resample import draw_boxes, resample
from ssl_domains.core.random import Draw
from ssl_domains.image.spec import ImageSpec
from ssl_domains.image.views import FAMILIES, ImageAugment, ImageRotation, rotate

from .conftest import pattern

SPEC = ImageSpec((24, 24), 3, (0.5,) * 3, (0.25,) * 3)


def batch(n: int = 6, size: int = 24, channels: int = 3) -> Batch:
    x = torch.from_numpy(np.stack([pattern(size, size, i, channels) for i in range(n)])).permute(0, 3, 1, 2)
    return Batch(x, torch.arange(n) + 100)


BOXES = torch.tensor(
    [[0, 0, 24, 24], [3, 5, 10, 12], [20, 1, 4, 20], [7, 7, 1, 1], [0, 12, 24, 5], [2, 3, 9, 6]]
)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(24, 24), (9, 15), (40, 30)])
def test_crops_are_those_of_torchvision(interpolation, size):
    """Shrinking (with antialiasing), growing, both filters, mirrored or not."""
    x = batch().x
    flip = torch.tensor([False, True, False, True, True, False])
    found = resample(x, BOXES, flip, size, interpolation)
    mode = {"bilinear": tvf.InterpolationMode.BILINEAR, "bicubic": tvf.InterpolationMode.BICUBIC}[
        interpolation
    ]
    for i, (top, left, height, width) in enumerate(BOXES.tolist()):
        box = (top, left, height, width)
        expected = tvf.resized_crop(x[i].float() / 255, *box, list(size), mode, antialias=True)
        expected = expected.clamp(0, 1)
        expected = expected.flip(-1) if flip[i] else expected
        torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_two_ways_of_cropping_agree(channels, monkeypatch):
    """8-bit crops one by one, and the products that a GPU takes: equal but for rounding to 8 bits."""
    x = batch(channels=channels).x
    flip = torch.tensor([True, False] * 3)
    products = resample(x, BOXES, flip, (20, 28))
    monkeypatch.setattr(resampling, "LOOP_FROM", 1)
    single = resample(x, BOXES, flip, (20, 28))
    assert not torch.equal(single, products)
    torch.testing.assert_close(single, products, atol=1.01 / 255, rtol=0)


def jitter(n, order=None):
    generator = torch.Generator().manual_seed(3)
    factors = 0.2 + 1.6 * torch.rand(n, 3, generator=generator)
    hue = torch.rand(n, generator=generator) - 0.5
    orders = torch.stack([torch.randperm(4, generator=generator) for _ in range(n)])
    return Jitter(factors, hue, orders if order is None else torch.tensor([order] * n))


def test_colour_jitter_is_torchvisions_in_each_images_own_order():
    x = batch(12).x.float() / 255
    p = jitter(12)
    chosen = torch.tensor([True] * 9 + [False] * 3)
    found = colour_jitter(x.clone(), p, chosen)
    steps = [tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue]
    assert len({tuple(o) for o in p.order.tolist()}) > 6
    for i in range(12):
        expected = x[i]
        for number in p.order[i].tolist() if chosen[i] else []:
            value = float(p.hue[i] if number == 3 else p.factors[i, number])
            expected = steps[number](expected, value)
        torch.testing.assert_close(found[i], expected, atol=2e-5, rtol=0)


def test_the_way_of_a_gpu_gives_the_same(monkeypatch):
    """Without looking at parameters all images go through the same operations, most of them neutral."""
    from ssl_domains.core.parts import colour

    x = batch(12).x.float() / 255
    p, chosen = jitter(12), torch.arange(12) % 3 > 0
    expected = colour_jitter(x.clone(), p, chosen)
    at = (p.order == colour.HUE).int().argmax(dim=1)
    factors = torch.where(chosen[:, None], p.factors, torch.ones(()))
    neutral = Jitter(factors, torch.where(chosen, p.hue, torch.zeros(())), p.order)
    dense = colour._jitter(x.clone(), neutral, 3, 3, at)
    torch.testing.assert_close(dense, expected, atol=2e-6, rtol=0)


@given(st.floats(-0.5, 0.5), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_hue_is_torchvisions(turns, seed):
    x = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    x[0, :, 0] = 0.4  # grey has no hue
    x[0, :, 1] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    found = shift_hue(x, torch.tensor([turns]))
    torch.testing.assert_close(found, tvf.adjust_hue(x, turns), atol=3e-5, rtol=0)


def test_a_whole_turn_of_the_hue_changes_nothing():
    x = torch.rand(2, 3, 5, 5)
    torch.testing.assert_close(shift_hue(x, torch.tensor([1.0, -1.0])), x, atol=1e-5, rtol=0)


def test_grey_blur_and_solarise_are_torchvisions():
    x = batch().x.float() / 255
    chosen = torch.tensor([True, False, True, True, False, True])
    sigma = torch.tensor([0.3, 1.0, 2.0, 1.1, 0.5, 0.1])
    grey = to_grey(x.clone(), chosen)
    soft = blur(x.clone(), sigma, chosen, 6)
    sun = solarise(x.clone(), chosen)
    for i in range(6):
        if not chosen[i]:
            assert torch.equal(grey[i], x[i])
            assert torch.equal(soft[i], x[i])
            assert torch.equal(sun[i], x[i])
            continue
        torch.testing.assert_close(grey[i], tvf.rgb_to_grayscale(x[i], 3), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            soft[i], tvf.gaussian_blur(x[i], [13, 13], [float(sigma[i])] * 2), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(sun[i], tvf.solarize(x[i], 128 / 255), atol=1e-6, rtol=0)


def test_blur_of_tiny_images():
    assert blur(torch.rand(2, 3, 1, 5), torch.ones(2), torch.ones(2, dtype=torch.bool), 6).shape == (
        2,
        3,
        1,
        5,
    )


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)).map(sorted),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_boxes_lie_within_the_image(size, scale, seed):
    box = draw_boxes(Draw(seed, 0, torch.arange(32)), size, None, tuple(scale), (3 / 4, 4 / 3))
    assert (box[:, :2] >= 0).all()
    assert (box[:, 2:] >= 1).all()
    assert (box[:, 0] + box[:, 2] <= size[0]).all()
    assert (box[:, 1] + box[:, 3] <= size[1]).all()


def test_boxes_have_the_area_and_aspect_asked_for():
    box = draw_boxes(Draw(0, 0, torch.arange(4000)), (200, 200), None, (0.1, 0.6), (0.5, 2.0)).double()
    share = box[:, 2] * box[:, 3] / 200**2
    aspect = box[:, 3] / box[:, 2]
    assert share.min() > 0.09
    assert share.max() < 0.61
    assert share.mean() == pytest.approx(0.35, abs=0.02)
    assert aspect.log().mean().abs() < 0.05
    assert aspect.min() > 0.48
    assert aspect.max() < 2.05


def test_a_box_that_never_fits_is_the_middle():
    box = draw_boxes(Draw(0, 0, torch.arange(3)), (10, 100), None, (1.0, 1.0), (3 / 4, 4 / 3))
    assert box.tolist() == [[0, 43, 10, 13]] * 3


def test_squeezed_images_give_undistorted_crops():
    """A 10 x 40 image kept as 20 x 20: a square crop of it is twice as high as wide in the pixels kept."""
    shape = torch.tensor([[10, 40]] * 500)
    box = draw_boxes(Draw(0, 0, torch.arange(500)), (20, 20), shape, (0.1, 0.2), (1.0, 1.0)).double()
    true = box[:, 2:] * torch.tensor([10 / 20, 40 / 20])
    assert (true[:, 0] / true[:, 1]).log().abs().mean() < 0.15


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_families(family, channels):
    spec = ImageSpec((24, 24), channels, (0.5,) * channels, (0.25,) * channels)
    views = ImageAugment(spec, family)
    made = views(batch(channels=channels), Draw(0, 0, torch.arange(6) + 100))
    assert len(made) == views.n_views == 2 + FAMILIES[family].n_local
    for view in made:
        side = 24 if view.role == "global" else 10
        assert view.x.shape == (6, channels, side, side)
        assert view.x.dtype == torch.float32
        assert view.x.min() >= 0
        assert view.x.max() <= 1
        assert all(len(value) == 6 for value in view.params.values())


def test_recorded_parameters_say_what_was_done():
    views = ImageAugment(SPEC, "byol")
    b = batch(64)
    first, second = views(b, Draw(1, 2, b.index))
    assert (first.params["blur"] > 0).all()  # BYOL blurs every first view, a tenth of the second ones
    assert 0 < (second.params["blur"] > 0).float().mean() < 0.4
    assert not first.params["solarise"].any()
    assert second.params["solarise"].any()
    box = (second.params["crop"] * 24).round().long()
    plain = (second.params["jitter"] == torch.tensor([1.0, 1, 1, 0])).all(1) & ~second.params["grey"]
    plain &= (second.params["blur"] == 0) & ~second.params["solarise"]
    assert plain.any()
    expected = resample(b.x, box, second.params["flip"], (24, 24), "bicubic")
    torch.testing.assert_close(second.x[plain], expected[plain])


def test_a_view_depends_on_seed_step_and_sample_alone():
    views = ImageAugment(SPEC, "dino")
    b = batch(8)
    whole = views(b, Draw(0, 5, b.index))
    part = Batch(b.x[[6, 1]], b.index[[6, 1]])
    for one, other in zip(whole, views(part, Draw(0, 5, part.index)), strict=True):
        torch.testing.assert_close(one.x[[6, 1]], other.x, atol=1e-6, rtol=0)
    assert not torch.equal(whole[0].x, views(b, Draw(0, 6, b.index))[0].x)
    assert not torch.equal(whole[0].x, whole[1].x)


def test_pieces_of_a_batch_change_nothing(monkeypatch):
    from ssl_domains.core.parts import style as module

    views, b = ImageAugment(SPEC, "simclr"), batch(10)
    whole = views(b, Draw(0, 0, b.index))[0].x
    monkeypatch.setattr(module, "CHUNK_BYTES", 2 * 4 * 3 * 24 * 24)
    torch.testing.assert_close(views(b, Draw(0, 0, b.index))[0].x, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_floating_input_keeps_its_type(dtype):
    views, b = ImageAugment(SPEC, "byol"), batch()
    eight_bit = views(b, Draw(0, 0, b.index))
    floats = views(b.with_x((b.x.float() / 255).to(dtype)), Draw(0, 0, b.index))
    for one, other in zip(eight_bit, floats, strict=True):
        assert other.x.dtype == dtype
        assert (one.x - other.x.float()).abs().mean() < 0.02


def test_autocast_does_not_touch_the_pixels():
    views, b = ImageAugment(SPEC, "simclr"), batch()
    plain = views(b, Draw(0, 0, b.index))[0].x
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(views(b, Draw(0, 0, b.index))[0].x, plain)


@pytest.mark.parametrize(
    "options",
    [
        {"family": "simsiam"},
        {"n_views": 0},
        {"scale": (0.5, 0.2)},
        {"scale": (0.5, 1.2)},
        {"grey": 1.5},
        {"strength": -1},
        {"local_views": 2},
        {"ratio": (0, 1)},
    ],
)
def test_options_that_cannot_be(options):
    with pytest.raises(ValueError, match="views"):
        ImageAugment(SPEC, **options)


def test_rotation_turns_as_it_says():
    b = batch(40)
    views = ImageRotation(SPEC, copies=4, scale=(1.0, 1.0), flip=0.0)
    made = views(b, Draw(0, 0, b.index))
    seen = torch.stack([view.params["rotation"] for view in made])
    assert (seen.sort(dim=0).values == torch.arange(4)[:, None]).all()  # every image once in each rotation
    for view in made:
        assert len(view.params["rotation"].unique()) == 4  # and no view has a rotation of its own
        box = (view.params["crop"] * 24).round().long()
        for i in range(40):
            upright = torch.rot90(view.x[i], -int(view.params["rotation"][i]), (1, 2))
            torch.testing.assert_close(upright, resample(b.x[i : i + 1], box[i : i + 1], None, (24, 24))[0])
    assert views.target_width("rotation", SPEC) == 4
    with pytest.raises(KeyError, match="'rotation', not 'crop'"):
        views.target_width("crop", SPEC)


def test_four_quarters_are_none():
    x = torch.rand(4, 3, 6, 6)
    turns = torch.arange(4)
    assert torch.equal(rotate(rotate(x, turns), (4 - turns) % 4), x)
