"""By what sources of this domain are known; see ``ssl_domains/guess.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RANK = 25
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac")
PREFIXES = ("generated://speech",)
KEYS = ("speaker", "segments", "max_seconds")


def folder(names: Sequence[str], files: Sequence[Path]) -> bool:
    """More recordings than other files, label and text files aside."""
    beside = (".txt", ".lab", ".phn", ".json", ".md")
    sound = sum(p.suffix.lower() in SUFFIXES for p in files)
    return sound > 0 and sound * 2 > sum(p.suffix.lower() not in beside for p in files)
