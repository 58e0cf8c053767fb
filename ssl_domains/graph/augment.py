"""Batched augmentations over a block-diagonal graph; the random numbers of a node, edge or
feature depend on its global number alone, not on what else is in the batch."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ssl_domains.core.random import Draw
from ssl_domains.graph.structure import n_segments, node_index, segment

_PAIR = 1 << 31  # node numbers stay below it, so source * _PAIR + target is one number an edge


class Blocks:
    """What all augmentations read of a batch.

    Attributes:
        n: number of graphs G.
        owner: ``[N]`` graph of each node.
        index: ``[N]`` global node numbers.
        counter: ``[G]`` global graph numbers (0 for the one graph of a node task).
        sizes: ``[G]`` nodes in each graph.
        source, target: ``[E]`` ends of the edges.
        loops: ``[E]`` bool.
        partial: the nodes are a sampled neighbourhood, so shares of "all nodes" mean little.
    """

    def __init__(self, x: Any, samples: Tensor) -> None:
        self.n, self.owner, self.index = n_segments(x), segment(x), node_index(x)
        whole = x.get("batch") is None
        self.counter = torch.zeros(1, dtype=torch.int64, device=self.owner.device) if whole else samples
        self.sizes = torch.zeros(self.n, dtype=torch.int64, device=self.owner.device)
        self.sizes.index_add_(0, self.owner, torch.ones_like(self.owner))
        self.source, self.target = x.edge_index
        self.loops = self.source == self.target
        self.partial = bool(x.get("partial"))


def rank_within(keys: Tensor, owner: Tensor, sizes: Tensor) -> Tensor:
    """``[N]`` place of each node in its graph when sorted by ``keys`` (from 0; ties keep their order)."""
    order = keys.argsort(stable=True)
    order = order[owner[order].argsort(stable=True)]
    rank = torch.empty_like(owner)
    starts = sizes.cumsum(0) - sizes
    rank[order] = torch.arange(len(owner), device=owner.device) - starts[owner[order]]
    return rank


def drop_nodes(blocks: Blocks, share: Tensor, draw: Draw) -> Tensor:
    """``[N]`` bool: exactly ``floor(share * n)`` nodes of each graph (GraphCL); of a sampled
    neighbourhood each node with probability ``share``.

    Args:
        blocks: the batch.
        share: ``[G]`` in [0, 1).
        draw: randomness.
    """
    at = draw.at(blocks.index)
    if blocks.partial:
        return at.uniform() < share[blocks.owner]
    counts = (share * blocks.sizes).floor().to(torch.int64)
    return rank_within(at.bits(), blocks.owner, blocks.sizes) < counts[blocks.owner]


def drop_edges(blocks: Blocks, share: Tensor, draw: Draw, symmetric: bool = False) -> Tensor:
    """``[E]`` bool: each edge with probability ``share`` ``[G]`` of its graph, never a self-loop.

    Args:
        blocks: the batch.
        share: ``[G]``.
        draw: randomness.
        symmetric: both directions of an edge fall together.
    """
    a, b = blocks.index[blocks.source], blocks.index[blocks.target]
    if symmetric:
        a, b = torch.minimum(a, b), torch.maximum(a, b)
    chance = draw.at(a * _PAIR + b).uniform()
    return (chance < share[blocks.owner[blocks.source]]) & ~blocks.loops


def drop_features(blocks: Blocks, share: Tensor, draw: Draw, mode: str, width: int) -> Tensor:
    """What is set to zero: ``columns`` ``[G, F]``, ``cells`` ``[N, F]`` or ``rows`` ``[N]``, bool."""
    if mode == "columns":
        return draw.at(blocks.counter).uniform(width) < share[:, None]
    if mode == "cells":
        return draw.at(blocks.index).uniform(width) < share[blocks.owner][:, None]
    return drop_nodes(blocks, share, draw)


def spread_features(dropped: Tensor, blocks: Blocks, mode: str) -> Tensor:
    """``[N, F]`` or ``[N, 1]`` bool from what :func:`drop_features` returned."""
    if mode == "columns":
        return dropped[blocks.owner]
    return dropped if mode == "cells" else dropped[:, None]


def first_of_each(keys: Tensor, blocks: Blocks) -> Tensor:
    """``[G]`` the node with the smallest key of each graph."""
    first = rank_within(keys, blocks.owner, blocks.sizes) == 0
    start = torch.zeros(blocks.n, dtype=torch.int64, device=keys.device)
    picked = torch.where(first, torch.arange(len(keys), device=keys.device), torch.zeros_like(keys))
    return start.index_add_(0, blocks.owner, picked)


def ball_arrival(blocks: Blocks, start: Tensor, hops: int) -> Tensor:
    """``[N]`` distance from the start of each node's graph, ``hops + 1`` where it is not reached."""
    arrival = torch.full_like(blocks.owner, hops + 1)
    arrival[start] = 0
    ends = torch.cat([blocks.target, blocks.source])
    begins = torch.cat([blocks.source, blocks.target])
    for _ in range(hops):
        arrival = arrival.scatter_reduce(0, ends, arrival[begins] + 1, "amin", include_self=True)
        arrival = arrival.clamp_max(hops + 1)
    return arrival


def walk_arrival(blocks: Blocks, start: Tensor, steps: int, draw: Draw, walkers: int = 16) -> Tensor:
    """``[N]`` first step at which one of ``walkers`` random walks with restart (0.2) from each
    graph's start visits a node, ``steps + 1`` for never."""
    order = blocks.source.argsort(stable=True)
    neighbour = blocks.target[order]
    degree = torch.zeros_like(blocks.owner).index_add_(0, blocks.source, torch.ones_like(blocks.source))
    first = degree.cumsum(0) - degree
    counters = (blocks.counter[:, None] * walkers + torch.arange(walkers, device=start.device)).flatten()
    at = draw.at(counters)
    moves, restarts = at.uniform(steps), at.bernoulli(0.2, steps)
    home = start.repeat_interleave(walkers)
    arrival = torch.full_like(blocks.owner, steps + 1)
    arrival[start] = 0
    here = home
    for step in range(steps):
        pick = torch.minimum((moves[:, step] * degree[here]).to(torch.int64), (degree[here] - 1).clamp_min(0))
        there = neighbour[(first[here] + pick).clamp_max(len(neighbour) - 1)]
        there = torch.where(degree[here] > 0, there, here)
        here = torch.where(restarts[:, step], home, there)
        arrival = arrival.scatter_reduce(0, here, torch.full_like(here, step + 1), "amin", include_self=True)
    return arrival


def leave_subgraph(blocks: Blocks, share: Tensor, draw: Draw, kind: str, steps: int) -> Tensor:
    """``[N]`` bool: nodes outside a connected subgraph around a random start.

    The subgraph grows from the start in order of distance (``ball``) or of first visit
    (``walk``), ties at random, up to ``n - floor(share * n)`` nodes or until nothing more is
    reached (GraphCL, NeurIPS 2020, section 3.2). Where ``share`` is 0, nothing is left out.
    """
    keys = draw.fork("start").at(blocks.index).bits()
    start = first_of_each(keys, blocks)
    if kind == "ball":
        arrival = ball_arrival(blocks, start, steps)
    else:
        arrival = walk_arrival(blocks, start, steps, draw.fork("walk"))
    ties = draw.fork("ties").at(blocks.index).bits()
    by_tie = rank_within(ties, blocks.owner, blocks.sizes)
    rank = rank_within(arrival * (len(arrival) + 1) + by_tie, blocks.owner, blocks.sizes)
    target = blocks.sizes - (share * blocks.sizes).floor().to(torch.int64)
    outside = (rank >= target[blocks.owner]) | (arrival > steps)
    return outside & (share[blocks.owner] > 0)


def apply(x: Any, features: Tensor, keep_edges: Tensor, kept_nodes: Tensor | None) -> Any:
    """A copy of ``x`` with other features, fewer edges, and dropped nodes marked; rows stay."""
    out = copy.copy(x)
    out.x = features
    out.edge_index = x.edge_index[:, keep_edges]
    for name in ("edge_attr", "edge_weight", "edge_type"):
        if x.get(name) is not None:
            out[name] = x[name][keep_edges]
    if kept_nodes is not None:
        out.kept_nodes = kept_nodes
    return out
