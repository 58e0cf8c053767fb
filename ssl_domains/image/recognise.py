"""By what sources of this domain are known; see ``ssl_domains/guess.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RANK = 90
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".npz", ".npy", ".tar")
PREFIXES = ("sklearn://digits",)


def folder(names: Sequence[str], files: Sequence[Path]) -> bool:
    """Images at any depth, or idx files."""
    return any(p.suffix.lower() in SUFFIXES or "-images-idx" in p.name for p in files)
