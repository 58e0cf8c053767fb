"""Multi-instance pooling: from what the instances of a bag say to what the bag says."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Pooling = Literal["mean", "max", "attention"]


class InstancePooling(nn.Module):
    """A bag's distribution over K outputs from those of its instances, in logarithms.

    ``mean`` averages the probabilities; ``max`` takes each output's largest and normalises;
    ``attention`` averages with weights ``softmax_i(w^T (tanh(V f_i) * sigmoid(U f_i)))`` from the
    instances' features (gated attention, Ilse et al., Attention-based Deep Multiple Instance
    Learning, ICML 2018, eq. 9).

    Args:
        kind: see above.
        width: D of the features.
        hidden: width inside the attention; 128 as there.
    """

    def __init__(self, kind: Pooling, width: int, hidden: int = 128) -> None:
        super().__init__()
        if kind not in ("mean", "max", "attention"):
            raise ValueError(f"pooling must be mean, max or attention, got {kind!r}")
        self.kind = kind
        if kind == "attention":
            self.value, self.gate = nn.Linear(width, hidden), nn.Linear(width, hidden)
            self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, logs: Tensor, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, K]`` log-probabilities of the bags.

        Args:
            logs: ``[B, T, K]`` log-probabilities of the instances.
            features: ``[B, T, D]`` of the instances; read by ``attention`` only.
            valid: ``[B, T]`` bool, which instances there are; None: all.
        """
        if valid is not None:
            logs = logs.masked_fill(~valid[..., None], -torch.inf)
        if self.kind == "max":
            return logs.amax(dim=1).log_softmax(dim=1)
        if self.kind == "attention":
            return (logs + self._attention(features, valid)[..., None]).logsumexp(dim=1)
        count = (
            math.log(logs.shape[1]) if valid is None else valid.sum(dim=1, keepdim=True).to(logs.dtype).log()
        )
        return logs.logsumexp(dim=1) - count

    def _attention(self, features: Tensor, valid: Tensor | None) -> Tensor:
        """``[B, T]`` logarithms of the weights."""
        scores = self.score(torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features)))[..., 0]
        scores = scores.float()
        return (scores if valid is None else scores.masked_fill(~valid, -torch.inf)).log_softmax(dim=1)
