"""By what sources of this domain are known; see ``ssl_domains/guess.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RANK = 40
SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv", ".3gp", ".m2ts",
)  # fmt: skip
PREFIXES = ("generated://clips",)
KEYS = ("clips_per_video",)


def folder(names: Sequence[str], files: Sequence[Path]) -> bool:
    """Videos at any depth."""
    return any(p.suffix.lower() in SUFFIXES for p in files)
