"""Ranks over a whole gallery, in chunks: who finds whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.retrieval import Lists

CELLS = 1 << 22
"""Scores that are held at a time (16 MiB)."""

Score = Literal["cosine", "key"]
"""``cosine``; or ``key``: only the gallery's vectors are scaled to unit length (2208.12266)."""


def sides(q: Tensor, g: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    """Both sides as they are multiplied."""
    return F.normalize(q, dim=1) if score == "cosine" else q, F.normalize(g, dim=1)


@dataclass(frozen=True)
class Items:
    """Different items of both sides of some pairs.

    Attributes:
        a, b: rows of the parts' sources, each once.
        a_to_b: for each item of a the places in ``b`` that belong to it.
        b_to_a: the other way.
        pair_of_a, pair_of_b: ``[n]`` a pair of each item.
    """

    a: np.ndarray
    b: np.ndarray
    a_to_b: Lists
    b_to_a: Lists
    pair_of_a: np.ndarray
    pair_of_b: np.ndarray


def items_of(pairs: np.ndarray, rows_a: np.ndarray, rows_b: np.ndarray) -> Items:
    """The different items of complete pairs.

    Args:
        pairs: ``[p]`` numbers of pairs.
        rows_a: ``[n]`` row of part a in each pair; -1: none.
        rows_b: the same of part b.
    """
    pairs = pairs[(rows_a[pairs] >= 0) & (rows_b[pairs] >= 0)]
    a, first_a, at_a = np.unique(rows_a[pairs], return_index=True, return_inverse=True)
    b, first_b, at_b = np.unique(rows_b[pairs], return_index=True, return_inverse=True)
    return Items(
        a, b, Lists.group(at_a, at_b, len(a)), Lists.group(at_b, at_a, len(b)), pairs[first_a], pairs[first_b]
    )


def score_chunks(q: Tensor, g: Tensor, score: Score = "cosine") -> Iterator[Tensor]:
    """Scores ``[c, N]`` of the queries in turn; no more than :data:`CELLS` at a time. A chunk is overwritten
    by the next one: the one buffer is what keeps the memory bounded, since the heap would be split up by
    what lives on between two large tensors."""
    q, g = sides(q, g, score)
    rows = max(CELLS // max(len(g), 1), 1)
    buffer = q.new_empty(min(rows, len(q)), len(g))
    for part in q.split(rows):
        yield torch.mm(part, g.T, out=buffer[: len(part)])


def ranks(q: Tensor, g: Tensor, right: Lists, score: Score = "cosine") -> np.ndarray:
    """``[Q]`` rank (from 1) of the best right item of each query among all N of the gallery; equal scores of
    wrong items count as before it, so that constant vectors find nothing."""
    out = np.empty(len(q), dtype=np.int64)
    before: Tensor | None = None
    start = 0
    for chunk in score_chunks(q, g, score):
        if before is None:
            before = torch.empty_like(chunk, dtype=torch.bool)
        place, value = right.flat(np.arange(start, start + len(chunk)))
        at = torch.from_numpy(place), torch.from_numpy(value.astype(np.int64))
        best = chunk.new_full((len(chunk),), -torch.inf).scatter_reduce_(0, at[0], chunk[at], "amax")
        hit = torch.ge(chunk, best[:, None], out=before[: len(chunk)])
        hit[at] = False
        out[start : start + len(chunk)] = (hit.sum(1) + 1).numpy()
        start += len(chunk)
    return out


def nearest(q: Tensor, g: Tensor, k: int, score: Score = "cosine") -> np.ndarray:
    """``[Q, k]`` the best items of each query."""
    k, start = min(k, len(g)), 0
    out = np.empty((len(q), k), dtype=np.int64)
    for chunk in score_chunks(q, g, score):
        out[start : start + len(chunk)] = chunk.topk(k, dim=1).indices.numpy()
        start += len(chunk)
    return out


def label_ranks(
    q: Tensor,
    g: Tensor,
    labels: np.ndarray,
    right: np.ndarray,
    score: Score = "cosine",
    temperature: float = 1.0,
) -> np.ndarray:
    """``[Q]`` rank (from 1) of each query's label, when labels are ordered by the sum of their items'
    probabilities: a softmax of the scores over the whole gallery (2208.12266: words).

    Args:
        q: ``[Q, W]`` queries.
        g: ``[N, W]`` the gallery.
        labels: ``[N]`` class number of each item; -1: none, such an item takes its share and is no answer.
        right: ``[Q]`` the queries' own, all of them in ``labels``.
        score: as of :func:`ranks`.
        temperature: of the softmax.
    """
    place = torch.from_numpy(labels.astype(np.int64) + 1)  # 0: no label
    wanted = torch.from_numpy(right.astype(np.int64) + 1)
    out, start = np.empty(len(q), dtype=np.int64), 0
    for chunk in score_chunks(q, g, score):
        share = chunk.div_(temperature).sub_(chunk.max(1, keepdim=True).values).exp_()
        total = share.new_zeros(len(chunk), int(place.max()) + 1).index_add_(1, place, share)[:, 1:]
        own = total.gather(1, wanted[start : start + len(chunk), None] - 1)
        out[start : start + len(chunk)] = (total >= own).sum(1).numpy()  # equal ones count as before it
        start += len(chunk)
    return out
