"""By what sources of this domain are known; see ``ssl_domains/guess.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RANK = 80
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".arrow", ".feather", ".db", ".sqlite", ".duckdb")
PREFIXES = ("hf://", "duckdb://", "sqlite://")
MODULES = ("pandas", "pyarrow", "polars", "datasets", "numpy")


def folder(names: Sequence[str], files: Sequence[Path]) -> bool:
    """Tables side by side, or a data set that was saved."""
    return any(n.lower().endswith(SUFFIXES) or n == "dataset_info.json" for n in names)
