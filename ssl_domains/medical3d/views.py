"""Views of volumes and slices: crop, flip, turn, elastic, intensity, noise, blur, cut-out, in batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.medical3d import warp
from ssl_domains.medical3d.spec import VolumeSpec

CHUNK_BYTES = 8 << 20
"""On a CPU a batch goes through in pieces of this many bytes, which stay in the processor's cache."""


@dataclass(frozen=True)
class Style:
    """How one kind of view is made.

    Attributes:
        scale: (low, high) side of a crop as a share of the input's; all sides alike, but for ``aspect``.
        aspect: largest factor by which sides differ from one another.
        flip: share of the samples mirrored, side by side (D, H, W; slices H, W).
        rotate: largest angle in degrees about each axis.
        elastic: deviation of the control points' displacement, as a share of the half side.
        brightness: largest shift, in deviations of the data.
        contrast: largest change of the factor around the mean.
        gamma: largest change of the exponent's logarithm; for windows of 0 to 1.
        noise: largest deviation of the noise, in deviations of the data.
        blur: share of the samples that are blurred.
        cut_out: number of boxes set to background.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    aspect: float = 1.0
    flip: float = 0.0
    rotate: float = 0.0
    elastic: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    cut_out: int = 0

    @property
    def moves(self) -> bool:
        """Whether voxels change their places."""
        return bool(self.scale != (1.0, 1.0) or self.aspect > 1 or self.flip or self.rotate or self.elastic)


FAMILIES = {
    # SimCLR's crop and colours carried over to volumes: crops of 0.5 to 1 of the side (area 0.08 to 1 of
    # photographs would leave too little of a body), intensity in place of colour.
    "simclr": Style((0.5, 1.0), 1.2, 0.5, 15.0, 0.0, 0.5, 0.4, 0.2, 0.1, 0.5),
    # MAE: crop and flip alone.
    "mae": Style((0.75, 1.0), 1.0, 0.5),
    # 2006.10511, stage 1: crop of 100 of 192 pixels, brightness 0.3 and contrast 0.7 to 1.3 of [0, 1].
    "global_local": Style((100 / 192, 100 / 192), 1.0, 0.0, 0.0, 0.0, 1.0, 0.3),
    # 2006.10511, stage 2: intensity only, so that places correspond.
    "intensity": Style(brightness=1.0, contrast=0.3, gamma=0.0),
    # All that supervised segmentation of volumes does.
    "full": Style((0.7, 1.0), 1.2, 0.5, 15.0, 0.05, 0.5, 0.3, 0.2, 0.1, 0.2, 1),
    "none": Style(),
}
Name = Literal["simclr", "mae", "global_local", "intensity", "full", "none"]


@views("volume_augment")
class VolumeAugment(Views):
    """Random crops, mirroring, turns, elastic bends, intensity, noise, blur and cut-out of patches or slices.

    One trilinear resampling does all geometry of a view; every sample has parameters of its own. Recorded
    for each view, ``[B, ...]``: ``centre`` and ``half`` of the crop (shares of the half sides, in the order
    of the sides), ``flip``, ``angles`` in radians, ``brightness``, ``contrast``, ``blur`` (sigma in voxels).

    Args:
        spec: of the data.
        family: where the strengths come from.
        n_views: global views.
        size: sides of a view in voxels; None: the data's.
        local_views: small crops after them, of role ``local``.
        local_size: sides of a local view; None: half of a view's, at least 16.
        local_scale: (low, high) side of a local crop, as a share of the input's.
        scale, aspect, flip, rotate, elastic, brightness, contrast, gamma, noise, blur, cut_out: instead of
            the family's; see :class:`Style`.
        sigma: (low, high) of the blur in voxels.
        points: control points a side of elastic bends.
        cut_size: (low, high) side of a cut-out box, as a share.

    Raises:
        ValueError: a strength out of range.
    """

    def __init__(
        self,
        spec: VolumeSpec,
        family: Name = "simclr",
        n_views: int = 2,
        size: Sequence[int] | None = None,
        local_views: int = 0,
        local_size: Sequence[int] | None = None,
        local_scale: tuple[float, float] = (0.25, 0.5),
        scale: tuple[float, float] | None = None,
        aspect: float | None = None,
        flip: float | None = None,
        rotate: float | None = None,
        elastic: float | None = None,
        brightness: float | None = None,
        contrast: float | None = None,
        gamma: float | None = None,
        noise: float | None = None,
        blur: float | None = None,
        cut_out: int | None = None,
        sigma: tuple[float, float] = (0.3, 1.5),
        points: int = 5,
        cut_size: tuple[float, float] = (0.15, 0.35),
    ) -> None:
        if family not in FAMILIES:
            raise ValueError(f"views.family must be one of {', '.join(FAMILIES)}, got {family!r}")
        if n_views < 1 or local_views < 0:
            raise ValueError(f"views.n_views must be at least 1 and local_views at least 0, got {n_views}")
        given = {
            "aspect": aspect, "flip": flip, "rotate": rotate, "elastic": elastic, "brightness": brightness,
            "contrast": contrast, "gamma": gamma, "noise": noise, "blur": blur, "cut_out": cut_out,
            "scale": None if scale is None else (float(scale[0]), float(scale[1])),
        }  # fmt: skip
        style = replace(FAMILIES[family], **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
        self.spec, self.sigma, self.points, self.cut_size = spec, sigma, points, cut_size
        self.size = _sides(size, spec.size, "size")
        small = [max(s // 2, min(16, s)) for s in self.size]
        self.local_size = _sides(local_size, small, "local_size")
        self.styles = [style] * n_views + [
            replace(style, scale=(local_scale[0], local_scale[1]))
        ] * local_views
        self.n_global, self.n_views = n_views, n_views + local_views
        for one in self.styles:
            _check(one)
        self.bounded = spec.preparation.window not in ("zscore", "none")

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """The global views, then the local ones."""
        made = []
        for i, style in enumerate(self.styles):
            local = i >= self.n_global
            size = self.local_size if local else self.size
            made.append(
                self.view(batch.x, style, size, draw.fork(f"view{i}"), "local" if local else "global")
            )
        return made

    @torch.no_grad()
    def view(self, x: Tensor, style: Style, size: Sequence[int], draw: Draw, role: str = "global") -> View:
        """One view of ``x [B, C, *sides]``."""
        params = self._params(style, size, draw)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            step = len(x)
            if x.device.type == "cpu":
                step = max(CHUNK_BYTES // (4 * (x.shape[1] + x.ndim - 2) * math.prod(size)), 1)
            parts = []
            for start in range(0, len(x), step):
                part = {k: v[start : start + step] for k, v in params.items()}
                index = draw.index[start : start + step]
                own = Draw(draw.seed, draw.step, index, draw.stream)
                parts.append(self._apply(x[start : start + step], part, style, size, own.fork("voxels")))
        recorded = {k: params[k] for k in ("centre", "half", "flip", "angles", "brightness", "contrast")}
        recorded["blur"] = params["sigma"]
        return View(torch.cat(parts), role, recorded)

    def _params(self, style: Style, size: Sequence[int], draw: Draw) -> dict[str, Tensor]:
        """Every random number of a view but noise and bends; always drawn alike, so that one option does not
        shift the others."""
        n = len(size)
        half = draw.uniform(1, low=style.scale[0], high=style.scale[1])
        spread = math.log(style.aspect)
        half = (half * torch.exp(draw.uniform(n, low=-spread, high=spread) / 2)).clamp(max=1.0)
        centre = draw.uniform(n, low=-1.0, high=1.0) * (1 - half)
        angle = math.radians(style.rotate)
        sigma = draw.uniform(low=self.sigma[0], high=self.sigma[1])
        return {
            "half": half,
            "centre": centre,
            "flip": draw.bernoulli(style.flip, n),
            "angles": draw.uniform(1 if n == 2 else 3, low=-angle, high=angle),
            "brightness": draw.uniform(low=-style.brightness, high=style.brightness),
            "contrast": draw.uniform(low=1 - style.contrast, high=1 + style.contrast),
            "gamma": torch.exp(draw.uniform(low=-style.gamma, high=style.gamma)),
            "noise": draw.uniform(low=0.0, high=style.noise),
            "sigma": torch.where(draw.bernoulli(style.blur), sigma, torch.zeros_like(sigma)),
        }

    def _apply(
        self, x: Tensor, p: dict[str, Tensor], style: Style, size: Sequence[int], draw: Draw
    ) -> Tensor:
        background = torch.tensor(self.spec.background, device=x.device)
        if style.moves or tuple(size) != tuple(x.shape[2:]):
            turn = warp.rotation(p["angles"]) if style.rotate else None
            theta = warp.affine(p["centre"], p["half"], p["flip"], turn, x.shape[2:])
            grid = F.affine_grid(theta, [len(x), 1, *size], align_corners=False)
            if style.elastic:
                grid = grid + warp.elastic(draw.fork("elastic"), self.points, style.elastic, size)
            x = warp.sample(x, grid, background)
        x = self._intensity(x, p, style, draw)
        if style.cut_out:
            low, high = warp.draw_boxes(draw.fork("cut"), style.cut_out, self.cut_size, x.shape[2:])
            level = warp.spatial(background[None], x.ndim - 2)
            x = torch.where(warp.in_boxes(low, high, x.shape[2:])[:, None], level, x)
        return x

    def _intensity(self, x: Tensor, p: dict[str, Tensor], style: Style, draw: Draw) -> Tensor:
        n = x.ndim - 2
        mean = warp.spatial(torch.tensor(self.spec.mean, device=x.device)[None], n)
        std = warp.spatial(torch.tensor(self.spec.std, device=x.device)[None], n)
        if style.gamma and self.bounded:
            x = x.clamp(0, 1) ** warp.spatial(p["gamma"][:, None], n)
        if style.contrast or style.brightness:
            x = (x - mean) * warp.spatial(p["contrast"][:, None], n) + mean
            x = x + std * warp.spatial(p["brightness"][:, None], n)
        if style.blur:
            x = warp.blur(x, p["sigma"], warp.radius_of(self.sigma[1]))
        if style.noise:
            noise = draw.fork("noise").normal(*x.shape[1:])
            x = x + std * noise * warp.spatial(p["noise"][:, None], n)
        return x


def _sides(size: Sequence[int] | None, default: Sequence[int], name: str) -> tuple[int, ...]:
    sides = tuple(int(s) for s in (default if size is None else size))
    if len(sides) != len(default) or min(sides) < 1:
        raise ValueError(f"views.{name} must be {len(default)} sides in voxels, got {list(sides)}")
    return sides


def _check(style: Style) -> None:
    if not 0 < style.scale[0] <= style.scale[1] <= 1:
        raise ValueError(
            f"views.scale must be [low, high] with 0 < low <= high <= 1, got {list(style.scale)}"
        )
    for name in ("flip", "blur"):
        if not 0 <= getattr(style, name) <= 1:
            raise ValueError(f"views.{name} is a share of the samples and must lie in [0, 1]")
    for name in ("rotate", "elastic", "brightness", "contrast", "gamma", "noise", "cut_out"):
        if getattr(style, name) < 0:
            raise ValueError(f"views.{name} must not be negative, got {getattr(style, name)}")
    if style.aspect < 1:
        raise ValueError(f"views.aspect must be at least 1, got {style.aspect}")
