"""Encoders: against literal forms, with masks, with missing persons, and back from disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ssl_domains.core import registry
from ssl_domains.core.masking import RandomMask
from ssl_domains.core.random import Draw
from ssl_domains.skeleton.encoders.bigru import PairedGRU
from ssl_domains.skeleton.encoders.stgcn import patches, spatial_partition
from ssl_domains.skeleton.known_layouts import LAYOUTS
from ssl_domains.skeleton.temporal import whole

SMALL = {
    "bigru": {"hidden": 8, "layers": 2},
    "stgcn": {"width": 4, "dropout": 0.0},
    "space_time_transformer": {"width": 16, "depth": 2, "heads": 2},
    "multi_stream": {"body": {"name": "bigru", "hidden": 4, "layers": 1}},
}


def make(name, source, **options):
    registry.scan_core()
    registry.load_domain("skeleton")
    torch.manual_seed(0)
    return registry.get("encoder", name)(source.spec, **{**SMALL.get(name, {}), **options})


@pytest.mark.parametrize("name", SMALL)
def test_one_sample_is_itself_within_a_batch(name, motions):
    encoder = make(name, motions).eval()
    several = encoder(motions.fetch([5, 0, 11]).x)
    alone = encoder(motions.fetch([0]).x)
    assert torch.allclose(several.pooled[1], alone.pooled[0], atol=1e-5)
    assert several.tokens.values.shape[1] == encoder.layout(None).n_tokens
    assert encoder.targets(motions.fetch([0]).x).values.shape[-1] == encoder.target_width
    assert several.pooled.shape[1] == encoder.pooled_width


@pytest.mark.parametrize("name", SMALL)
def test_hidden_tokens_are_not_seen(name, motions):
    encoder = make(name, motions).eval()
    batch = motions.fetch([1, 2])
    x = whole(batch.x, 64)
    mask = RandomMask(0.5)(encoder.layout(x), Draw(0, 0, batch.index))
    other = {**x, "points": x["points"].clone()}
    grid = encoder.layout(x).shape
    step = 64 // grid[0]
    hidden = mask.hidden.view(2, *grid)
    hidden = hidden if len(grid) == 2 else hidden[..., None].expand(-1, -1, 25)
    hidden = hidden.repeat_interleave(step, dim=1)[:, None, ..., None]
    other["points"] = torch.where(hidden, torch.randn_like(other["points"]), other["points"])
    streams = name == "multi_stream"  # motion and bone of a seen frame reach into hidden ones
    if not streams:
        assert torch.allclose(encoder(x, mask).pooled, encoder(other, mask).pooled, atol=1e-5)
    assert not torch.allclose(encoder(x).pooled, encoder(other).pooled, atol=1e-3)


def test_stepping_a_bidirectional_gru_is_two_forward_ones():
    """What the released code of HaLP does, frame by frame, with the same weights."""
    torch.manual_seed(0)
    ours, theirs = PairedGRU(6, 5, 2, backward=False), nn.GRU(6, 5, 2, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for layer in range(2):
            for side, end in (("first", ""), ("second", "_reverse")):
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    mine = getattr(getattr(ours, side)[layer], f"{name}_l0")
                    getattr(theirs, f"{name}_l{layer}{end}").copy_(mine)
    x, state, out = torch.randn(3, 7, 6), None, None
    for t in range(7):
        out, state = theirs(x[:, t : t + 1], state)
    assert torch.allclose(ours(x)[:, -1], out[:, 0], atol=1e-6)
    both = PairedGRU(6, 5, 2, backward=True)
    both.load_state_dict(ours.state_dict())
    assert torch.allclose(both(x), theirs(x)[0], atol=1e-6)


def test_partition_of_the_graph_by_hand():
    """A chain center - a - b: a's neighbours are nearer, itself, farther; columns sum to one."""
    from ssl_domains.skeleton.layouts import make as layout

    parts = spatial_partition(layout("chain", ["c", "a", "b"], {"a": "c", "b": "a"}), 0)
    assert np.allclose(parts.sum(0).sum(0), 1.0)
    assert np.allclose(parts[0], np.diag([1 / 2, 1 / 3, 1 / 2]))
    assert np.allclose(parts[1], [[0, 1 / 3, 0], [0, 0, 1 / 2], [0, 0, 0]])
    assert np.allclose(parts[2], [[0, 0, 0], [1 / 2, 0, 0], [0, 1 / 3, 0]])
    body = spatial_partition(LAYOUTS["ntu-25"], 20)
    assert np.allclose(body.sum(0).sum(0), 1.0)


def test_patches_are_frames_of_one_joint():
    clip = torch.arange(2 * 3 * 8 * 5 * 1.0).reshape(2, 3, 8, 5, 1)
    cut = patches(clip, 4)
    assert cut.shape == (2, 10, 12)
    assert torch.equal(cut[1, 1 * 5 + 2].view(4, 3), clip[1, :, 4:8, 2, 0].T)


def test_absent_persons_do_not_count(clips):
    from ssl_domains.skeleton.domain import SkeletonDomain

    x = np.random.default_rng(0).normal(size=(4, 3, 64, 25, 2)).astype(np.float32)
    x[..., 1] = 0.0  # nobody beside the first
    two = SkeletonDomain().open(clips("a.npz", x), normalize="none")
    one = SkeletonDomain().open(clips("b.npz", x[..., :1]), normalize="none")
    encoder = make("stgcn", two).eval()
    lone = make("stgcn", one).eval()
    lone.load_state_dict(encoder.state_dict())
    a, b = encoder(two.fetch([0, 1]).x).pooled, lone(one.fetch([0, 1]).x).pooled
    assert torch.allclose(a, b, atol=1e-4)


def test_device_conv_pools_its_device(wearables):
    encoder = make("device_conv", wearables, device="chest").eval()
    batch = wearables.fetch([0, 1])
    found = encoder(batch.x)
    assert torch.equal(found.pooled, found.tokens.values[:, 2])
    others = {**batch.x, "points": batch.x["points"].clone()}
    others["points"][:, :, :, [0, 1, 3, 4, 5]] = 7.0
    assert torch.allclose(encoder(others).pooled, found.pooled, atol=1e-6)


def test_confidence_as_a_channel(motions):
    plain, with_ = make("bigru", motions), make("bigru", motions, confidence=True)
    assert with_.target_width == plain.target_width + 25
    assert with_(motions.fetch([0, 1]).x).pooled.shape == (2, 16)


def test_bfloat16_and_no_grad_leaks(motions):
    encoder = make("space_time_transformer", motions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder(motions.fetch([0, 1]).x).pooled.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("bigru", {"stream": "speed"}, "encoder.stream must be"),
        ("space_time_transformer", {"patch": 7}, "does not divide the 64 frames"),
        ("multi_stream", {"streams": ["joint", "joint"]}, "must be different"),
        ("multi_stream", {"body": {"name": "bigru", "size": 3}}, "encoder.body"),
        ("bigru", {"centre": 0.0}, "encoder.centre"),
    ],
)
def test_bad_options(name, options, said, motions):
    with pytest.raises(ValueError, match=said):
        make(name, motions, **options)


def test_bad_options_of_sensors(wearables):
    with pytest.raises(ValueError, match="no device 'knee'"):
        make("device_conv", wearables, device="knee")
    with pytest.raises(ValueError, match="too few for kernels"):
        make("device_conv", wearables, kernels=(40, 16, 8))
    with pytest.raises(ValueError, match="has no bones"):
        make("bigru", wearables, stream="bone")
    with pytest.raises(ValueError, match="needs bones"):
        make("stgcn", wearables)
