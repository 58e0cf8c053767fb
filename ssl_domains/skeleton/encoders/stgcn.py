"""Spatial temporal graph convolution."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Grid
from ssl_domains.core.registry import encoder
from ssl_domains.skeleton.encoders.base import BodyEncoder, covered, hidden_of, present_mean
from ssl_domains.skeleton.layouts import Layout
from ssl_domains.skeleton.spec import BodySpec


def spatial_partition(layout: Layout, center: int) -> np.ndarray:
    """``[3, V, V]`` adjacency of ST-GCN's spatial configuration (section 3.3).

    Neighbours within one bone, normalised by column as ``A D^-1``, split by the distance to the
    center: the same, nearer to it, farther from it. Joints that no bone joins to the center count
    as equally far.
    """
    v = len(layout)
    near = np.eye(v)
    for child, parent in layout.bones:
        near[child, parent] = near[parent, child] = 1.0
    hops = np.full(v, np.inf)
    hops[center], frontier, distance = 0.0, [center], 0
    while frontier:
        distance += 1
        found = [j for j in range(v) if hops[j] == np.inf and near[j, frontier].any()]
        hops[found] = distance
        frontier = found
    normal = near / near.sum(axis=0, keepdims=True)
    apart = np.where(np.isinf(hops), v, hops)
    source, target = apart[:, None], apart[None, :]
    return np.stack([normal * (source == target), normal * (source < target), normal * (source > target)])


class Block(nn.Module):
    """Graph convolution over joints, then a convolution over time, with a residual.

    Args:
        width_in: C.
        width: D.
        n_subsets: subsets of the adjacency.
        stride: over time.
        kernel: over time, odd.
        dropout: after the convolution over time.
        residual: none, identity or 1 x 1 convolution, as the widths need it.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        n_subsets: int,
        stride: int,
        kernel: int,
        dropout: float,
        residual: bool,
    ) -> None:
        super().__init__()
        self.n_subsets = n_subsets
        self.spatial = nn.Conv2d(width_in, width * n_subsets, 1)
        self.temporal = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, (kernel, 1), (stride, 1), (kernel // 2, 0)),
            nn.BatchNorm2d(width),
            nn.Dropout(dropout),
        )
        self.skip: nn.Module | None = None
        if residual:
            same = width_in == width and stride == 1
            self.skip = nn.Identity() if same else nn.Sequential(
                nn.Conv2d(width_in, width, 1, (stride, 1)), nn.BatchNorm2d(width)
            )  # fmt: skip

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """``[N, C, T, V] -> [N, D, T / stride, V]``."""
        n, _, t, v = x.shape
        mixed = self.spatial(x).view(n, self.n_subsets, -1, t, v)
        mixed = torch.einsum("nkctv,kvw->nctw", mixed, adjacency)
        out = self.temporal(mixed)
        return torch.relu(out if self.skip is None else out + self.skip(x))


@encoder("stgcn")
class STGCN(BodyEncoder):
    """ST-GCN (Yan, Xiong and Lin, AAAI 2018): spatial configuration partitioning, learned edge importance.

    Ten blocks of widths 1, 1, 1, 1, 2, 2, 2, 4, 4, 4 times ``width``, the fifth and eighth with stride 2
    over time. Persons pass one by one and are averaged where they are there (the paper averages absent
    ones in, too). Tokens are joints at a quarter of the frame rate, ``Grid((T / 4, V))``; a mask
    replaces the input of the hidden ones, four frames of a joint each.

    Args:
        spec: the data.
        width: of the first blocks. Default 64 (the paper); SkeletonCLR and its relatives have 16.
        kernel: frames of the convolution over time. Default 9.
        dropout: default 0.5.
        stream: see :class:`BodyEncoder`.
        confidence: see :class:`BodyEncoder`; the paper's models of 2-d estimates have it on.
        centre: see :class:`BodyEncoder`.

    Raises:
        ValueError: a layout without bones, or a number of frames that 4 does not divide.
    """

    drops_hidden: ClassVar[bool] = False
    adjacency: Tensor

    def __init__(
        self,
        spec: BodySpec,
        width: int = 64,
        kernel: int = 9,
        dropout: float = 0.5,
        stream: str = "joint",
        confidence: bool = False,
        centre: float = 1.0,
    ) -> None:
        super().__init__(spec, stream, confidence, centre)
        if not spec.layout.bones:
            raise ValueError(f"encoder stgcn needs bones; layout {spec.layout.name!r} has none (data.layout)")
        if self.frames % 4 or kernel % 2 == 0:
            raise ValueError("encoder stgcn needs data.frames divisible by 4 and an odd kernel")
        adjacency = spatial_partition(spec.layout, max(spec.layout.root, 0))
        self.register_buffer("adjacency", torch.tensor(adjacency, dtype=torch.float32), persistent=False)
        widths = [width * k for k in (1, 1, 1, 1, 2, 2, 2, 4, 4, 4)]
        strides = [1, 1, 1, 1, 2, 1, 1, 2, 1, 1]
        self.norm = nn.BatchNorm1d(self.points * self.channels)
        self.blocks = nn.ModuleList(
            Block(before, after, 3, stride, kernel, dropout, residual=i > 0)
            for i, (before, after, stride) in enumerate(zip([self.channels, *widths], widths, strides))
        )
        self.importance = nn.ParameterList(
            nn.Parameter(torch.ones(3, self.points, self.points)) for _ in widths
        )
        self.mask_token = nn.Parameter(torch.zeros(self.channels))
        self.width, self.grid = widths[-1], (self.frames // 4, self.points)

    def forward(self, x: Any, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens ``[B, T / 4 * V, D]``; pooled is their mean."""
        clip, present = self.read(x)
        b, c, t, v, m = clip.shape
        people = clip.permute(0, 4, 3, 1, 2).reshape(b * m, v * c, t)
        people = self.norm(people).view(b * m, v, c, t).permute(0, 2, 3, 1)  # [BM, C, T, V]
        if mask is not None:
            people = self._hide(people, mask, m)
        states = []
        for block, importance in zip(self.blocks, self.importance, strict=True):
            people = block(people, self.adjacency * importance)
            if layers:
                states.append(people)
        tokens = people.view(b, m, self.width, -1).transpose(2, 3)  # [B, M, N, D]
        tokens = present_mean(tokens, present, 1)
        return Encoded(Tokens(tokens, Grid(self.grid)), tokens.mean(dim=1), states if layers else None)

    def _hide(self, people: Tensor, mask: Mask, persons: int) -> Tensor:
        hidden = hidden_of(mask, self.grid[0] * self.grid[1])
        assert hidden is not None
        hidden = hidden.view(-1, *self.grid).repeat_interleave(4, dim=1).repeat_interleave(persons, dim=0)
        flat = people.permute(0, 2, 3, 1).flatten(1, 2)
        flat = covered(hidden.flatten(1), self.mask_token, flat)
        return flat.view(len(people), self.frames, self.points, -1).permute(0, 3, 1, 2)

    def targets(self, x: Any) -> Tokens:
        """``[B, T / 4 * V, 4 * C * M]``: four frames of a joint."""
        return Tokens(patches(self.clip(x), 4), Grid(self.grid))

    @property
    def target_width(self) -> int:
        """4 * C * M."""
        return 4 * self.channels * self.persons


def patches(clip: Tensor, patch: int) -> Tensor:
    """``[B, C, T, V, M] -> [B, T / patch * V, patch * C * M]``: ``patch`` frames of a joint a token."""
    b, c, t, v, m = clip.shape
    cut = clip.reshape(b, c, t // patch, patch, v, m).permute(0, 2, 4, 3, 1, 5)
    return cut.reshape(b, t // patch * v, patch * c * m)
