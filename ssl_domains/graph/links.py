"""Holding edges out of a graph for link prediction: who sees what, and fair negatives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.links import Links
from ssl_domains.graph.raw import RawGraph

MOST = 100_000
"""At most so many pairs of each split, drawn at random; a probe needs no more."""
_ROUNDS = 50


def hold_out(
    raw: RawGraph, directed: bool, valid: float, test: float, seed: int
) -> tuple[RawGraph, Links | None]:
    """The graph without its held-out edges, and the pairs to predict.

    Which pairs are held out is drawn before anything else is computed from the edges, so no
    message, degree, structural encoding or edge statistic knows of them. All rows of a held-out
    pair go: duplicates, and the reverse direction of an undirected graph. With ``raw.edge_time``
    the newest pairs are the test, those before them the validation, and a pair counts as old as
    its oldest row; without it the draw is uniform.

    Negatives are pairs that are no edge of the whole graph, no self-loop and distinct, drawn
    uniformly; where nodes have types, between the types of a random true pair, so that telling
    types apart wins nothing. There are as many as positives in each split.

    Args:
        raw: as read.
        directed: whether (u, v) and (v, u) are different pairs.
        valid: share of the pairs for validation.
        test: share of the pairs for the test.
        seed: of the draws.

    Raises:
        DataError: shares out of range, many small graphs, too few edges, or no room for negatives.
    """
    if valid == 0 and test == 0:
        return raw, None
    if min(valid, test) < 0 or test <= 0 or valid + test >= 1:
        raise DataError(
            f"data.link_test must be above 0, data.link_valid at least 0, and both must leave edges for "
            f"training; got link_valid {valid} and link_test {test}"
        )
    if raw.level == "graph":
        raise DataError(f"{raw.origin}: links are predicted within one graph; leave data.link_test out")
    n, rng = raw.n_nodes, np.random.default_rng([seed, 44])
    key = pair_keys(raw.edges, n, directed)
    real = raw.edges[0] != raw.edges[1]
    pairs, place = np.unique(key[real], return_inverse=True)
    if len(pairs) < 10:
        raise DataError(f"{raw.origin}: holding edges out needs at least 10 of them, found {len(pairs)}")
    order = rng.permutation(len(pairs))
    if raw.edge_time is not None:
        age = np.full(len(pairs), np.inf)
        np.minimum.at(age, place, raw.edge_time[real])
        order = order[np.argsort(age[order], kind="stable")]
    n_valid, n_test = max(round(valid * len(pairs)), int(valid > 0)), max(round(test * len(pairs)), 1)
    cut = len(pairs) - n_valid - n_test
    chosen = {"train": order[:cut], "valid": order[cut : cut + n_valid], "test": order[cut + n_valid :]}
    positive = {split: decode(pairs[_some(which, rng)], n) for split, which in chosen.items()}
    types = raw.node_type
    negative, taken = {}, pairs
    for split, found in positive.items():
        keys = non_edges(found, len(found), n, directed, taken, rng, types, raw.origin)
        taken = np.union1d(taken, keys)
        negative[split] = decode(keys, n)
    gone = np.concatenate([pairs[chosen["valid"]], pairs[chosen["test"]]])
    kept = ~np.isin(key, gone)
    part = replace(raw, edges=raw.edges[:, kept], notes=list(raw.notes))
    for name in ("edge_attr", "edge_weight", "edge_time", "edge_type"):
        values = getattr(raw, name)
        setattr(part, name, None if values is None else values[kept])
    if raw.edge_table is not None:
        part.edge_table = raw.edge_table[kept].reset_index(drop=True)
    part.notes.append(
        f"{n_valid + n_test} of {len(pairs)} edges are held out for link prediction "
        f"({'the newest' if raw.edge_time is not None else 'drawn at random'}); no batch contains them"
    )
    return part, Links(positive, negative, directed)


def pair_keys(edges: np.ndarray, n: int, directed: bool) -> np.ndarray:
    """``[E]`` one number a pair; undirected: the smaller end first."""
    a, b = edges.astype(np.int64)
    if not directed:
        a, b = np.minimum(a, b), np.maximum(a, b)
    return a * n + b


def decode(keys: np.ndarray, n: int) -> np.ndarray:
    """``[m, 2]`` pairs of :func:`pair_keys`."""
    return np.stack([keys // n, keys % n], axis=1)


def _some(which: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return which if len(which) <= MOST else rng.choice(which, MOST, replace=False)


def non_edges(
    like: np.ndarray,
    count: int,
    n: int,
    directed: bool,
    taken: np.ndarray,
    rng: np.random.Generator,
    types: np.ndarray | None,
    origin: str,
) -> np.ndarray:
    """``[count]`` keys of distinct pairs that are not in ``taken`` (sorted), by rejection.

    Raises:
        DataError: the graph is so dense that they cannot be found.
    """
    found = np.empty(0, dtype=np.int64)
    for _ in range(_ROUNDS):
        draws = _draw(like, 2 * (count - len(found)) + 16, n, rng, types)
        keys = pair_keys(draws[:, draws[0] != draws[1]], n, directed)
        keys = keys[~np.isin(keys, taken)]
        found = np.unique(np.concatenate([found, keys]))
        if len(found) >= count:
            return rng.permutation(found)[:count]
    raise DataError(
        f"{origin}: the graph is too dense to draw {count} pairs without an edge; lower data.link_test"
    )


def _draw(
    like: np.ndarray, count: int, n: int, rng: np.random.Generator, types: np.ndarray | None
) -> np.ndarray:
    """``[2, count]`` random ends; with types those of random rows of ``like [m, 2]``."""
    if types is None:
        return rng.integers(0, n, (2, count))
    by_type = np.argsort(types, kind="stable")
    sizes = np.bincount(types)
    starts = np.cumsum(sizes) - sizes
    wanted = types[like[rng.integers(0, len(like), count)]].T
    return by_type[starts[wanted] + (rng.random((2, count)) * sizes[wanted]).astype(np.int64)]
