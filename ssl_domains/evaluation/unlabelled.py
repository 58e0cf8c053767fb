"""What can be said of embeddings without labels: rank, spread, views, neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core import diagnostics
from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.random import Draw
from ssl_domains.evaluation.embeddings import frozen, to_device
from ssl_domains.evaluation.knn import nearest
from ssl_domains.evaluation.pictures import data_uri

NAMES = {
    "rankme": "RankMe (effective rank)",
    "variance": "mean variance per feature",
    "mean_cosine": "mean cosine between samples",
    "dead_dimensions": "dead dimensions",
    "uniformity": "uniformity (lower is better)",
    "alignment": "alignment of two views (lower is better)",
    "view_consistency": "view finds its own sample",
    "silhouette": "silhouette of 10 k-means clusters",
}
"""Diagnostics and what they are called in the report."""


def diagnose(z: np.ndarray) -> dict[str, float]:
    """Measures of one matrix of embeddings ``[n, D]`` (see :mod:`ssl_domains.core.diagnostics`).

    ``variance`` is the mean over the features; ``silhouette`` is taken on at most 2,000 rows
    and missing below 30.
    """
    matrix = torch.from_numpy(np.ascontiguousarray(z))
    found = {
        "rankme": diagnostics.rankme(matrix),
        "variance": float(diagnostics.feature_variance(matrix).mean()),
        "mean_cosine": diagnostics.mean_cosine(matrix),
        "dead_dimensions": float(diagnostics.dead_dimensions(matrix)),
        "uniformity": diagnostics.uniformity(matrix),
    }
    silhouette = _silhouette(z[:2000])
    return found if silhouette is None else {**found, "silhouette": silhouette}


def _silhouette(z: np.ndarray) -> float | None:
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    unit = z / np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12)
    if len(z) < 30 or len(np.unique(unit.round(6), axis=0)) <= 10:
        return None
    cluster = KMeans(10, n_init=3, random_state=0).fit_predict(unit)
    return float(silhouette_score(unit, cluster)) if len(np.unique(cluster)) > 1 else None


def view_measures(
    encoder: Encoder, source: Source, views: Views, rows: np.ndarray, *, device: str = "auto", seed: int = 0
) -> dict[str, float]:
    """How far two views of a sample lie apart.

    Args:
        encoder: any encoder, used frozen.
        source: gives one batch of all ``rows``, or several where it has ``pieces``.
        views: the run's own; fewer than two views give an empty result.
        rows: at most a few hundred to a few thousand rows.
        device: see :func:`~ssl_domains.evaluation.embeddings.extract`.
        seed: of the views.

    Returns:
        ``alignment`` (Wang & Isola 2020), and ``view_consistency``: the share of samples whose
        first view has the second view of the same sample as its nearest among all second views.
    """
    own = getattr(source, "pieces", None)  # samples of different lengths: what one forward pass may hold
    parts = [rows] if own is None else [rows[np.sort(at)] for at in own(rows, len(rows))]
    pairs: list[tuple[Tensor, Tensor]] = []
    with frozen(encoder, device) as (model, where), torch.no_grad():
        for part in parts:
            batch = to_device(source.fetch(part), where)
            made = views(batch, Draw(seed, 0, batch.index))
            if len(made) < 2:
                return {}
            pairs.append(tuple(model(view.x).pooled.float().cpu() for view in made[:2]))  # type: ignore[arg-type]
    if not pairs:
        return {}
    first, second = (torch.cat(side) for side in zip(*pairs, strict=True))
    if len(first) != len(second) or len(first) < 2:
        return {}
    return {
        "alignment": diagnostics.alignment(first, second),
        "view_consistency": _consistency(first, second),
    }


def _consistency(first: Tensor, second: Tensor) -> float:
    best, _ = nearest(first, second, 1)
    own = (F.normalize(first, dim=1) * F.normalize(second, dim=1)).sum(1)
    # Collapsed embeddings tie everywhere: a tie is shared among all that reach the best similarity.
    reached = _ties(first, second, best[:, 0])
    return float(((own >= best[:, 0] - 1e-6).float() / reached).mean())


def _ties(first: Tensor, second: Tensor, best: Tensor) -> Tensor:
    bank = F.normalize(second, dim=1)
    rows = zip(F.normalize(first, dim=1).split(1024), best.split(1024))
    return torch.cat([(q @ bank.T >= b[:, None] - 1e-6).sum(1) for q, b in rows]).clamp_min(1)


def neighbour_table(
    z: np.ndarray,
    rows: np.ndarray,
    source: Source,
    *,
    samples: int = 8,
    k: int = 4,
    describe: Callable[[int], str] | None = None,
) -> list[dict[str, Any]]:
    """Nearest neighbours of a few samples, for a reader to judge.

    Args:
        z: ``[n, D]`` embeddings of ``rows``.
        rows: ``[n]`` global row numbers.
        source: gives the ids.
        samples: queries, evenly spaced over the rows.
        k: neighbours a query.
        describe: what to print of a row; default: ``source.describe(row)`` where the source has
            it, otherwise the id alone.

    Returns:
        ``[{"id", "text", "near": [{"id", "text", "cosine"}, ...]}, ...]``; with a ``picture`` (a data URI)
        beside each text where the source has ``picture(row) -> [H, W, 3] uint8``.
    """
    if len(rows) < 3:
        return []
    describe = describe or getattr(source, "describe", None)
    show = getattr(source, "picture", None)
    query = np.unique(np.linspace(0, len(rows) - 1, min(samples, len(rows))).astype(np.int64))
    bank = torch.from_numpy(np.ascontiguousarray(z))
    similarity, found = nearest(bank[query], bank, min(k, len(rows) - 1), skip=torch.from_numpy(query))

    def entry(at: int) -> dict[str, Any]:
        row = int(rows[at])
        text = describe(row) if describe is not None else ""
        named = {"id": str(source.ids(np.array([row]))[0]), "text": text}
        return named if show is None else {**named, "picture": data_uri(show(row))}

    return [
        {**entry(int(q)), "near": [{**entry(int(j)), "cosine": float(c)} for j, c in zip(near, cosines)]}
        for q, near, cosines in zip(query, found, similarity)
    ]
