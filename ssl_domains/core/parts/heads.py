"""Projection and prediction heads, and the batch norm they use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.collectives import all_reduce_sum, world_size
from ssl_domains.core.parts.prototypes import Prototypes

Norm = Literal["batch", "layer", "none"]


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """Batch norm over ``[N, D]`` whose training statistics are those of the GLOBAL batch.

    The built-in synchronised batch norm runs on GPUs only; this one goes through the core's
    collectives, so it is right (and testable) on any backend. Statistics in float32 at least.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = all_reduce_sum(torch.stack([wide.sum(0), wide.square().sum(0)]))
        count = len(x) * world_size()
        mean = sums[0] / count
        var = sums[1] / count - mean.square()
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                rate = self.momentum if self.momentum is not None else 0.1
                self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), rate)
                unbiased = var.detach() * count / max(count - 1, 1)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked += 1
        out = (wide - mean) * torch.rsqrt(var.clamp_min(0) + self.eps)
        if self.affine:
            out = out * self.weight + self.bias
        return out.to(x.dtype)


def mlp(
    in_width: int,
    widths: Sequence[int],
    *,
    norm: Norm = "batch",
    last_norm: bool = False,
    last_bias: bool = True,
    activation: Literal["relu", "gelu"] = "relu",
) -> nn.Sequential:
    """Linear layers ``in_width -> widths[0] -> ... -> widths[-1]`` with norm and activation between.

    Args:
        in_width: width of the input.
        widths: output widths of the layers; empty gives the identity.
        norm: norm after each hidden layer; such layers have no bias.
        last_norm: an affine-free batch norm after the last layer (SimSiam, MoCo v3).
        last_bias: bias in the last layer (Barlow Twins: False).
        activation: ``relu``, or ``gelu`` (DINO).
    """
    layers: list[nn.Module] = []
    for i, width in enumerate(widths):
        last = i == len(widths) - 1
        bias = last_bias and not last_norm if last else norm == "none"
        layers.append(nn.Linear(in_width, width, bias=bias))
        if not last:
            if norm != "none":
                layers.append(GlobalBatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width))
            layers.append(nn.ReLU(inplace=True) if activation == "relu" else nn.GELU())
        elif last_norm:
            layers.append(GlobalBatchNorm1d(width, affine=False))
        in_width = width
    return nn.Sequential(*layers)


class PrototypeHead(nn.Module):
    """DINO's head ``[N, D] -> [N, K]``: an MLP with GELU, unit length, weight-normalised outputs (Caron et
    al., ICCV 2021, section 3.1 and appendix C; the same in iBOT and EsViT).

    Args:
        width: D.
        projector: widths of the MLP.
        prototypes: K.
        norm: after each hidden layer. Default none, as in the papers for transformers.
        small: linear layers start from deviation 0.02 without bias, as the authors' do; False: from torch's
            own start.
    """

    def __init__(
        self, width: int, projector: Sequence[int], prototypes: int, norm: Norm = "none", small: bool = True
    ) -> None:
        super().__init__()
        self.body = mlp(width, projector, norm=norm, activation="gelu")
        for layer in self.body:
            if small and isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.last = Prototypes(projector[-1] if projector else width, prototypes)

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Scores; ``frozen``: the outputs' weights get no gradient."""
        return self.last(self.body(x), frozen=frozen)  # type: ignore[no-any-return]
