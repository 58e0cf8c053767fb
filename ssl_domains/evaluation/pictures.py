"""Pictures within the report's page."""

from __future__ import annotations

import base64
import io

import numpy as np

SIDE = 96
"""Side in pixels that small pictures are enlarged to, without smoothing."""


def data_uri(pixels: np.ndarray, side: int | None = SIDE) -> str:
    """A PNG as text that a page can hold.

    Args:
        pixels: ``[H, W, 3]`` uint8.
        side: larger pictures are shrunk to it, smaller ones enlarged by whole factors; None: as it is.

    Raises:
        ValueError: another shape or type.
    """
    from PIL import Image  # matplotlib, which draws the report's plots, needs it as well

    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"a picture is [H, W, 3] uint8, got {list(pixels.shape)} {pixels.dtype}")
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if side is not None:
        longest = max(image.size)
        if longest > side:
            image.thumbnail((side, side))
        elif longest * 2 <= side:
            factor = side // longest
            image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
