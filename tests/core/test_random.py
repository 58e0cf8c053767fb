"""Counter-based draws: uniform, independent, and a function of (seed, step, index) alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ssl_domains.core.random import Draw, hash_ints

MASK = (1 << 64) - 1


def splitmix64(x: int) -> int:
    """The finaliser in plain unsigned integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_hash_matches_unsigned_arithmetic():
    state = splitmix64((0 + 5 + 0x9E3779B97F4A7C15) & MASK)
    state = splitmix64((state + 9 + 0x9E3779B97F4A7C15) & MASK)
    assert hash_ints(5, 9) == state & (2**63 - 1)


def test_uniform_normal_and_permutation_have_their_distributions():
    draw = Draw(3, 7, torch.arange(20000))
    assert stats.kstest(draw.uniform().numpy(), "uniform").pvalue > 1e-3
    normal = draw.normal(2)
    assert stats.kstest(normal[:, 0].numpy(), "norm").pvalue > 1e-3
    assert abs(float(torch.corrcoef(normal.T)[0, 1])) < 0.03
    orders = draw.permutation(3) @ torch.tensor([9, 3, 1])
    assert stats.chisquare(torch.unique(orders, return_counts=True)[1].numpy()).pvalue > 1e-3


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**62), st.integers(0, 10**6), st.permutations(range(9)))
def test_rows_depend_on_their_index_only(seed, step, order):
    index = torch.arange(9) * 10**9
    whole = Draw(seed, step, index).uniform(4)
    part = Draw(seed, step, index[list(order)][:5]).uniform(4)
    torch.testing.assert_close(part, whole[list(order)][:5], rtol=0, atol=0)


def test_step_seed_stream_and_fork_give_other_numbers():
    index = torch.arange(64)
    base = Draw(1, 1, index).bits()
    draw = Draw(1, 1, index)
    others = [
        Draw(2, 1, index).bits(),
        Draw(1, 2, index).bits(),
        draw.fork("mask").bits(),
        Draw(1, 1, index + 64).bits(),
    ]
    draw.bits()
    others.append(draw.bits())
    for other in others:
        assert not bool((base == other).any())
    forked = Draw(1, 1, index)
    forked.bits()  # a consumer's calls do not shift a fork
    assert torch.equal(forked.fork("mask").bits(), Draw(1, 1, index).fork("mask").bits())


def test_host_integers_cover_their_range():
    seen = {Draw(0, step, torch.zeros(1, dtype=torch.int64)).integers(3, 6) for step in range(200)}
    assert seen == {3, 4, 5, 6}
