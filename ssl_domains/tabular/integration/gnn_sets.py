"""Vectors of the nodes of a pair graph, trained so that edges agree and other pairs do not."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.random import Draw

MOST_PAIRS = 4096


class GCN(nn.Module):
    """Two graph convolutions (Kipf and Welling, ICLR 2017), ReLU between: ``A relu(A x W1) W2``.

    Args:
        in_width: of the node vectors.
        width: of both layers. Default 64 (arXiv 2412.00324).
    """

    def __init__(self, in_width: int, width: int = 64) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(in_width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """``[n, D]`` and a sparse ``[n, n]`` to unit vectors ``[n, width]``."""
        h = F.relu(adjacency @ self.first(x))
        return F.normalize(adjacency @ self.second(h), dim=1)


def normalised_adjacency(n: int, edges: Tensor, weights: Tensor) -> Tensor:
    """``D^-1/2 (A + I) D^-1/2``, sparse ``[n, n]``."""
    loops = torch.arange(n)
    row = torch.cat([edges[:, 0], edges[:, 1], loops])
    column = torch.cat([edges[:, 1], edges[:, 0], loops])
    value = torch.cat([weights, weights, torch.ones(n)])
    root = torch.zeros(n).index_add_(0, row, value).rsqrt()
    place, value = torch.stack([row, column]), root[row] * value * root[column]
    return torch.sparse_coo_tensor(place, value, (n, n), check_invariants=True).coalesce()


def embed_nodes(
    vectors: np.ndarray,
    edges: np.ndarray,
    weights: np.ndarray,
    steps: int = 100,
    lr: float = 0.01,
    seed: int = 0,
) -> np.ndarray:
    """Unit vectors of the nodes after training ``mean cos(other pairs) - mean cos(edges)``.

    The released code of the paper assigns sets by a linear layer that is never trained; here the
    vectors are clustered instead (:func:`~ssl_domains.tabular.integration.sets.gnn`).

    Args:
        vectors: ``[n, D]``.
        edges: ``[E, 2]``.
        weights: ``[E]``.
        steps, lr: of Adam.
        seed: of the initial weights and of the pairs that are drawn (at most 4,096 a step).

    Returns:
        ``[n, 64]`` float32.
    """
    n = len(vectors)
    x, pairs = torch.from_numpy(np.asarray(vectors, dtype=np.float32)), torch.from_numpy(edges)
    adjacency = normalised_adjacency(n, pairs, torch.from_numpy(weights).float())
    linked = torch.unique(torch.cat([pairs[:, 0] * n + pairs[:, 1], pairs[:, 1] * n + pairs[:, 0]]))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = GCN(x.shape[1])
        optimizer = torch.optim.Adam(net.parameters(), lr=lr)
        for step in range(steps):
            a, b = _others(n, linked, Draw(seed, step, torch.arange(min(4 * len(edges), MOST_PAIRS))))
            z = net(x, adjacency)
            loss = -(z[pairs[:, 0]] * z[pairs[:, 1]]).sum(dim=1).mean()
            if len(a):
                loss = loss + (z[a] * z[b]).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return net(x, adjacency).numpy()


def _others(n: int, linked: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Random pairs of different nodes without an edge."""
    a, b = draw.randint(n), draw.randint(n)
    kept = (a != b) & ~torch.isin(a * n + b, linked)
    return a[kept], b[kept]
