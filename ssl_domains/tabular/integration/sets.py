"""From pairs to sets: communities of the graph whose edges are the pairs that the classifier accepts.

Every algorithm works inside one connected component at a time and gives disjoint sets. Components of
one or two rows need none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from ssl_domains.core.errors import UserError

if TYPE_CHECKING:
    import networkx as nx

MOST_CLIQUES = 200_000
Partition = Iterable[Iterable[int]]


@dataclass(frozen=True)
class Component:
    """A connected part of the pair graph, nodes numbered from 0.

    Attributes:
        size: number of nodes.
        edges: ``[E, 2]`` int64.
        weights: ``[E]`` probabilities of the edges.
        vectors: ``[size, D]`` vectors of the nodes, for ``gnn``.
        seed: for algorithms that draw.
    """

    size: int
    edges: np.ndarray
    weights: np.ndarray
    vectors: np.ndarray
    seed: int

    def networkx(self) -> nx.Graph:
        """As a weighted graph.

        Raises:
            UserError: networkx is missing.
        """
        networkx = _import("networkx", "networkx")
        graph = networkx.Graph()
        graph.add_nodes_from(range(self.size))
        graph.add_weighted_edges_from(
            (int(a), int(b), float(w)) for (a, b), w in zip(self.edges, self.weights, strict=True)
        )
        return graph

    def igraph(self) -> Any:
        """As an igraph graph.

        Raises:
            UserError: igraph is missing.
        """
        igraph = _import("igraph", "igraph")
        igraph.set_random_number_generator(random.Random(self.seed))
        return igraph.Graph(n=self.size, edges=self.edges.tolist())

    def adjacency(self) -> np.ndarray:
        """``[size, size]`` float64, symmetric, 0 on the diagonal."""
        out = np.zeros((self.size, self.size))
        out[self.edges[:, 0], self.edges[:, 1]] = out[self.edges[:, 1], self.edges[:, 0]] = self.weights
        return out


def _import(module: str, install: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"this way to form sets needs {install}: pip install {install}") from None


def components(part: Component) -> Partition:
    """All rows that are joined by any chain of pairs."""
    return [range(part.size)]


def cliques(part: Component) -> Partition:
    """Maximal cliques (Bron and Kerbosch with pivot), the heaviest first, each without the rows that are
    taken."""
    graph, weight = part.networkx(), part.adjacency()
    found = list(islice(_import("networkx", "networkx").find_cliques(graph), MOST_CLIQUES + 1))
    if len(found) > MOST_CLIQUES:
        raise UserError(
            f"a connected part of {part.size} rows has over {MOST_CLIQUES:,} cliques; use sets "
            f"louvain, or raise "
            "the threshold"
        )
    found.sort(key=lambda clique: (-weight[np.ix_(clique, clique)].sum(), sorted(clique)))
    taken: set[int] = set()
    out = []
    for clique in found:
        rest = [node for node in clique if node not in taken]
        taken.update(rest)
        if rest:
            out.append(rest)
    return out


def louvain(part: Component) -> Partition:
    """Louvain's modularity."""
    community = _import("networkx", "networkx").community
    return community.louvain_communities(part.networkx(), weight="weight", seed=part.seed)


def label_propagation(part: Component) -> Partition:
    """Rows take the label that most of their partners have."""
    community = _import("networkx", "networkx").community
    return community.asyn_lpa_communities(part.networkx(), weight="weight", seed=part.seed)


def girvan_newman(part: Component) -> Partition:
    """The edge with the highest betweenness goes, again and again; the division of the highest modularity."""
    if part.size > 300:
        raise UserError(
            f"girvan_newman takes too long for a connected part of {part.size} rows; use sets "
            f"louvain or leiden, "
            "or raise the threshold"
        )
    community = _import("networkx", "networkx").community
    graph = part.networkx()
    whole = [set(range(part.size))]
    divisions = [whole, *map(list, community.girvan_newman(graph))]
    return max(divisions, key=lambda sets: community.modularity(graph, sets, weight="weight"))


def leiden(part: Component) -> Partition:
    """Leiden's modularity (igraph)."""
    graph = part.igraph()
    return graph.community_leiden(objective_function="modularity", weights=part.weights, n_iterations=-1)


def infomap(part: Component) -> Partition:
    """Infomap: the division that describes a random walk in the fewest bits (igraph)."""
    return part.igraph().community_infomap(edge_weights=part.weights)


def spectral(part: Component) -> Partition:
    """Spectral clustering; the number of sets from the largest gap of the Laplacian's eigenvalues."""
    from sklearn.cluster import KMeans

    if part.size > 3000:
        raise UserError(
            f"spectral clustering takes too long for a connected part of {part.size} rows; use sets "
            f"louvain, or "
            "raise the threshold"
        )
    weight = part.adjacency()
    root = 1.0 / np.sqrt(np.maximum(weight.sum(axis=1), 1e-12))
    values, vectors = np.linalg.eigh(np.eye(part.size) - root[:, None] * weight * root)
    k = int(np.argmax(np.diff(values))) + 1
    if k == 1 or k == part.size:
        return [range(part.size)] if k == 1 else [[i] for i in range(part.size)]
    rows = vectors[:, :k] / np.maximum(np.linalg.norm(vectors[:, :k], axis=1, keepdims=True), 1e-12)
    return _groups(KMeans(k, n_init=10, random_state=part.seed).fit_predict(rows))


def average_linkage(part: Component) -> Partition:
    """Sets are joined while the mean probability between them is above 1/2; pairs that were not compared, or
    not accepted, count as 0."""
    return _linkage(1.0 - part.adjacency())


def _linkage(distance: np.ndarray, cut: float = 0.5) -> Partition:
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distance = np.maximum(distance, 0.0)  # a weight may be above 1 by rounding
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), method="average")
    return _groups(fcluster(tree, t=cut, criterion="distance"))


def gnn(part: Component) -> Partition:
    """A graph network trained to tell edges from pairs that are none; see :mod:`gnn_sets`."""
    from ssl_domains.tabular.integration.gnn_sets import embed_nodes

    z = embed_nodes(part.vectors, part.edges, part.weights, seed=part.seed)
    return _linkage(np.clip(1.0 - z @ z.T, 0.0, 2.0))


def _groups(labels: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(labels == value) for value in np.unique(labels)]


_ALL = (louvain, leiden, infomap, label_propagation, girvan_newman, spectral, gnn, cliques, average_linkage)
ALGORITHMS: dict[str, Callable[[Component], Partition]] = {f.__name__: f for f in (*_ALL, components)}
"""Ways to form sets, by name."""
DEFAULT = "average_linkage"


def integrable_sets(
    n: int,
    left: np.ndarray,
    right: np.ndarray,
    probability: np.ndarray,
    algorithm: str = DEFAULT,
    threshold: float = 0.5,
    vectors: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Which rows belong together.

    Args:
        n: number of rows.
        left, right: ``[P]`` pairs.
        probability: ``[P]`` of the classifier.
        algorithm: a name of :data:`ALGORITHMS`.
        threshold: pairs above it are edges.
        vectors: ``[n, D]`` of the rows, for ``gnn``.
        seed: for algorithms that draw.

    Returns:
        ``[n]`` int64 set numbers, counted in the order of each set's first row.

    Raises:
        UserError: no such algorithm, its package is missing, or a component is too large for it.
    """
    if algorithm not in ALGORITHMS:
        raise UserError(f"no way to form sets is called {algorithm!r}; use one of {', '.join(ALGORITHMS)}")
    if not 0.0 <= threshold < 1.0:
        raise UserError(f"the threshold is a probability and must lie in [0, 1), got {threshold}")
    kept = probability > threshold
    left, right, probability = left[kept], right[kept], probability[kept]
    graph = sp.csr_matrix((np.ones(len(left)), (left, right)), shape=(n, n))
    _, part = sp.csgraph.connected_components(graph, directed=False)
    out = part.astype(np.int64)
    fresh = int(part.max()) + 1 if n else 0
    nodes_by, edges_by = _by_label(part), _by_label(part[left]) if len(left) else {}
    for label, edges in edges_by.items():
        nodes = nodes_by[label]
        if len(nodes) < 3:
            continue
        ends = np.stack([np.searchsorted(nodes, left[edges]), np.searchsorted(nodes, right[edges])], axis=1)
        own = vectors[nodes] if vectors is not None else np.eye(len(nodes), dtype=np.float32)
        component = Component(len(nodes), ends, probability[edges].astype(np.float64), own, seed)
        for members in ALGORITHMS[algorithm](component):
            out[nodes[np.asarray(list(members), dtype=np.int64)]] = fresh
            fresh += 1
    return _renumber(out)


def _by_label(labels: np.ndarray) -> dict[int, np.ndarray]:
    """Places of each label, sorted."""
    order = np.argsort(labels, kind="stable")
    values, first = np.unique(labels[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, first[1:]), strict=True))


def _renumber(labels: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
