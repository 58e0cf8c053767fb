"""Near-duplicates: rows that are left out because a row that stays is nearly the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 2048


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        kept: ``[n]`` bool.
        of: ``[n]`` int64, for a row that is left out the row that stays for it; -1 for rows that stay.
        similarity: ``[n]`` float32 to that row; NaN for rows that stay.
    """

    kept: np.ndarray
    of: np.ndarray
    similarity: np.ndarray


def near_duplicates(
    features: np.ndarray, threshold: float, fixed: int = 0, device: str = "cpu", chunk: int = CHUNK
) -> Duplicates:
    """Goes through the rows in order and leaves out each whose cosine with a row that stays reaches the
    threshold.

    Every row left out is near a row that stays: chains of likeness do not swallow whole sets. The order
    decides who stays. Memory is ``chunk * chunk`` similarities, whatever the number of rows.

    Args:
        features: ``[n, D]`` embeddings, or hashes of -1 and 1.
        threshold: least cosine of a near-duplicate, in (-1, 1].
        fixed: the first so many rows stay in any case (held-out rows, whose twins must leave).
        device: where the similarities are computed.
        chunk: rows at a time.

    Raises:
        ValueError: a threshold out of range.
    """
    if not -1 < threshold <= 1:
        raise ValueError(f"threshold is a cosine and must lie in (-1, 1], got {threshold}")
    n = len(features)
    kept = np.ones(n, dtype=bool)
    of, similarity = np.full(n, -1, dtype=np.int64), np.full(n, np.nan, dtype=np.float32)
    stay: list[np.ndarray] = []  # rows that stay, a part for each chunk
    limit = threshold - 1e-6  # equal rows must count as equal
    for start in range(0, n, chunk):
        rows = np.arange(start, min(start + chunk, n))
        here = _unit(features, rows, device)
        best = torch.full((len(rows),), -2.0, device=device)
        where = torch.full((len(rows),), -1, dtype=torch.int64, device=device)
        for part in stay:
            top, at = (here @ _unit(features, part, device).T).max(dim=1)
            better = top > best
            where = torch.where(better, torch.as_tensor(part, device=device)[at], where)
            best = torch.maximum(best, top)
        gone = (best >= limit).cpu().numpy()
        gone[rows < fixed] = False
        _leave(rows, gone, where.cpu().numpy(), best.cpu().numpy(), kept, of, similarity)
        _within(here, rows, limit, fixed, kept, of, similarity)
        left = rows[kept[rows]]
        if len(left):
            stay.append(left)
    return Duplicates(kept, of, similarity)


def _within(
    here: Tensor,
    rows: np.ndarray,
    limit: float,
    fixed: int,
    kept: np.ndarray,
    of: np.ndarray,
    similarity: np.ndarray,
) -> None:
    """The same within a chunk: only the few pairs that are alike are looked at one by one."""
    like = here @ here.T
    pairs = (like >= limit).triu(1).nonzero().cpu().numpy()  # row-major: earlier rows first
    values = like.cpu().numpy()
    for first, second in pairs:
        a, b = rows[first], rows[second]
        if kept[a] and kept[b] and b >= fixed:
            kept[b], of[b], similarity[b] = False, a, values[first, second]


def _leave(
    rows: np.ndarray,
    gone: np.ndarray,
    where: np.ndarray,
    best: np.ndarray,
    kept: np.ndarray,
    of: np.ndarray,
    similarity: np.ndarray,
) -> None:
    kept[rows[gone]] = False
    of[rows[gone]], similarity[rows[gone]] = where[gone], best[gone]


def _unit(features: np.ndarray, rows: np.ndarray, device: str) -> Tensor:
    return F.normalize(torch.as_tensor(features[rows], device=device).float(), dim=1)
