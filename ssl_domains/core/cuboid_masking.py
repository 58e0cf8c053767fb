"""Masks over grids of any number of axes: cuboids that are joined until enough is hidden."""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from ssl_domains.core.batch import Mask
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Masker
from ssl_domains.core.layout import Grid, Layout
from ssl_domains.core.masking import share
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import mask


@mask("cuboid")
class CuboidMask(Masker):
    """Blocks over all axes of a grid: BEiT's block-wise masking (Bao et al., ICLR 2022, section 2.3) in any
    number of dimensions, for volumes ``Grid((D, H, W))`` and clips ``Grid((T, H, W))``.

    ``blocks`` cuboids a sample are laid over one another in a drawn order; tokens are hidden in that order
    until ``round(ratio * N)`` are, the same number in every sample, at least 1 hidden and 1 visible. Where
    the cuboids do not cover so many, the rest is hidden at random. The cuboid that would exceed the number
    is filled from its middle outwards, so that it stays one piece.

    Args:
        ratio: share of hidden tokens. Default 0.6 (SimMIM).
        side: (low, high) side of a cuboid, as a share of the grid's side. Default (0.25, 0.5).
        blocks: cuboids drawn a sample. Default 16.
    """

    layouts: ClassVar[tuple[type, ...]] = (Grid,)

    def __init__(self, ratio: float = 0.6, side: tuple[float, float] = (0.25, 0.5), blocks: int = 16) -> None:
        self.ratio = share(ratio, "mask.ratio")
        if len(side) != 2 or not 0 < side[0] <= side[1] <= 1:
            raise ValueError(f"mask.side must be [low, high] with 0 < low <= high <= 1, got {list(side)}")
        if blocks < 1:
            raise ValueError(f"mask.blocks must be at least 1, got {blocks}")
        self.side, self.blocks = (float(side[0]), float(side[1])), blocks

    def __call__(self, layout: Layout, draw: Draw) -> Mask:
        if not isinstance(layout, Grid) or layout.n_tokens < 2:
            raise DataError("mask 'cuboid' wants tokens on a grid of at least 2; use random")
        shape, n = layout.shape, layout.n_tokens
        axes = len(shape)
        low, extent = draw.uniform(self.blocks, axes), draw.uniform(self.blocks, axes)
        sides = torch.tensor(shape, device=low.device, dtype=torch.float32)
        extent = ((self.side[0] + (self.side[1] - self.side[0]) * extent) * sides).round().clamp_min(1)
        low = (low * (sides - extent + 1)).floor()
        places = torch.stack(
            torch.meshgrid(*[torch.arange(s, device=low.device) for s in shape], indexing="ij"), dim=-1
        ).reshape(n, axes)
        middle = low + (extent - 1) / 2
        away = (places[None, None] - middle[:, :, None]).abs() / (extent[:, :, None] / 2)
        far = away.amax(dim=3)  # [B, K, N]: below 1 within the cuboid
        number = torch.arange(self.blocks, device=low.device, dtype=torch.float32)[None, :, None]
        order = torch.where(far < 1, number + far.clamp(max=0.999), math.inf).amin(dim=1)
        order = torch.where(order.isinf(), self.blocks + draw.uniform(n), order)
        rank = (order + 1e-4 * draw.uniform(n)).argsort(dim=1)  # ties of symmetric places by a draw
        hide = min(max(round(self.ratio * n), 1), n - 1)
        hidden = torch.zeros_like(order, dtype=torch.bool).scatter_(1, rank[:, :hide], True)
        return Mask(hidden, context=rank[:, hide:].sort(dim=1).values)
