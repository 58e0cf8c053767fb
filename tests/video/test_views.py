"""Views: one draw for all frames of a clip, times that fit the window, pretext classes that match what was
done."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.batch import Batch
from ssl_domains.core.parts.colour import Jitter, blur, colour_jitter
from ssl_domains.core.parts.resample import resample
from ssl_domains.core.random import Draw
from ssl_domains.video.ordering import ClipOrder, ClipSpeed
from ssl_domains.video.pixels import blur_clips, colour_clips, pick, resample_clips
from ssl_domains.video.spec import VideoSpec
from ssl_domains.video.views import FAMILIES, ClipAndFrames, ClipAugment


def spec(frames=4, size=16, window=None, channels=3):
    return VideoSpec(frames, (size, size), channels, (0.5,) * channels, (0.2,) * channels, window or frames)


def batch(n=3, frames=4, size=16, channels=3, counting=False):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, frames, size, size, channels), generator=generator, dtype=torch.uint8)
    if counting:  # frame t is grey of value t
        x = torch.arange(frames, dtype=torch.uint8)[None, :, None, None, None].expand_as(x).contiguous()
    return Batch(x.permute(0, 4, 1, 2, 3), torch.arange(n))


def still(n=3, frames=4, size=16):
    """All frames of a clip alike."""
    x = batch(n, 1, size).x.expand(-1, -1, frames, -1, -1).contiguous()
    return Batch(x, torch.arange(n))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [12, 72])
def test_all_frames_of_a_clip_get_the_same(family, size):
    """A clip that stands still stands still in its views, on both ways of resampling."""
    for view in ClipAugment(spec(size=16), family, size=size)(still(), Draw(0, 0, torch.arange(3))):
        assert view.x.shape == (3, 3, 4, size, size)
        assert float(view.x.min()) >= 0
        assert float(view.x.max()) <= 1
        assert torch.allclose(view.x, view.x[:, :, :1].expand_as(view.x), atol=1e-6)


@pytest.mark.parametrize("size", [12, 72])
def test_frames_are_cropped_as_images_are(size):
    b, box = batch(), torch.tensor([[0, 0, 16, 16], [2, 3, 9, 7], [1, 0, 4, 16]])
    flip = torch.tensor([True, False, True])
    found = resample_clips(b.x, box, flip, (size, size))
    for t in range(4):
        wanted = resample(b.x[:, :, t].contiguous(), box, flip, (size, size))
        assert torch.allclose(found[:, :, t], wanted, atol=1e-2 if size == 72 else 1e-5)


def test_colours_and_blur_are_those_of_images():
    x = batch().x.float().div(255).contiguous()
    chosen = torch.tensor([True, True, False])
    factors, order = torch.tensor([[0.8, 1.0, 1.3]] * 3), torch.tensor([[0, 1, 2, 3]] * 3)
    jitter = Jitter(factors, torch.tensor([0.1] * 3), order)
    coloured, blurred = x.clone(), x.clone()
    colour_clips(coloured, jitter, chosen)  # with contrast left alone, frames go one by one as images
    blur_clips(blurred, torch.tensor([1.0, 0.5, 1.0]), chosen, 3)
    for t in range(4):
        wanted = colour_jitter(x[:, :, t].contiguous().clone(), jitter, chosen)
        assert torch.allclose(coloured[:, :, t], wanted, atol=1e-5)
        wanted = blur(x[:, :, t].contiguous().clone(), torch.tensor([1.0, 0.5, 1.0]), chosen, 3)
        assert torch.allclose(blurred[:, :, t], wanted, atol=1e-5)
    assert torch.equal(coloured[2], x[2])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 6), st.integers(0, 9))
def test_times_fit_the_window(frames, high, spare, seed):
    window = (frames - 1) * high + 1 + spare
    views = ClipAugment(spec(frames, window=window), "mae", 1, step=(1, high))
    time = views.times(batch(40, window), Draw(seed, 0, torch.arange(40)))
    assert time.min() >= 0
    assert time.max() < window
    if frames > 1:
        step = time.diff(dim=1)
        assert (step == step[:, :1]).all()
        assert set(step.unique().tolist()) <= set(range(1, high + 1))


def test_a_view_shows_the_frames_that_it_records():
    views = ClipAugment(spec(3, window=9), "mae", step=(1, 3))
    for view in views(batch(8, 9, counting=True), Draw(0, 0, torch.arange(8))):
        shown = (view.x.mean(dim=(1, 3, 4)) * 255).round().long()
        assert torch.equal(shown, view.params["time"])
        assert torch.equal(view.params["step"], view.params["time"][:, 1] - view.params["time"][:, 0])


def test_views_of_other_times_and_of_the_same():
    data, draw = batch(30, 12, counting=True), Draw(0, 0, torch.arange(30))
    apart = ClipAugment(spec(3, window=12), "mae")(data, draw)
    together = ClipAugment(spec(3, window=12), "mae", same_time=True)(data, draw)
    assert (apart[0].params["time"] != apart[1].params["time"]).any()
    assert torch.equal(together[0].params["time"], together[1].params["time"])


def test_a_sample_gets_the_same_view_in_any_batch():
    views = ClipAugment(spec(3, window=6), "byol")
    data = batch(4, 6)
    some = Batch(data.x[[2, 0]], data.index[[2, 0]])
    whole = views(data, Draw(3, 5, data.index))
    part = views(some, Draw(3, 5, some.index))
    for a, b in zip(whole, part, strict=True):
        assert torch.allclose(a.x[[2, 0]], b.x, atol=1e-6)


def test_one_channel():
    for view in ClipAugment(spec(channels=1), "simclr")(batch(channels=1), Draw(0, 0, torch.arange(3))):
        assert view.x.shape == (3, 1, 4, 16, 16)


def test_clip_and_frames_belong_together():
    views = ClipAndFrames(spec(4, window=8), n_frames=2)
    made = views(batch(6, 8, counting=True), Draw(0, 0, torch.arange(6)))
    assert [v.role for v in made] == ["clip", "clip", "frames", "frames"]
    assert made[0].x.shape == (6, 3, 4, 16, 16)
    assert made[2].x.shape == (6, 3, 2, 16, 16)
    clip, frames = made[0].params["time"], made[2].params["time"]
    assert torch.equal(clip, made[1].params["time"])
    assert torch.equal(frames, made[3].params["time"])
    assert (frames[:, :, None] == clip[:, None]).any(dim=2).all(), "frames come out of the clip"
    assert (frames[:, 0] != frames[:, 1]).all()
    shown = (made[2].x.mean(dim=(1, 3, 4)) * 255).round().long()
    assert torch.equal(shown, frames)
    assert not torch.equal(made[0].params["crop"], made[2].params["crop"])
    assert (made[0].params["jitter"] == torch.tensor([1.0, 1.0, 1.0, 0.0])).all(), "the first is plain"


def test_order_is_the_permutation_that_is_shown():
    views = ClipOrder(spec(6, window=10), parts=3, gap=2, family="mae")
    assert views.target_width("order", None) == 6
    view = views(batch(40, 10, counting=True), Draw(0, 0, torch.arange(40)))[0]
    shown = (view.x.mean(dim=(1, 3, 4)) * 255).round().long()  # [B, 6]
    order = views.orders[view.params["order"]]  # [B, 3]
    starts = shown[:, ::2]
    assert (shown[:, 1::2] == starts + 1).all(), "within a part time runs on"
    assert torch.equal(starts.argsort(dim=1).argsort(dim=1), order), "parts come in the recorded order"
    assert (starts.sort(dim=1).values.diff(dim=1) == 4).all(), "two frames and a gap of two"
    assert len(view.params["order"].unique()) == 6


def test_the_arrow_of_time():
    views = ClipOrder(spec(4), reverse=True, family="mae")
    view = views(batch(20, counting=True), Draw(0, 0, torch.arange(20)))[0]
    shown = (view.x.mean(dim=(1, 3, 4)) * 255).round().long()
    forward = (shown.diff(dim=1) > 0).all(dim=1)
    assert torch.equal(view.params["order"] == 0, forward)
    assert (shown.diff(dim=1).abs() == 1).all()


def test_speed_is_the_step_that_is_shown():
    views = ClipSpeed(spec(3, window=9), speeds=(1, 2, 4), n_views=2, family="mae")
    assert views.target_width("speed", None) == 3
    for view in views(batch(30, 9, counting=True), Draw(0, 0, torch.arange(30))):
        shown = (view.x.mean(dim=(1, 3, 4)) * 255).round().long()
        speed = torch.tensor([1, 2, 4])[view.params["speed"]]
        assert (shown.diff(dim=1) == speed[:, None]).all()


def test_pick_keeps_the_memory_order():
    x = batch(2, 5).x
    found = pick(x, torch.tensor([[0, 4], [3, 1]]))
    assert torch.equal(found[1, :, 0], x[1, :, 3])
    assert found.stride(1) == 1, "channels last, which the 8-bit kernel wants"


def test_wrong_options():
    for make, sentence in (
        (lambda: ClipAugment(spec(), "hsv"), "views.family must be one of"),
        (lambda: ClipAugment(spec(4, window=6), step=(1, 3)), "set data.window=10"),
        (lambda: ClipAugment(spec(), grey=2.0), "share of the samples"),
        (lambda: ClipAugment(spec(), scale=(0.9, 0.1)), "low <= high"),
        (lambda: ClipOrder(spec(4), gap=1), "set data.window=6"),
        (lambda: ClipOrder(spec(2), parts=3), "no order of 3 parts"),
        (lambda: ClipSpeed(spec(4)), "data.window=13"),
        (lambda: ClipAndFrames(spec(4), n_frames=5), "1 to the clip's 4 frames"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make()
    with pytest.raises(KeyError, match="record 'speed', not 'order'"):
        ClipSpeed(spec(4, window=13)).target_width("order", None)
