"""Perceptual hashes: pictures that look alike get nearly the same bits."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source

SIDE, KEPT = 32, 8
BITS = KEPT * KEPT - 1
CHUNK = 1024


def source_hashes(source: Source, rows: np.ndarray) -> np.ndarray:
    """Perceptual hashes of a source's rows.

    Args:
        source: gives grey pictures by ``grey(rows) -> [n, H, W]`` (any scale), or one at a time by
            ``picture(row) -> [H, W, 3]`` uint8.
        rows: ``[n]`` global row numbers.

    Returns:
        ``[n, 63]`` float32 of -1 and 1.

    Raises:
        DataError: the source has no pictures.
    """
    grey, picture = getattr(source, "grey", None), getattr(source, "picture", None)
    if grey is None and picture is None:
        raise DataError(
            "this data has no pictures to hash; find near-duplicates by embedding, with an encoder"
        )
    parts = []
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        if grey is not None:
            parts.append(perceptual_hash(torch.as_tensor(np.asarray(grey(some)))))
        else:
            assert picture is not None
            parts += [perceptual_hash(torch.as_tensor(picture(int(r)).mean(axis=2))[None]) for r in some]
    return torch.cat(parts).numpy() if parts else np.empty((0, BITS), dtype=np.float32)


def perceptual_hash(grey: Tensor) -> Tensor:
    """``[n, 63]`` float32 of -1 and 1: which low frequencies lie above their median.

    The picture is brought to 32 x 32 and to a cosine transform; of its 8 x 8 lowest frequencies all but the
    mean are compared with their median (the usual "pHash"). Brightness, contrast, size and mild compression
    change few bits.

    Args:
        grey: ``[n, H, W]`` of any scale.
    """
    x = F.interpolate(
        grey.float()[:, None], (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
    )
    basis = _cosines(grey.device)
    found = (basis @ x[:, 0] @ basis.T).flatten(1)[:, 1:]  # [n, 63]
    return torch.where(found > found.median(dim=1, keepdim=True).values, 1.0, -1.0)


def _cosines(device: torch.device) -> Tensor:
    """``[8, 32]``: the lowest rows of the orthonormal cosine transform."""
    k = torch.arange(KEPT, device=device, dtype=torch.float32)[:, None]
    n = torch.arange(SIDE, device=device, dtype=torch.float32)[None, :]
    rows = torch.cos(math.pi * (n + 0.5) * k / SIDE) * math.sqrt(2 / SIDE)
    rows[0] /= math.sqrt(2)
    return rows
