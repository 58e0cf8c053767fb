"""PyG ``HeteroData``: several node types with columns of their own, typed edges."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.raw import RawGraph, nearest

_MASKS = (("train", "train_mask"), ("valid", "val_mask"), ("test", "test_mask"))


def from_hetero(data: Any, label: str | None = None, origin: str = "HeteroData") -> RawGraph:
    """One graph of all node types, side by side.

    Features are a block of columns for each type that has ``x`` (zeros for other types' nodes) and
    the type itself, one-hot: a linear layer on them is one projection a type. Node ids are
    ``type/number``. Relations are ``source__relation__target``.

    Args:
        data: a ``HeteroData``.
        label: node type whose ``y`` is the label; needed when several have one.
        origin: for messages.

    Raises:
        DataError: no nodes or edges, edges out of range, or several types with labels.
    """
    types = list(data.node_types)
    counts = [int(data[t].num_nodes or 0) for t in types]
    if not types or not sum(counts):
        raise DataError(f"{origin}: the graph has no nodes")
    first = dict(zip(types, np.concatenate([[0], np.cumsum(counts)[:-1]]).tolist()))
    size = dict(zip(types, counts))
    edges, kinds, relations = _edges(data, first, size, origin)
    chosen = _label_type(data, types, label, origin)
    raw = RawGraph(
        origin,
        edges,
        [f"{t}/{i}" for t in types for i in range(size[t])],
        features=_features(data, types, counts),
        edge_type=kinds,
        relations=relations,
        node_type=np.repeat(np.arange(len(types)), counts),
        node_types=tuple(types),
        notes=[f"features are {len(types)} blocks, one a node type, and the type itself"],
    )
    if any("edge_attr" in data[relation] for relation in data.edge_types):
        raw.notes.append("edge_attr of relations is left out: their widths differ by relation")
    if chosen is not None:
        _labels(raw, data[chosen], first[chosen], size[chosen])
    return raw


def _edges(
    data: Any, first: dict[str, int], size: dict[str, int], origin: str
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    parts, kinds, names = [], [], []
    for number, (a, relation, b) in enumerate(data.edge_types):
        index = data[a, relation, b].edge_index.numpy()
        for row, kind in ((0, a), (1, b)):
            if index.shape[1] and not 0 <= index[row].min() <= index[row].max() < size[kind]:
                raise DataError(
                    f"{origin}: edges {a!r} - {relation!r} - {b!r} name node {index[row].max()} of type "
                    f"{kind!r}, which has {size[kind]} nodes"
                )
        parts.append(index + np.array([[first[a]], [first[b]]]))
        kinds.append(np.full(index.shape[1], number, dtype=np.int64))
        names.append(f"{a}__{relation}__{b}")
    if not parts:
        raise DataError(f"{origin}: there are no edges")
    return np.concatenate(parts, axis=1).astype(np.int64), np.concatenate(kinds), tuple(names)


def _features(data: Any, types: list[str], counts: list[int]) -> np.ndarray:
    blocks = [data[t].get("x") for t in types]
    widths = [0 if x is None else int(x.reshape(len(x), -1).shape[1]) for x in blocks]
    out = np.zeros((sum(counts), sum(widths) + len(types)), dtype=np.float32)
    row = column = 0
    for number, (x, width, count) in enumerate(zip(blocks, widths, counts)):
        if x is not None:
            out[row : row + count, column : column + width] = x.reshape(count, -1).float().numpy()
        out[row : row + count, sum(widths) + number] = 1.0
        row, column = row + count, column + width
    return out


def _label_type(data: Any, types: list[str], label: str | None, origin: str) -> str | None:
    having = [t for t in types if data[t].get("y") is not None]
    if label is not None:
        if label not in having:
            raise DataError(
                f"{origin}: data.label names the node type whose y is the label, got {label!r}"
                f"{nearest(label, having)} (types with y: {', '.join(having) or 'none'})"
            )
        return label
    if len(having) > 1:
        raise DataError(f"{origin}: {', '.join(having)} have labels; choose one with data.label")
    return having[0] if having else None


def _labels(raw: RawGraph, store: Any, first: int, count: int) -> None:
    """Labels and masks of one type; all other nodes have none."""
    y = store.y.numpy()
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim == 2:
        raise DataError(f"{raw.origin}: labels with several columns are not read from HeteroData")
    empty = np.nan if y.dtype.kind == "f" else -1
    raw.labels = np.full(raw.n_nodes, empty, dtype=y.dtype)
    raw.labels[first : first + count] = y
    if all(store.get(key) is not None for _, key in _MASKS):
        raw.split = np.full(raw.n_nodes, "", dtype=object)
        for name, key in _MASKS:
            raw.split[first + np.flatnonzero(store[key].numpy())] = name
