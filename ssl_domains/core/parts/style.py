"""Styles of views of pictures and clips: crops, mirroring, colours, blur; the random numbers of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssl_domains.core.parts.resample import Filter, draw_boxes
from ssl_domains.core.random import Draw

CHUNK_BYTES = 6 << 20
"""On a CPU a batch goes through in pieces of this many bytes, which stay in the processor's cache."""


@dataclass(frozen=True)
class Style:
    """How one kind of view is made.

    Attributes:
        scale: (low, high) share of the picture's area in a crop.
        jitter: strengths of brightness, contrast, saturation, hue.
        jitter_p: share of the samples whose colours are changed.
        grey: share of the samples that lose their colour.
        blur: share of the samples that are blurred.
        solarise: share of the samples whose bright pixels are inverted.
        flip: share of the samples that are mirrored.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.8
    grey: float = 0.0
    blur: float = 0.0
    solarise: float = 0.0
    flip: float = 0.5


@dataclass(frozen=True)
class Family:
    """Views of one paper: styles of the global views in turn, and of the local ones, which may be none."""

    views: tuple[Style, ...]
    local: Style | None = None
    n_local: int = 0
    interpolation: Filter = "bilinear"


SIMCLR = Style((0.08, 1.0), (0.8, 0.8, 0.8, 0.2), 0.8, 0.2, 0.5)
"""SimCLR (Chen et al., ICML 2020, appendix A), strength 1."""
MOCO = Style((0.2, 1.0), (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5)
"""MoCo v2 (Chen et al. 2020, code) and SimSiam."""
BYOL = Style((0.08, 1.0), (0.4, 0.4, 0.2, 0.1), 0.8, 0.2, 1.0)
"""BYOL (Grill et al., NeurIPS 2020, appendix B): the first of its pair of unlike views."""
BYOL_2 = replace(BYOL, blur=0.1, solarise=0.2)
"""The second one."""


def changed(
    style: Style, own: dict[str, float | None], scale: Sequence[float] | None, strength: float
) -> Style:
    """The style with a recipe's own numbers.

    Args:
        style: a family's.
        own: shares by field; None: the family's.
        scale: of the crop; None: the family's.
        strength: factor on the strengths of the colour changes.

    Raises:
        ValueError: a share outside of [0, 1], a negative strength, or a scale that is no part of (0, 1].
    """
    given = {name: value for name, value in own.items() if value is not None}
    for name, value in given.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"views.{name} is a share of the samples and must lie in [0, 1], got {value}")
    if strength < 0:
        raise ValueError(f"views.strength must not be negative, got {strength}")
    jitter = tuple(min(j * strength, 0.5) if i == 3 else j * strength for i, j in enumerate(style.jitter))
    if scale is not None:
        low, high = pair(scale, "scale")
        if high > 1:
            raise ValueError(f"views.scale must be [low, high] with 0 < low <= high <= 1, got {list(scale)}")
        given["scale"] = (low, high)  # type: ignore[assignment]
    return replace(style, jitter=jitter, **given)  # type: ignore[arg-type]


def pair(values: Sequence[float], name: str) -> tuple[float, float]:
    """(low, high) of a recipe's list.

    Raises:
        ValueError: not two positive numbers in this order.
    """
    if len(values) != 2 or values[0] > values[1] or values[0] <= 0:
        raise ValueError(f"views.{name} must be [low, high] with 0 < low <= high, got {list(values)}")
    return float(values[0]), float(values[1])


def draw_style(
    draw: Draw,
    style: Style,
    shape: tuple[int, int],
    size: tuple[int, int],
    *,
    ratio: tuple[float, float],
    sigma: tuple[float, float],
    true_shape: Tensor | None = None,
) -> dict[str, Tensor]:
    """Every random number of one view, ``[B, ...]``; always drawn alike, so that options do not shift others.

    Args:
        draw: of the view.
        style: of the view.
        shape: height and width of the batch's pictures.
        size: of the view.
        ratio: (low, high) width over height of a crop.
        sigma: (low, high) of the blur, in pixels of a 224-pixel view.
        true_shape: ``[B, 2]`` of pictures that were squeezed, or None.
    """
    height, width = shape
    box = draw_boxes(draw, shape, true_shape, style.scale, ratio)
    strength = torch.tensor(style.jitter[:3], device=box.device)
    factors = 1 + strength * draw.uniform(3, low=-1.0, high=1.0)
    blur = draw.uniform(low=sigma[0], high=sigma[1]) * (max(size) / 224)
    return {
        "box": box,
        "crop": box / torch.tensor([height, width, height, width], device=box.device),
        "flip": draw.bernoulli(style.flip),
        "factors": factors.clamp_min(0),
        "hue": style.jitter[3] * draw.uniform(low=-1.0, high=1.0),
        "order": draw.permutation(4),
        "jittered": draw.bernoulli(style.jitter_p if any(style.jitter) else 0.0),
        "grey": draw.bernoulli(style.grey),
        "sigma": blur,
        "blurred": draw.bernoulli(style.blur),
        "solarise": draw.bernoulli(style.solarise),
    }


def recorded(p: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a view says of itself: crop, flip, jitter, grey, blur, solarise."""
    jittered = p["jittered"][:, None]
    factors = torch.where(jittered, p["factors"], torch.ones_like(p["factors"]))
    hue = torch.where(jittered, p["hue"][:, None], torch.zeros_like(p["hue"])[:, None])
    return {
        "crop": p["crop"],
        "flip": p["flip"],
        "jitter": torch.cat([factors, hue], dim=1),
        "grey": p["grey"],
        "blur": torch.where(p["blurred"], p["sigma"], torch.zeros_like(p["sigma"])),
        "solarise": p["solarise"],
    }


@torch.no_grad()
def in_pieces(
    make: Callable[[Tensor, dict[str, Tensor]], Tensor],
    x: Tensor,
    params: dict[str, Tensor],
    shape: tuple[int, ...],
) -> Tensor:
    """``make(x, params)``, on a CPU a few samples at a time.

    Args:
        make: the view, ``[b, *shape]`` float of ``[b, ...]``.
        x: the batch.
        params: random numbers, ``[B, ...]``.
        shape: of one sample's view.
    """
    with torch.autocast(x.device.type, enabled=False):
        if x.device.type != "cpu":
            return make(x, params)
        step = max(CHUNK_BYTES // (4 * math.prod(shape)), 1)
        dtype = torch.float32 if x.dtype == torch.uint8 else x.dtype
        out = torch.empty(len(x), *shape, dtype=dtype)
        for start in range(0, len(x), step):
            part = {name: value[start : start + step] for name, value in params.items()}
            out[start : start + step] = make(x[start : start + step], part)
    return out
