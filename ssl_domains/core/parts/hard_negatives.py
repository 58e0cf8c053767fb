"""Synthetic hard negatives: mixtures of the hardest negatives with each other and with the query."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.random import Draw


class MixedNegatives(NamedTuple):
    """What :func:`mix_hard_negatives` made; nothing in it has a gradient.

    Attributes:
        values: ``[B, s + s', D]`` unit vectors, mixtures of two negatives first.
        hardest: ``[B, N]`` rows of the pool, most similar first.
        similarity: ``[B, N]`` their cosines with the query; ``-inf`` where a row may not be used.
    """

    values: Tensor
    hardest: Tensor
    similarity: Tensor


@torch.no_grad()
def mix_hard_negatives(
    query: Tensor,
    pool: Tensor,
    draw: Draw,
    *,
    hardest: int,
    pairs: int,
    with_query: int,
    exclude: Tensor | None = None,
    chunk_size: int = 1024,
) -> MixedNegatives:
    """MoCHi's two kinds of synthetic negatives for every query (Kalantidis et al., NeurIPS 2020, section 3).

    Of the ``hardest`` pool rows of each query, ``pairs`` times two different ones are mixed with
    a share from U(0, 1), and ``with_query`` times one is mixed with the query, whose share is
    from U(0, 1/2), so that the negative dominates. All mixtures are brought to unit length.

    Args:
        query: ``[B, D]``.
        pool: ``[K, D]`` unit vectors: a queue, or the keys of other samples.
        draw: random numbers of the B samples.
        hardest: N, at most K.
        pairs: s.
        with_query: s'.
        exclude: ``[B, K]`` bool, pool rows that are no negatives of a query (its own sample).
        chunk_size: queries whose similarities to the pool are held at once.
    """
    query = F.normalize(query.float(), dim=1)
    pool = pool.float()
    similarity, rows = _hardest(query, pool, hardest, exclude, chunk_size)
    usable = (similarity > -torch.inf).sum(dim=1, keepdim=True).clamp_min(1)  # [B, 1], they come first
    parents, shares = [], []  # of every mixture two rows of [pool; query], and the share of the first
    if pairs:
        first = _pick(draw.uniform(pairs), usable)
        step = 1 + _pick(draw.uniform(pairs), (usable - 1).clamp_min(1))
        second = torch.where(usable > 1, (first + step) % usable, first)
        parents.append(torch.stack([rows.gather(1, first), rows.gather(1, second)], dim=2))
        shares.append(draw.uniform(pairs))
    if with_query:
        chosen = rows.gather(1, _pick(draw.uniform(with_query), usable))
        own = len(pool) + torch.arange(len(query), device=rows.device)[:, None].expand_as(chosen)
        parents.append(torch.stack([own, chosen], dim=2))
        shares.append(draw.uniform(with_query, high=0.5))
    if not parents:
        return MixedNegatives(query.new_empty(len(query), 0, query.shape[1]), rows, similarity)
    share = torch.cat(shares, dim=1)
    # One pass over the parents; [B, S, D] is the only large tensor.
    values = F.embedding_bag(
        torch.cat(parents, dim=1).flatten(0, 1),
        torch.cat([pool, query]),
        per_sample_weights=torch.stack([share, 1.0 - share], dim=2).flatten(0, 1),
        mode="sum",
    ).view(*share.shape, query.shape[1])
    values.div_(torch.linalg.vector_norm(values, dim=2, keepdim=True).clamp_min(1e-12))
    return MixedNegatives(values, rows, similarity)


def _hardest(
    query: Tensor, pool: Tensor, number: int, exclude: Tensor | None, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """``[B, N]`` similarities, sorted, and pool rows."""
    found = []
    for begin in range(0, len(query), chunk_size):
        part = slice(begin, begin + chunk_size)
        similarity = query[part] @ pool.T
        if exclude is not None:
            similarity.masked_fill_(exclude[part], -torch.inf)
        found.append(similarity.topk(number, dim=1))
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def _pick(uniform: Tensor, number: Tensor) -> Tensor:
    """``[B, s]`` integers in ``[0, number)`` from numbers in [0, 1)."""
    return torch.minimum((uniform * number).long(), number - 1)
