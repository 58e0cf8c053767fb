"""What Models Genesis does to a volume before it is restored."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.medical3d import warp
from ssl_domains.medical3d.spec import VolumeSpec
from ssl_domains.medical3d.views import VolumeAugment

CURVE_POINTS = 64


@views("genesis")
class Genesis(Views):
    """Models Genesis (Zhou et al., MICCAI 2019, section 2): non-linear intensity, local shuffling, and in- or
    out-painting. The first view is clean, the second is the same, spoilt.

    Each transformation has its own share of the samples; a sample may get several, but in- and out-painting
    exclude each other, as in the paper.

    Args:
        spec: of the data.
        nonlinear: share whose intensities go through a monotonic Bezier curve. Default 0.9.
        shuffle: share with shuffled voxels within small blocks. Default 0.5.
        paint: share that is in- or out-painted. Default 0.9.
        outward: share of these that is out-painted. Default 0.8.
        blocks: boxes whose voxels are shuffled. Default 64 (the authors' code shuffles 10,000 small ones).
        block: largest share of a side of such a box. Default 0.1.
        scale: (low, high) side of the random crop before.
        flip: share of the samples mirrored.

    Raises:
        ValueError: a share out of range.
    """

    def __init__(
        self,
        spec: VolumeSpec,
        nonlinear: float = 0.9,
        shuffle: float = 0.5,
        paint: float = 0.9,
        outward: float = 0.8,
        blocks: int = 64,
        block: float = 0.1,
        scale: tuple[float, float] = (1.0, 1.0),
        flip: float = 0.4,
    ) -> None:
        shares = {"nonlinear": nonlinear, "shuffle": shuffle, "paint": paint, "outward": outward}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"views.{name} is a share of samples and must lie in [0, 1], got {value}")
        if blocks < 1 or not 0 < block <= 1:
            raise ValueError("views.blocks must be at least 1 and views.block in (0, 1]")
        self.spec, self.n_views = spec, 2
        self.nonlinear, self.shuffle, self.paint, self.outward = nonlinear, shuffle, paint, outward
        self.blocks, self.block = blocks, block
        self.base = VolumeAugment(spec, "none", n_views=1, scale=scale, flip=flip)
        self.bounded = spec.preparation.window not in ("zscore", "none")

    @torch.no_grad()
    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        clean = self.base(batch, draw.fork("base"))[0]
        x = clean.x
        low, high = self._range(x)
        unit = (x - low) / (high - low)
        shape = (-1, *[1] * (x.ndim - 1))
        bent = draw.fork("nonlinear").bernoulli(self.nonlinear).view(shape)
        unit = torch.where(bent, curve(unit, draw.fork("curve")), unit)
        mixed = draw.fork("shuffle").bernoulli(self.shuffle).view(shape)
        unit = torch.where(mixed, self._shuffled(unit, draw.fork("blocks")), unit)
        unit = self._painted(unit, draw.fork("paint"))
        return [clean, View(unit * (high - low) + low, "corrupted", clean.params)]

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each sample; 0 and 1 for windows of that range."""
        shape = (-1, *[1] * (x.ndim - 1))
        if self.bounded:
            return x.new_zeros(1).view(shape), x.new_ones(1).view(shape)
        flat = x.flatten(1)
        low, high = flat.amin(dim=1), flat.amax(dim=1)
        return low.view(shape), torch.maximum(high, low + 1e-6).view(shape)

    def _shuffled(self, x: Tensor, draw: Draw) -> Tensor:
        """Voxels change places with others of the same small box: each takes the value of a drawn voxel
        nearby, which for small boxes is the paper's permutation but for repetitions."""
        sides = x.shape[2:]
        low, high = warp.draw_boxes(draw, self.blocks, (0.02, self.block), sides)
        inside = warp.in_boxes(low, high, sides)
        index = torch.arange(x[0, 0].numel(), device=x.device).view(sides)
        moved = index.expand(len(x), *sides)
        for axis, side in enumerate(sides):
            reach = max(round(self.block * side / 2), 1)
            at = torch.arange(side, device=x.device).view([-1 if a == axis else 1 for a in range(len(sides))])
            step = draw.randint(2 * reach + 1, *sides) - reach
            target = (at + step).clamp(0, side - 1)
            stride = int(torch.tensor(sides[axis + 1 :]).prod()) if axis + 1 < len(sides) else 1
            moved = moved + (target - at) * stride
        taken = torch.gather(x.flatten(2), 2, moved.flatten(1)[:, None].expand(-1, x.shape[1], -1))
        return torch.where(inside[:, None], taken.view(x.shape), x)

    def _painted(self, x: Tensor, draw: Draw) -> Tensor:
        """Boxes of noise (in-painting), or noise everywhere but in large boxes (out-painting)."""
        sides = x.shape[2:]
        any_of = draw.bernoulli(self.paint)
        out = draw.bernoulli(self.outward)
        small = warp.in_boxes(*warp.draw_boxes(draw, 5, (1 / 6, 1 / 3), sides), sides)
        large = warp.in_boxes(*warp.draw_boxes(draw, 5, (3 / 7, 4 / 7), sides), sides)
        shape = (-1, *[1] * len(sides))
        gone = torch.where(out.view(shape), ~large, small) & any_of.view(shape)
        # In-painted boxes are of one level; what is painted outside is noise, as in the authors' code.
        level = draw.uniform(1).view(-1, *[1] * (x.ndim - 1))
        noise = torch.where(out.view(-1, *[1] * (x.ndim - 1)), draw.uniform(*x.shape[1:]), level)
        return torch.where(gone[:, None], noise, x)


def curve(x: Tensor, draw: Draw) -> Tensor:
    """Values in 0 to 1 through a cubic Bezier curve from (0, 0) to (1, 1), or, for half of the samples, from
    (0, 1) to (1, 0): monotonic, with two drawn control points."""
    control = draw.uniform(2, 2)  # [B, point, (x, y)]
    falling = draw.bernoulli(0.5)
    t = torch.linspace(0, 1, CURVE_POINTS, device=x.device)
    weights = torch.stack([3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3])  # of the two points and the end
    ends = torch.ones(len(control), 1, device=x.device)
    xs = torch.cat([control[:, :, 0], ends], dim=1) @ weights
    ys = torch.cat([control[:, :, 1], ends], dim=1) @ weights
    xs, ys = xs.sort(dim=1).values, ys.sort(dim=1).values  # np.interp wants them in order, as the code does
    ys = torch.where(falling[:, None], ys.flip(1), ys)
    flat = x.flatten(1).clamp(0, 1)
    right = torch.searchsorted(xs.contiguous(), flat.contiguous()).clamp(1, CURVE_POINTS - 1)
    x0, x1 = xs.gather(1, right - 1), xs.gather(1, right)
    y0, y1 = ys.gather(1, right - 1), ys.gather(1, right)
    share = ((flat - x0) / (x1 - x0).clamp_min(1e-6)).clamp(0, 1)
    return (y0 + share * (y1 - y0)).view(x.shape)
