"""The brain decoder's parts (arXiv 2208.12266): attention over places, subjects, convolutions, scaling,
splits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core import registry
from ssl_domains.core.errors import DataError
from ssl_domains.core.objectives.contrastive import InfoNCE
from ssl_domains.crossmodal.brain import BrainConv, SpatialAttention, fourier
from ssl_domains.crossmodal.recordings import unit_square
from ssl_domains.crossmodal.signals import SignalSpec, segment
from ssl_domains.recipe.build import open_source
from ssl_domains.recipe.check import read_recipe
from ssl_domains.recipe.loading import read_yaml
from ssl_domains.recipe.locate import find_recipe


def spec(**changes):
    plain = {"channels": 6, "rate": 40.0, "length": 50, "subjects": ("x", "y"), "scaling": "none"}
    plain |= {"baseline": 0.0, "clamp": 0.0, "trim": (0.0, 0.0), "positioned": True}
    return SignalSpec(**(plain | changes))


def inputs(n=4, channels=6, length=50, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "signal": torch.randn(n, channels, length, generator=g),
        "positions": torch.rand(n, channels, 2, generator=g),
        "valid": torch.ones(n, channels, dtype=torch.bool),
        "subject": torch.arange(n) % 2,
    }


SMALL = {"features": 5, "hidden": 8, "merger": 7, "embedding": 32, "depth": 4}


@pytest.fixture(scope="module")
def listening():
    recipe = read_yaml(find_recipe("crossmodal/brain_speech"))[0]
    recipe["data"]["source"] = "generated://listening?pairs=300"
    return open_source(read_recipe(recipe))[1]


def test_loss_by_hand():
    loss = InfoNCE(1.0, normalize="key")
    keys = torch.eye(2)
    assert float(loss(keys, keys).total) == pytest.approx(0.313262, abs=1e-6)
    assert float(loss(torch.zeros(2, 2), keys).total) == pytest.approx(math.log(2))
    z, y = torch.randn(2, 5, 9).unbind()
    torch.testing.assert_close(loss(z, 7 * y).total, loss(z, y).total)
    assert abs(float(loss(2 * z, y).total) - float(loss(z, y).total)) > 1e-3
    written = F.cross_entropy(z @ (y / y.norm(dim=1, keepdim=True)).T, torch.arange(5))
    torch.testing.assert_close(loss(z, y).total, written)


def test_fourier_code_written_out():
    place = torch.tensor([0.3, 0.7])
    code = fourier(place, 32)
    assert code.shape == (32,)
    k, n = 2, 3
    angle = 2 * math.pi * (k * (0.3 + 0.2) + n * (0.7 + 0.2)) / 1.4
    assert float(code[k * 4 + n]) == pytest.approx(math.cos(angle), abs=1e-5)
    assert float(code[16 + k * 4 + n]) == pytest.approx(math.sin(angle), abs=1e-5)


def test_attention_over_sensors():
    torch.manual_seed(0)
    layer = SpatialAttention(7, 32, 0.2).eval()
    x = inputs()
    out = layer(x["signal"], x["positions"], x["valid"])
    order = torch.randperm(6)
    moved = layer(x["signal"][:, order], x["positions"][:, order], x["valid"])
    torch.testing.assert_close(out, moved)
    valid = x["valid"].clone()
    valid[:, 3] = False
    weights = layer.weights(x["positions"], valid)
    assert (weights[:, :, 3] == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 7))


def test_dropout_leaves_one_sensor():
    layer = SpatialAttention(3, 32, 5.0).train()  # every sensor lies within the radius
    x = inputs()
    assert torch.isfinite(layer(x["signal"], x["positions"], x["valid"])).all()
    torch.manual_seed(0)
    some = SpatialAttention(3, 32, 0.4).train()
    weights = torch.stack([some.weights(x["positions"], x["valid"]) for _ in range(20)])
    assert (weights == 0).any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(20, 4, 3))


def test_only_present_subjects_get_gradient_and_lengths_stay():
    torch.manual_seed(0)
    encoder = BrainConv(spec(subjects=("x", "y", "z")), **SMALL)
    x = inputs()
    x["subject"] = torch.tensor([0, 2, 2, 0])
    out = encoder(x)
    assert out.tokens.values.shape == (4, 50, 5)
    assert out.pooled.shape == (4, 250)
    assert encoder.pooled_width == 250
    out.pooled.square().sum().backward()
    grads = encoder.subjects.matrices.grad.abs().sum((1, 2))
    assert grads[1] == 0
    assert (grads[[0, 2]] > 0).all()


def test_receptive_field():
    encoder = BrainConv(spec(length=200), **{**SMALL, "merger": 0, "depth": 10}).eval().double()
    x = inputs(1, 6, 200)
    x["signal"] = torch.zeros(1, 6, 200, dtype=torch.float64)
    base = encoder(x).tokens.values
    x["signal"][0, 0, 100] = 1e4
    changed = (encoder(x).tokens.values - base).abs().sum(-1)[0].nonzero().flatten()
    reach = sum(2 ** (k % 5) for k in range(10)) + 5  # five gated convolutions of kernel 3
    assert changed.min() == 100 - reach
    assert changed.max() == 100 + reach


def test_unknown_subject_and_no_positions():
    encoder = BrainConv(spec(), **SMALL).eval()
    x = inputs()
    x["subject"] = torch.tensor([-1, 0, 1, -1])
    assert torch.isfinite(encoder(x).pooled).all()
    with pytest.raises(ValueError, match=r"no sensor positions.*encoder.merger=0"):
        BrainConv(spec(positioned=False), **SMALL)
    with pytest.raises(ValueError, match="depth must be even"):
        BrainConv(spec(), **{**SMALL, "depth": 3})
    with pytest.raises(ValueError, match="twice a square"):
        BrainConv(spec(), **{**SMALL, "embedding": 100})


def test_robust_scale_and_clamp(listening):
    source = listening.parts["a"]
    for recording in source.recordings:
        rows = [r for r in source.splits["train"] if source.recordings[source.which[r]] is recording][:200]
        window = source.spec.length + 6
        x = np.concatenate([recording.x[:, source.start[r] : source.start[r] + window] for r in rows], axis=1)
        scaled = (x - recording.centre) / recording.spread
        low, middle, high = np.quantile(scaled, [0.25, 0.5, 0.75], axis=1)
        np.testing.assert_allclose(middle, 0, atol=1e-4)
        np.testing.assert_allclose(high - low, 1, atol=1e-4)
    biggest = max(float(source.fetch([i]).x["signal"].abs().max()) for i in range(0, len(source), 3))
    assert biggest == 20.0  # artefacts are there, and cut


def test_the_shift_moves_one_stream_against_the_other(listening):
    a, b = listening.parts["a"].spec, listening.parts["b"].spec
    assert a.length == b.length == 114  # 3 s at 40 Hz without 150 ms
    recording = listening.parts["b"].recordings[0]
    cut = segment(recording, 40, b)
    whole = (recording.x[:, 40:160] - b.mean) / b.std
    np.testing.assert_allclose(cut, whole[:, :114], atol=1e-5)
    other = listening.parts["a"].recordings[0]
    early = segment(other, 40, a)
    scaled = (other.x[:, 40:160] - other.centre) / other.spread
    scaled = (scaled - scaled[:, :20].mean(1, keepdims=True)).clip(-20, 20)
    np.testing.assert_allclose(early, scaled[:, 6:], atol=1e-4)


def test_no_moment_of_the_story_is_in_two_splits(listening):
    rows = listening.links.rows["b"]
    source = listening.parts["b"]
    spans = {}
    for split, pairs in listening.splits.items():
        begin = source.start[rows[pairs]]
        spans[split] = {int(t) for s in begin for t in range(s, s + 120)}
    assert spans["train"]
    assert spans["test"]
    assert not spans["train"] & spans["test"]
    assert not spans["train"] & spans["valid"]
    assert listening.shares_items()  # all subjects heard one segment


def test_flat_places():
    flat = unit_square(np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]]))
    assert flat.min() == 0
    assert flat.max() == 1
    known = unit_square(np.array([[0.0, 0], [2, 1], [np.nan, np.nan]]))
    np.testing.assert_allclose(known[:2], [[0, 0], [1, 0.5]])


def test_bad_recordings(tmp_path):
    registry.load_domain("crossmodal")
    signals = registry.load_domain("signals")()
    np.savez(tmp_path / "r.npz", x=np.zeros((3, 100), np.float32))
    with pytest.raises(DataError, match=r"r.npz: wants arrays x \[sensors, samples\] and rate"):
        signals.open(str(tmp_path))
    x = np.random.default_rng(0).normal(size=(3, 800)).astype(np.float32)
    x[1, 5] = np.nan
    np.savez(tmp_path / "r.npz", x=x, rate=120.0)
    with pytest.raises(DataError, match=r"sensor 1 holds NaN"):
        signals.open(str(tmp_path))
    np.savez(tmp_path / "r.npz", x=np.nan_to_num(x), rate=120.0, positions=np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"positions are \[2, 2\], expected \[3, 2\]"):
        signals.open(str(tmp_path))
    places = np.array([[0.0, 0], [1, 1], [np.nan, 0]])
    np.savez(tmp_path / "r.npz", x=np.nan_to_num(x), rate=120.0, positions=places)
    opened = signals.open(str(tmp_path))
    assert opened.card()["sensors without a position"] == 1
    assert opened.fetch([0]).x["valid"].tolist() == [[True, True, False]]
    (tmp_path / "segments.csv").write_text("path,start\nr.npz,1.0\nr.npz,9.0\nr.npz,0.5\n")
    some = signals.open(str(tmp_path / "segments.csv"), valid=0.0, test=0.0)
    assert len(some) == 2
    assert "1 of 3 segments reach beyond" in some.card()["notes"]
    half = signals.open(str(tmp_path), rate=60.0)
    assert half.fetch([0]).x["signal"].shape == (1, 3, 180)
