"""Batched geometry and filters of volumes and slices: ``[B, C, *sides]`` with 2 or 3 sides.

Coordinates are those of ``grid_sample``: -1 to 1 over each side, the LAST side first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.random import Draw


def spatial(values: Tensor, dims: int) -> Tensor:
    """``[B, ...]`` with as many trailing axes of size 1 as there are sides."""
    return values.reshape(*values.shape, *[1] * dims)


def rotation(angles: Tensor) -> Tensor:
    """``[B, 1]`` or ``[B, 3]`` radians to rotation matrices ``[B, n, n]`` (n 2 or 3), axis after axis."""
    b, n = len(angles), 2 if angles.shape[1] == 1 else 3
    out = torch.eye(n, device=angles.device).expand(b, n, n)
    for axis in range(angles.shape[1]):
        i, j = (0, 1) if n == 2 else ((axis + 1) % 3, (axis + 2) % 3)
        one = torch.eye(n, device=angles.device).repeat(b, 1, 1)
        c, s = angles[:, axis].cos(), angles[:, axis].sin()
        one[:, i, i], one[:, j, j], one[:, i, j], one[:, j, i] = c, c, -s, s
        out = one @ out
    return out


def affine(centre: Tensor, half: Tensor, flip: Tensor, turn: Tensor | None, sides: Sequence[int]) -> Tensor:
    """``[B, n, n + 1]`` from coordinates of a view to those of its input.

    Args:
        centre: ``[B, n]`` of the view in the input, -1 to 1, in the order of the sides.
        half: ``[B, n]`` half sides of the view, as shares of the input's half sides.
        flip: ``[B, n]`` bool.
        turn: ``[B, n, n]`` in voxels, so that angles stay angles in oblong inputs; None: none.
        sides: of the input, in voxels.
    """
    scale = torch.where(flip, -half, half).flip(1)
    matrix = torch.diag_embed(scale)
    if turn is not None:
        aspect = torch.tensor(list(sides)[::-1], device=scale.device, dtype=scale.dtype)
        matrix = (turn * aspect[None, None, :] / aspect[None, :, None]) @ matrix
    return torch.cat([matrix, centre.flip(1)[:, :, None]], dim=2)


def elastic(draw: Draw, points: int, magnitude: float, size: Sequence[int]) -> Tensor:
    """``[B, *size, n]`` smooth displacements: normal ones on a grid of ``points`` control points a side,
    interpolated; ``magnitude`` is their deviation as a share of the half side."""
    n = len(size)
    field = draw.normal(n, *[points] * n) * magnitude
    mode = "trilinear" if n == 3 else "bilinear"
    full = F.interpolate(field, list(size), mode=mode, align_corners=True)
    return full.movedim(1, -1)


def sample(x: Tensor, grid: Tensor, background: Tensor, nearest: bool = False) -> Tensor:
    """``grid_sample`` with a background outside: ``x [B, C, ...]``, ``background [C]``."""
    level = spatial(background.to(x.dtype)[None], x.ndim - 2)
    out = F.grid_sample(
        x - level, grid.to(x.dtype), mode="nearest" if nearest else "bilinear", align_corners=False
    )
    return out + level


def blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur, each sample by its own sigma ``[B]`` in voxels (0: none), one side after the other."""
    b, c, *sides = x.shape
    n = len(sides)
    at = torch.arange(-radius, radius + 1, device=x.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (at[None] / sigma.clamp_min(1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(x.dtype)  # [B, K]
    out = x.reshape(1, b * c, *sides)
    weight = kernel.repeat_interleave(c, dim=0)
    conv = F.conv3d if n == 3 else F.conv2d
    for side in range(n):
        shape, pad = [1] * n, [0] * (2 * n)
        shape[side] = 2 * radius + 1
        pad[2 * (n - 1 - side)] = pad[2 * (n - 1 - side) + 1] = radius
        out = conv(F.pad(out, pad, mode="replicate"), weight.view(b * c, 1, *shape), groups=b * c)
    return out.view(x.shape)


def in_boxes(low: Tensor, high: Tensor, sides: Sequence[int]) -> Tensor:
    """``[B, *sides]`` bool: voxels within any of K boxes, corners ``[B, K, n]`` (``high`` lies outside)."""
    n = len(sides)
    inside: Tensor | None = None
    for axis, side in enumerate(sides):
        at = torch.arange(side, device=low.device)
        line = (at >= low[:, :, axis, None]) & (at < high[:, :, axis, None])  # [B, K, side]
        line = line.view(*line.shape[:2], *[side if a == axis else 1 for a in range(n)])
        inside = line if inside is None else inside & line
    assert inside is not None
    return inside.any(dim=1)


def draw_boxes(
    draw: Draw, count: int, share: tuple[float, float], sides: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Corners ``[B, count, n]`` of boxes inside the volume, each side a share of the volume's."""
    n = len(sides)
    length = torch.tensor(list(sides), device=draw.index.device, dtype=torch.float32)
    extent = (draw.uniform(count, n, low=share[0], high=share[1]) * length).round().clamp_min(1)
    low = (draw.uniform(count, n) * (length - extent + 1)).floor().clamp_min(0)
    return low.long(), (low + extent).long()


def radius_of(sigma: float) -> int:
    """Radius of a kernel for the largest sigma."""
    return max(math.ceil(2.5 * sigma), 1)
