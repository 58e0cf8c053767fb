"""Colour and blur, each image of a batch with its own parameters.

Images are floats ``[B, C, H, W]`` in [0, 1]. With the same parameters the results are those of torchvision's
functions of the same names. An image whose parameter is neutral stays as it is: on a CPU such images are
skipped, on a GPU they go through the same arithmetic, since looking at the parameters would cost a
synchronisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

GREY = (0.2989, 0.587, 0.114)
"""Shares of red, green and blue in brightness (ITU-R 601), as torchvision and PIL have them."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def grey(x: Tensor) -> Tensor:
    """``[B, 1, H, W]`` brightness."""
    if x.shape[1] == 1:
        return x
    out = x[:, 0] * GREY[0]
    out.add_(x[:, 1], alpha=GREY[1]).add_(x[:, 2], alpha=GREY[2])
    return out[:, None]


@dataclass
class Jitter:
    """Parameters of a colour jitter.

    Attributes:
        factors: ``[B, 3]`` of brightness, contrast, saturation; 1 is neutral.
        hue: ``[B]`` shift in turns; 0 is neutral.
        order: ``[B, 4]`` the order of the four in each image, a permutation of 0 to 3.
    """

    factors: Tensor
    hue: Tensor
    order: Tensor

    def rows(self, rows: Tensor) -> Jitter:
        """Those of some images."""
        return Jitter(self.factors[rows], self.hue[rows], self.order[rows])


def colour_jitter(x: Tensor, jitter: Jitter, chosen: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue in each image's own order; in place.

    Args:
        x: ``[B, C, H, W]``; one channel has no saturation and no hue.
        jitter: parameters.
        chosen: ``[B]`` bool: the images to change.
    """
    at = (jitter.order == HUE).int().argmax(dim=1)  # place of the hue in the order
    if x.device.type == "cpu":
        for before in range(4):
            rows = ((at == before) & chosen).nonzero()[:, 0]
            if len(rows):
                some = jitter.rows(rows)
                x[rows] = _jitter(x[rows], some, before, 3 - before)
        return x
    neutral = ~chosen[:, None]
    factors = torch.where(neutral, torch.ones_like(jitter.factors), jitter.factors)
    hue = torch.where(chosen, jitter.hue, torch.zeros_like(jitter.hue))
    return x.copy_(_jitter(x, Jitter(factors, hue, jitter.order), 3, 3, at))


def _jitter(x: Tensor, jitter: Jitter, before: int, after: int, at: Tensor | None = None) -> Tensor:
    """``before`` blends, the hue, ``after`` blends; with ``at [B]`` those that are not on their side of the
    hue are neutral."""
    places = (jitter.order == HUE).byte().argsort(dim=1, stable=True)[:, :3]
    order = jitter.order.gather(1, places)  # [B, 3] the blends, in their order
    for place in range(before):
        x = _blend(x, jitter.factors, order[:, place], None if at is None else at > place)
    x = shift_hue(x, jitter.hue)
    for place in range(3 - after, 3):
        x = _blend(x, jitter.factors, order[:, place], None if at is None else at <= place)
    return x


def _blend(x: Tensor, factors: Tensor, which: Tensor, active: Tensor | None) -> Tensor:
    """``clamp(f * x + (1 - f) * other)``; other is 0 (brightness), the mean grey (contrast), the grey
    (saturation)."""
    factor = factors.gather(1, which[:, None])[:, 0]
    if active is not None:
        factor = torch.where(active, factor, torch.ones_like(factor))
    g = grey(x)
    if x.shape[1] == 1:
        factor = torch.where(which == SATURATION, torch.ones_like(factor), factor)
    mean = g.mean(dim=(1, 2, 3))
    rest = 1 - factor
    flat = (rest * mean * (which == CONTRAST)).to(x.dtype)[:, None, None, None]
    own = (rest * (which == SATURATION)).to(x.dtype)[:, None, None, None]
    out = torch.addcmul(torch.addcmul(flat, own, g), factor.to(x.dtype)[:, None, None, None], x)
    return out.clamp_(0, 1)


def shift_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turns the hue of HSV by ``turns [B]`` (1 is once round); saturation and value stay."""
    if x.shape[1] != 3:
        return x
    r, g, b = x.unbind(1)
    value, least = torch.maximum(r, g), torch.minimum(r, g)
    torch.maximum(value, b, out=value)
    torch.minimum(least, b, out=least)
    chroma = value - least
    scale = chroma.clamp_min(1e-6).reciprocal_()
    # The hue as a signed distance from red, [-3, 3], without choosing between sextants (a choice costs more
    # than all the rest): with the channels brought to [0, 1], |g - b| and 1 - r rise and fall in turn along
    # the circle. Planes that have served are written over: fresh memory costs more than the arithmetic.
    side = (g - b).mul_(scale)
    hue = side.abs()
    torch.sub(least, r, out=value).mul_(scale).add_(1)
    torch.mul(hue, -2, out=scale).add_(3)
    hue.addcmul_(value, scale)
    torch.copysign(hue, side, out=hue)
    hue.add_(turns.to(x.dtype)[:, None, None] * 6)
    torch.div(hue, 6, out=value).round_()
    hue.sub_(value, alpha=6)
    out = torch.empty_like(x)
    # A channel stands above the least one by 1 near its own hue (0, 2, 4), by 0 opposite, linear between.
    torch.abs(hue, out=value).neg_().add_(2).clamp_(0, 1)
    torch.addcmul(least, chroma, value, out=out[:, 0])
    for i, opposite in ((1, -1.0), (2, 1.0)):
        torch.sub(hue, opposite, out=value).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(least, chroma, value, out=out[:, i])
    return out


def to_grey(x: Tensor, chosen: Tensor) -> Tensor:
    """Chosen images without colour; in place."""
    if x.shape[1] != 3:
        return x
    if x.device.type == "cpu":
        rows = chosen.nonzero()[:, 0]
        x[rows] = grey(x[rows]).expand(-1, 3, -1, -1)
        return x
    return x.copy_(torch.where(chosen[:, None, None, None], grey(x), x))


def solarise(x: Tensor, chosen: Tensor, threshold: float = 128 / 255) -> Tensor:
    """Inverts what is at least as bright as the threshold; in place."""
    hit = chosen[:, None, None, None] & (x >= threshold)
    return x.copy_(torch.where(hit, 1 - x, x))


def blur(x: Tensor, sigma: Tensor, chosen: Tensor, radius: int) -> Tensor:
    """Gaussian blur with reflected borders; in place.

    Args:
        x: ``[B, C, H, W]``.
        sigma: ``[B]`` in pixels.
        chosen: ``[B]`` bool.
        radius: taps on each side; at most one less than the shorter side.
    """
    if x.device.type == "cpu":
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            x[rows] = _blur(x[rows], sigma[rows], radius)
        return x
    return x.copy_(torch.where(chosen[:, None, None, None], _blur(x, sigma, radius), x))


def _blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    b, c, height, width = x.shape
    radius = min(radius, height - 1, width - 1)
    if radius < 1:
        return x
    tap = torch.arange(-radius, radius + 1, device=x.device, dtype=torch.float32)
    kernel = (-0.5 * (tap[None] / sigma.float().clamp_min(1e-3)[:, None]).square()).exp()
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(x.dtype).repeat_interleave(c, 0)[:, None, None, :]
    flat = x.reshape(1, b * c, height, width)
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="reflect"), kernel, groups=b * c)
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="reflect"), kernel.transpose(2, 3), groups=b * c)
    return flat.view(b, c, height, width)
