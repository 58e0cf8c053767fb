"""Spherical k-means in chunks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 65_536


@torch.no_grad()
def spherical_kmeans(z: Tensor, clusters: int, iterations: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clusters of directions: rows join the centroid of largest cosine, centroids are the rows' mean
    direction.

    A cluster that loses its last row keeps its centroid. No ``[N, K]`` matrix is held for more than 65,536
    rows.

    Args:
        z: ``[N, D]``; scale does not matter.
        clusters: K, at most N.
        iterations: rounds of assignment and update.
        seed: of the K rows that it starts from.

    Returns:
        Centroids ``[K, D]`` of unit length, and ``[N]`` int64 the cluster of each row.

    Raises:
        ValueError: more clusters than rows.
    """
    if clusters > len(z):
        raise ValueError(f"{len(z)} rows cannot form {clusters} clusters")
    z = F.normalize(z.float(), dim=1)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randperm(len(z), generator=generator)[:clusters]
    centroids = z[start.to(z.device)]
    for _ in range(iterations):
        sums = torch.zeros_like(centroids)
        for rows in z.split(CHUNK):
            sums.index_add_(0, (rows @ centroids.T).argmax(dim=1), rows)
        lonely = (sums.abs().sum(dim=1, keepdim=True) == 0).to(sums.dtype)
        centroids = F.normalize(sums + lonely * centroids, dim=1)
    return centroids, torch.cat([(rows @ centroids.T).argmax(dim=1) for rows in z.split(CHUNK)])
