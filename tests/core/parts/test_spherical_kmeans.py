"""K-means on the sphere: a fixed point of Lloyd with the sphere's own mean."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.parts.spherical_kmeans import angle, spherical_kmeans
from ssl_domains.core.random import Draw


def clouds(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q[:4]
    kind = torch.arange(200) % 4
    return F.normalize(
        centers[kind] + 0.1 * torch.randn(200, 8, generator=generator, dtype=torch.float64), dim=1
    ), kind


def test_finds_the_clouds_and_their_frechet_means():
    x, kind = clouds()
    found = spherical_kmeans(x, 4, Draw(0, 0, torch.arange(200)), tolerance=1e-9, mean_steps=4)
    assert torch.allclose(found.norm(dim=1), torch.ones(4, dtype=torch.float64))
    member = (x @ found.T).argmax(1)
    for cloud in range(4):
        assert len(member[kind == cloud].unique()) == 1
    for c in range(4):  # the mean of the logarithms at a Frechet mean is zero
        own, at = x[member == c], found[c]
        across = own - (own @ at)[:, None] * at
        logs = across / across.norm(dim=1, keepdim=True) * torch.arccos((own @ at).clamp(-1, 1))[:, None]
        assert logs.mean(0).norm() < 1e-7


def test_depends_on_the_draw_alone():
    x, _ = clouds(1)
    a, b = (spherical_kmeans(x, 6, Draw(1, 2, torch.arange(200))) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, spherical_kmeans(x, 6, Draw(2, 2, torch.arange(200))))


def test_more_centroids_than_different_points():
    x = torch.eye(3).repeat(4, 1)
    found = spherical_kmeans(x, 5, Draw(0, 0, torch.arange(12)))
    assert found.isfinite().all()
    with pytest.raises(ValueError, match="at least as many points"):
        spherical_kmeans(x, 13, Draw(0, 0, torch.arange(12)))


def test_angle_is_exact_for_neighbours():
    a = torch.tensor([[1.0, 0.0]])
    b = torch.tensor([[1.0, 1e-5]])
    assert float(angle(a, F.normalize(b, dim=1))) == pytest.approx(1e-5, rel=1e-3)
