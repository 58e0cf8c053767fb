"""Batched arithmetic on clips ``[B, C, T, H, W]``: one box, one flip, one set of colours over all frames of a
clip; frames picked by number."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.parts.colour import Jitter, blur, colour_jitter, solarise, to_grey
from ssl_domains.core.parts.resample import LOOP_FROM, Filter, resample


def pick(x: Tensor, time: Tensor) -> Tensor:
    """Frames ``time [B, F]`` of each clip: ``[B, C, F, H, W]``, in the memory order of ``x``."""
    rows = torch.arange(len(x), device=x.device)[:, None]
    return x.permute(0, 2, 3, 4, 1)[rows, time].permute(0, 4, 1, 2, 3)


def resample_clips(
    x: Tensor, box: Tensor, flip: Tensor, size: tuple[int, int], interpolation: Filter = "bilinear"
) -> Tensor:
    """The same box and flip over all frames of each clip, brought to ``size``.

    Args:
        x: ``[B, C, T, H, W]`` uint8 (0 to 255) or float (0 to 1).
        box: ``[B, 4]`` int64 top, left, height, width.
        flip: ``[B]`` bool.
        size: height and width of the result.
        interpolation: see :func:`~ssl_domains.core.parts.resample.resample`.

    Returns:
        ``[B, C, T, *size]`` float in [0, 1], contiguous.
    """
    b, c, t = x.shape[:3]
    if x.dtype == torch.uint8 and x.device.type == "cpu" and size[0] * size[1] >= LOOP_FROM:
        out = torch.empty(b, c, t, *size)
        mirrored = flip.tolist()
        for i, (top, left, height, width) in enumerate(box.tolist()):  # torch's 8-bit kernel, a clip a call
            cut = x[i, :, :, top : top + height, left : left + width].transpose(0, 1)  # [T, C, h, w]
            if c == 1:
                cut = cut.contiguous()
            found = F.interpolate(cut, size, mode=interpolation, antialias=True)
            out[i] = (found.flip(-1) if mirrored[i] else found).transpose(0, 1)
        return out.mul_(1 / 255)
    folded = x.reshape(b, c * t, *x.shape[3:])
    return resample(folded, box, flip, size, interpolation).view(b, c, t, *size).contiguous()


def tall(x: Tensor) -> Tensor:
    """``[B, C, T, H, W]`` as pictures ``[B, C, T * H, W]``: what changes colours need not know of time. A
    view."""
    return x.view(*x.shape[:2], -1, x.shape[-1])


def colour_clips(x: Tensor, jitter: Jitter, chosen: Tensor) -> None:
    """Brightness, contrast, saturation and hue of chosen clips ``[B]``, the same for all frames; in place.
    Contrast is about the mean brightness of the whole clip."""
    colour_jitter(tall(x), jitter, chosen)


def grey_clips(x: Tensor, chosen: Tensor) -> None:
    """Chosen clips without colour; in place."""
    to_grey(tall(x), chosen)


def solarise_clips(x: Tensor, chosen: Tensor) -> None:
    """Bright pixels of chosen clips inverted; in place."""
    solarise(tall(x), chosen)


def blur_clips(x: Tensor, sigma: Tensor, chosen: Tensor, radius: int) -> None:
    """Each frame of chosen clips blurred by ``sigma [B]``; in place."""
    blur(x.view(len(x), -1, *x.shape[3:]), sigma, chosen, radius)
