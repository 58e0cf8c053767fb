"""Batches without two rows of one cluster (G-SimCLR's guided batches)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_domains.core.errors import DataError, UserError
from ssl_domains.core.interfaces import Source, pretrain_rows
from ssl_domains.core.registry import sampler
from ssl_domains.core.samplers import Sampler

MINI_BATCH_FROM = 200_000
"""Rows from which k-means goes by mini-batches."""


@sampler("distinct_clusters")
class DistinctClusters(Sampler):
    """Every batch holds at most one row of each cluster, so fewer of its negatives are false ones.

    Clusters are pseudo-labels: k-means on features of the training rows, before training and
    without labels. Each batch draws its clusters at random, the fuller ones more often, and
    one unused row of each; rows are shuffled within clusters anew every epoch. An epoch has as many
    batches as the rule allows (``m`` with ``sum_k min(n_k, m) >= m B``); rows of clusters larger
    than that wait for a later epoch. For any method with negatives from the batch.

    Source: G-SimCLR (Chakraborty et al., ICDM 2020 workshops, arXiv 2009.12007). Its official code
    sorts rows by their rank within the cluster instead, which breaks the rule in most batches;
    here it always holds, over the batch of all processes.

    Args:
        clusters: K, at least the batch size. Default: the batch size, as the paper. Larger K
            covers more of the data in an epoch when clusters differ in size.
        features: ``raw``: the domain's plain features; or an ``.npy`` file with a row for each row
            of the data: numbers ``[n, F]`` to cluster, or whole numbers ``[n]``, which are clusters.
        seed: of k-means. Default 0, the paper's.

    Raises:
        UserError: fewer clusters than rows in a batch.
        DataError: the file of features does not fit the data.
    """

    def __init__(self, clusters: int | None = None, features: str = "raw", seed: int = 0) -> None:
        if clusters is not None and clusters < 2:
            raise ValueError(f"sampler.clusters must be at least 2, got {clusters}")
        self.clusters, self.source_of_features, self.seed = clusters, features, seed
        self._found: tuple[int, np.ndarray] | None = None

    def features(self, source: Source, rows: np.ndarray) -> np.ndarray:
        """``[n, F]`` float features of these rows, or ``[n]`` whole numbers that are clusters already.

        A domain with better features for this (codes of an auto-encoder) overrides it.
        """
        if self.source_of_features == "raw":
            found = source.raw_features(rows)
            if found is None:
                raise UserError("sampler.features: this domain has no plain features; give an .npy file")
            return found
        return _from_file(Path(self.source_of_features), len(source))[rows]

    def prepare(self, source: Source) -> None:
        rows = pretrain_rows(source)
        self._features = self.features(source, rows)
        self._place = np.zeros(len(source), dtype=np.int64)
        self._place[rows] = np.arange(len(rows))
        self._found = None

    def labels(self, rows: np.ndarray, batch_size: int) -> np.ndarray:
        """``[n]`` cluster numbers of these training rows.

        Raises:
            UserError: fewer clusters than rows in a batch.
        """
        given = self._features.ndim == 1
        wanted = len(np.unique(self._features)) if given else self.clusters or batch_size
        if wanted < batch_size:
            raise UserError(
                f"sampler 'distinct_clusters' has {wanted} clusters for batches of {batch_size} rows, one of "
                "each at most; raise sampler.clusters or lower train.batch_size"
            )
        if self._found is None or self._found[0] != wanted:
            clusters = np.unique(self._features, return_inverse=True)[1] if given else self._cluster(wanted)
            self._found = (wanted, clusters)
        return self._found[1][self._place[rows]]

    def _cluster(self, number: int) -> np.ndarray:
        """k-means with scikit-learn's defaults."""
        from sklearn.cluster import KMeans, MiniBatchKMeans

        if number >= len(self._features):
            return np.arange(len(self._features))
        cls = KMeans if len(self._features) < MINI_BATCH_FROM else MiniBatchKMeans
        return cls(number, random_state=self.seed).fit_predict(np.asarray(self._features, dtype=np.float32))

    def n_batches(self, rows: np.ndarray, batch_size: int) -> int | None:
        counts = np.bincount(self.labels(rows, batch_size))
        found = most_batches(counts, batch_size)
        covered = found * batch_size / len(rows)
        if covered < 0.5:
            warnings.warn(
                f"sampler 'distinct_clusters': an epoch of {found} batches covers {covered:.0%} of the rows, "
                f"since clusters hold {counts.min()} to {counts.max()} rows; raise sampler.clusters",
                stacklevel=2,
            )
        return found

    def epoch(
        self, rows: np.ndarray, batch_size: int, n_batches: int, seed: int, epoch: int
    ) -> Sequence[np.ndarray]:
        rng = np.random.default_rng([seed, epoch])
        clusters = self.labels(rows, batch_size)
        counts = np.bincount(clusters)
        plan = plan_batches(np.minimum(counts, n_batches), batch_size, n_batches, rng)  # [n_batches, B]
        shuffled = rng.permutation(len(rows))
        queues = shuffled[np.argsort(clusters[shuffled], kind="stable")]  # rows of cluster 0, of 1, ...
        first = np.cumsum(counts) - counts
        order = np.argsort(plan.ravel(), kind="stable")  # the r-th use of a cluster takes its r-th row
        used = np.bincount(plan.ravel(), minlength=len(counts))
        rank = np.empty(plan.size, dtype=np.int64)
        rank[order] = np.arange(plan.size) - np.repeat(np.cumsum(used) - used, used)
        return list(rows[queues[first[plan.ravel()] + rank]].reshape(plan.shape))


def most_batches(counts: np.ndarray, batch_size: int) -> int:
    """The largest m for which m batches of distinct clusters exist: ``sum_k min(n_k, m) >= m B``."""
    low, high = 1, int(counts.sum()) // batch_size
    while low < high:  # what holds for m holds for every smaller one
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if np.minimum(counts, middle).sum() >= middle * batch_size else (low, middle - 1)
        )
    return low


def plan_batches(counts: np.ndarray, batch_size: int, n_batches: int, rng: np.random.Generator) -> np.ndarray:
    """``[n_batches, B]`` cluster numbers, distinct within a batch, each used at most ``counts`` times.

    First how often each cluster is used is drawn, ``n_batches * B`` uses in all. Then batch after
    batch: a cluster with as many uses left as there are batches left must be in; the other places
    are drawn without replacement with odds of the uses left. This never runs into a dead end.

    Args:
        counts: ``[K]`` rows of each cluster, at most ``n_batches`` each.
    """
    left = rng.multivariate_hypergeometric(counts, n_batches * batch_size, method="marginals").astype(
        np.int64
    )
    plan = np.empty((n_batches, batch_size), dtype=np.int64)
    for b in range(n_batches):
        with np.errstate(divide="ignore"):
            keys = np.log(left) + rng.gumbel(size=len(left))  # the largest B: draws without replacement
        keys[left == n_batches - b] = np.inf
        chosen = np.argpartition(-keys, batch_size - 1)[:batch_size]
        plan[b] = chosen
        left[chosen] -= 1
    return plan


def _from_file(path: Path, n: int) -> np.ndarray:
    """Features or clusters of all rows."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"sampler.features: {path} cannot be read as .npy: {error}") from None
    whole = found.ndim == 1 and np.issubdtype(found.dtype, np.integer)
    if len(found) != n or not (whole or found.ndim == 2):
        raise DataError(
            f"sampler.features: {path} holds {list(found.shape)} {found.dtype}; expected [{n}, F] numbers or "
            f"[{n}] whole numbers, a row for each row of the data"
        )
    if not whole and not np.isfinite(found).all():
        raise DataError(f"sampler.features: {path} holds NaN or inf")
    return found
