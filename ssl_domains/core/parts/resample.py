"""Crops of a batch: boxes drawn for every image, and brought to one size."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.random import Draw

Filter = Literal["bilinear", "bicubic"]

TRIES = 10
"""Boxes drawn for each image; the first that fits is taken, as torchvision does it."""
LOOP_FROM = 64 * 64
"""Output pixels from which 8-bit crops on a CPU go one by one through torch's own 8-bit kernel: crops of
different sizes cannot share a call of it, yet at 224 pixels it takes 0.09 ms an image and the two products
2.0 ms."""


def resample(
    x: Tensor, box: Tensor, flip: Tensor | None, size: tuple[int, int], interpolation: Filter = "bilinear"
) -> Tensor:
    """Cuts a box out of each image, brings it to ``size``, and mirrors some.

    The filter is widened where it shrinks (antialiasing), and pixels outside the box play no part: what
    ``torchvision``'s resized crop and PIL give.

    Args:
        x: ``[B, C, H, W]`` uint8 (0 to 255) or float (0 to 1).
        box: ``[B, 4]`` int64 top, left, height, width in pixels, within the image.
        flip: ``[B]`` bool, or None.
        size: height and width of the result.
        interpolation: ``bilinear`` or ``bicubic`` (a = -0.5).

    Returns:
        ``[B, C, *size]`` float in [0, 1]: x's type, float32 for uint8.
    """
    if x.dtype == torch.uint8 and x.device.type == "cpu" and size[0] * size[1] >= LOOP_FROM:
        return _one_by_one(x, box, flip, size, interpolation)
    dtype = torch.float32 if x.dtype == torch.uint8 else x.dtype
    height, width = x.shape[2:]
    rows = _weights(box[:, 0], box[:, 2], height, size[0], interpolation)  # [B, out, H]
    columns = _weights(box[:, 1], box[:, 3], width, size[1], interpolation)
    if flip is not None:
        columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    b, c = x.shape[:2]
    wide = x.contiguous().to(torch.float32).view(b, c * height, width)
    wide = torch.bmm(wide, columns.transpose(1, 2)).view(b, c, height, size[1])
    if c > 4:  # frames of a clip as channels: one product, at the price of a copy
        tall = torch.bmm(rows, wide.transpose(1, 2).reshape(b, height, c * size[1]))
        out = tall.view(b, size[0], c, size[1]).transpose(1, 2).contiguous()
    else:
        out = torch.stack([torch.bmm(rows, wide[:, i]) for i in range(c)], dim=1)
    if x.dtype == torch.uint8:
        out.mul_(1 / 255)
    return (out.clamp_(0, 1) if interpolation == "bicubic" else out).to(dtype)


def _one_by_one(
    x: Tensor, box: Tensor, flip: Tensor | None, size: tuple[int, int], interpolation: Filter
) -> Tensor:
    out = torch.empty(len(x), x.shape[1], *size)
    mirrored = [False] * len(x) if flip is None else flip.tolist()
    for i, ((top, left, height, width), mirror) in enumerate(zip(box.tolist(), mirrored, strict=True)):
        cut = x[i : i + 1, :, top : top + height, left : left + width]
        if x.shape[1] == 1:  # the kernel is fast for channels last only, which one channel hides
            cut = cut.contiguous()
        cut = F.interpolate(cut, size, mode=interpolation, antialias=True)
        out[i] = cut[0].flip(-1) if mirror else cut[0]
    return out.mul_(1 / 255)


def _weights(start: Tensor, length: Tensor, n: int, out: int, interpolation: Filter) -> Tensor:
    """``[B, out, n]`` float32: share of each input pixel in each output pixel, along one axis."""
    start, length = start.float()[:, None, None], length.float()[:, None, None]
    step = length / out
    at = torch.arange(out, device=start.device, dtype=torch.float32)[None, :, None]
    pixel = torch.arange(n, device=start.device, dtype=torch.float32)[None, None, :]
    distance = (pixel - start + 0.5 - (at + 0.5) * step).abs() / step.clamp_min(1.0)
    weight = (1 - distance).clamp_min(0) if interpolation == "bilinear" else _cubic(distance)
    weight = weight * ((pixel >= start) & (pixel < start + length))
    return weight / weight.sum(dim=2, keepdim=True)


def _cubic(d: Tensor, a: float = -0.5) -> Tensor:
    """Keys' cubic kernel of distances ``d >= 0``."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = (((d - 5) * d + 8) * d - 4) * a
    return torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def draw_boxes(
    draw: Draw,
    size: tuple[int, int],
    shape: Tensor | None,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Tensor:
    """``[B, 4]`` int64 top, left, height, width: a random share of the area and a log-uniform aspect ratio.

    Of ten boxes the first that fits is taken; when none does, the largest one in the middle within the
    aspect ratios (torchvision's ``RandomResizedCrop``).

    Args:
        draw: the random numbers.
        size: height and width of the pixels.
        shape: ``[B, 2]`` true height and width of squeezed images, in which aspect ratios count; None:
        ``size``.
        scale: (low, high) share of the area.
        ratio: (low, high) width over height.
    """
    u = draw.uniform(4, TRIES)
    device = u.device
    pixels = torch.tensor(size, device=device, dtype=torch.float32)
    true = pixels.expand(len(u), 2) if shape is None else shape.to(device, torch.float32)
    height, width = true[:, :1], true[:, 1:]
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[:, 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * u[:, 1])
    w, h = torch.sqrt(area * aspect).round(), torch.sqrt(area / aspect).round()
    fits = (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
    first = fits.int().argmax(dim=1, keepdim=True)  # 0 when none fits
    w, h, up, across = (v.gather(1, first) for v in (w, h, u[:, 2], u[:, 3]))
    own = width / height  # the largest box in the middle
    w_mid = torch.minimum(width, (height * ratio[1]).round())
    h_mid = torch.where(own < ratio[0], torch.minimum(height, (width / ratio[0]).round()), height)
    none = ~fits.any(dim=1, keepdim=True)
    w, h = torch.where(none, w_mid, w), torch.where(none, h_mid, h)
    top = torch.where(none, ((height - h) / 2).floor(), (up * (height - h + 1)).floor())
    left = torch.where(none, ((width - w) / 2).floor(), (across * (width - w + 1)).floor())
    box = torch.cat([top, left, h, w], dim=1)
    if shape is not None:  # to the squeezed pixels
        factor = (pixels / true).repeat(1, 2)
        box = (box * factor).round()
        box[:, 2:] = box[:, 2:].clamp_min(1)
        box[:, :2] = torch.minimum(box[:, :2], pixels - box[:, 2:]).clamp_min(0)
    return box.long()
