"""By what sources of this domain are known; see ``ssl_domains/guess.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RANK = 10
SUFFIXES = (".skeleton", ".bvh", ".c3d")
PREFIXES = ("generated://motions", "generated://wearables")


def folder(names: Sequence[str], files: Sequence[Path]) -> bool:
    """Recordings, or OpenPose's files of key points."""
    return any(n.lower().endswith(SUFFIXES) or n.lower().endswith("_keypoints.json") for n in names)
