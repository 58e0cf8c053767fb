"""Diagnostics against the numbers of the RankMe sheet and slow definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssl_domains.core import diagnostics
from ssl_domains.core.diagnostics import (
    EmbeddingStatistics,
    alignment,
    alpha_req,
    dead_dimensions,
    feature_variance,
    mean_cosine,
    numerical_rank,
    rankme,
    rankme_of_spectrum,
    stable_rank,
    uniformity,
)
from ssl_domains.core.errors import DataError


def gauss(seed, n, k, dtype=torch.float32):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def orthogonal(seed, n):
    return torch.linalg.qr(gauss(seed, n, n, torch.float64))[0]


def slow_rankme(z, eps=1e-7):
    sigma = np.linalg.svd(z.double().numpy(), compute_uv=False)
    p = sigma / sigma.sum() + eps
    return math.exp(-(p * np.log(p)).sum())


def test_rankme_hand_values():
    assert rankme(torch.eye(4)) == pytest.approx(4.0000006, abs=3e-7)
    assert rankme(orthogonal(0, 16)) == pytest.approx(16.0, abs=1e-4)
    assert rankme(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(1.754765, abs=2e-6)
    squared = rankme_of_spectrum(torch.tensor([9.0, 1.0]))
    assert squared == pytest.approx(1.384146, abs=2e-6)


def test_rankme_needs_its_eps():
    """A rank-1 matrix of the sheet's size, by its spectrum: 2,047 zeros."""
    rank_one = torch.zeros(2048)
    rank_one[0] = 5.0
    assert rankme_of_spectrum(rank_one) == pytest.approx(1.0033, abs=1e-4)
    assert rankme_of_spectrum(rank_one, 1e-5) == pytest.approx(1.27, abs=0.01)


@pytest.mark.slow
def test_rankme_wide_matrices():
    rank_one = gauss(0, 2560, 1) @ gauss(1, 1, 2048)
    assert rankme(rank_one) == pytest.approx(1.0033, abs=1e-3)
    rank_eight = gauss(2, 2560, 8) @ gauss(3, 8, 2048)
    assert rankme(rank_eight) == pytest.approx(8.02, abs=0.02)
    isotropic = gauss(4, 2560, 2048)
    assert rankme(isotropic) == pytest.approx(1772, abs=3)
    assert rankme(isotropic, 1e-5) == pytest.approx(2034, abs=3)


@pytest.mark.parametrize(("n", "value"), [(256, 205.7), (512, 237.3), (1024, 247.4), (4096, 254.0)])
def test_rankme_depends_on_the_sample(n, value):
    assert rankme(gauss(n, n, 256)) == pytest.approx(value, abs=0.6)


def test_rankme_does_not_centre():
    z = gauss(5, 4096, 256)
    assert rankme(z + 3) == pytest.approx(162.3, abs=0.5)
    moved = z + 3
    assert rankme(moved - moved.mean(0)) == pytest.approx(254.0, abs=0.3)


def test_rankme_without_eps_is_the_spectral_entropy():
    stats = pytest.importorskip("scipy.stats")
    z = gauss(6, 40, 12)
    sigma = torch.linalg.svdvals(z.double()).numpy()
    assert rankme(z, 0.0) == pytest.approx(math.exp(stats.entropy(sigma)), rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), n=st.integers(3, 20), k=st.integers(2, 20))
def test_rankme_invariances(seed, scale, n, k):
    z = gauss(seed, n, k, torch.float64)
    value = rankme(z)
    assert value == pytest.approx(slow_rankme(z), rel=1e-9)
    signs = torch.where(gauss(seed + 1, n, 1) > 0, 1.0, -1.0)
    for other in (scale * z, z @ orthogonal(seed + 2, k), signs * z[torch.randperm(n)], z.T):
        assert rankme(other) == pytest.approx(value, rel=1e-9)
    assert 0.99 <= value <= min(n, k) + 1e-4


def test_rankme_falls_when_a_column_is_copied():
    z = gauss(7, 100, 10)
    copied = z.clone()
    copied[:, 3] = z[:, 7]
    assert rankme(copied) < rankme(z) - 0.2
    stretched = z * torch.tensor([10.0] + [1.0] * 9)
    assert rankme(stretched) < rankme(z) - 0.2


@pytest.mark.parametrize("shape", [(300, 40), (40, 300)])
def test_gram_route_equals_the_svd(shape, monkeypatch):
    z = gauss(8, *shape)
    low = gauss(9, shape[0], 3) @ gauss(10, 3, shape[1])
    expected = [rankme(z), rankme(low), stable_rank(z), numerical_rank(low)]
    monkeypatch.setattr(diagnostics, "SVD_LIMIT", 1)
    found = [rankme(z), rankme(low), stable_rank(z), numerical_rank(low)]
    assert found == pytest.approx(expected, rel=1e-4)


def test_broken_embeddings():
    z = gauss(11, 8, 4)
    z[2, 1] = math.nan
    assert math.isnan(rankme(z))
    assert rankme(torch.zeros(8, 4)) == pytest.approx(1.0, abs=1e-4)
    assert rankme(torch.ones(8, 4)) == pytest.approx(1.0, abs=1e-4)
    for bad in (torch.zeros(4), torch.zeros(0, 4), torch.zeros(2, 3, 4)):
        with pytest.raises(ValueError, match="embeddings"):
            rankme(bad)


def test_half_precision_is_raised():
    z = gauss(12, 64, 16).bfloat16()
    assert rankme(z) == rankme(z.float())
    assert feature_variance(z).dtype == torch.float32


def test_other_ranks():
    z = gauss(13, 50, 4) @ gauss(14, 4, 20)
    assert numerical_rank(z) == 4 == int(torch.linalg.matrix_rank(z))
    assert numerical_rank(torch.diag(torch.tensor([4.0, 2.0, 0.1])), tolerance=0.3) == 2
    assert stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))) == pytest.approx(6 / 4)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_alpha_req_finds_the_exponent(alpha):
    basis = gauss(15, 64, 12, torch.float64)
    basis = torch.linalg.qr(basis - basis.mean(0))[0]
    z = basis * torch.arange(1, 13, dtype=torch.float64) ** (-alpha / 2) @ orthogonal(16, 12) + 7
    assert alpha_req(z) == pytest.approx(alpha, rel=1e-8)
    assert math.isnan(alpha_req(torch.ones(5, 3)))


def test_variance_and_dead_dimensions():
    z = gauss(17, 60, 6) * torch.tensor([1.0, 1, 0, 1e-5, 1, 2]) + 1
    torch.testing.assert_close(feature_variance(z), z.var(0, unbiased=False))
    assert dead_dimensions(z) == 2
    assert dead_dimensions(1000 * z) == 2
    assert dead_dimensions(torch.full((5, 4), 3.3)) == 4
    assert dead_dimensions(torch.zeros(5, 4)) == 4


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), n=st.integers(2, 30))
def test_mean_cosine_is_the_mean_over_pairs(seed, n):
    z = gauss(seed, n, 5, torch.float64) + 0.3
    unit = F.normalize(z, dim=1)
    pairs = (unit @ unit.T)[~torch.eye(n, dtype=torch.bool)]
    assert mean_cosine(z) == pytest.approx(pairs.mean().item(), abs=1e-12)


def test_mean_cosine_ends():
    assert mean_cosine(torch.ones(7, 3)) == pytest.approx(1.0)
    assert mean_cosine(torch.eye(5)) == pytest.approx(0.0, abs=1e-7)
    assert mean_cosine(torch.tensor([[1.0], [-1.0]])) == pytest.approx(-1.0)
    assert math.isnan(mean_cosine(torch.ones(1, 3)))


def test_alignment():
    z1, z2 = gauss(18, 9, 4), gauss(19, 9, 4)
    slow = (F.normalize(z1) - F.normalize(z2)).norm(dim=1)
    assert alignment(z1, z2) == pytest.approx((slow**2).mean().item(), rel=1e-6)
    assert alignment(z1, z2, alpha=1) == pytest.approx(slow.mean().item(), rel=1e-6)
    assert alignment(z1, 5 * z1) == pytest.approx(0.0, abs=1e-10)
    with pytest.raises(ValueError, match="one shape"):
        alignment(z1, z2[1:])


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), n=st.integers(2, 40), chunk=st.integers(1, 50), t=st.floats(0.5, 4))
def test_uniformity_is_the_published_formula(seed, n, chunk, t):
    z = gauss(seed, n, 5, torch.float64)
    slow = torch.pdist(F.normalize(z, dim=1)).pow(2).mul(-t).exp().mean().log().item()
    assert uniformity(z, t, chunk) == pytest.approx(slow, abs=1e-9)


def test_uniformity_ends():
    assert uniformity(torch.ones(9, 3)) == pytest.approx(0.0, abs=1e-6)
    assert uniformity(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-8.0, abs=1e-5)
    assert math.isnan(uniformity(torch.ones(1, 3)))


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize(("n", "k"), [(200, 12), (9, 12)])
def test_streaming_equals_the_whole(n, k, offset):
    z = gauss(20, n, k, torch.float64) * torch.linspace(1, 0.1, k) + offset
    z[:, 4] = offset
    collector = EmbeddingStatistics()
    for part in z.split(7):
        collector.update(part)
    found = collector.compute()
    assert found.count == collector.count == n
    torch.testing.assert_close(found.spectrum, torch.linalg.svdvals(z), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.variance, feature_variance(z), rtol=1e-9, atol=1e-12)
    for name, function in (
        ("rankme", rankme),
        ("stable_rank", stable_rank),
        ("mean_cosine", mean_cosine),
        ("dead_dimensions", dead_dimensions),
        ("alpha_req", alpha_req),
    ):
        assert getattr(found, name) == pytest.approx(function(z), rel=1e-5), name
    assert found.numerical_rank == numerical_rank(z.float())
    assert found.scalars()["variance"] == pytest.approx(z.var(0, unbiased=False).mean().item())


def test_streaming_state():
    collector = EmbeddingStatistics()
    with pytest.raises(DataError, match="no rows"):
        collector.compute()
    collector.update(torch.zeros(0, 3))
    with pytest.raises(DataError, match="no rows"):
        collector.compute()
    z = gauss(21, 6, 3).requires_grad_()
    collector.update(z)
    assert not collector.compute().variance.requires_grad
    with pytest.raises(ValueError, match="width 3"):
        collector.update(torch.zeros(2, 4))
    collector.reset()
    collector.update(torch.ones(5, 4))
    assert collector.compute().mean_cosine == pytest.approx(1.0)


def two_shares(rank, z):
    collector = EmbeddingStatistics()
    collector.update(z[:9] if rank == 0 else z[9:])
    return collector.compute()


def test_streaming_over_two_processes():
    from ssl_domains.core.testing import run_processes

    z = gauss(22, 30, 5)
    z[:9] += 2
    joined = EmbeddingStatistics()
    joined.update(z)
    expected = joined.compute()
    for found in run_processes(two_shares, 2, z):
        assert found.count == 30
        assert found.scalars() == pytest.approx(expected.scalars())
        torch.testing.assert_close(found.spectrum, expected.spectrum)
