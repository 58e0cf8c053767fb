"""One image file to pixels: every mode, rotation and size that PIL reads, and a reason for those it
cannot."""

from __future__ import annotations

import io
import math
import os
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

Fit = Literal["crop", "squeeze", "pad"]
Raw = str | os.PathLike[str] | bytes

MAX_PIXELS = 89_478_485
"""Pixels above which an image is refused unless ``data.max_pixels`` says otherwise: PIL's own limit."""
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
GREY = ("L", "1", "LA", "La", *DEEP)
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The limit is ours (Decoding.max_pixels) and ends in a sentence; PIL's warning would come on top of it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BrokenImage(Exception):
    """An image that cannot be used; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Decoding:
    """What an image becomes.

    Attributes:
        size: height and width of the pixels kept.
        channels: 1 (grey) or 3 (RGB).
        fit: ``crop``: the short side is brought to size, the middle is cut out; ``squeeze``: both sides are
            brought to size; ``pad``: the long side is brought to size, the rest is background.
        max_pixels: larger images are refused before they are decoded.
        background: grey value under transparent pixels and around padded images.
    """

    size: tuple[int, int]
    channels: int = 3
    fit: Fit = "crop"
    max_pixels: int = MAX_PIXELS
    background: int = 255


@dataclass(frozen=True)
class Header:
    """What the first bytes of a file say: PIL's mode, height and width as shown (rotation applied)."""

    mode: str
    height: int
    width: int


def read_header(raw: Raw) -> Header:
    """Mode and size, without decoding.

    Raises:
        BrokenImage: no image, or the file is not there.
    """
    try:
        with _open(raw) as image:
            width, height = image.size
            if _orientation(image) >= 5:
                width, height = height, width
            return Header(image.mode, height, width)
    except Exception as error:
        raise BrokenImage(_reason(error)) from None


def decode(raw: Raw, how: Decoding) -> tuple[np.ndarray, tuple[int, int]]:
    """Pixels of one image.

    EXIF rotation is applied, transparency is laid on the background, CMYK, palettes and other colour spaces
    become RGB, 16-bit and float grey becomes 8-bit, of an animation the first frame is taken. JPEGs are
    decoded at a fraction of their size where that is enough.

    Args:
        raw: a path, or the bytes of a file.
        how: see :class:`Decoding`.

    Returns:
        ``[H, W, C]`` uint8, and the true height and width.

    Raises:
        BrokenImage: truncated, no image, too large, or not there; says which.
    """
    try:
        with _open(raw) as image:
            return _decode(image, how)
    except BrokenImage:
        raise
    except Exception as error:  # a damaged file makes PIL's readers raise nearly anything
        raise BrokenImage(_reason(error)) from None


def _open(raw: Raw) -> Image.Image:
    if not isinstance(raw, bytes) and os.path.getsize(raw) == 0:
        raise BrokenImage("is empty")
    return Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw)


def _decode(image: Image.Image, how: Decoding) -> tuple[np.ndarray, tuple[int, int]]:
    width, height = image.size
    if width * height > how.max_pixels:
        raise BrokenImage(f"is {width} x {height} pixels, more than data.max_pixels ({how.max_pixels:,})")
    turn = _orientation(image)
    target = how.size if turn < 5 else how.size[::-1]  # in the file's own axes
    factor = _factor((height, width), target, how.fit)
    if image.format == "JPEG" and factor < 1:
        # At least the size needed, so that the resize below decides the quality.
        image.draft(None, (math.ceil(width * factor), math.ceil(height * factor)))
    image.load()
    flat = _flatten(image, how)
    fitted = _fit(flat, target, how)
    if turn in _TURNS:
        fitted = fitted.transpose(_TURNS[turn])
    pixels = np.asarray(fitted, dtype=np.uint8)
    true = (height, width) if turn < 5 else (width, height)
    return pixels.reshape(*how.size, how.channels), true


def _factor(size: tuple[int, int], target: tuple[int, int], fit: Fit) -> float:
    factors = (target[0] / size[0], target[1] / size[1])
    return min(factors) if fit == "pad" else max(factors)


def _flatten(image: Image.Image, how: Decoding) -> Image.Image:
    """Mode ``L`` or ``RGB``, without transparency."""
    mode = "RGB" if how.channels == 3 else "L"
    if image.mode in DEEP:
        return _shallow(image).convert(mode)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        shade = (how.background,) * 3 + (255,)
        return Image.alpha_composite(Image.new("RGBA", rgba.size, shade), rgba).convert(mode)
    return image if image.mode == mode else image.convert("RGB").convert(mode)


def _shallow(image: Image.Image) -> Image.Image:
    """8-bit grey of 16-bit integers (0 to 65,535), of other integers and floats by their own range."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(values.max(initial=0.0))
    if image.mode.startswith("I;16") or (image.mode == "I" and 255 < top <= 65_535):
        values = values / 257
    elif image.mode == "F" and top <= 1:
        values = values * 255
    elif top > 255:
        values = values * (255 / top)
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def _fit(image: Image.Image, target: tuple[int, int], how: Decoding) -> Image.Image:
    height, width = target
    if image.size == (width, height):
        return image
    have_w, have_h = image.size
    factor = _factor((have_h, have_w), target, how.fit)
    resample = Image.Resampling.BICUBIC
    if how.fit == "squeeze":
        return image.resize((width, height), resample)
    if how.fit == "crop":
        cut_w, cut_h = min(width / factor, have_w), min(height / factor, have_h)
        left, top = (have_w - cut_w) / 2, (have_h - cut_h) / 2
        return image.resize((width, height), resample, box=(left, top, left + cut_w, top + cut_h))
    inner = image.resize(
        (min(max(round(have_w * factor), 1), width), min(max(round(have_h * factor), 1), height)), resample
    )
    shade = how.background if image.mode == "L" else (how.background,) * 3
    canvas = Image.new(image.mode, (width, height), shade)
    canvas.paste(inner, ((width - inner.size[0]) // 2, (height - inner.size[1]) // 2))
    return canvas


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block is no reason to lose the image
        return 1


def _reason(error: Exception) -> str:
    if isinstance(error, BrokenImage):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    if isinstance(error, PermissionError):
        return "may not be read"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more pixels than data.max_pixels ({MAX_PIXELS:,})"
    if isinstance(error, UnidentifiedImageError):
        return "is no image that can be read"
    text = str(error).split("\n")[0].rstrip(".")
    return f"is damaged ({text or type(error).__name__})"


def allow(max_pixels: int) -> None:
    """Lifts PIL's own limit to ours where ours is the larger one."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and max_pixels > limit:
        Image.MAX_IMAGE_PIXELS = max_pixels
