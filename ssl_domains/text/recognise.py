"""By what sources of this domain are known; see ``ssl_domains/guess.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RANK = 95  # a file of rows is a table first; say domain=text for texts in it
SUFFIXES = (".text",)
PREFIXES = ("python://",)


def folder(names: Sequence[str], files: Sequence[Path]) -> bool:
    """Nothing but .txt files at any depth."""
    return bool(files) and all(p.suffix.lower() == ".txt" for p in files)
