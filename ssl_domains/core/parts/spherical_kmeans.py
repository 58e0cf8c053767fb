"""K-means on the unit sphere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.random import Draw


@torch.no_grad()
def spherical_kmeans(
    x: Tensor, k: int, draw: Draw, *, iterations: int = 50, tolerance: float = 1e-3, mean_steps: int = 2
) -> Tensor:
    """``[k, D]`` unit centroids of ``x [n, D]``, by Lloyd's iterations with the mean of the sphere.

    Distances are angles. A centroid is the Frechet mean of its points: the normalised sum, then
    ``mean_steps`` steps of the Karcher flow (the mean of the points' logarithms at it, mapped back). The
    first centroids are drawn as in k-means++ (Arthur and Vassilvitskii, 2007). A centroid without points
    stays. When no centroid moves by more than ``tolerance`` radians, it is left as it is; there is
    no look at the device to stop earlier.

    Args:
        x: points; they are normalised here.
        k: centroids, at most n.
        draw: one row a point; its counters must be the same on all processes.
        iterations: of Lloyd.
        tolerance: radians.
        mean_steps: Karcher steps an iteration.

    Raises:
        ValueError: fewer points than centroids.
    """
    if k > len(x):
        raise ValueError(f"{k} centroids need at least as many points, got {len(x)}")
    x = F.normalize(x if x.dtype == torch.float64 else x.float(), dim=1)
    centroids = _first(x, k, draw)
    settled = torch.zeros((), dtype=torch.bool, device=x.device)
    for _ in range(iterations):
        member = F.one_hot((x @ centroids.T).argmax(dim=1), k).to(x.dtype)  # [n, k]
        total = member.T @ x
        count = member.sum(dim=0)[:, None]
        empty = (count < 0.5) | (total.norm(dim=1, keepdim=True) < 1e-6)
        new = torch.where(empty, centroids, F.normalize(total, dim=1))
        for _ in range(mean_steps):
            toward = member.T @ _log(new, x, member) / count.clamp_min(1.0)
            new = torch.where(empty, new, _exp(new, toward))
        moved = angle(new, centroids).max()
        centroids = torch.where(settled, centroids, new)
        settled = settled | (moved <= tolerance)
    return centroids


def angle(a: Tensor, b: Tensor) -> Tensor:
    """``[n]`` radians between unit rows; exact also for nearly equal ones."""
    return 2.0 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))


def _log(centroids: Tensor, x: Tensor, member: Tensor) -> Tensor:
    """``[n, D]``: each point's logarithm at its own centroid."""
    own = member @ centroids
    across = x - (x * own).sum(dim=1, keepdim=True) * own
    size = across.norm(dim=1, keepdim=True)
    return across / size.clamp_min(1e-12) * angle(x, own)[:, None]


def _exp(at: Tensor, toward: Tensor) -> Tensor:
    """``[k, D]``: where the geodesics from ``at`` along ``toward`` end."""
    size = toward.norm(dim=1, keepdim=True)
    return F.normalize(size.cos() * at + size.sin() * toward / size.clamp_min(1e-12), dim=1)


def _first(x: Tensor, k: int, draw: Draw) -> Tensor:
    """k-means++: each next centroid is a point drawn with probability by its squared angle to the nearest
    one."""
    chosen = [x[draw.uniform().argmax()]]
    nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    for _ in range(k - 1):
        nearest = torch.minimum(nearest, angle(x, chosen[-1].expand_as(x)).square())
        # The largest of u ** (1 / w) is a draw with probability proportional to w; in logarithms.
        race = torch.log(draw.uniform().clamp_min(1e-12)).to(x.dtype) / nearest.clamp_min(1e-12)
        chosen.append(x[race.argmax()])
    return torch.stack(chosen)
