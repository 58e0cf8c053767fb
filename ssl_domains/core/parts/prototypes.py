"""Prototypes: learned unit vectors that embeddings are scored against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Prototypes(nn.Module):
    """Cosine scores ``[N, D] -> [N, K]`` against K learned prototypes (SwAV, DINO's last layer).

    Both sides are brought to unit length in the forward pass, so the scale of the weights
    carries no information and needs no projection after the step.

    Args:
        width: D.
        count: K.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, z: Tensor, *, frozen: bool = False) -> Tensor:
        weight = self.weight.detach() + 0.0 * self.weight if frozen else self.weight
        return F.linear(F.normalize(z, dim=1), F.normalize(weight, dim=1))
