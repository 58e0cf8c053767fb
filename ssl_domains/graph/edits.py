"""Copies of graphs at known edit distances: edges replaced in growing number, the whole batch at once."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Source, Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.graph.augment import Blocks, ball_arrival, first_of_each, rank_within
from ssl_domains.graph.regions import LAST, Pairs, Region, draw_distinct
from ssl_domains.graph.spec import GraphSpec

_PAIR = 1 << 31
_BANK = 1 << 16  # rows of edge features that are kept to draw from
_COPIES = 16


@dataclass
class Change:
    """What becomes of every pair in K copies.

    Attributes:
        removed: ``[K, P]`` bool: the edge goes.
        filled: ``[K, P]`` bool: and another takes its place, between
        a, b: ``[K, P]`` these nodes.
        distance: ``[K, G]`` edges removed plus edges added.
    """

    removed: Tensor
    filled: Tensor
    a: Tensor
    b: Tensor
    distance: Tensor


@views("graph_edits")
class GraphEdits(Views):
    """A graph and copies of it with more and more edges replaced (D-SLA, NeurIPS 2022, section 3.2).

    Around a random node that has an edge lies a region of ``hops`` hops, the same one for all copies.
    Copy i loses ``e = max(1, int(strength * i * E))`` of the region's E edges, at random, and gains e
    between nodes of the region that no edge of the ORIGINAL joined; so nothing is undone, and the
    recorded distance, ``2 e``, is the number of edges in which copy and original differ. (In the
    authors' code an added edge may restore a removed one, and for molecules e is recorded.) In a
    region too dense for e additions there are fewer, and the distance counts those. Numbers are
    drawn per graph: the copies of a graph do not depend on its batch.

    The features of ``int(mask * n)`` of the region's n nodes are hidden, others in each copy and in
    the original as well, so that features do not tell them apart. Added edges take features of
    random edges of the data, both directions the same (or a relation and its reverse). Nothing is edited in
    a graph without edges: its distance is 0, and D-SLA leaves it out. Degrees as node features and the
    features of self-loops follow the edits; other features that tell the structure (an atom's ring or number
    of neighbours) do not, and give the original away where they are not hidden: leave them out.

    Args:
        spec: of the data; samples must be graphs.
        copies: K. Default 3.
        strength: share of the region's edges replaced in the first copy; the i-th has i times as
            much. Default 0.2 (molecules; TU data sets: 0.01, COLLAB 0.001, with ``hops: null``).
        hops: radius of the region; None: the whole graph. Default 3.
        mask: share of the region's nodes with hidden features. Default 0.8 (TU data sets: 0.2;
            protein graphs: 0).
        strong: one more copy, edited all over the graph with ``strong_factor`` times the strength;
            its hidden nodes lie all over the graph, too, and are as many.
        strong_factor: default 4.

    ``View.params``: ``distance`` ``[G]`` float32, and ``hidden_nodes`` ``[N]`` bool. Roles:
    ``original``, ``edited``, ``strong``. Hidden nodes' features are zeros in ``View.x``; a method
    that hands ``Mask(hidden_nodes)`` to the encoder gets its mask token instead.

    Raises:
        ValueError: an option is out of range, the data are one graph, or its nodes have positional encodings.
    """

    def __init__(
        self,
        spec: GraphSpec,
        copies: int = 3,
        strength: float = 0.2,
        hops: int | None = 3,
        mask: float = 0.8,
        strong: bool = True,
        strong_factor: float = 4.0,
    ) -> None:
        if spec.level != "graph":
            raise ValueError(
                "views 'graph_edits' copies whole graphs, but the data are one graph; "
                "give data.graph, the column of the node table with each node's graph"
            )
        if spec.positional:
            raise ValueError(
                "views 'graph_edits' replaces edges, and positional encodings of the original would give it "
                "away; set data.random_walk and data.laplacian to 0"
            )
        most = max(copies * strength, strong_factor * strength if strong else 0.0)
        if not 1 <= copies < _COPIES - 1:
            raise ValueError(f"views.copies must lie between 1 and {_COPIES - 2}, got {copies}")
        if not (strength > 0 and most <= 1.0):
            raise ValueError(
                f"views.strength ({strength}) times views.copies ({copies}), and times views.strong_factor "
                f"({strong_factor}), is a share of the edges: it must be above 0 and at most 1"
            )
        if not 0.0 <= mask < 1.0 or (hops is not None and hops < 1):
            raise ValueError(
                f"views.mask must lie in [0, 1) and views.hops be at least 1; got {mask}, {hops}"
            )
        self.copies, self.strength, self.hops, self.mask = copies, strength, hops, mask
        self.strong, self.strong_factor, self.directed = strong, strong_factor, spec.directed
        self.self_loops, self.degree_cap = spec.self_loops, spec.degree_cap
        self.n_relations = len(spec.relation_names)
        self.n_views = 1 + copies + strong
        self.banks: dict[str, Tensor] = {}

    def prepare(self, source: Source) -> None:
        """Keeps up to 65,536 rows of the data's edge features, evenly spaced, to draw added edges' from."""
        for name in ("edge_attr", "edge_weight", "edge_type"):
            values = getattr(source.edges, name, None)  # type: ignore[attr-defined]
            if values is not None:
                rows = np.linspace(0, len(values) - 1, min(len(values), _BANK)).astype(np.int64)
                self.banks[name] = torch.from_numpy(np.asarray(values[rows]))

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """The original, the copies from weak to strong, and last the strong one."""
        x, blocks = batch.x, Blocks(batch.x, batch.index)
        n_edges = x.edge_index.shape[1] - (len(x.x) if self.self_loops else 0)
        pairs = Pairs.of(blocks, self.directed, max(n_edges if self.directed else n_edges // 2, 1))
        member = self._member(blocks, pairs, draw.fork("center"))
        whole = torch.ones_like(member)
        weak = Region.of(blocks, pairs, member)
        rates = [self.strength * i for i in range(1, self.copies + 1)]
        changes = [edit(blocks, pairs, weak, rates, draw.fork("weak"))]
        if self.strong:
            everywhere = Region.of(blocks, pairs, whole)
            rate = self.strength * self.strong_factor
            changes.append(edit(blocks, pairs, everywhere, [rate], draw.fork("strong")))
        hidden = self._hidden(blocks, weak.sizes, member, whole, draw.fork("mask"))
        made = [View(self._masked(x, hidden[0]), "original", self._params(hidden[0], blocks.sizes * 0))]
        for change, role in zip(changes, ("edited", "strong")):
            for k, distance in enumerate(change.distance):
                at = draw.fork(f"features {role} {k}").at(_pair_number(blocks, pairs))
                copied = self._rewired(x, blocks, pairs, change, k, at)
                own = hidden[len(made)]
                made.append(View(self._masked(copied, own), role, self._params(own, distance)))
        return made

    def _member(self, blocks: Blocks, pairs: Pairs, draw: Draw) -> Tensor:
        """``[N]`` bool: nodes within ``hops`` of a random node that has an edge."""
        if self.hops is None:
            return torch.ones_like(blocks.owner, dtype=torch.bool)
        joined = torch.zeros_like(blocks.owner).index_add(0, pairs.a, pairs.real.long())
        joined = joined.index_add(0, pairs.b, pairs.real.long()) > 0
        keys = torch.where(joined, draw.at(blocks.index).bits() >> 1, LAST)
        return ball_arrival(blocks, first_of_each(keys, blocks), self.hops) <= self.hops

    def _hidden(self, blocks: Blocks, sizes: Tensor, member: Tensor, whole: Tensor, draw: Draw) -> Tensor:
        """``[C, N]`` bool: the nodes whose features are hidden in each view."""
        n_views, n = self.n_views, len(blocks.owner)
        allowed = torch.stack([member] * (1 + self.copies) + [whole] * self.strong)  # [C, N]
        keys = draw.at(blocks.index).bits(n_views).T >> 1
        keys = torch.where(allowed, keys, LAST).flatten()
        unit = torch.arange(n_views, device=keys.device)[:, None] * blocks.n + blocks.owner
        rank = rank_within(keys, unit.flatten(), blocks.sizes.repeat(n_views)).view(n_views, n)
        count = (sizes.double() * self.mask + 1e-9).floor().long()
        return allowed & (rank < count[blocks.owner])

    @staticmethod
    def _params(hidden: Tensor, distance: Tensor) -> dict[str, Tensor]:
        return {"distance": distance.float(), "hidden_nodes": hidden}

    @staticmethod
    def _masked(x: Any, hidden: Tensor) -> Any:
        out = copy.copy(x)
        if x.x.is_floating_point():
            out.x = x.x.masked_fill(hidden[:, None], 0.0)
        return out

    def _rewired(self, x: Any, blocks: Blocks, pairs: Pairs, change: Change, k: int, at: Draw) -> Any:
        """``x`` with the edges of copy k, and with what was computed from edges computed anew."""
        out = copy.copy(x)
        row = pairs.of_edge.clamp_max(len(pairs.real) - 1)
        gone = change.removed[k][row] & ~blocks.loops
        new = gone & change.filled[k][row]
        a, b = change.a[k][row], change.b[k][row]
        source = torch.where(new, torch.where(pairs.forward, a, b), blocks.source)
        target = torch.where(new, torch.where(pairs.forward, b, a), blocks.target)
        keep = new | ~gone
        out.edge_index = torch.stack([source, target])[:, keep]
        for name in ("edge_attr", "edge_weight", "edge_type"):
            values = x.get(name)
            if values is not None:
                given = self._bank(name, values)
                drawn = given[at.randint(len(given))[row]]
                if name == "edge_type" and not self.directed:  # one way a relation, the other its reverse
                    drawn = torch.where(
                        pairs.forward, drawn, (drawn + self.n_relations) % (2 * self.n_relations)
                    )
                fresh = new if values.ndim == 1 else new[:, None]
                out[name] = torch.where(fresh, drawn, values)[keep]
        return self._consistent(out, blocks.loops[keep])

    def _consistent(self, x: Any, loops: Tensor) -> Any:
        """Degrees as node features, and the mean of a node's edges as the features of its self-loop, as
        the source computes them: left as they were, they would tell which graph is the original."""
        n, target = len(x.x), x.edge_index[1]
        count = torch.zeros(n, dtype=torch.int64, device=target.device).index_add(0, target, (~loops).long())
        if self.degree_cap is not None:
            x.x = one_hot(count.clamp_max(self.degree_cap), x.x.shape[1]).to(x.x.dtype)
        attr = x.get("edge_attr")
        if attr is not None and self.self_loops:
            total = attr.new_zeros(n, attr.shape[1]).index_add(0, target, attr * ~loops[:, None])
            mean = total / count.clamp_min(1)[:, None].to(attr.dtype)
            x.edge_attr = torch.where(loops[:, None], mean[target], attr)
        return x

    def _bank(self, name: str, values: Tensor) -> Tensor:
        """Rows to draw from, on the batch's device; before :meth:`prepare` the batch's, or all relations."""
        bank = self.banks.get(name)
        if bank is None:
            if name == "edge_type":  # self-loops have a type, too
                return torch.arange(self.n_relations, device=values.device)
            return values
        if bank.device != values.device:
            bank = self.banks[name] = bank.to(values.device)
        return bank


def _pair_number(blocks: Blocks, pairs: Pairs) -> Tensor:
    """``[P]`` a number of each pair that depends on its nodes' global numbers alone."""
    return blocks.index[pairs.a] * _PAIR + blocks.index[pairs.b]


def edit(blocks: Blocks, pairs: Pairs, region: Region, rates: list[float], draw: Draw) -> Change:
    """K independent changes inside a region, one for each share of its edges in ``rates``.

    Args:
        blocks: the batch.
        pairs: its edges.
        region: where edges are removed and added.
        rates: share of the region's edges that each copy replaces.
        draw: randomness.
    """
    k, n, size = len(rates), blocks.n, len(pairs.real)
    number = torch.arange(k, device=blocks.owner.device)
    rate = torch.tensor(rates, dtype=torch.float64, device=blocks.owner.device)[:, None]
    wanted = (region.n_pairs * rate + 1e-9).floor().long().clamp_min(1)  # [K, G]
    wanted = torch.minimum(wanted, region.n_pairs).flatten()
    free = region.n_free.repeat(k)
    bound = sum(int(size * r) + n for r in rates)
    counter = blocks.counter.repeat(k) * _COPIES + number.repeat_interleave(n)
    drawn = draw_distinct(counter, free, torch.minimum(wanted, free), bound, draw.fork("add"))
    graph = torch.arange(n, device=number.device).repeat(k)
    unit = (number[:, None] * n + pairs.owner).flatten()  # [K * P]
    keys = draw.fork("remove").at(_pair_number(blocks, pairs)).bits(k).T >> 1
    keys = torch.where(region.inside, keys, LAST).flatten()
    per_unit = torch.zeros_like(free).index_add(0, unit, torch.ones_like(unit))
    rank = rank_within(keys, unit, per_unit)
    removed = region.inside.repeat(k) & (rank < wanted[unit])
    filled = removed & (rank < drawn.found[unit])
    place = torch.where(filled, drawn.start[unit] + rank, 0)
    a, b = region.free_pair(graph[unit], torch.where(filled, drawn.values[place], 0))
    distance = (wanted + drawn.found).view(k, n)
    removed, filled, a, b = (value.view(k, size) for value in (removed, filled, a, b))
    return Change(removed, filled, a, b, distance)
