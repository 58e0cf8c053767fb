"""Masks over layouts, drawn from (run seed, step, index); see :mod:`ssl_domains.core.random`.

A masker never sees data, only where tokens sit. The two here serve sets, grids and graphs; what
needs the neighbourhood of a grid (blocks, tubes) is in :mod:`ssl_domains.core.grid_masking`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ssl_domains.core.batch import Mask
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Masker
from ssl_domains.core.layout import Graph, Grid, Layout, Set
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import mask


def share(value: float, name: str) -> float:
    """A checked share of the tokens.

    Raises:
        ValueError: not strictly between 0 and 1.
    """
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} is a share of the tokens and must lie between 0 and 1, got {value}")
    return value


def real_tokens(layout: Grid, lengths: Tensor) -> Tensor:
    """``[B, N]`` bool: tokens within the lengths ``[B]`` along the first axis."""
    steps = torch.arange(layout.shape[0], device=lengths.device)
    return (steps < lengths[:, None]).repeat_interleave(layout.n_tokens // layout.shape[0], dim=1)


def lowest(keys: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """``[B, N]`` bool: in each row the ``count [B]`` tokens of lowest key among those of ``among [B, N]``."""
    last = torch.iinfo(torch.int64).max
    order = torch.where(among, keys, last).argsort(dim=1, stable=True)
    place = torch.arange(keys.shape[1], device=keys.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, place)
    return (rank < count[:, None]) & among


@mask("random")
class RandomMask(Masker):
    """Hides the same number of uniformly drawn tokens in every sample, or of all nodes of a graph.

    For Grid and Set: ``round(ratio * N)`` tokens a sample, at least 1 hidden and 1 visible, so
    the visible ones form a rectangle ``[B, n_c]``. Where samples have different lengths
    (:attr:`Grid.lengths`): that share of each sample's own length, and no rectangle. For Graph:
    ``int(ratio * n)`` of the nodes that count (:attr:`Graph.seeds`), at least 1, over the union of the
    batch's graphs (GraphMAE, KDD 2022, section 3).

    Args:
        ratio: share of hidden tokens. Default 0.5 (GraphMAE on Cora; MAE uses 0.75).
        noise: share of the hidden nodes whose features become those of another random node
            instead of the mask token; ``int((1 - noise) * n)`` get the token and
            ``int(noise * n)`` the noise, so rounding can leave one hidden node unaltered, as
            in the authors' code (it still counts in the loss). Graph only.
    """

    layouts: ClassVar[tuple[type, ...]] = (Grid, Set, Graph)

    def __init__(self, ratio: float = 0.5, noise: float = 0.0) -> None:
        self.ratio = share(ratio, "mask.ratio")
        if not 0.0 <= noise <= 1.0:
            raise ValueError(f"mask.noise is a share of the hidden nodes and must lie in [0, 1], got {noise}")
        self.noise = noise

    def __call__(self, layout: Layout, draw: Draw) -> Mask:
        if isinstance(layout, Graph):
            return self._nodes(layout, draw)
        n = layout.n_tokens
        if n < 2:
            raise DataError(f"masking needs at least 2 tokens a sample, the data has {n}")
        if isinstance(layout, Grid) and layout.lengths is not None:
            return self._ragged(layout, layout.lengths, draw)
        n_hidden = min(max(round(self.ratio * n), 1), n - 1)
        order = draw.permutation(n)
        hidden = torch.zeros(len(order), n, dtype=torch.bool, device=order.device)
        hidden.scatter_(1, order[:, :n_hidden], True)
        return Mask(hidden, context=order[:, n_hidden:].sort(dim=1).values)

    def _ragged(self, layout: Grid, lengths: Tensor, draw: Draw) -> Mask:
        """A sample's tokens are hidden alike, however long the batch is padded; a lone token stays
        visible."""
        real = real_tokens(layout, lengths)
        n = real.sum(dim=1)
        n_hidden = torch.minimum((self.ratio * n).round().long().clamp_min(1), n - 1)
        return Mask(lowest(draw.bits(layout.n_tokens), real, n_hidden))

    def _nodes(self, layout: Graph, draw: Draw) -> Mask:
        draw = draw.at(layout.index)
        keys = draw.bits()
        n = layout.n_tokens
        if layout.seeds is not None:
            keys = torch.where(layout.seeds, keys, torch.iinfo(torch.int64).max)
            n = int(layout.seeds.sum())
        n_hidden = max(int(self.ratio * n), 1)
        chosen = keys.argsort()[:n_hidden]
        hidden = torch.zeros(layout.n_tokens, dtype=torch.bool, device=keys.device)
        hidden[chosen] = True
        return Mask(hidden, substitute=self._substitutes(layout, chosen, draw))

    def _substitutes(self, layout: Graph, chosen: Tensor, draw: Draw) -> Tensor | None:
        n_noise = int(self.noise * len(chosen))
        if n_noise == 0:
            return None
        n_token = int((1.0 - self.noise) * len(chosen))
        donors = draw.bits().argsort()[:n_noise]
        substitute = torch.full((layout.n_tokens,), -1, dtype=torch.int64, device=chosen.device)
        shuffled = chosen[draw.bits()[chosen].argsort()]
        rest = shuffled[n_token:]
        substitute[rest] = rest  # rounding leaves at most one node as it is
        substitute[shuffled[len(shuffled) - n_noise :]] = donors
        return substitute


@mask("disjoint_subsets")
class DisjointSubsets(Masker):
    """T-JEPA's column masks: a context subset a row and K target subsets, disjoint from it.

    The two sizes are shared by the batch and drawn anew each step, uniform over
    ``[round(N * low), round(N * high)]``, redrawn until ``n_context + n_target <= N``; which
    columns they hold is drawn per row. Targets may overlap one another, never the context.
    (T-JEPA, ICLR 2025; sizes of the authors' Jannis run.) Where shares would round to an
    empty range of few columns, bounds are raised to at least 1 and at most N - 1.

    Args:
        context: (low, high) share of the tokens in the context.
        targets: (low, high) share of the tokens in each target set.
        n_targets: K, target sets a row.
    """

    layouts: ClassVar[tuple[type, ...]] = (Grid, Set)

    def __init__(
        self,
        context: tuple[float, float] = (0.136, 0.368),
        targets: tuple[float, float] = (0.156, 0.622),
        n_targets: int = 4,
    ) -> None:
        for name, (low, high) in (("mask.context", context), ("mask.targets", targets)):
            if not 0.0 <= low <= high <= 1.0:
                raise ValueError(
                    f"{name} must be [low, high] with 0 <= low <= high <= 1, got [{low}, {high}]"
                )
        if context[0] + targets[0] > 1.0:
            raise ValueError(
                "mask.context and mask.targets cannot both be met: their low shares add up to over 1"
            )
        if n_targets < 1:
            raise ValueError(f"mask.n_targets must be at least 1, got {n_targets}")
        self.context, self.targets, self.n_targets = tuple(context), tuple(targets), n_targets

    def sizes(self, n: int, draw: Draw) -> tuple[int, int]:
        """(n_context, n_target) of this step."""
        if n < 2:
            raise DataError(f"disjoint context and targets need at least 2 columns, the data has {n}")
        low_c, high_c = self._bounds(n, self.context)
        low_t, high_t = self._bounds(n, self.targets)
        pairs = [(c, t) for c in range(low_c, high_c + 1) for t in range(low_t, high_t + 1) if c + t <= n]
        if not pairs:  # so few columns that rounding up made the low ends collide
            return 1, n - 1
        # A uniform draw of pairs under the constraint is what redrawing until it holds gives.
        return pairs[draw.integers(0, len(pairs) - 1)]

    @staticmethod
    def _bounds(n: int, share: tuple[float, ...]) -> tuple[int, int]:
        low = min(max(round(n * share[0]), 1), n - 1)
        return low, min(max(round(n * share[1]), low), n - 1)

    def __call__(self, layout: Layout, draw: Draw) -> Mask:
        assert not isinstance(layout, Graph)
        if getattr(layout, "lengths", None) is not None:
            raise DataError(
                "mask 'disjoint_subsets' wants samples of one length; use span or random for sequences"
            )
        n = layout.n_tokens
        n_context, n_target = self.sizes(n, draw)
        order = draw.permutation(n)
        context, rest = order[:, :n_context], order[:, n_context:]
        n_rest = n - n_context
        picks = torch.stack([draw.permutation(n_rest)[:, :n_target] for _ in range(self.n_targets)])
        targets = torch.gather(rest.expand(self.n_targets, -1, -1), 2, picks).sort(dim=2).values
        hidden = torch.ones(len(order), n, dtype=torch.bool, device=order.device)
        hidden.scatter_(1, context, False)
        return Mask(hidden, context=context.sort(dim=1).values, targets=targets)
