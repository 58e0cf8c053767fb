"""Cells to vectors: one token a column, with linear, periodic or piecewise linear numbers."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core.errors import DataError
from ssl_domains.core.parts.transformer import init_truncated_normal
from ssl_domains.tabular.spec import UNSEEN, TableSpec

NumericKind = Literal["linear", "periodic", "piecewise"]


class ColumnLinear(nn.Module):
    """``relu(v_j W_j + b_j)``, with weights of its own for each column: ``[B, Dn, F] -> [B, Dn, H]``.

    Weights start uniform within ``1 / sqrt(F)``, as those of ``nn.Linear``.
    """

    def __init__(self, n_columns: int, features: int, width: int) -> None:
        super().__init__()
        bound = features**-0.5
        self.weight = nn.Parameter(torch.empty(n_columns, features, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_columns, width).uniform_(-bound, bound))

    def forward(self, v: Tensor) -> Tensor:
        return torch.relu(torch.einsum("bjf,jfh->bjh", v, self.weight) + self.bias)


class PeriodicNumbers(nn.Module):
    """``relu(Linear_j([sin(2 pi c_j x), cos(2 pi c_j x)]))`` with learned frequencies ``c_j [k]``.

    The "PLR" embedding of Gorishniy et al. 2022 (On Embeddings for Numerical Features,
    section 3.3). Worked value: ``c = 1/4``, ``x = 1``: sine 1, cosine 0.

    Args:
        spec: the table.
        width: H.
        n_frequencies: k.
        sigma: deviation of the normal that frequencies start from; the option that matters most,
            between 0.01 and 100.
    """

    def __init__(self, spec: TableSpec, width: int, n_frequencies: int, sigma: float) -> None:
        super().__init__()
        if n_frequencies < 1 or not sigma > 0:
            raise ValueError(
                f"encoder.n_frequencies and encoder.sigma must be above 0, got {n_frequencies} and {sigma}"
            )
        self.frequencies = nn.Parameter(torch.randn(len(spec.numeric), n_frequencies) * sigma)
        self.linear = ColumnLinear(len(spec.numeric), 2 * n_frequencies, width)

    def waves(self, x: Tensor) -> Tensor:
        """``[B, Dn] -> [B, Dn, 2 k]`` float32: sines, then cosines."""
        angles = 2.0 * math.pi * self.frequencies.float() * x.float().unsqueeze(-1)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, Dn] -> [B, Dn, H]``."""
        out: Tensor = self.linear(self.waves(x))
        return out


class PiecewiseNumbers(nn.Module):
    """``relu(Linear_j(ple_j(x)))`` with piecewise linear encodings over quantile bins.

    Between edges ``b_0 < ... < b_T`` the t-th entry is ``(x - b_{t-1}) / (b_t - b_{t-1})``, cut
    to [0, 1]; the first entry is not cut below, nor the last one above, so that values outside
    the train range still differ. (Gorishniy et al. 2022, section 3.2.1, "Q-LR".) Edges are the
    train rows' quantiles in the spec; a value that fills several of them gives one edge, so
    columns may have fewer bins than asked for.

    Worked value: edges 0, 1, 3 and ``x = 2``: (1, 0.5); ``x = 5``: (1, 2); ``x = -1``: (-1, 0).

    Args:
        spec: the table.
        width: H.
        n_bins: largest T.
    """

    low: Tensor
    slope: Tensor
    floor: Tensor
    ceiling: Tensor

    def __init__(self, spec: TableSpec, width: int, n_bins: int) -> None:
        super().__init__()
        edges = bin_edges(spec, n_bins)
        size = max(len(column) - 1 for column in edges) if edges else 1
        table = torch.zeros(4, len(edges), size)
        for j, column in enumerate(edges):
            b = torch.from_numpy(column)
            n = len(b) - 1
            table[0, j, :n], table[1, j, :n] = b[:-1], 1.0 / b.diff()
            table[3, j, :n] = 1.0
            table[2, j, 0], table[3, j, n - 1] = -math.inf, math.inf
        for name, values in zip(("low", "slope", "floor", "ceiling"), table, strict=True):
            self.register_buffer(name, values.clone(), persistent=False)  # the spec has them
        self.linear = ColumnLinear(len(edges), size, width)

    def encode(self, x: Tensor) -> Tensor:
        """``[B, Dn] -> [B, Dn, T]`` float32; zeros where a column has fewer bins."""
        place = (x.float().unsqueeze(-1) - self.low) * self.slope
        return torch.minimum(torch.maximum(place, self.floor), self.ceiling)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, Dn] -> [B, Dn, H]``."""
        out: Tensor = self.linear(self.encode(x))
        return out


def bin_edges(spec: TableSpec, n_bins: int) -> list[np.ndarray]:
    """Strictly rising edges ``[T + 1]`` float32 of each numeric column, in the table's scaling.

    Args:
        spec: a fitted table; between the quantiles that it holds the quantile function is linear.
        n_bins: bins of equal frequency, up to the number of quantiles less one.

    Raises:
        ValueError: ``n_bins`` is out of range.
        DataError: a column without quantiles.
    """
    rows = []
    for column in spec.numeric:
        n = len(column.quantiles)
        if n < 2:
            raise DataError(
                f"encoder.numeric: piecewise needs quantiles, and column {column.name!r} has none; "
                "fit the table anew, or use linear or periodic"
            )
        if not 1 <= n_bins < n:
            raise ValueError(f"encoder.n_bins must lie in [1, {n - 1}], got {n_bins}")
        raw = np.interp(np.linspace(0, 1, n_bins + 1), np.linspace(0, 1, n), column.quantiles)
        rows.append((raw - column.mean) / column.std)
    if not rows:
        return []
    scaled = spec.scale(np.stack(rows, axis=1).astype(np.float32))
    return [_rising(scaled[:, j]) for j in range(scaled.shape[1])]


def _rising(values: np.ndarray) -> np.ndarray:
    """Distinct values; a single one becomes a bin of width 1."""
    edges = np.unique(values.astype(np.float32))
    return edges if len(edges) > 1 else np.array([edges[0], edges[0] + 1], np.float32)


class ColumnTokens(nn.Module):
    """A token for each column: ``e_j(x_j) + b_j`` for numbers, embedding ``+ b_j`` for categories.

    ``e_j(x)`` is ``x * w_j`` (``linear``: FT-Transformer, Gorishniy et al. 2021, section 3.3),
    :class:`PeriodicNumbers` or :class:`PiecewiseNumbers`. A missing number takes a learned
    vector of its column in place of ``e_j(x)``; a missing category has an embedding of its own
    (code 0). The embedding of unseen categories (code 1) starts at zero, so that one never met
    in training says nothing.

    Args:
        spec: the table.
        width: H.
        numeric: what ``e_j`` is.
        n_frequencies, sigma: of ``periodic``.
        n_bins: of ``piecewise``.
    """

    offsets: Tensor

    def __init__(
        self,
        spec: TableSpec,
        width: int,
        numeric: NumericKind = "linear",
        n_frequencies: int = 48,
        sigma: float = 0.01,
        n_bins: int = 64,
    ) -> None:
        super().__init__()
        if not isinstance(spec, TableSpec):
            raise ValueError(
                "this encoder reads the rows of one table; interactions need encoder 'two_tower'"
            )
        if numeric not in ("linear", "periodic", "piecewise"):
            raise ValueError(f"encoder.numeric must be linear, periodic or piecewise, got {numeric!r}")
        self.numbers: nn.Module | None = None
        self.missing = nn.Parameter(torch.empty(len(spec.numeric), width))
        self.bias = nn.Parameter(torch.empty(spec.n_columns, width))
        bound = width**-0.5
        if numeric == "linear":
            self.weight = nn.Parameter(torch.empty(len(spec.numeric), width).uniform_(-bound, bound))
        elif numeric == "periodic":
            self.numbers = PeriodicNumbers(spec, width, n_frequencies, sigma)
        else:
            self.numbers = PiecewiseNumbers(spec, width, n_bins)
        for parameter in (self.missing, self.bias):
            nn.init.uniform_(parameter, -bound, bound)
        sizes = torch.tensor([0, *spec.cardinalities]).cumsum(0)
        self.register_buffer("offsets", sizes[:-1].clone(), persistent=False)
        self.embedding = nn.Embedding(max(int(sizes[-1]), 1), width)
        init_truncated_normal(self.embedding)
        if spec.categorical:
            with torch.no_grad():
                self.embedding.weight[sizes[:-1] + UNSEEN] = 0.0

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """``[B, N, H]``."""
        values = x["numeric"]
        numeric = values.unsqueeze(-1) * self.weight if self.numbers is None else self.numbers(values)
        numeric = torch.where(x["missing"].unsqueeze(-1), self.missing, numeric)
        tokens = [numeric]
        if x["categorical"].shape[1]:
            tokens.append(self.embedding(x["categorical"] + self.offsets))
        return torch.cat(tokens, dim=1) + self.bias
