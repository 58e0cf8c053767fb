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


def grey_pictures(source: Source, rows: np.ndarray) -> np.ndarray:
    """``[n, H, W]`` grey pictures of rows of one shape, on any scale.

    Raises:
        DataError: the source has no pictures.
    """
    grey, picture = getattr(source, "grey", None), getattr(source, "picture", None)
    if grey is not None:
        return np.asarray(grey(rows))
    if picture is None:
        raise DataError("this data has no pictures to compare; use the rule raw, or an encoder and embedding")
    return np.stack([picture(int(r)).mean(axis=2) for r in rows])


def difference_hash(grey: np.ndarray, flat: float = 0.02) -> np.ndarray:
    """``[n, 64]`` float32 of -1 and 1: dHash, as ``imagehash.dhash(image, hash_size=8)`` gives it.

    Each picture is stretched to 8 bits, brought to 9 columns and 8 rows, and every pixel compared with its
    right neighbour: 1 where that is brighter. A constant picture is all -1.

    Args:
        grey: ``[n, H, W]``; uint8 is taken as it is.
        flat: pictures whose contrast is below this share of the contrast of all count as constant: stretched,
            their noise would look like detail.
    """
    from PIL import Image

    pictures = np.asarray(grey)
    if pictures.dtype != np.uint8:
        x = pictures.astype(np.float64)
        low, high = x.min(axis=(1, 2), keepdims=True), x.max(axis=(1, 2), keepdims=True)
        spread = high - low
        enough = spread > max(flat * float(x.max() - x.min()), 1e-12)
        x = np.where(enough, (x - low) / np.where(enough, spread, 1.0), 0.0)
        pictures = (x * 255).round().astype(np.uint8)
    out = np.empty((len(pictures), 64), dtype=np.float32)
    for i, picture in enumerate(pictures):
        small = np.asarray(Image.fromarray(picture).resize((9, 8), Image.Resampling.LANCZOS))
        out[i] = np.where(small[:, 1:] > small[:, :-1], 1.0, -1.0).reshape(-1)
    return out


def perceptual_hash_of(grey: np.ndarray) -> np.ndarray:
    """:func:`perceptual_hash` of arrays."""
    return perceptual_hash(torch.as_tensor(grey)).numpy()


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
