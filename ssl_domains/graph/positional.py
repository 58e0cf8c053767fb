"""Positional and structural encodings of nodes, from the edges alone."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ssl_domains.core.errors import DataError
from ssl_domains.graph.raw import CleanEdges

_DENSE = 400
"""Components up to so many nodes get a full eigendecomposition."""
_FLOATS = 1 << 24
"""Floats of the dense block that random walks are followed in."""
_WORK = 2e13


def positions(
    edges: CleanEdges, ptr: np.ndarray, random_walk: int, laplacian: int, origin: str
) -> np.ndarray | None:
    """``[N, random_walk + laplacian]`` float32, or None when neither is wanted.

    Raises:
        DataError: a random walk on a graph that is too large for it.
    """
    if random_walk < 0 or laplacian < 0:
        raise DataError("data.random_walk and data.laplacian are counts and cannot be negative")
    if not random_walk and not laplacian:
        return None
    n = int(ptr[-1])
    parts = []
    if random_walk:
        parts.append(return_probabilities(edges.edge_index, ptr, random_walk, origin))
    if laplacian:
        parts.append(laplacian_vectors(edges.edge_index, n, laplacian))
    return np.concatenate(parts, axis=1)


def _adjacency(edge_index: np.ndarray, n: int) -> sparse.csr_matrix:
    source, target = edge_index
    matrix = sparse.csr_matrix((np.ones(len(source), dtype=np.float32), (source, target)), (n, n))
    matrix.data[:] = 1.0  # parallel edges of several relations count once
    return matrix


def return_probabilities(
    edge_index: np.ndarray, ptr: np.ndarray, steps: int, origin: str = "graph"
) -> np.ndarray:
    """``[N, steps]`` chance that a random walk is back at its start after 1 .. steps steps
    (Dwivedi et al., ICLR 2022, section 3; self-loops are not walked).

    Many small graphs: powers of the block-diagonal matrix; one large graph: columns in blocks.
    """
    n = int(ptr[-1])
    adjacency = _adjacency(edge_index, n)
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    walk = sparse.diags((1.0 / np.maximum(degree, 1.0)).astype(np.float32)) @ adjacency
    sizes = np.diff(ptr).astype(np.float64)
    if (sizes**2).sum() <= 3 * _FLOATS:
        power, out = walk, [walk.diagonal()]
        for _ in range(steps - 1):
            power = power @ walk
            out.append(power.diagonal())
        return np.stack(out, axis=1).astype(np.float32)
    if n * float(walk.nnz) * steps > _WORK:
        raise DataError(
            f"{origin}: following {steps} steps from each of {n} nodes would take hours; "
            f"use data.laplacian, or a smaller data.random_walk"
        )
    width = max(_FLOATS // n, 1)
    found = np.empty((n, steps), dtype=np.float32)
    back = walk.T.tocsr()
    for start in range(0, n, width):
        here = np.arange(start, min(start + width, n))
        mass = np.zeros((n, len(here)), dtype=np.float32)
        mass[here, np.arange(len(here))] = 1.0
        for step in range(steps):
            mass = back @ mass
            found[here, step] = mass[here, np.arange(len(here))]
    return found


def laplacian_vectors(edge_index: np.ndarray, n: int, k: int) -> np.ndarray:
    """``[N, k]`` eigenvectors of the symmetric normalised Laplacian with the k smallest eigenvalues
    after the first of each connected component, zeros where there are fewer (Dwivedi et al., JMLR
    2023, section 4). Their signs are arbitrary: encoders flip them at random while training."""
    from scipy.sparse.csgraph import connected_components

    adjacency = _adjacency(edge_index, n)
    adjacency = adjacency.maximum(adjacency.T).tocsr()
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    scale = sparse.diags(1.0 / np.sqrt(np.maximum(degree, 1.0)))
    smooth = (scale @ adjacency @ scale).tocsr().astype(np.float64)
    count, owner = connected_components(adjacency, directed=False)
    order = np.argsort(owner, kind="stable")
    sizes = np.bincount(owner, minlength=count)
    starts = np.cumsum(sizes) - sizes
    out = np.zeros((n, k), dtype=np.float32)
    for component in np.flatnonzero(sizes > 1):
        nodes = order[starts[component] : starts[component] + sizes[component]]
        vectors = _largest(smooth[nodes][:, nodes], min(k + 1, len(nodes)))[:, 1:]
        out[nodes, : vectors.shape[1]] = vectors * np.sqrt(len(nodes))
    return out


def _largest(matrix: sparse.csr_matrix, k: int) -> np.ndarray:
    """``[m, k]`` eigenvectors of the k largest eigenvalues, falling; each one's largest entry is positive."""
    m = matrix.shape[0]
    if m <= _DENSE or k >= m - 1:
        _, vectors = np.linalg.eigh(matrix.toarray())
        vectors = vectors[:, ::-1][:, :k]
    else:
        from scipy.sparse.linalg import eigsh

        start = np.random.default_rng(0).random(m)
        values, vectors = eigsh(matrix, k=k, which="LA", v0=start, tol=1e-5, maxiter=5000)
        vectors = vectors[:, np.argsort(-values)]
    peak = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return vectors * np.where(peak < 0, -1.0, 1.0)
