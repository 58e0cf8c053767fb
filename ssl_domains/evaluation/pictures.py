"""Pictures within the report's page."""

from __future__ import annotations

import base64
import io

import numpy as np

SIDE = 96
"""Side in pixels that small pictures are enlarged to, without smoothing."""
STRIP = 3
"""A picture may be so many times as wide as it may be high: frames of a clip side by side."""


def data_uri(pixels: np.ndarray, side: int | None = SIDE) -> str:
    """A PNG as text that a page can hold.

    Args:
        pixels: ``[H, W, 3]`` uint8.
        side: pictures higher than it or three times as wide are shrunk, smaller ones enlarged by whole
            factors; None: as it is.

    Raises:
        ValueError: another shape or type.
    """
    from PIL import Image  # matplotlib, which draws the report's plots, needs it as well

    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"a picture is [H, W, 3] uint8, got {list(pixels.shape)} {pixels.dtype}")
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if side is not None:
        factor = min(side // image.height, STRIP * side // image.width)
        if factor < 1:
            image.thumbnail((STRIP * side, side))
        elif factor > 1:
            image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
