"""By what sources of this domain are known; see ``ssl_domains/guess.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RANK = 20
SUFFIXES = (".graphml", ".gml", ".gexf", ".pt", ".smi", ".smiles", ".sdf", ".mol")
PREFIXES = ("import-graph://", "ast-graph://", "code-graph://", "pyg://")
MODULES = ("torch_geometric", "networkx")
KEYS = ("nodes", "edges", "smiles")


def folder(names: Sequence[str], files: Sequence[Path]) -> bool:
    """A table of edges, or files of graphs."""
    low = [name.lower().removesuffix(".gz") for name in names]
    return any(n.split(".")[0] == "edges" or n.endswith(SUFFIXES) for n in low)
