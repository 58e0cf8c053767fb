"""Label-free measures of embeddings: rank, variance, cosine, alignment, uniformity.

Functions of one matrix ``Z [N, K]``, and :class:`EmbeddingStatistics`, which gathers the same
numbers over batches and processes in ``O(K^2)`` memory. Feed them float32 or float64
embeddings made in eval mode; half precision is raised to float32. They are diagnostics and
synchronise the device: call them every so many steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.collectives import all_reduce_sum
from ssl_domains.core.errors import DataError

SVD_LIMIT = 512  # from this smaller side on, eigenvalues of the Gram matrix are much cheaper


def rankme(z: Tensor, eps: float = 1e-7) -> float:
    """Effective rank ``exp(-sum_k p_k ln p_k)`` with ``p_k = sigma_k / sum_j sigma_j + eps``.

    Garrido et al. 2023 (arXiv 2210.02885), eq. 1 and 2: singular values of Z as it is, neither
    centred nor row-normalised. From about 1 to ``min(N, K)``. Compare runs of one method at one
    N only: a high rank is necessary, not sufficient.

    Args:
        z: ``[N, K]``; the paper takes projector outputs of 25,600 samples, one view each.
        eps: default 1e-7. It matters for wide K: 1e-5 turns a rank of 1.0 into 1.27 at K = 2048.

    Returns:
        The rank; NaN when Z is not finite. ``rankme(identity(4)) == 4.0``.
    """
    return rankme_of_spectrum(singular_values(z), eps)


def rankme_of_spectrum(sigma: Tensor, eps: float = 1e-7) -> float:
    """:func:`rankme` from the ``min(N, K)`` singular values."""
    sigma = sigma.double()
    shares = sigma / sigma.sum().clamp_min(torch.finfo(torch.float64).tiny) + eps
    return math.exp(-float((shares * shares.log()).sum()))


@torch.no_grad()
def singular_values(z: Tensor) -> Tensor:
    """The ``min(N, K)`` singular values of ``z [N, K]``, float64, descending.

    By SVD while the smaller side is at most :data:`SVD_LIMIT`; beyond, as square roots of the
    eigenvalues of the smaller Gram matrix, whose values below about 1e-7 of the largest are
    rounding noise and set to 0. All NaN when Z is not finite.
    """
    z = _double(_matrix(z))
    if not bool(torch.isfinite(z).all()):
        return z.new_full((min(z.shape),), math.nan)
    if min(z.shape) <= SVD_LIMIT:
        return torch.linalg.svdvals(z)
    gram = z @ z.T if z.shape[0] < z.shape[1] else z.T @ z
    return singular_values_of_gram(gram, min(z.shape))


@torch.no_grad()
def singular_values_of_gram(gram: Tensor, count: int, scale: float | None = None) -> Tensor:
    """The largest ``count`` singular values of Z from ``Z^T Z [K, K]`` in float64, descending.

    Args:
        gram: symmetric, float64.
        count: how many; at most K are there.
        scale: size of the numbers that made up ``gram``, to which its rounding noise is
            relative; default: its largest eigenvalue. What is below the noise becomes 0.
    """
    if not bool(torch.isfinite(gram).all()):
        return gram.new_full((min(count, len(gram)),), math.nan)
    values = torch.linalg.eigvalsh(gram).flip(0)[:count].clamp_min(0.0)
    noise = len(gram) * torch.finfo(torch.float64).eps * (values.max() if scale is None else scale)
    return torch.where(values > noise, values, 0.0).sqrt()


def numerical_rank(z: Tensor, tolerance: float | None = None) -> int:
    """Number of singular values above ``tolerance`` times the largest.

    Args:
        z: ``[N, K]``.
        tolerance: default ``max(N, K)`` times the spacing of float32 (of float64 for float64
            input), as LAPACK-based libraries do.
    """
    return _count_above(singular_values(z), _tolerance(z) if tolerance is None else tolerance)


def stable_rank(z: Tensor) -> float:
    """``||Z||_F^2 / sigma_max^2``: from 1 to the rank, and blind to small singular values."""
    return _stable_rank(singular_values(z))


def alpha_req(z: Tensor) -> float:
    """Decay ``alpha`` of the covariance spectrum, ``lambda_i ~ i^-alpha`` (least squares, log-log).

    Agrawal et al. 2022 (alpha-ReQ): near 1 is good; large: few dimensions; near 0: noise.

    Args:
        z: ``[N, K]``; centred here.

    Returns:
        alpha; NaN with fewer than two non-zero eigenvalues.
    """
    z = _double(_matrix(z))
    return _power_law(singular_values(z - z.mean(dim=0)).square())


@torch.no_grad()
def feature_variance(z: Tensor) -> Tensor:
    """Biased variance of each column of ``z [N, K]``: ``[K]``, at least float32."""
    return _floating(_matrix(z)).var(dim=0, unbiased=False)


@torch.no_grad()
def mean_cosine(z: Tensor) -> float:
    """Mean cosine over all pairs of different rows of ``z [N, K]``; 1 at complete collapse.

    In closed form, ``(||sum_i u_i||^2 - sum_i ||u_i||^2) / (N (N - 1))`` with unit rows u: no N x N
    matrix. Rows of zeros count as cosine 0. NaN for a single row.
    """
    unit = _double(F.normalize(_floating(_matrix(z)), dim=1))
    return _mean_cosine(unit.sum(dim=0), float(unit.square().sum()), len(unit))


def dead_dimensions(z: Tensor, threshold: float = 1e-3) -> int:
    """Number of columns of ``z [N, K]`` that hardly vary.

    Args:
        z: ``[N, K]``.
        threshold: a column is dead when its standard deviation is at most this share of the
            root mean square of all entries. Default 1e-3.
    """
    z = _double(_matrix(z))
    return _dead(feature_variance(z), float(z.square().mean()), threshold)


@torch.no_grad()
def alignment(z1: Tensor, z2: Tensor, alpha: float = 2.0) -> float:
    """``mean_i ||u1_i - u2_i||^alpha`` of the unit rows of two views ``[N, K]``; 0 is best.

    Wang & Isola 2020 (arXiv 2005.10242), eq. 5.

    Raises:
        ValueError: the views have different shapes.
    """
    if z1.shape != z2.shape:
        raise ValueError(
            f"alignment: expected two views of one shape, got {list(z1.shape)} and {list(z2.shape)}"
        )
    first, second = (F.normalize(_floating(_matrix(z)), dim=1) for z in (z1, z2))
    return float((first - second).norm(dim=1).pow(alpha).double().mean())


@torch.no_grad()
def uniformity(z: Tensor, t: float = 2.0, chunk: int = 1024) -> float:
    """``log mean_{i < j} exp(-t ||u_i - u_j||^2)`` of the unit rows of ``z [N, K]``; lower is better.

    Wang & Isola 2020, eq. 6. 0 at collapse, about ``-2 t`` in high dimension when uniform.

    Args:
        z: ``[N, K]``.
        t: default 2.
        chunk: rows compared at a time: memory is ``chunk * chunk``, never N x N.

    Returns:
        The value; NaN for a single row.
    """
    unit = F.normalize(_floating(_matrix(z)), dim=1)
    rows = len(unit)
    if rows < 2:
        return math.nan
    with torch.autocast(unit.device.type, enabled=False):
        total = sum(float(_pair_kernel(a, b, t, diagonal=same)) for a, b, same in _blocks(unit, chunk))
    return math.log(total / (rows * (rows - 1) / 2)) if total > 0 else -math.inf


def _blocks(unit: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Pairs of row blocks on and above the diagonal."""
    parts = unit.split(chunk)
    for i, first in enumerate(parts):
        for j in range(i, len(parts)):
            yield first, parts[j], i == j


def _pair_kernel(first: Tensor, second: Tensor, t: float, *, diagonal: bool) -> Tensor:
    """Sum of ``exp(-t d^2)`` over the pairs of two blocks; above the diagonal of one block."""
    squared = first.square().sum(1)[:, None] + second.square().sum(1) - 2.0 * first @ second.T
    kernel = (-t * squared.clamp_min(0.0)).exp()
    return (kernel.triu(1) if diagonal else kernel).sum()


@dataclass(frozen=True)
class Statistics:
    """What :meth:`EmbeddingStatistics.compute` found.

    Attributes:
        count: rows seen over all processes.
        rankme: see :func:`rankme`.
        numerical_rank: see :func:`numerical_rank` (never finer than 1e-7, the Gram route's limit).
        stable_rank: see :func:`stable_rank`.
        alpha_req: see :func:`alpha_req`.
        mean_cosine: see :func:`mean_cosine`.
        dead_dimensions: see :func:`dead_dimensions`.
        variance: ``[K]`` float64, on the CPU: biased variance of each column.
        spectrum: ``[min(N, K)]`` float64, on the CPU: singular values, descending.
    """

    count: int
    rankme: float
    numerical_rank: int
    stable_rank: float
    alpha_req: float
    mean_cosine: float
    dead_dimensions: int
    variance: Tensor
    spectrum: Tensor

    def scalars(self) -> dict[str, float]:
        """The numbers by name, with the mean variance, for logs."""
        names = ("rankme", "numerical_rank", "stable_rank", "alpha_req", "mean_cosine", "dead_dimensions")
        return {
            **{name: float(getattr(self, name)) for name in names},
            "variance": float(self.variance.mean()),
        }


class EmbeddingStatistics:
    """Streaming collector: feed it batches, read the measures of all rows of all processes.

    Keeps ``Z^T Z`` and column sums in float64, ``8 K^2`` bytes (512 MiB at K = 8192), whatever
    N is. Fix N when comparing runs; the paper's is 25,600.

    Args:
        eps: of :func:`rankme`.
        dead_threshold: of :func:`dead_dimensions`.
    """

    def __init__(self, eps: float = 1e-7, dead_threshold: float = 1e-3) -> None:
        self.eps, self.dead_threshold = eps, dead_threshold
        self.reset()

    def reset(self) -> None:
        """Forgets all rows."""
        self.count = 0
        self._gram: Tensor | None = None
        self._sums = torch.empty(0)

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Adds rows.

        Args:
            z: ``[N, K]``, this process's; flatten tokens to rows first, and say so.

        Raises:
            ValueError: K differs from that of the rows seen before.
        """
        z = _double(_matrix(z, least=0))
        unit = F.normalize(z, dim=1)
        scalars = torch.stack([unit.square().sum(), unit.new_full((), float(len(z)))])
        sums = torch.cat([z.sum(dim=0), unit.sum(dim=0), scalars])
        if self._gram is None:
            self._gram, self._sums = z.T @ z, sums
        elif z.shape[1] != len(self._gram):
            raise ValueError(f"embedding statistics: expected width {len(self._gram)}, got {z.shape[1]}")
        else:
            self._gram.addmm_(z.T, z)
            self._sums += sums
        self.count += len(z)

    @torch.no_grad()
    def compute(self) -> Statistics:
        """Measures of all rows of all processes so far.

        Every process must call it, after at least one update (which may have had no rows).

        Raises:
            DataError: no rows were seen.
        """
        sums = self._sums if self._gram is None else all_reduce_sum(self._sums)
        if self._gram is None or float(sums[-1]) == 0:
            raise DataError("embedding statistics: no rows were seen; feed at least one batch before reading")
        width = len(self._gram)
        total, unit = sums[:width], sums[width : 2 * width]
        return self._measure(all_reduce_sum(self._gram), total, unit, float(sums[-2]), round(float(sums[-1])))

    def _measure(
        self, gram: Tensor, total: Tensor, unit: Tensor, unit_squares: float, count: int
    ) -> Statistics:
        mean, power = total / count, float(gram.diagonal().sum()) / count
        covariance = gram / count - torch.outer(mean, mean)
        variance = covariance.diagonal().clamp_min(0.0)
        sigma = singular_values_of_gram(gram, min(count, len(gram)))
        centred = singular_values_of_gram(covariance, min(count, len(gram)), scale=power)
        return Statistics(
            count=count,
            rankme=rankme_of_spectrum(sigma, self.eps),
            numerical_rank=_count_above(sigma, max(count, len(gram)) * torch.finfo(torch.float32).eps),
            stable_rank=_stable_rank(sigma),
            alpha_req=_power_law(centred.square()),
            mean_cosine=_mean_cosine(unit, unit_squares, count),
            dead_dimensions=_dead(variance, power / len(gram), self.dead_threshold),
            variance=variance.cpu(),
            spectrum=sigma.cpu(),
        )


def _matrix(z: Tensor, least: int = 1) -> Tensor:
    """``z`` detached, after checking that it is a matrix with rows."""
    if z.ndim != 2 or z.shape[0] < least or z.shape[1] < 1:
        raise ValueError(f"expected embeddings [N, K] with at least {least} row, got {list(z.shape)}")
    return z.detach()


def _floating(z: Tensor) -> Tensor:
    return z if z.dtype in (torch.float32, torch.float64) else z.float()


def _double(z: Tensor) -> Tensor:
    """float64, on the CPU where the device has none (MPS)."""
    return (z.cpu() if z.device.type == "mps" else z).double()


def _tolerance(z: Tensor) -> float:
    dtype = z.dtype if z.dtype == torch.float64 else torch.float32
    return max(z.shape) * torch.finfo(dtype).eps


def _count_above(sigma: Tensor, tolerance: float) -> int:
    return int((sigma > tolerance * sigma.max()).sum())


def _stable_rank(sigma: Tensor) -> float:
    top = float(sigma.max()) ** 2
    return float(sigma.square().sum()) / top if top > 0 else math.nan


def _power_law(values: Tensor) -> float:
    """Negative slope of log value against log index, over values that are not rounding noise."""
    kept = values[values > values.max() * len(values) * torch.finfo(torch.float64).eps].double()
    if len(kept) < 2:
        return math.nan
    x = torch.arange(1, len(kept) + 1, dtype=kept.dtype, device=kept.device).log()
    x, y = x - x.mean(), kept.log() - kept.log().mean()
    return -float((x * y).sum() / x.square().sum())


def _mean_cosine(unit_sum: Tensor, unit_squares: float, count: int) -> float:
    if count < 2:
        return math.nan
    return (float(unit_sum.square().sum()) - unit_squares) / (count * (count - 1))


def _dead(variance: Tensor, power: float, threshold: float) -> int:
    return int((variance <= threshold**2 * power).sum())
