"""Spherical k-means."""

import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.parts import kmeans
from ssl_domains.core.parts.kmeans import spherical_kmeans


def rays(n=60, seed=0):
    """Points along three directions, at very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.eye(3, 5)
    which = torch.arange(n) % 3
    noise = 0.05 * torch.randn(n, 5, generator=generator)
    return (axes[which] + noise) * (0.1 + 10 * torch.rand(n, 1, generator=generator)), which


def test_directions_are_found_whatever_the_lengths():
    z, which = rays()
    for seed in range(8):
        centroids, found = spherical_kmeans(z, 3, 20, seed=seed)
        torch.testing.assert_close(centroids.norm(dim=1), torch.ones(3))
        if len({(int(a), int(b)) for a, b in zip(which, found, strict=True)}) == 3:
            return
    pytest.fail("no start found the three directions")


def test_an_assignment_is_the_nearest_centroid_and_a_centroid_the_mean_direction():
    z, _ = rays()
    centroids, found = spherical_kmeans(z, 3, 50)
    unit = F.normalize(z, dim=1)
    assert torch.equal((unit @ centroids.T).argmax(1), found)
    for k in found.unique():
        torch.testing.assert_close(
            centroids[k], F.normalize(unit[found == k].mean(0), dim=0), atol=1e-5, rtol=1e-4
        )


def test_chunks_change_nothing(monkeypatch):
    z, _ = rays()
    whole = spherical_kmeans(z, 4)
    monkeypatch.setattr(kmeans, "CHUNK", 7)
    for one, other in zip(whole, spherical_kmeans(z, 4), strict=True):
        torch.testing.assert_close(one, other)


def test_too_many_clusters():
    with pytest.raises(ValueError, match="2 rows cannot form 3 clusters"):
        spherical_kmeans(torch.rand(2, 4), 3)
