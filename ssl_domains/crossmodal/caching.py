"""Features of a frozen tower: computed once, memory-mapped from then on."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from ssl_domains.core import cache
from ssl_domains.core.cache import Matrix
from ssl_domains.core.interfaces import Encoder
from ssl_domains.crossmodal.data import PairSource

BATCH = 256


def tower_features(tower: Encoder, source: PairSource, part: str, dtype: str = "float32") -> Matrix:
    """``[n, ...]`` pooled features of all items of a part, from the cache where they are there already.

    The entry's name depends on the tower's weights, the part's spec and the ids and first samples of its
    data, so another tower or other data never find it.

    Args:
        tower: frozen; run in eval mode without gradient.
        source: the pairs.
        part: which modality.
        dtype: what is stored.
    """
    base = source.parts[part]
    key = cache.key_of([_weights(tower), source.spec.parts[part].spec.to_dict(), _data(base), dtype])
    with cache.locked("crossmodal", key):
        folder = cache.find("crossmodal", key)
        if folder is None:
            with cache.writing("crossmodal", key) as entry:
                _write(tower, base, entry, dtype)
            folder = cache.find("crossmodal", key)
    assert folder is not None
    array = cache.load_array(folder, "features")
    assert array is not None
    return Matrix(array)


def _write(tower: Encoder, base: Any, entry: cache.Folder, dtype: str) -> None:
    device = next(iter([*tower.parameters(), *tower.buffers()]), torch.empty(0)).device
    mode = tower.training
    tower.eval()
    out: np.ndarray | None = None
    try:
        every = np.arange(len(base))
        pieces = getattr(base, "pieces", None)  # of samples that differ in length
        for rows in pieces(every, BATCH) if pieces else np.array_split(every, -(-len(every) // BATCH)):
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                pooled = tower(base.fetch(rows).to(device).x).pooled.float().cpu().numpy()
            if out is None:
                out = entry.array("features", (len(base), *pooled.shape[1:]), dtype)
            out[rows] = pooled
    finally:
        tower.train(mode)
    entry.meta({"rows": len(base)})


def _weights(tower: Encoder) -> str:
    digest = hashlib.sha256(type(tower).__name__.encode())
    for name, value in sorted(tower.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).to(torch.float64).numpy().tobytes())
    return digest.hexdigest()


def _data(base: Any) -> str:
    digest = hashlib.sha256()
    for id in base.ids(np.arange(len(base))):
        digest.update(str(id).encode() + b"\0")
    rows = np.unique(np.linspace(0, len(base) - 1, 16).astype(np.int64))
    _update(digest, base.fetch(rows).x)
    return digest.hexdigest()


def _update(digest: Any, x: Any) -> None:
    if isinstance(x, torch.Tensor):
        digest.update(x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if x.dim() else b"")
    elif isinstance(x, dict):
        for key in sorted(x):
            digest.update(str(key).encode())
            _update(digest, x[key])
    elif isinstance(x, list | tuple):
        for item in x:
            _update(digest, item)
    elif hasattr(x, "to_dict"):
        _update(digest, {k: v for k, v in x.to_dict().items() if isinstance(v, torch.Tensor)})
