"""Likeness of pictures by mutual information of their grey levels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SIDE, LEVELS = 32, 16


def levels(grey: Tensor) -> Tensor:
    """``[n, 1024, 16]`` float32: which of 16 grey levels, from the darkest to the brightest of its own
    picture, each of 32 x 32 pixels has."""
    x = F.interpolate(
        grey.float()[:, None], (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
    ).flatten(1)
    low, high = x.amin(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)
    unit = (x - low) / (high - low).clamp_min(1e-9)
    return F.one_hot((unit * LEVELS).long().clamp(0, LEVELS - 1), LEVELS).float()


def normalised_information(one: Tensor, others: Tensor) -> Tensor:
    """``[n]``: ``2 I(a, b) / (H(a) + H(b))`` of one picture and others, between 0 (independent) and 1 (one
    tells the other). Two pictures without contrast have 1.

    Args:
        one: ``[P, L]`` of :func:`levels`.
        others: ``[n, P, L]``.
    """
    joint = torch.einsum("pa,npb->nab", one, others) / one.shape[0]
    a, b = joint.sum(dim=2), joint.sum(dim=1)

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp_min(1e-12).log()).flatten(1).sum(dim=1)

    h_a, h_b, h_ab = entropy(a), entropy(b), entropy(joint)
    total = h_a + h_b
    return torch.where(total > 1e-9, 2 * (total - h_ab) / total.clamp_min(1e-9), torch.ones_like(total))


def information_duplicates(grey: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Greedy leaders by normalised mutual information: (kept, of, similarity), each ``[n]``.

    Args:
        grey: ``[n, H, W]`` pictures in order.
        limit: least information of a duplicate.
    """
    n = len(grey)
    parts = levels(torch.as_tensor(grey))
    kept, of, similarity = np.zeros(n, dtype=bool), np.arange(n), np.ones(n, dtype=np.float32)
    left = np.arange(n)
    while len(left):
        first = left[0]
        kept[first] = True
        found = normalised_information(parts[first], parts[torch.from_numpy(left)]).numpy()
        alike = found >= limit - 1e-6
        alike[0] = True
        gone = left[alike][1:]
        of[gone], similarity[gone] = first, found[alike][1:]
        left = left[~alike]
    return kept, of, similarity
