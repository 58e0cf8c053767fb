"""Differentiable sorting networks: odd-even and bitonic, over a batch of rows at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["odd_even", "bitonic"]
Distribution = Literal["cauchy", "logistic"]


class SortingNetwork(nn.Module):
    """Sorts rows in ascending order through relaxed comparators, so that ranks have gradients.

    A comparator of the values ``(a, b)`` on a low and a high wire is exact with probability
    ``alpha = F(steepness * (b - a))``: it puts out ``alpha a + (1 - alpha) b`` on the low wire
    and ``(1 - alpha) a + alpha b`` on the high one. Mixing the columns of an identity matrix
    alike gives the soft permutation P, whose row i says with which weight item i ended at
    which rank; rows and columns sum to one. With growing steepness all of it becomes exact.

    Source: Petersen et al., Differentiable Sorting Networks (ICML 2021, arXiv 2105.04019),
    section 3, and Monotonic Differentiable Sorting Networks (ICLR 2022, arXiv 2203.09630) for F.

    Args:
        n: items a row, at least 2.
        kind: ``odd_even``: n layers of neighbours, accurate for few items; ``bitonic``: about
            ``log2(n)^2 / 2`` layers, for many. Any n: comparators that would touch a wire
            beyond the last one never do anything in an exact network, and are left out.
        steepness: factor on differences. Default 1, GroCo's.
        distribution: F: ``cauchy`` is ``1/2 + atan(x) / pi`` (GroCo's, monotonic), ``logistic``
            the sigmoid.

    Work is in the dtype of the input: give it float32, not half precision.

    Raises:
        ValueError: an argument is out of range.
    """

    partner: Tensor
    sign: Tensor

    def __init__(
        self, n: int, kind: Kind = "odd_even", steepness: float = 1.0, distribution: Distribution = "cauchy"
    ) -> None:
        super().__init__()
        if n < 2:
            raise ValueError(f"a sorting network needs at least 2 items, got {n}")
        if kind not in ("odd_even", "bitonic"):
            raise ValueError(f"a sorting network is odd_even or bitonic, got {kind!r}")
        if distribution not in ("cauchy", "logistic"):
            raise ValueError(f"the distribution of a comparator is cauchy or logistic, got {distribution!r}")
        if not steepness > 0:
            raise ValueError(f"steepness must be positive, got {steepness}")
        self.n, self.kind, self.steepness, self.distribution = n, kind, steepness, distribution
        layers = list(_odd_even(n) if kind == "odd_even" else _bitonic(n))
        partner = torch.arange(n).repeat(len(layers), 1)
        sign = torch.zeros(len(layers), n)
        for layer, pairs in enumerate(layers):
            low, high = torch.tensor(pairs).T
            partner[layer, low], partner[layer, high] = high, low
            sign[layer, low], sign[layer, high] = 1.0, -1.0
        self.register_buffer("partner", partner, persistent=False)
        self.register_buffer("sign", sign, persistent=False)

    @property
    def n_layers(self) -> int:
        """Layers of comparators."""
        return len(self.partner)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sorts.

        Args:
            x: ``[B, n]``.

        Returns:
            The sorted values ``[B, n]``, and P ``[B, n, n]``.
        """
        x, swaps = self._run(x)
        permutation = torch.eye(self.n, dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
        for partner, swap in zip(self.partner, swaps, strict=True):
            permutation = permutation + swap[:, None] * (permutation[:, :, partner] - permutation)
        return x, permutation

    def rank_mass(self, x: Tensor, ranks: Tensor) -> Tensor:
        """How much of each item ends at a set of ranks: ``P @ ranks`` without forming P.

        The layers are applied to the ``n`` numbers from the output side to the input side, so a
        row costs ``n`` numbers a layer instead of ``n^2``.

        Args:
            x: ``[B, n]``.
            ranks: ``[n]`` weights of the ranks, 1 for those in the set.

        Returns:
            ``[B, n]``, in the order of the items of ``x``.
        """
        _, swaps = self._run(x)
        mass = ranks.to(x.dtype).expand(len(x), -1)
        for partner, swap in zip(self.partner.flip(0), reversed(swaps), strict=True):
            mass = mass + swap * (mass[:, partner] - mass)
        return mass

    def _run(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Sorted values, and for each layer the share ``[B, n]`` that every wire takes from its partner."""
        swaps = []
        for partner, sign in zip(self.partner, self.sign, strict=True):
            ahead = x[:, partner] - x  # b - a on the low wire, a - b on the high one, 0 on an idle one
            swap = self._cdf(-self.steepness * sign.to(x.dtype) * ahead)
            x = x + swap * ahead
            swaps.append(swap)
        return x, swaps

    def _cdf(self, x: Tensor) -> Tensor:
        return torch.atan(x) / math.pi + 0.5 if self.distribution == "cauchy" else torch.sigmoid(x)


Pairs = Sequence[tuple[int, int]]


def _odd_even(n: int) -> Iterator[Pairs]:
    """n layers: neighbours from wire 0 and from wire 1 in turn."""
    for layer in range(n):
        pairs = [(i, i + 1) for i in range(layer % 2, n - 1, 2)]
        if pairs:  # two items: the second layer has none
            yield pairs


def _bitonic(n: int) -> Iterator[Pairs]:
    """Batcher's bitonic network in the form whose comparators all put the smaller value first.

    A block of two sorted halves is merged by comparing wires mirrored at its middle, then by
    half-cleaners. In this form a wire beyond the last one would hold the largest value from
    beginning to end, so its comparators can be left out.
    """
    size = 2
    while size < 2 * n:
        yield from _kept(
            n, [(start + i, start + size - 1 - i) for start in range(0, n, size) for i in range(size // 2)]
        )
        distance = size // 4
        while distance:
            yield from _kept(n, [(i, i + distance) for i in range(n) if not i & distance])
            distance //= 2
        size *= 2


def _kept(n: int, pairs: Pairs) -> Iterator[Pairs]:
    """The layer without comparators beyond the last wire, if any are left."""
    kept = [(low, high) for low, high in pairs if high < n]
    if kept:
        yield kept
