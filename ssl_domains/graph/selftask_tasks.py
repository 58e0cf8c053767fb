"""SelfTask's pretext tasks on the nodes of one graph, one class each; those on labels are next door."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core.objectives.base import Terms
from ssl_domains.core.objectives.classification import CrossEntropy
from ssl_domains.core.objectives.regression import MaskedMSE
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import register
from ssl_domains.graph.selftask_base import Step, Task, differences, mean_square, renamed
from ssl_domains.graph.selftask_targets import (
    Known,
    centers,
    hop_pairs,
    inverse_hops,
    node_values,
    non_edges,
    partition,
    principal_components,
    similar_pairs,
)
from ssl_domains.graph.spec import GraphSpec


@register("task", "node_property")
class NodeProperty(Task):
    """A property of each node: its degree, clustering or page rank, as a class or a number.

    Args:
        spec: of the data.
        width: D.
        value: ``degree``, ``clustering`` or ``pagerank``.
        form: ``classes`` (by cuts) or ``regression`` (``log(1 + value)``, standardised; raw degrees
            would leave the loss to a few hubs).
        cuts: upper bounds of all classes but the last; default 2 and 7 for degrees (the authors'),
            otherwise the terciles.
    """

    weight = 5.0
    target: Tensor

    def __init__(
        self,
        spec: GraphSpec,
        width: int,
        value: str = "degree",
        form: str = "classes",
        cuts: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if value not in ("degree", "clustering", "pagerank"):
            raise ValueError(f"value must be degree, clustering or pagerank, got {value!r}")
        if form not in ("classes", "regression"):
            raise ValueError(f"form must be classes or regression, got {form!r}")
        self.value, self.form = value, form
        self.cuts = [2.0, 7.0] if cuts is None and value == "degree" else cuts
        n = 3 if self.cuts is None else len(self.cuts) + 1
        self.head = nn.Linear(width, n if form == "classes" else 1)
        self.objective = CrossEntropy() if form == "classes" else MaskedMSE()

    def prepare(self, known: Known) -> None:
        values = node_values(known.adjacency, self.value)
        if self.form == "classes":
            cuts = np.quantile(values, [1 / 3, 2 / 3]) if self.cuts is None else np.asarray(self.cuts)
            self.keep("target", np.searchsorted(cuts, values, side="left"))
        else:
            logs = np.log1p(values)
            scaled = (logs - logs.mean()) / max(float(logs.std()), 1e-6)
            self.keep("target", scaled[:, None].astype(np.float32))

    def loss(self, step: Step) -> Terms:
        out = self.head(step.dropped[step.seeds])
        return renamed("node_property", self.objective(out, self.target[step.index]))


@register("task", "edge_mask")
class EdgeMask(Task):
    """Hidden edges told from as many pairs that no edge joins, by ``|z_u - z_v|``.

    Both directions of an edge are hidden. (The authors' code hides them apart, so the other one
    usually gives the answer away.)

    Args:
        spec: of the data.
        width: D.
        ratio: share of the edges that are hidden. Default 0.1.
        redraw: hide other edges in each step; the authors draw once. Default False.
    """

    weight = 10.0
    whole_graph = True
    edges: Tensor
    fixed: Tensor
    free: Tensor

    def __init__(self, spec: GraphSpec, width: int, ratio: float = 0.1, redraw: bool = False) -> None:
        super().__init__()
        if not 0.0 < ratio < 1.0:
            raise ValueError(f"ratio must lie between 0 and 1, got {ratio}")
        self.ratio, self.redraw = ratio, redraw
        self.head = nn.Linear(width, 2)
        self.objective = CrossEntropy()

    def prepare(self, known: Known) -> None:
        a, b = known.adjacency.nonzero()
        edges = np.stack([a[a < b], b[a < b]]).astype(np.int64)
        edges = edges[:, np.argsort(edges[0] * known.n + edges[1])]
        self.n, self.count = known.n, max(1, int(self.ratio * edges.shape[1]))
        self.keep("edges", edges)
        self.keep("fixed", np.sort(known.rng(3).permutation(edges.shape[1])[: self.count]))
        self.keep("free", non_edges(known, self.count * (10 if self.redraw else 1), salt=4))

    def hidden(self, draw: Draw) -> Tensor:
        """``[2, m]`` the hidden edges of this step, sorted."""
        rows = self.fixed
        if self.redraw:
            keys = draw.at(torch.arange(self.edges.shape[1], device=self.edges.device)).bits()
            rows = keys.argsort()[: self.count].sort().values
        return self.edges[:, rows]

    def transform(self, x: Any, draw: Draw) -> Any:
        hidden = self.hidden(draw)
        gone = hidden[0] * self.n + hidden[1]
        low, high = x.edge_index.min(dim=0).values, x.edge_index.max(dim=0).values
        key = low * self.n + high
        place = torch.searchsorted(gone, key).clamp_max(len(gone) - 1)
        kept = gone[place] != key
        out = copy.copy(x)
        out.edge_index = x.edge_index[:, kept]
        for name in ("edge_attr", "edge_weight"):
            if x.get(name) is not None:
                out[name] = x[name][kept]
        return out

    def loss(self, step: Step) -> Terms:
        hidden = self.hidden(step.draw)
        free = self.free
        if self.redraw:
            at = step.draw.fork("free").at(torch.arange(self.count, device=free.device))
            free = free[:, at.randint(free.shape[1])]
        pairs = torch.cat([hidden, free], dim=1)
        target = (torch.arange(pairs.shape[1], device=pairs.device) < hidden.shape[1]).long()
        return renamed("edge_mask", self.objective(self.head(differences(step, pairs)), target))


@register("task", "pairwise_distance")
class PairwiseDistance(Task):
    """How many hops lie between two nodes: 1, 2, 3, or more (or no path), by ``|z_u - z_v|``.

    Args:
        spec: of the data.
        width: D.
        classes: number of classes; the last one holds all that is further. Default 4.
        per_class: pairs a class and step. Default 4,000.
        max_sources: a graph with more nodes shows only the pairs of so many random nodes.
        pool: pairs a class that are kept to draw from, in multiples of ``per_class``.
    """

    weight = 20.0
    whole_graph = True
    pairs: Tensor
    target: Tensor

    def __init__(
        self,
        spec: GraphSpec,
        width: int,
        classes: int = 4,
        per_class: int = 4000,
        max_sources: int = 2048,
        pool: int = 50,
    ) -> None:
        super().__init__()
        if classes < 2 or min(per_class, max_sources, pool) < 1:
            raise ValueError("classes must be at least 2, and per_class, max_sources and pool at least 1")
        self.classes, self.per_class, self.max_sources, self.pool = classes, per_class, max_sources, pool
        self.head = nn.Linear(width, classes)
        self.objective = CrossEntropy()

    def prepare(self, known: Known) -> None:
        found = hop_pairs(known, self.classes, self.per_class * self.pool, self.max_sources)
        self.counts = [pairs.shape[1] for pairs in found]
        self.keep("pairs", np.concatenate(found, axis=1))
        sizes = [min(self.per_class, n) for n in self.counts]
        self.keep("target", np.repeat(np.arange(self.classes), sizes))

    def chosen(self, draw: Draw) -> Tensor:
        """``[2, M]`` pairs of this step, class by class."""
        rows, first = [], 0
        for c, count in enumerate(self.counts):
            at = draw.fork(f"class {c}").at(
                torch.arange(min(self.per_class, count), device=self.pairs.device)
            )
            rows.append(first + at.randint(max(count, 1)))
            first += count
        return self.pairs[:, torch.cat(rows)]

    def loss(self, step: Step) -> Terms:
        out = self.head(differences(step, self.chosen(step.draw)))
        return renamed("pairwise_distance", self.objective(out, self.target))


@register("task", "distance_to_clusters")
class DistanceToClusters(Task):
    """``1 / hops`` from each node to the center of each of k parts of the graph.

    Parts come from growing bisection; a part's center is the node with the most neighbours inside
    it. A center's own part does not count. (The authors' code mixes up node numbers of part and
    graph when it looks for centers, and gives a center's own part the target 0.)

    Args:
        spec: of the data.
        width: D.
        parts: k. Default 10 (Cora and Citeseer; PubMed: 30).
    """

    weight = 100.0
    target: Tensor
    counts: Tensor

    def __init__(self, spec: GraphSpec, width: int, parts: int = 10) -> None:
        super().__init__()
        if parts < 1:
            raise ValueError(f"parts must be at least 1, got {parts}")
        self.parts = min(parts, max(spec.n_nodes, 1))
        self.head = nn.Linear(width, self.parts)

    def prepare(self, known: Known) -> None:
        found = centers(known.adjacency, partition(known.adjacency, self.parts))
        target = inverse_hops(known.adjacency, found).T
        counts = np.ones_like(target)
        counts[found, np.arange(len(found))] = 0.0
        self.keep("target", np.ascontiguousarray(target))
        self.keep("counts", counts)

    def loss(self, step: Step) -> Terms:
        out, counts = self.head(step.dropped[step.seeds]), self.counts[step.index]
        return mean_square(out, self.target[step.index], counts)


@register("task", "attribute_mask")
class AttributeMask(Task):
    """Hidden nodes' features rebuilt: principal components of them, by a linear head.

    Args:
        spec: of the data.
        width: D.
        ratio: share of the nodes without a train label that are hidden. Default 0.1.
        components: of the features to rebuild; narrower features are the target as they are. Default 256.
        redraw: hide other nodes in each step; the authors draw once. Default False.
    """

    weight = 100.0
    fixed: Tensor
    unlabelled: Tensor
    target: Tensor

    def __init__(
        self, spec: GraphSpec, width: int, ratio: float = 0.1, components: int = 256, redraw: bool = False
    ) -> None:
        super().__init__()
        if not 0.0 < ratio < 1.0 or components < 1:
            raise ValueError(
                f"ratio must lie between 0 and 1 and components be at least 1, got {ratio}, {components}"
            )
        self.ratio, self.redraw, self.components = ratio, redraw, components
        self.head = nn.Linear(width, min(components, spec.features, max(spec.n_nodes, 1)))
        self.objective = MaskedMSE()

    def prepare(self, known: Known) -> None:
        free = known.labels < 0
        fixed = np.zeros(known.n, dtype=bool)
        fixed[known.rng(5).permutation(np.flatnonzero(free))[: max(1, int(self.ratio * free.sum()))]] = True
        self.keep("fixed", fixed)
        self.keep("unlabelled", free)
        self.keep("target", principal_components(known.features, self.components))

    def hidden(self, index: Tensor, draw: Draw) -> Tensor:
        """Which of the nodes with these global numbers are hidden."""
        if self.redraw:
            return (draw.at(index).uniform() < self.ratio) & self.unlabelled[index]
        return self.fixed[index]

    def transform(self, x: Any, draw: Draw) -> Any:
        out = copy.copy(x)
        out.x = x.x.masked_fill(self.hidden(x.node_index, draw)[:, None], 0.0)
        return out

    def loss(self, step: Step) -> Terms:
        out = self.head(step.dropped[step.seeds])
        weights = self.hidden(step.index, step.draw).to(out.dtype)
        return Terms(self.objective(out, self.target[step.index], weights).total, {})


@register("task", "pairwise_attribute_similarity")
class PairwiseAttributeSimilarity(Task):
    """The cosine of two nodes' features, by ``|z_u - z_v|``: for pairs that are alike, unlike, and random.

    Args:
        spec: of the data.
        width: D.
        k: partners of each kind that a node brings in. Default 3.
        per_step: pairs a step. Default 5,000.
        max_sources: a graph with more nodes gets partners for so many random nodes.
    """

    weight = 100.0
    whole_graph = True
    pairs: Tensor
    similarity: Tensor

    def __init__(
        self, spec: GraphSpec, width: int, k: int = 3, per_step: int = 5000, max_sources: int = 20_000
    ) -> None:
        super().__init__()
        if min(k, per_step, max_sources) < 1:
            raise ValueError("k, per_step and max_sources must be at least 1")
        self.k, self.per_step, self.max_sources = k, per_step, max_sources
        self.head = nn.Linear(width, 1)
        self.objective = MaskedMSE()

    def prepare(self, known: Known) -> None:
        pairs, similarity = similar_pairs(known, self.k, self.max_sources)
        self.keep("pairs", pairs)
        self.keep("similarity", similarity[:, None])

    def loss(self, step: Step) -> Terms:
        total = self.pairs.shape[1]
        at = step.draw.at(torch.arange(min(self.per_step, total), device=self.pairs.device))
        rows = at.randint(total)
        out = self.head(differences(step, self.pairs[:, rows]))
        return Terms(self.objective(out, self.similarity[rows]).total, {})
