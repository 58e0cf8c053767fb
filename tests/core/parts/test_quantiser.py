"""Gumbel quantiser, random projection, distractors: hand values, and a module of transformers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.parts.distractors import in_sample
from ssl_domains.core.parts.quantiser import GumbelQuantiser, RandomProjection, perplexity
from ssl_domains.core.random import Draw


def quantiser(**options):
    torch.manual_seed(0)
    return GumbelQuantiser(6, **{"groups": 1, "codes": 1024, "code_width": 4, **options})


def test_diversity_of_equal_use_and_of_one_code():
    same = quantiser()
    torch.nn.init.zeros_(same.scores.weight)
    assert float(same(torch.randn(5, 6)).diversity) == pytest.approx(0.0, abs=1e-5)
    one = quantiser()
    torch.nn.init.zeros_(one.scores.weight)
    one.scores.bias.data[3] = 1000.0
    found = one(torch.randn(5, 6))
    assert float(found.diversity) == pytest.approx(1023 / 1024, abs=1e-6)  # 0.999023
    assert float(found.perplexity) == pytest.approx(1.0)
    assert found.ids.unique().tolist() == [3]


def test_codes_are_hard_and_the_gradient_is_soft():
    q = quantiser(groups=2, codes=5, code_width=6)
    x = torch.randn(7, 6, requires_grad=True)
    found = q(x)
    for group in range(2):
        rows = q.codebook[group][found.ids[:, group]]
        torch.testing.assert_close(found.values[:, 3 * group : 3 * group + 3], rows)
    found.values.sum().backward()
    assert float(x.grad.abs().sum()) > 0
    assert float(q.scores.weight.grad.abs().sum()) > 0
    assert float(q.codebook.grad.abs().sum()) > 0


def test_evaluation_is_deterministic_and_as_in_transformers():
    from transformers import Wav2Vec2Config
    from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2GumbelVectorQuantizer

    q = quantiser(groups=2, codes=5, code_width=6).eval()
    config = Wav2Vec2Config(
        num_codevector_groups=2, num_codevectors_per_group=5, codevector_dim=6, conv_dim=[6] * 7
    )
    theirs = Wav2Vec2GumbelVectorQuantizer(config).eval()
    theirs.weight_proj.load_state_dict(q.scores.state_dict())
    theirs.codevectors.data.copy_(q.codebook.flatten(0, 1)[None])
    x = torch.randn(3, 4, 6)
    values, used = theirs(x, torch.ones(3, 4, dtype=torch.bool))
    found = q(x.flatten(0, 1))
    torch.testing.assert_close(found.values, values.flatten(0, 1))
    assert float(found.perplexity) == pytest.approx(float(used), rel=1e-5)
    torch.testing.assert_close(q(x.flatten(0, 1)).values, found.values)


def test_temperature_falls_and_stops():
    q = quantiser(temperature=(2.0, 0.1, 0.5))
    q.at_step(1)
    assert q.temperature == 1.0
    q.at_step(50)
    assert q.temperature == 0.1


def test_noise_is_gumbel():
    """With noise the share of a code is its probability."""
    q = quantiser(codes=3, code_width=2, temperature=(1.0, 1.0, 1.0))
    torch.nn.init.zeros_(q.scores.weight)
    q.scores.bias.data.copy_(torch.tensor([0.0, math.log(2), math.log(5)]))
    draw = Draw(0, 0, torch.arange(20000))
    ids = q(torch.zeros(20000, 6), draw.uniform(3)).ids[:, 0]
    share = torch.bincount(ids, minlength=3) / 20000
    torch.testing.assert_close(share, torch.tensor([1 / 8, 2 / 8, 5 / 8]), atol=0.015, rtol=0)


def test_perplexity_of_two_groups():
    shares = torch.zeros(4, 2, 4)
    shares[:, 0, 0] = 1.0  # one code: 1
    shares[torch.arange(4), 1, torch.arange(4)] = 1.0  # four codes alike: 4
    assert float(perplexity(shares)) == pytest.approx(5.0)


def test_random_projection_is_frozen_and_finds_the_nearest_direction():
    torch.manual_seed(0)
    q = RandomProjection(6, codes=20, code_width=4, groups=2)
    assert not list(q.parameters())
    x = torch.randn(3, 5, 6)
    ids = q(x)
    assert ids.shape == (3, 5, 2)
    seen = torch.nn.functional.normalize(x @ q.projection[1], dim=-1)
    distance = (seen[..., None, :] - q.codebook[1]).norm(dim=-1)
    assert torch.equal(ids[..., 1], distance.argmin(dim=-1))
    assert torch.equal(q(3.0 * x), ids)  # directions only


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 20), st.integers(0, 99))
def test_distractors_stay_in_the_sample_and_are_others(sizes, count, seed):
    sample = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    rows, there = in_sample(sample, count, Draw(seed, 0, torch.arange(len(sample))))
    assert torch.equal(sample[rows], sample[:, None].expand_as(rows))
    size = torch.tensor(sizes)[sample]
    assert torch.equal(there, size > 1)
    own = torch.arange(len(sample))[:, None]
    assert not (rows == own)[there].any()
    assert (rows == own)[~there].all()


def test_distractors_are_uniform():
    sample = torch.zeros(5, dtype=torch.int64)
    rows, _ = in_sample(sample, 20000, Draw(0, 0, torch.arange(5)))
    share = torch.bincount(rows[2], minlength=5) / 20000
    torch.testing.assert_close(share, torch.tensor([0.25, 0.25, 0, 0.25, 0.25]), atol=0.015, rtol=0)
