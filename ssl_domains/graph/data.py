"""The graph source: one large graph whose nodes are samples, or many small graphs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.core.links import Links
from ssl_domains.graph.features import CodedFeatures
from ssl_domains.graph.positional import positions
from ssl_domains.graph.raw import CleanEdges, RawGraph, degree_features
from ssl_domains.graph.sampling import Incoming, neighbourhood, ranges
from ssl_domains.graph.spec import GraphSpec


class GraphSource:
    """Implements :class:`ssl_domains.core.interfaces.Source` for graphs.

    ``fetch(indices).x`` is a PyG ``Data`` (nodes) or ``Batch`` (graphs) with

    - ``x`` ``[n, F]``, ``edge_index`` ``[2, m]`` (self-loops exactly once when the spec says
      so, at the end), ``edge_attr``, ``edge_weight`` and ``edge_type`` when there are any;
    - ``pe`` ``[n, P]`` positional encodings when the spec has any;
    - ``node_index`` ``[n]`` global node numbers; they seed masks and views;
    - node level: ``seed_index`` ``[B]``, where the batch's samples stand among the n nodes;
    - graph level: ``batch`` ``[n]`` and ``ptr`` ``[B + 1]``;
    - ``partial``: True for a sampled neighbourhood.

    Attributes:
        spec, splits, labels, task, class_names, full_batch: see the protocol. The splits hold
            labelled samples (all samples when there are no labels).
        pretrain_index: ``[n]`` what to pretrain on. Nodes: all of them - a transductive task
            shows every node and edge, without labels; inductive: all but validation and test.
            Graphs: "train" and the unlabelled.
        inductive: pretraining sees no validation or test node and no edge that touches one
            (:meth:`for_pretraining`); probes embed all nodes in the whole graph.
        links: edges held out for link prediction, or None; no batch contains them.
        neighbors: fan-outs of the neighbour sampling, or None.
        notes: what was mended or left out, in sentences.
    """

    def __init__(
        self,
        raw: RawGraph,
        edges: CleanEdges,
        features: np.ndarray | CodedFeatures,
        spec: GraphSpec,
        splits: dict[str, np.ndarray],
        labels: np.ndarray | None,
        task: str | None,
        class_names: list[str] | None,
        *,
        neighbors: Sequence[int] | None = None,
        inductive: bool = False,
        links: Links | None = None,
        positional: np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        self.spec, self.splits, self.labels, self.task, self.class_names = (
            spec,
            splits,
            labels,
            task,
            class_names,
        )
        self.raw, self.edges, self.seed = raw, edges, seed
        self.inductive, self.links, self.positional = inductive, links, positional
        self.visible: np.ndarray | None = None
        self.store = features
        self._dense: np.ndarray | None = None
        self.notes = list(raw.notes)
        self.neighbors = list(neighbors) if neighbors is not None else None
        stored = getattr(edges, "incoming", None)
        self.incoming = Incoming.of(edges.edge_index, raw.n_nodes) if stored is None else stored
        self.full_batch = spec.level == "node" and self.neighbors is None
        self.pretrain_index = self._pretrain_index()
        self._whole: dict[str, Tensor] | None = None

    @property
    def features(self) -> np.ndarray:
        """``[N, F]`` float32; features that are held as codes are spread on the first call."""
        if isinstance(self.store, np.ndarray):
            return self.store
        if self._dense is None:
            self._dense = np.asarray(self.store)
        return self._dense

    def __len__(self) -> int:
        return self.raw.n_nodes if self.spec.level == "node" else len(self.raw.ptr) - 1

    def _pretrain_index(self) -> np.ndarray:
        if self.spec.level == "node" and not self.inductive:
            return np.arange(len(self))
        held_out = np.concatenate([self.splits["valid"], self.splits["test"]])
        return np.setdiff1d(np.arange(len(self)), held_out)

    def for_pretraining(self) -> GraphSource:
        """The same data as pretraining may see them: itself, or for an inductive task only the
        nodes of :attr:`pretrain_index` and the edges among them. Row numbers stay."""
        if not self.inductive or self.spec.level == "graph" or self.visible is not None:
            return self
        part = copy.copy(self)
        part.visible, part._whole = self.pretrain_index, None
        part.edges = self.edges.among(self.pretrain_index, self.raw.n_nodes)
        part.incoming = Incoming.of(part.edges.edge_index, self.raw.n_nodes)
        if self.spec.degree_cap is not None:  # degrees count edges, so they must not count hidden ones
            part.store = degree_features(np.diff(part.incoming.ptr), self.spec.degree_cap)
        walk, laplacian = self.spec.random_walk, self.spec.laplacian
        part.positional = positions(part.edges, self.raw.ptr, walk, laplacian, self.raw.origin)
        return part

    def donors(self) -> np.ndarray:
        """``[n, F]`` features of the nodes that pretraining may see."""
        if self.spec.level == "node":
            return self.features[self.pretrain_index]
        ptr, rows = self.raw.ptr, self.pretrain_index
        return self.store[ranges(ptr[rows], ptr[rows + 1] - ptr[rows])]

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The samples with these numbers.

        Raises:
            DataError: a number is out of range, or a node is asked for twice in a sampled batch.
        """
        index = np.asarray(indices, dtype=np.int64)
        if len(index) and not 0 <= index.min() <= index.max() < len(self):
            raise DataError(
                f"{self.raw.origin}: samples are 0 to {len(self) - 1}, asked for {index.min()}, {index.max()}"
            )
        if self.spec.level == "graph":
            x = self._graphs(index)
        elif self.full_batch:
            x = self._whole_graph(index)
        else:
            x = self._sampled(index)
        label = None if self.labels is None else torch.as_tensor(self.labels[index])
        return Batch(x, torch.as_tensor(index), label)

    def _tensors(
        self, nodes: np.ndarray, edge_index: np.ndarray, rows: np.ndarray | slice
    ) -> dict[str, Tensor]:
        """``x``, ``edge_index``, ``edge_attr``, ``edge_weight`` and ``node_index``, with self-loops."""
        out = {"x": torch.from_numpy(self.store[nodes]), "node_index": torch.from_numpy(nodes)}
        n = len(nodes)
        loops = np.arange(n) if self.spec.self_loops else np.arange(0)
        joined = np.concatenate([edge_index, np.stack([loops, loops])], axis=1)
        out["edge_index"] = torch.from_numpy(joined)
        if self.positional is not None:
            out["pe"] = torch.from_numpy(self.positional[nodes])
        for name in ("edge_attr", "edge_weight", "edge_type"):
            values = getattr(self.edges, name)
            if values is not None:
                out[name] = torch.from_numpy(self._with_loops(name, values[rows], edge_index[1], loops))
        return out

    def _with_loops(self, name: str, values: np.ndarray, target: np.ndarray, loops: np.ndarray) -> np.ndarray:
        """Edge values, then those of self-loops: weight 1, a type of their own, features the mean over
        the incoming edges."""
        if name == "edge_type":
            return np.concatenate([values, np.full(len(loops), len(self.spec.relations) - 1)])
        if name == "edge_weight":
            return np.concatenate([values, np.ones(len(loops), dtype=values.dtype)])
        total = np.zeros((len(loops), values.shape[1]), dtype=values.dtype)
        if len(loops):
            np.add.at(total, target, values)
            total /= np.maximum(np.bincount(target, minlength=len(loops)), 1)[:, None].astype(values.dtype)
        return np.concatenate([values, total])

    def _whole_graph(self, index: np.ndarray) -> Any:
        from torch_geometric.data import Data

        shown = np.arange(self.raw.n_nodes) if self.visible is None else self.visible
        if self._whole is None:
            edges = self.edges.edge_index
            inside = edges if self.visible is None else np.searchsorted(shown, edges)
            self._whole = self._tensors(shown, inside, slice(None))
        return Data(**self._whole, seed_index=self._seeds(index, shown), partial=False)

    def _seeds(self, index: np.ndarray, shown: np.ndarray) -> Tensor:
        """Places of the nodes ``index`` among those that are shown."""
        if self.visible is None:
            return torch.from_numpy(index)
        place = np.searchsorted(shown, index).clip(max=len(shown) - 1)
        if (shown[place] != index).any():
            raise DataError(f"{self.raw.origin}: validation and test nodes are hidden from pretraining")
        return torch.from_numpy(place)

    def _sampled(self, index: np.ndarray) -> Any:
        from torch_geometric.data import Data

        assert self.neighbors is not None
        if self.visible is not None:
            self._seeds(index, self.visible)
        if len(np.unique(index)) != len(index):
            raise DataError(
                f"{self.raw.origin}: a sampled batch needs distinct nodes; lower train.batch_size"
            )
        found = neighbourhood(self.incoming, index, self.neighbors, self.seed)
        tensors = self._tensors(found.nodes, found.edge_index, found.edges)
        return Data(**tensors, seed_index=torch.arange(len(index)), partial=True)

    def _graphs(self, index: np.ndarray) -> Any:
        from torch_geometric.data import Batch as GraphBatch

        ptr = self.raw.ptr
        first, sizes = ptr[index], ptr[index + 1] - ptr[index]
        nodes = ranges(first, sizes)
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        # Edges are sorted by target and graphs are runs of nodes, so a graph's edges are one run.
        edge_first = self.incoming.ptr[first]
        edge_counts = self.incoming.ptr[first + sizes] - edge_first
        rows = ranges(edge_first, edge_counts)
        shift = np.repeat(starts[:-1] - first, edge_counts)
        tensors = self._tensors(nodes, self.edges.edge_index[:, rows] + shift, rows)
        segment = torch.from_numpy(np.repeat(np.arange(len(index)), sizes))
        return GraphBatch(**tensors, batch=segment, ptr=torch.from_numpy(starts), partial=False)

    def smoothed(self, hops: int = 2) -> np.ndarray:
        """``[N, F]`` features averaged over neighbours ``hops`` times with the symmetric
        normalisation of GCN, self-loops included (SGC, ICML 2019): the baseline that a graph
        encoder must beat to have learned anything."""
        from scipy import sparse

        ptr, n = self.incoming.ptr, self.raw.n_nodes
        scale = (1.0 / np.sqrt(np.diff(ptr) + 1.0)).astype(np.float32)[:, None]
        out = self.features
        for _ in range(hops):
            scaled = scale * out
            mixed = scaled.copy()  # the self-loop
            for first, last, source in self.incoming.blocks():
                starts = ptr[first : last + 1] - ptr[first]
                rows = sparse.csr_matrix(
                    (np.ones(len(source), np.float32), source, starts), (last - first, n)
                )
                mixed[first:last] += rows @ scaled
            out = scale * mixed
        return np.ascontiguousarray(out, dtype=np.float32)

    def raw_features(self, indices: np.ndarray) -> np.ndarray:
        """``[n, F]``: nodes: the features; graphs: their mean and a histogram of log2 degrees."""
        if self.spec.level == "node":
            return self.store[indices]
        return self._pooled(self.features, np.asarray(indices))

    def raw_baselines(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Further baselines beside :meth:`raw_features`: ``smoothed``, see :meth:`smoothed`."""
        indices = np.asarray(indices)
        smooth = self.smoothed()
        return {"smoothed": smooth[indices] if self.spec.level == "node" else self._pooled(smooth, indices)}

    def _pooled(self, values: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """``[n, F + 9]`` mean over each graph's nodes, and shares of nodes with degree 0, 1, 2-3, 4-7 ..."""
        ptr = self.raw.ptr
        sizes = np.diff(ptr)[:, None]
        means = np.add.reduceat(values, ptr[:-1], axis=0) / sizes
        bins = np.minimum(np.ceil(np.log2(np.diff(self.incoming.ptr) + 1)).astype(np.int64), 8)
        histogram = np.add.reduceat(np.eye(9, dtype=np.float32)[bins], ptr[:-1], axis=0) / sizes
        return np.concatenate([means, histogram], axis=1)[indices].astype(np.float32)

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """The user's own node ids, or graph ids at graph level."""
        names = (
            self.raw.ids if self.spec.level == "node" or self.raw.graph_ids is None else self.raw.graph_ids
        )
        return [names[int(i)] for i in indices]

    def card(self) -> dict[str, Any]:
        """Counts, components, degrees, feature sparsity, class balance, homophily, notes."""
        from ssl_domains.graph.card import card

        return card(self)
