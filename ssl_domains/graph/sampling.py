"""Neighbour sampling on compressed rows: whole frontiers at once, no loop over nodes.

Sampling is a function of (run seed, the set of seed nodes, hop, edge): no counter, no
state. The same batch of seeds always gets the same neighbourhood, in any worker or process
and after a resume; other batches - so the next epoch's - get others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_A, _B, _C = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix(values: np.ndarray) -> np.ndarray:
    """Splitmix64 of uint64 counters."""
    x = values.astype(np.uint64) + _A
    x = (x ^ (x >> np.uint64(30))) * _B
    x = (x ^ (x >> np.uint64(27))) * _C
    return x ^ (x >> np.uint64(31))


def batch_key(seeds: np.ndarray, seed: int) -> np.uint64:
    """A hash of the SET of seed nodes and the run seed; their order does not matter."""
    with np.errstate(over="ignore"):
        return np.uint64(mix(np.bitwise_xor.reduce(mix(seeds), keepdims=True) + np.uint64(seed))[0])


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``concatenate([arange(s, s + c) for s, c in zip(starts, counts)])`` without the loop."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - counts - starts, counts)


@dataclass(frozen=True)
class Incoming:
    """Edges by target: those into node v are ``source[ptr[v]:ptr[v + 1]]``.

    Attributes:
        ptr: ``[N + 1]`` int64.
        source: ``[E]`` int64.
    """

    ptr: np.ndarray
    source: np.ndarray

    @classmethod
    def of(cls, edge_index: np.ndarray, n_nodes: int) -> Incoming:
        """From edges ``[2, E]`` that are sorted by target."""
        counts = np.bincount(edge_index[1], minlength=n_nodes)
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), edge_index[0])

    def blocks(self, edges: int = 1 << 22) -> Iterator[tuple[int, int, np.ndarray]]:
        """(first target, last target + 1, sources of the edges into them), about ``edges`` edges at a
        time: all that is ever read at once where ``source`` is a file."""
        first, n = 0, len(self.ptr) - 1
        while first < n:
            last = int(np.searchsorted(self.ptr, self.ptr[first] + edges, side="right")) - 1
            last = min(max(last, first + 1), n)
            yield first, last, np.asarray(self.source[self.ptr[first] : self.ptr[last]])
            first = last

    def targets(self, first: int, last: int) -> np.ndarray:
        """The target of each edge of such a block."""
        return np.repeat(np.arange(first, last), np.diff(self.ptr[first : last + 1]))


@dataclass(frozen=True)
class Neighbourhood:
    """A sampled subgraph.

    Attributes:
        nodes: ``[n]`` global numbers; the seeds come first, then hop by hop.
        edge_index: ``[2, m]`` in the numbers of ``nodes``.
        edges: ``[m]`` positions in the edge list that was sampled from.
    """

    nodes: np.ndarray
    edge_index: np.ndarray
    edges: np.ndarray


def sample_edges(graph: Incoming, frontier: np.ndarray, fan_out: int, key: np.uint64) -> np.ndarray:
    """Positions of at most ``fan_out`` edges into each node of ``frontier``, without
    replacement, uniform; all of them for ``fan_out < 0``."""
    starts = graph.ptr[frontier]
    counts = graph.ptr[frontier + 1] - starts
    edges = ranges(starts, counts)
    if fan_out < 0 or len(edges) == 0:
        return edges
    owner = np.repeat(np.arange(len(frontier)), counts)
    with np.errstate(over="ignore"):
        order = np.lexsort((mix(edges.astype(np.uint64) + key), owner))
    rank = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts)
    return edges[order[rank < fan_out]]


def neighbourhood(
    graph: Incoming, seeds: np.ndarray, fan_outs: Sequence[int], seed: int = 0
) -> Neighbourhood:
    """The sampled k-hop neighbourhood of distinct ``seeds``, one hop for each fan-out.

    Each hop samples edges into the nodes that the hop before has newly found (Hamilton et
    al., GraphSAGE, NeurIPS 2017, algorithm 2). With every fan-out -1 and as many hops as an
    encoder has layers, the seeds' embeddings are those of the full graph, except for layers
    that look at the degree of the SOURCE node (GCN): those need one hop more.
    """
    place = np.full(len(graph.ptr) - 1, -1, dtype=np.int64)
    place[seeds] = np.arange(len(seeds))
    nodes, picked, frontier = [seeds], [], seeds
    key, found = batch_key(seeds, seed), len(seeds)
    for hop, fan_out in enumerate(fan_outs):
        with np.errstate(over="ignore"):
            edges = sample_edges(graph, frontier, fan_out, mix(np.array([key + np.uint64(hop + 1)]))[0])
        picked.append(edges)
        frontier = np.unique(graph.source[edges])
        frontier = frontier[place[frontier] < 0]
        place[frontier] = found + np.arange(len(frontier))
        found += len(frontier)
        nodes.append(frontier)
    chosen = np.concatenate(picked) if picked else np.empty(0, dtype=np.int64)
    target = np.searchsorted(graph.ptr, chosen, side="right") - 1
    return Neighbourhood(
        np.concatenate(nodes), np.stack([place[graph.source[chosen]], place[target]]), chosen
    )
