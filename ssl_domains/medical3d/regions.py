"""Regions of feature maps: where local contrast looks, and whom each region is told from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def region_centres(dims: int) -> Tensor:
    """``[K, dims]`` shares of the sides: a lattice of 3 a side and the quarter points between: 13 regions on
    slices (2006.10511, appendix), 35 in volumes."""
    lattice = [torch.tensor([1 / 6, 1 / 2, 5 / 6])] * dims
    quarter = [torch.tensor([1 / 3, 2 / 3])] * dims
    both = [
        torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, dims)
        for axes in (lattice, quarter)
    ]
    return torch.cat(both)


def neighbours(centres: Tensor, count: int = 5) -> Tensor:
    """``[K, count]`` int64: the nearest other regions of each, by number where equally near: Om(r)."""
    distance = torch.cdist(centres.double(), centres.double())
    distance.fill_diagonal_(torch.inf)
    distance = distance + 1e-6 * torch.arange(len(centres))[None]
    return distance.argsort(dim=1, stable=True)[:, :count]


class Regions(nn.Module):
    """Head g2 and the regions: ``[B, C, *sides]`` to ``[B, K, width]``.

    A 1x1 convolution with batch norm and ReLU, a 1x1 convolution without bias, then every region of ``side``
    places a side is flattened and mapped by one shared linear layer without bias (2006.10511, section 3.2).

    Args:
        channels: C of the map.
        dims: 2 or 3.
        side: places of a region. Default 3.
        width: of a region's vector. Default 128.
    """

    def __init__(self, channels: int, dims: int, side: int = 3, width: int = 128) -> None:
        super().__init__()
        conv: type[nn.Module] = nn.Conv3d if dims == 3 else nn.Conv2d
        norm: type[nn.Module] = nn.BatchNorm3d if dims == 3 else nn.BatchNorm2d
        self.head = nn.Sequential(
            conv(channels, channels, 1), norm(channels), nn.ReLU(), conv(channels, channels, 1, bias=False)
        )
        self.project = nn.Linear(channels * side**dims, width, bias=False)
        self.dims, self.side = dims, side
        self.centres = region_centres(dims)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, K, width]``.

        Raises:
            ValueError: the map is too small for its regions.
        """
        maps = self.head(x)
        corner = self.corners(maps.shape[2:])
        index = self._index(corner, maps.shape[2:]).to(maps.device)  # [K, side ** dims]
        picked = maps.flatten(2)[:, :, index]  # [B, C, K, P]
        return self.project(picked.permute(0, 2, 3, 1).flatten(2))

    def corners(self, sides: Sequence[int]) -> Tensor:
        """``[K, dims]`` int64 first place of each region."""
        if min(sides) < self.side:
            raise ValueError(
                f"regions of {self.side} places want a larger map than {list(sides)}; raise method.blocks"
            )
        size = torch.tensor(list(sides), dtype=torch.float32)
        corner = (self.centres * size).floor().long() - self.side // 2
        return torch.minimum(corner.clamp_min(0), size.long() - self.side)

    def _index(self, corner: Tensor, sides: Sequence[int]) -> Tensor:
        steps = torch.stack(
            torch.meshgrid(*[torch.arange(self.side)] * self.dims, indexing="ij"), dim=-1
        ).reshape(-1, self.dims)
        places = corner[:, None] + steps[None]  # [K, P, dims]
        flat = torch.zeros(places.shape[:2], dtype=torch.int64)
        for axis, side in enumerate(sides):
            flat = flat * side + places[..., axis]
        return flat
