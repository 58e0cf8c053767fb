"""Which domain a source belongs to, from its name alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from ssl_domains.core.errors import DataError

_TABLE = (".csv", ".tsv", ".txt", ".parquet", ".arrow", ".feather", ".db", ".sqlite", ".duckdb")
_GRAPH = (".graphml", ".gml", ".gexf", ".pt", ".smi", ".smiles", ".sdf", ".mol")
_IMAGE = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".npz", ".npy", ".tar")
_SKELETON = (".skeleton", ".bvh", ".c3d")
_ENOUGH = 200


def guess_domain(source: Any = None, **data: Any) -> str:
    """Name of the domain that a source belongs to.

    Args:
        source: a path, a ``scheme://`` name, or an object in memory.
        data: other keys of the ``data`` section; ``nodes``, ``edges`` or ``smiles`` mean a graph.

    Raises:
        DataError: it cannot be told; names what would settle it.
    """
    if "nodes" in data or "edges" in data or "smiles" in data:
        return "graph"
    module = type(source).__module__.split(".")[0]
    if module in ("torch_geometric", "networkx"):
        return "graph"
    if module in ("pandas", "pyarrow", "polars", "datasets", "numpy"):
        return "tabular"
    if isinstance(source, str | Path):
        found = _by_name(str(source))
        if found:
            return found
    raise DataError(
        f"{source}: cannot tell the domain of this source; say domain=tabular, graph, image or skeleton "
        f"(known endings: {', '.join(_TABLE + _GRAPH + _IMAGE + _SKELETON)})"
    )


def _by_name(name: str) -> str | None:
    low = name.lower().removesuffix(".gz")
    if low.startswith("generated://") or low.endswith(_SKELETON):
        return "skeleton"
    if low.startswith(("import-graph://", "ast-graph://", "pyg://")) or low.endswith(_GRAPH):
        return "graph"
    if low.startswith("sklearn://digits") or low.endswith(_IMAGE):
        return "image"
    if low.startswith(("hf://", "duckdb://", "sqlite://")) or low.endswith(_TABLE):
        return "tabular"
    path = Path(name)
    if path.is_dir():
        stems = {p.stem.lower() for p in path.iterdir()}
        if any(p.suffix.lower() in _SKELETON or p.stem.endswith("_keypoints") for p in path.iterdir()):
            return "skeleton"
        if "edges" in stems or any(
            p.name.lower().removesuffix(".gz").endswith(_GRAPH) for p in path.iterdir()
        ):
            return "graph"
        if any(p.suffix.lower() in _TABLE or p.name == "dataset_info.json" for p in path.iterdir()):
            return "tabular"
        if _holds_images(path):
            return "image"
    return None


def _holds_images(folder: Path) -> bool:
    """Whether one of the first files in a folder, at any depth, is an image, or it holds idx files."""
    files = (p for p in folder.rglob("*") if p.is_file())
    for path in itertools.islice(files, _ENOUGH):
        if path.suffix.lower() in _IMAGE or "-images-idx" in path.name:
            return True
    return False
