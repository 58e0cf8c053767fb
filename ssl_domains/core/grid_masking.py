"""Masks over grids: blocks, I-JEPA's context and targets, tubes.

All samples of a batch are drawn at once. A rectangle of a 2-d grid is a comparison of two row
and two column numbers with the grid's coordinates, so no mask is painted sample by sample.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ssl_domains.core.batch import Mask
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Masker
from ssl_domains.core.layout import Grid, Layout
from ssl_domains.core.masking import share
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import mask


def plane(layout: Layout, name: str) -> tuple[int, int]:
    """(height, width) of a 2-d grid.

    Raises:
        DataError: the layout has another number of axes; names the masks that would do.
    """
    if not isinstance(layout, Grid) or len(layout.shape) != 2:
        shape = getattr(layout, "shape", None)
        raise DataError(
            f"mask {name!r} wants tokens on a grid of 2 axes, this data's grid is "
            f"{list(shape) if shape else type(layout).__name__}; use random, or tube on 3 axes"
        )
    if layout.n_tokens < 4:
        raise DataError(f"mask {name!r} wants at least 4 tokens, the grid {list(layout.shape)} has fewer")
    return layout.shape[0], layout.shape[1]


def inside(
    top: Tensor, left: Tensor, height: Tensor | int, width: Tensor | int, grid: tuple[int, int]
) -> Tensor:
    """``[..., H * W]`` bool: the tokens within the rectangles whose corners are ``top, left [...]``."""
    rows = torch.arange(grid[0], device=top.device)
    columns = torch.arange(grid[1], device=top.device)
    top, left = top[..., None], left[..., None]
    height = height[..., None] if isinstance(height, Tensor) else height
    width = width[..., None] if isinstance(width, Tensor) else width
    in_rows = (rows >= top) & (rows < top + height)
    in_columns = (columns >= left) & (columns < left + width)
    return (in_rows[..., :, None] & in_columns[..., None, :]).flatten(-2)


def corner(u: Tensor, free: Tensor | int) -> Tensor:
    """Uniform int64 in ``[0, free]`` from ``u`` in [0, 1)."""
    return (u * (free + 1)).long()


def pair(values: tuple[float, float], name: str, low: float, high: float) -> tuple[float, float]:
    """A checked range ``[a, b]``.

    Raises:
        ValueError: not ``low < a <= b <= high``.
    """
    if len(values) != 2 or not low < values[0] <= values[1] <= high:
        raise ValueError(f"{name} must be [a, b] with {low:g} < a <= b <= {high:g}, got {list(values)}")
    return float(values[0]), float(values[1])


@mask("block")
class BlockMask(Masker):
    """Block-wise masking of BEiT (Bao et al., ICLR 2022, section 2.3, algorithm 1), as iBOT uses it, too.

    Rectangles of random area and aspect are laid over one another until the wanted number of
    tokens is hidden. All samples hide the same number, ``round(ratio * N)``, so the visible ones
    form a rectangle ``[B, n_c]``: the block that would exceed it is cut along its rows, from a corner
    that is drawn.

    Args:
        ratio: share of hidden tokens. Default 0.4 (BEiT).
        min_tokens: smallest block, in tokens. Default 16 (BEiT, of 196 tokens); never more than
            a twelfth of the grid (BEiT's share) and never less than 1.
        aspect: smallest aspect ratio; drawn log-uniformly between it and its inverse. Default 0.3.
        rounds: blocks tried a sample; what is missing after them is filled at random. BEiT goes on
            until it is full, which takes about 10 blocks.
    """

    layouts: ClassVar[tuple[type, ...]] = (Grid,)

    def __init__(
        self, ratio: float = 0.4, min_tokens: int = 16, aspect: float = 0.3, rounds: int = 32
    ) -> None:
        self.ratio = share(ratio, "mask.ratio")
        if not 0.0 < aspect <= 1.0:
            raise ValueError(f"mask.aspect must lie in (0, 1], got {aspect}")
        if min_tokens < 1 or rounds < 1:
            raise ValueError(
                f"mask.min_tokens and mask.rounds must be at least 1, got {min_tokens}, {rounds}"
            )
        self.min_tokens, self.aspect, self.rounds = min_tokens, aspect, rounds

    def __call__(self, layout: Layout, draw: Draw) -> Mask:
        grid = plane(layout, "block")
        n = grid[0] * grid[1]
        wanted = min(max(round(self.ratio * n), 1), n - 1)
        blocks = self._blocks(grid, wanted, draw)  # [B, R, N]
        # When a token was first covered orders the tokens; those never covered come last, at random.
        number = torch.arange(blocks.shape[1], device=blocks.device)[:, None]
        first = torch.where(blocks, number, blocks.shape[1]).amin(dim=1)  # [B, N]
        rows, columns = (torch.arange(k, device=blocks.device) for k in grid)
        flip = draw.bernoulli(0.5, 2)
        rows = torch.where(flip[:, :1], grid[0] - 1 - rows, rows)  # [B, H]
        columns = torch.where(flip[:, 1:], grid[1] - 1 - columns, columns)
        place = (rows[:, :, None] * grid[1] + columns[:, None, :]).flatten(1)
        late = torch.where(first == blocks.shape[1], draw.permutation(n), place)
        order = (first * n + late).argsort(dim=1)
        hidden = torch.zeros_like(first, dtype=torch.bool).scatter_(1, order[:, :wanted], True)
        return Mask(hidden, context=order[:, wanted:].sort(dim=1).values)

    def _blocks(self, grid: tuple[int, int], wanted: int, draw: Draw) -> Tensor:
        smallest = min(self.min_tokens, max(grid[0] * grid[1] // 12, 1), wanted)
        u = draw.uniform(4, self.rounds)
        area = smallest + u[:, 0] * (wanted - smallest)
        aspect = torch.exp((2 * u[:, 1] - 1) * -math.log(self.aspect))
        height = (area * aspect).sqrt().round().clamp(1, grid[0]).long()
        width = (area / aspect).sqrt().round().clamp(1, grid[1]).long()
        top, left = corner(u[:, 2], grid[0] - height), corner(u[:, 3], grid[1] - width)
        return inside(top, left, height, width, grid)


@mask("multi_block")
class MultiBlockMask(Masker):
    """I-JEPA's masks (Assran et al., CVPR 2023, section 3 and appendix A.1): K target blocks and a
    large context block without them.

    The sizes of the target blocks and of the context block are drawn once a step, their places
    per sample. The contexts of a batch are cut at random to the length of the shortest, as the
    batch needs a rectangle; so which context tokens are left out depends on the batch.

    Args:
        n_targets: K. Default 4.
        target_scale: (low, high) share of the grid in a target block. Default (0.15, 0.2).
        target_aspect: (low, high) height over width of a target block. Default (0.75, 1.5).
        context_scale: (low, high) share of the grid in the context block, a square. Default (0.85, 1.0).
    """

    layouts: ClassVar[tuple[type, ...]] = (Grid,)

    def __init__(
        self,
        n_targets: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        target_aspect: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
    ) -> None:
        if n_targets < 1:
            raise ValueError(f"mask.n_targets must be at least 1, got {n_targets}")
        self.n_targets = n_targets
        self.target_scale = pair(target_scale, "mask.target_scale", 0.0, 1.0)
        self.target_aspect = pair(target_aspect, "mask.target_aspect", 0.0, math.inf)
        self.context_scale = pair(context_scale, "mask.context_scale", 0.0, 1.0)

    def __call__(self, layout: Layout, draw: Draw) -> Mask:
        grid = plane(layout, "multi_block")
        height, width = self._size(grid, self.target_scale, self.target_aspect, draw)
        u = draw.uniform(2, self.n_targets)
        top, left = corner(u[:, 0], grid[0] - height), corner(u[:, 1], grid[1] - width)
        targets = inside(top, left, height, width, grid)  # [B, K, N]
        hidden_by_target = targets.any(dim=1)
        height_c, width_c = self._size(grid, self.context_scale, (1.0, 1.0), draw)
        v = draw.uniform(2)
        block = inside(corner(v[:, 0], grid[0] - height_c), corner(v[:, 1], grid[1] - width_c),
                       height_c, width_c, grid)  # fmt: skip
        context = self._context(block & ~hidden_by_target, ~hidden_by_target, draw)
        index = targets.int().argsort(dim=2, descending=True, stable=True)[:, :, : height * width]
        hidden = torch.ones_like(hidden_by_target).scatter_(1, context, False)
        return Mask(hidden, context=context, targets=index.sort(dim=2).values.transpose(0, 1))

    @staticmethod
    def _size(
        grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float], draw: Draw
    ) -> tuple[int, int]:
        """(height, width) of this step's blocks; as in the authors' code less than the grid on both axes."""
        a, b = (draw.integers(0, 2**24) / 2**24 for _ in range(2))
        area = (scale[0] + a * (scale[1] - scale[0])) * grid[0] * grid[1]
        ratio = aspect[0] + b * (aspect[1] - aspect[0])
        height = max(min(round(math.sqrt(area * ratio)), grid[0] - 1), 1)
        width = max(min(round(math.sqrt(area / ratio)), grid[1] - 1), 1)
        return height, width

    @staticmethod
    def _context(allowed: Tensor, outside: Tensor, draw: Draw) -> Tensor:
        """``[B, n_c]`` sorted indices of ``allowed [B, N]``, cut to the shortest row.

        A row whose targets leave nothing of the context block takes any token outside its targets;
        targets that cover the whole grid (tiny grids) leave the tokens that were drawn last.
        """
        draws = draw.permutation(allowed.shape[1])
        rank = torch.where(allowed, 0, torch.where(outside, 1, 2)) * allowed.shape[1] + draws
        shortest = max(int(allowed.sum(dim=1).min()), 1)
        return rank.argsort(dim=1)[:, :shortest].sort(dim=1).values


@mask("tube")
class TubeMask(Masker):
    """The same places hidden at every time: VideoMAE's tubes (Tong et al., NeurIPS 2022, section 3.2).

    The first axis of the grid is time; ``round(ratio * P)`` of the P places of the other axes are
    hidden, at least 1, and at least 1 stays. On ``Grid(T, V)`` whole joints are hidden.

    Args:
        ratio: share of hidden places. Default 0.9 (VideoMAE).
    """

    layouts: ClassVar[tuple[type, ...]] = (Grid,)

    def __init__(self, ratio: float = 0.9) -> None:
        self.ratio = share(ratio, "mask.ratio")

    def __call__(self, layout: Layout, draw: Draw) -> Mask:
        if not isinstance(layout, Grid) or len(layout.shape) < 2:
            raise DataError("mask 'tube' wants a grid of time and at least one more axis; use random")
        time, places = layout.shape[0], math.prod(layout.shape[1:])
        if places < 2:
            raise DataError("mask 'tube' wants at least 2 places at a time, the data has 1; use random")
        n_hidden = min(max(round(self.ratio * places), 1), places - 1)
        order = draw.permutation(places)
        hidden = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :n_hidden], True)
        seen = order[:, n_hidden:].sort(dim=1).values
        steps = torch.arange(time, device=order.device) * places
        return Mask(hidden.repeat(1, time), context=(steps[:, None] + seen[:, None, :]).flatten(1))


@mask("running_cell")
class RunningCellMask(Masker):
    """Cells of neighbouring places of which some are hidden, others at the next time: every place comes
    into view.

    Running cell masking of MAR (Qing et al., 2022, arXiv 2207.11660), also VideoMAE V2's way to thin out
    what a decoder predicts. Place j of a cell (row by row) is hidden at time t when ``(j + t + s) mod n <
    k``: k of the n places of a cell at any time, the next one in turn at each time. The start s is drawn
    for each sample.

    Args:
        ratio: share of hidden places in a cell; k is ``round(ratio * n)``, at least 1 and at most n - 1.
            Default 0.5 (MAR).
        cell: height and width of a cell in tokens. Default 2 x 2 (MAR).
    """

    layouts: ClassVar[tuple[type, ...]] = (Grid,)

    def __init__(self, ratio: float = 0.5, cell: tuple[int, int] = (2, 2)) -> None:
        self.ratio = share(ratio, "mask.ratio")
        if len(cell) != 2 or min(cell) < 1 or cell[0] * cell[1] < 2:
            raise ValueError(f"mask.cell must be [height, width] of at least 2 tokens, got {list(cell)}")
        self.cell = (int(cell[0]), int(cell[1]))

    def __call__(self, layout: Layout, draw: Draw) -> Mask:
        if not isinstance(layout, Grid) or len(layout.shape) != 3:
            raise DataError("mask 'running_cell' wants a grid of time, height and width; use random")
        time, height, width = layout.shape
        n = self.cell[0] * self.cell[1]
        if (height % self.cell[0] or width % self.cell[1]) and time % n:
            raise DataError(
                f"mask 'running_cell': cells of {self.cell[0]} x {self.cell[1]} do not fill "
                f"{height} x {width} places, and {time} times are no multiple of {n}, so rows would "
                "hide different numbers of tokens; choose another mask.cell"
            )
        k = min(max(round(self.ratio * n), 1), n - 1)
        device = draw.index.device
        rows = torch.arange(height, device=device) % self.cell[0]
        columns = torch.arange(width, device=device) % self.cell[1]
        place = rows[:, None] * self.cell[1] + columns  # [H, W]
        turn = torch.arange(time, device=device)[:, None, None] + draw.randint(n)[:, None, None, None]
        return Mask(((place + turn) % n < k).flatten(1))


@mask("tube_block")
class TubeBlockMask(Masker):
    """V-JEPA's masks (Bardes et al., 2024, arXiv 2404.08471, section 3.2): rectangles hidden at all times.

    There are two kinds: many small blocks (short-range masks) or a few large ones (long-range), laid over one
    another. What they cover is to be predicted, all the rest is the context. ``latent_prediction`` takes one
    mask of each kind at each step and the mean of their losses, as the authors do: a pass of the encoder for
    each, one of the teacher. Other methods take one mask a step, whose kind is drawn. Contexts and targets
    are cut at random, by whole places, to the shortest of the batch, as the batch needs rectangles.

    Args:
        blocks: numbers of blocks, by kind. Default 8 and 2 (V-JEPA: short-range and long-range masks).
        scales: share of the places in one block, by kind. Default 0.15 and 0.7.
        aspect: (low, high) height over width of a block. Default (0.75, 1.5).
        together: False: one kind a step, drawn, in ``latent_prediction`` too; half the cost of a step.
    """

    layouts: ClassVar[tuple[type, ...]] = (Grid,)

    def __init__(
        self,
        blocks: tuple[int, ...] = (8, 2),
        scales: tuple[float, ...] = (0.15, 0.7),
        aspect: tuple[float, float] = (0.75, 1.5),
        together: bool = True,
    ) -> None:
        if not blocks or len(blocks) != len(scales) or min(blocks) < 1:
            raise ValueError(
                "mask.blocks and mask.scales must be equal in number and blocks at least 1, got "
                f"{list(blocks)} and {list(scales)}"
            )
        self.blocks = tuple(blocks)
        self.scales = tuple(share(scale, "mask.scales") for scale in scales)
        self.aspect = pair(aspect, "mask.aspect", 0.0, math.inf)
        self.together = together

    def __call__(self, layout: Layout, draw: Draw) -> Mask:
        return self._of_kind(layout, draw.integers(0, len(self.blocks) - 1), draw)

    def masks(self, layout: Layout, draw: Draw) -> list[Mask]:
        """One of each kind."""
        if not self.together:
            return [self(layout, draw)]
        return [self._of_kind(layout, kind, draw.fork(f"kind{kind}")) for kind in range(len(self.blocks))]

    def _of_kind(self, layout: Layout, kind: int, draw: Draw) -> Mask:
        if not isinstance(layout, Grid) or len(layout.shape) != 3 or math.prod(layout.shape[1:]) < 2:
            raise DataError(
                "mask 'tube_block' wants a grid of time, height and width with at least 2 places; use random"
            )
        time, grid = layout.shape[0], (layout.shape[1], layout.shape[2])
        places = grid[0] * grid[1]
        height, width = self._size(grid, self.scales[kind], draw)
        u = draw.uniform(2, self.blocks[kind])
        top, left = corner(u[:, 0], grid[0] - height), corner(u[:, 1], grid[1] - width)
        covered = inside(top, left, height, width, grid).any(dim=1)  # [B, P]
        order = draw.permutation(places)
        n_seen = max(int((~covered).sum(dim=1).min()), 1)
        seen = (covered.long() * places + order).argsort(dim=1)[:, :n_seen]
        left_over = covered.scatter(1, seen, False)
        n_target = max(int(left_over.sum(dim=1).min()), 1)
        rank = torch.where(left_over, 0, places).scatter(1, seen, 2 * places) + order
        target = rank.argsort(dim=1)[:, :n_target]
        steps = (torch.arange(time, device=order.device) * places)[:, None]
        context = (steps + seen.sort(dim=1).values[:, None, :]).flatten(1)
        targets = (steps + target.sort(dim=1).values[:, None, :]).flatten(1)
        hidden = torch.ones(len(order), time * places, dtype=torch.bool, device=order.device)
        return Mask(hidden.scatter_(1, context, False), context=context, targets=targets[None])

    def _size(self, grid: tuple[int, int], scale: float, draw: Draw) -> tuple[int, int]:
        """(height, width) of this step's blocks; at least one place stays free."""
        ratio = self.aspect[0] + draw.integers(0, 2**24) / 2**24 * (self.aspect[1] - self.aspect[0])
        area = scale * grid[0] * grid[1]
        height = max(min(round(math.sqrt(area * ratio)), grid[0]), 1)
        width = max(min(round(math.sqrt(area / ratio)), grid[1]), 1)
        if height * width == grid[0] * grid[1]:
            return (height - 1, width) if height > 1 else (height, width - 1)
        return height, width
