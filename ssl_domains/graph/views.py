"""Views of graphs: edge drop, feature drop, node drop, subgraph; and corrupted nodes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Source, Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.graph.augment import (
    Blocks,
    apply,
    drop_edges,
    drop_features,
    drop_nodes,
    leave_subgraph,
    spread_features,
)

Rate = float | tuple[float, ...]


def _rates(value: Rate, name: str, n_views: int) -> list[float]:
    """One rate for each view."""
    values = [float(value)] * n_views if isinstance(value, int | float) else [float(v) for v in value]
    if len(values) != n_views:
        raise ValueError(f"views.{name} needs one number or {n_views} (one a view), got {len(values)}")
    if not all(0.0 <= v < 1.0 for v in values):
        raise ValueError(f"views.{name} is a share to drop and must lie in [0, 1), got {value}")
    return values


@views("graph_augment")
class GraphAugment(Views):
    """Views that lose edges, features and nodes, each view with strengths of its own.

    Node rows keep their places: a dropped node loses its features and all its edges, and no
    graph pooling counts it. The defaults are GRACE's on Cora (Zhu et al., 2020); GraphCL
    (NeurIPS 2020) is ``combine: one`` with rates of 0.2.

    Args:
        edge_drop: share of edges dropped, each on its own; one number or one a view. Self-loops stay.
        feature_drop: share of features set to zero; one number or one a view.
        node_drop: share of each graph's nodes dropped.
        subgraph: share of each graph's nodes left outside a connected subgraph.
        feature_mode: ``columns`` (GRACE: the same dimensions in all nodes of a graph),
            ``cells`` or ``rows`` (GraphCL's attribute masking: whole nodes).
        subgraph_kind: ``ball`` (by distance) or ``walk`` (16 random walks; for small graphs).
        subgraph_steps: hops of the ball or steps of the walks.
        combine: ``all`` applies every augmentation, ``one`` draws a single one for each graph
            and view among those with a rate above 0.
        symmetric: both directions of an edge are dropped together. GRACE drops them apart.
        n_views: number of views.

    ``View.params``: ``dropped_nodes`` ``[N]``, ``dropped_edges`` ``[E]``, ``dropped_features``
    (``[G, F]``, ``[N, F]`` or ``[N]`` by mode), and to predict: ``corrupted`` ``[B, 1]`` (the node, or
    any node of the graph, was dropped or lost features of its own), ``dropped_edge_share`` ``[B, 1]``.
    """

    def __init__(
        self,
        edge_drop: Rate = (0.2, 0.4),
        feature_drop: Rate = (0.3, 0.4),
        node_drop: Rate = 0.0,
        subgraph: Rate = 0.0,
        *,
        feature_mode: str = "columns",
        subgraph_kind: str = "ball",
        subgraph_steps: int = 8,
        combine: str = "all",
        symmetric: bool = False,
        n_views: int = 2,
    ) -> None:
        for name, value, allowed in (
            ("feature_mode", feature_mode, ("columns", "cells", "rows")),
            ("subgraph_kind", subgraph_kind, ("ball", "walk")),
            ("combine", combine, ("all", "one")),
        ):
            if value not in allowed:
                raise ValueError(f"views.{name} must be one of {', '.join(allowed)}, got {value!r}")
        if n_views < 1 or subgraph_steps < 1:
            raise ValueError("views.n_views and views.subgraph_steps must be at least 1")
        given = {"edge": edge_drop, "feature": feature_drop, "node": node_drop, "subgraph": subgraph}
        keys = {"edge": "edge_drop", "feature": "feature_drop", "node": "node_drop", "subgraph": "subgraph"}
        self.rates = {op: _rates(value, keys[op], n_views) for op, value in given.items()}
        self.feature_mode, self.subgraph_kind, self.subgraph_steps = (
            feature_mode,
            subgraph_kind,
            subgraph_steps,
        )
        self.combine, self.symmetric, self.n_views = combine, symmetric, n_views

    def target_width(self, name: str, spec: Any) -> int:
        """1 for ``corrupted`` and ``dropped_edge_share``."""
        if name not in ("corrupted", "dropped_edge_share"):
            raise KeyError(f"graph_augment records corrupted and dropped_edge_share to predict, not {name!r}")
        return 1

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """``n_views`` views of a graph batch."""
        return [self._view(batch, i, draw.fork(f"view {i}")) for i in range(self.n_views)]

    def shares(self, blocks: Blocks, view: int, draw: Draw) -> dict[str, Tensor]:
        """``[G]`` rate of each augmentation in use."""
        rates = {op: values[view] for op, values in self.rates.items() if values[view] > 0}
        device = blocks.owner.device
        full = {op: torch.full((blocks.n,), rate, device=device) for op, rate in rates.items()}
        if self.combine == "all" or not rates:
            return full
        choice = draw.at(blocks.counter).randint(len(rates))
        return {op: share * (choice == i) for i, (op, share) in enumerate(full.items())}

    def _view(self, batch: Batch, view: int, draw: Draw) -> View:
        x = batch.x
        blocks = Blocks(x, batch.index)
        shares = self.shares(blocks, view, draw.fork("choice"))
        nodes = torch.zeros_like(blocks.owner, dtype=torch.bool)
        if "node" in shares:
            nodes = nodes | drop_nodes(blocks, shares["node"], draw.fork("nodes"))
        if "subgraph" in shares:
            kind, steps = self.subgraph_kind, self.subgraph_steps
            nodes = nodes | leave_subgraph(blocks, shares["subgraph"], draw.fork("subgraph"), kind, steps)
        edges = nodes[blocks.source] | nodes[blocks.target]
        if "edge" in shares:
            edges = edges | drop_edges(blocks, shares["edge"], draw.fork("edges"), self.symmetric)
        features, params = self._features(x, blocks, shares, nodes, draw.fork("features"))
        touched = nodes if self.feature_mode == "columns" else params.pop("touched") | nodes
        params |= {"dropped_nodes": nodes, "dropped_edges": edges}
        params |= self._predictable(x, blocks, touched, edges)
        lost = "node" in shares or "subgraph" in shares
        return View(apply(x, features, ~edges, ~nodes if lost else None), "global", params)

    def _features(
        self, x: Any, blocks: Blocks, shares: dict[str, Tensor], nodes: Tensor, draw: Draw
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Features with the dropped ones at zero, and what was dropped."""
        params: dict[str, Tensor] = {}
        gone = nodes[:, None]
        touched = nodes
        if "feature" in shares:
            dropped = drop_features(blocks, shares["feature"], draw, self.feature_mode, x.x.shape[1])
            spread = spread_features(dropped, blocks, self.feature_mode)
            params["dropped_features"] = dropped
            gone, touched = gone | spread, spread.any(dim=1)
        if self.feature_mode != "columns":
            params["touched"] = touched
        return x.x.masked_fill(gone, 0.0), params

    @staticmethod
    def _predictable(x: Any, blocks: Blocks, touched: Tensor, edges: Tensor) -> dict[str, Tensor]:
        """``corrupted`` and ``dropped_edge_share`` of the batch's samples, ``[B, 1]``."""
        real = (~blocks.loops).float()
        by_graph = x.get("batch") is not None
        owner = blocks.owner[blocks.target] if by_graph else blocks.target
        n = blocks.n if by_graph else len(blocks.owner)
        lost = torch.zeros(n, device=real.device).index_add_(0, owner, edges * real)
        share = lost / torch.zeros_like(lost).index_add_(0, owner, real).clamp_min(1.0)
        if by_graph:
            corrupted = torch.zeros(n, device=real.device).index_add_(0, blocks.owner, touched.float()) > 0
        else:
            seeds = x.get("seed_index")
            seeds = torch.arange(n, device=real.device) if seeds is None else seeds
            corrupted, share = touched[seeds], share[seeds]
        return {"corrupted": corrupted[:, None], "dropped_edge_share": share[:, None]}


@views("graph_corrupt")
class GraphCorrupt(Views):
    """One view in which some nodes carry the features of random other nodes; a pretext task
    asks which (the structure says what a node should look like).

    Donors come from the whole data, so the view of a node does not depend on its batch. Graph
    level: half of the graphs are left alone; in the others ``share`` of the nodes is replaced.

    Args:
        share: share of nodes replaced. Default 0.3 (VIME's corruption of table cells).

    ``View.params``: ``corrupted`` ``[B, 1]`` bool, ``replaced_nodes`` ``[N]`` bool.
    """

    n_views = 1

    def __init__(self, share: float = 0.3) -> None:
        if not 0.0 < share < 1.0:
            raise ValueError(f"views.share must lie between 0 and 1, got {share}")
        self.share = share
        self.bank: Tensor | None = None

    def prepare(self, source: Source) -> None:
        """Takes the features of the nodes that pretraining may see as donors."""
        self.bank = torch.from_numpy(source.donors())  # type: ignore[attr-defined]

    def target_width(self, name: str, spec: Any) -> int:
        """1 for ``corrupted``."""
        if name != "corrupted":
            raise KeyError(f"graph_corrupt records corrupted to predict, not {name!r}")
        return 1

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """One view."""
        x, blocks = batch.x, Blocks(batch.x, batch.index)
        at = draw.fork("nodes").at(blocks.index)
        replaced = at.uniform() < self.share
        if x.get("batch") is not None:
            chosen = draw.fork("graphs").at(blocks.counter).bernoulli(0.5)
            replaced = replaced & chosen[blocks.owner]
        bank = x.x if self.bank is None else self.bank
        donors = at.randint(len(bank))
        given = bank[donors.to(bank.device)].to(x.x.device, non_blocking=True)
        out = copy.copy(x)
        out.x = torch.where(replaced[:, None], given, x.x)
        if x.get("batch") is not None:
            corrupted = (
                torch.zeros(blocks.n, device=x.x.device).index_add_(0, blocks.owner, replaced.float()) > 0
            )
        else:
            seeds = x.get("seed_index")
            corrupted = replaced if seeds is None else replaced[seeds]
        return [View(out, "corrupted", {"corrupted": corrupted[:, None], "replaced_nodes": replaced})]


@views("graph_shuffle")
class GraphShuffle(Views):
    """One view in which the batch's nodes have exchanged their features at random; edges stay.

    The corruption of DGI (Velickovic et al., ICLR 2019, section 4.2): a permutation of the rows of
    the feature matrix. Within a sampled batch it permutes the batch's nodes.
    """

    n_views = 1

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """One view."""
        x = batch.x
        index = Blocks(x, batch.index).index
        order = draw.at(index).bits().argsort()
        out = copy.copy(x)
        out.x = x.x[order]
        return [View(out, "corrupted", {})]
