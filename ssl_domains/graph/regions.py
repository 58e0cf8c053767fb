"""Pairs of nodes inside parts of many graphs, drawn without a matrix of all pairs.

A *region* is a set of nodes of each graph of a batch. Its pairs that are joined by an edge are
rows of a list; its pairs that are not are never listed: the j-th of them is found by counting,
in a sorted list of those that are. Memory grows with the edges, for any number of graphs at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_domains.core.random import Draw
from ssl_domains.graph.augment import Blocks, rank_within

LAST = torch.iinfo(torch.int64).max
"""A key that sorts behind all others."""


def exclusive(sizes: Tensor) -> Tensor:
    """``cumsum`` without the own entry: where each run begins."""
    return sizes.cumsum(0) - sizes


@dataclass
class Pairs:
    """The edges of a batch by what they join: an undirected edge is one row, whatever the order of
    the list it is stored in. Rows behind the last pair are padding, so that no size depends on data.

    Attributes:
        of_edge: ``[E]`` row of each stored edge; ``P`` for self-loops.
        forward: ``[E]`` bool: the edge runs from ``a`` to ``b``.
        a, b: ``[P]`` ends; undirected: ``a < b``.
        owner: ``[P]`` graph of each row.
        real: ``[P]`` bool.
        directed: whether ``(a, b)`` and ``(b, a)`` are two rows.
    """

    of_edge: Tensor
    forward: Tensor
    a: Tensor
    b: Tensor
    owner: Tensor
    real: Tensor
    directed: bool

    @classmethod
    def of(cls, blocks: Blocks, directed: bool, size: int | None = None) -> Pairs:
        """From the edges of a batch, stored in any order; duplicates fall into one row.

        Args:
            blocks: the batch.
            directed: see above.
            size: P, at least the number of pairs; None: the number of stored edges.

        Raises:
            ValueError: there are more pairs than ``size`` (on an accelerator: a device-side assertion).
        """
        n, source, target = len(blocks.owner), blocks.source, blocks.target
        low, high = torch.minimum(source, target), torch.maximum(source, target)
        key = source * n + target if directed else low * n + high
        ranked, order = key.masked_fill(blocks.loops, LAST).sort(stable=True)
        new = torch.ones_like(ranked, dtype=torch.bool)
        new[1:] = ranked[1:] != ranked[:-1]
        size = len(key) if size is None else size
        _check_size(new.sum() - blocks.loops.any().long() <= size)
        row = torch.empty_like(key)
        row[order] = new.cumsum(0) - 1
        row = row.masked_fill(blocks.loops, size)
        ends = torch.stack((source, target) if directed else (low, high))
        a, b = ends.new_zeros(2, size + 1).index_put_(
            (torch.arange(2, device=row.device)[:, None], row), ends
        )
        a, b = a[:size], b[:size]  # the row behind the last took the self-loops
        real = a != b  # rows that nothing was written to hold (0, 0)
        forward = torch.ones_like(blocks.loops) if directed else source <= target
        return cls(row, forward, a, b, blocks.owner[a], real, directed)


def _check_size(enough: Tensor) -> None:
    if enough.device.type == "cuda":
        torch._assert_async(enough, "an undirected graph stores both directions of each edge")
    elif not bool(enough):
        raise ValueError("views 'graph_edits': an undirected graph must store both directions of each edge")


@dataclass
class Region:
    """Some nodes of each graph, its joined pairs, and its free pairs by number.

    Attributes:
        n_pairs: ``[G]`` joined pairs inside.
        n_free: ``[G]`` pairs inside that no edge joins.
        inside: ``[P]`` bool: both ends of the pair lie inside.
        sizes: ``[G]`` nodes.
    """

    n_pairs: Tensor
    n_free: Tensor
    inside: Tensor
    sizes: Tensor
    _starts: Tensor
    _nodes: Tensor
    _gaps: Tensor
    _gap_base: Tensor
    _first: Tensor
    _directed: bool

    @classmethod
    def of(cls, blocks: Blocks, pairs: Pairs, member: Tensor) -> Region:
        """The region of the nodes where ``member`` ``[N]`` is True."""
        inside = pairs.real & member[pairs.a] & member[pairs.b]
        count = torch.zeros_like(blocks.sizes)
        sizes = count.index_add(0, blocks.owner, member.long())
        starts = exclusive(sizes)
        rank = member.long().cumsum(0) - 1  # nodes are sorted by graph
        n = len(blocks.owner)
        nodes = rank.new_zeros(n + 1)  # the last place takes what lies outside
        nodes[torch.where(member, rank, n)] = torch.arange(n, device=member.device)
        local = rank - starts[blocks.owner]
        code = encode_pair(local[pairs.a], local[pairs.b], sizes[pairs.owner], pairs.directed)
        everything = sizes * (sizes - 1) if pairs.directed else sizes * (sizes - 1) // 2
        n_pairs = count.index_add(0, pairs.owner, inside.long())
        n_free = everything - n_pairs
        key = torch.where(inside, exclusive(everything)[pairs.owner] + code, LAST)
        ranked, order = key.sort()
        owner, code = pairs.owner[order], code[order]
        first = exclusive(n_pairs)
        gap = code - (torch.arange(len(code), device=code.device) - first[owner])
        base = exclusive(n_free + 1)
        gaps = torch.where(ranked == LAST, LAST, base[owner] + gap)
        return cls(n_pairs, n_free, inside, sizes, starts, nodes[:-1], gaps, base, first, pairs.directed)

    def free_pair(self, graph: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        """``[M]`` ends of the free pairs with these numbers, ``0 <= number < n_free[graph]``; node 0
        twice where the number is out of range."""
        ok = (number >= 0) & (number < self.n_free[graph])
        number = torch.where(ok, number, 0)
        before = torch.searchsorted(self._gaps, self._gap_base[graph] + number, right=True)
        code = number + before - self._first[graph]
        p, q = decode_pair(code, self.sizes[graph], self._directed)
        start = self._starts[graph]
        last = len(self._nodes) - 1
        a, b = (self._nodes[(start + local).clamp(0, last)] for local in (p, q))
        return torch.where(ok, a, 0), torch.where(ok, b, 0)


def encode_pair(p: Tensor, q: Tensor, size: Tensor, directed: bool) -> Tensor:
    """One number for a pair of different local nodes; undirected: from 0 to ``size (size - 1) / 2 - 1``."""
    if directed:
        return p * (size - 1) + q - (q > p).long()
    low, high = torch.minimum(p, q), torch.maximum(p, q)
    return high * (high - 1) // 2 + low


def decode_pair(code: Tensor, size: Tensor, directed: bool) -> tuple[Tensor, Tensor]:
    """Back from :func:`encode_pair`; undirected: the smaller node first."""
    if directed:
        width = (size - 1).clamp_min(1)
        p, q = code // width, code % width
        return p, q + (q >= p).long()
    high = ((1.0 + (1.0 + 8.0 * code.double()).sqrt()) / 2.0).floor().long()
    high = torch.where(high * (high - 1) // 2 > code, high - 1, high)  # rounding of the root
    high = torch.where((high + 1) * high // 2 <= code, high + 1, high)
    return code - high * (high - 1) // 2, high


@dataclass
class Drawn:
    """Distinct numbers for each of U units, laid out unit by unit with room for ``wanted`` each.

    Attributes:
        values: ``[bound]`` numbers; meaningful at ``start[u]`` to ``start[u] + found[u] - 1``.
        start: ``[U]``.
        found: ``[U]`` how many there are: ``wanted``, unless fewer exist.
    """

    values: Tensor
    start: Tensor
    found: Tensor


def draw_distinct(counter: Tensor, limit: Tensor, wanted: Tensor, bound: int, draw: Draw) -> Drawn:
    """For each unit ``wanted`` distinct numbers below ``limit``, every set of them equally likely.

    Each unit gets ``3 wanted + 16`` independent draws, of which a random ``wanted`` of the distinct
    ones are kept; where there are no more numbers than draws, all numbers are listed instead. So no
    size depends on the data and nothing waits for the device.

    Args:
        counter: ``[U]`` global numbers of the units, below 2^36; they seed the draws.
        limit: ``[U]``.
        wanted: ``[U]``, at most ``limit``.
        bound: at least the sum of ``wanted``; known without looking at the device.
        draw: randomness.
    """
    n, device = len(limit), limit.device
    tries = 3 * wanted + 16
    total = 3 * bound + 16 * n
    ends = tries.cumsum(0)
    slot = torch.arange(total, device=device)
    unit = torch.searchsorted(ends, slot, right=True)
    real = unit < n
    unit = unit.clamp_max(n - 1)
    place = slot - (ends - tries)[unit]
    at = draw.at((counter[unit] << 26) + place)
    every = limit[unit] <= tries[unit]
    value = torch.where(every, place, (at.bits() >> 16).remainder(limit[unit].clamp_min(1)))
    real = real & (value < limit[unit])
    key = torch.where(real, exclusive(limit)[unit] + value, LAST)
    ranked, order = key.sort(stable=True)
    again = torch.zeros_like(real)
    again[1:] = ranked[1:] == ranked[:-1]
    real = real & ~torch.zeros_like(real).index_put((order,), again)
    shuffled = torch.where(real, at.bits() >> 1, LAST)
    sizes = torch.zeros_like(limit).index_add(0, unit, torch.ones_like(unit))
    rank = rank_within(shuffled, unit, sizes)
    start = exclusive(wanted)
    kept = real & (rank < wanted[unit]) & (start[unit] + rank < bound)
    values = torch.zeros(bound + 1, dtype=torch.int64, device=device)
    values[torch.where(kept, start[unit] + rank, bound)] = value
    found = torch.zeros_like(limit).index_add(0, unit, kept.long())
    return Drawn(values[:bound], start, found)
