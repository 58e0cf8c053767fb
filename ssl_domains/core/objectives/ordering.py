"""Group ordering constraints: positives must rank above the hardest negatives (GroCo)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.collectives import all_reduce_sum, gather_no_grad, rank, world_size
from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.numerics import at_least_float32, full_precision, global_count, positive
from ssl_domains.core.parts.sorting import Distribution, Kind, SortingNetwork
from ssl_domains.core.registry import objective


@objective("groco")
class GroCo(Objective):
    """Every positive similarity of an anchor must rank above every negative one.

    Each view of a sample is an anchor once. Its P positives are the sample's other GLOBAL views
    (a local view is an anchor only), its negatives the K most similar other samples of the same
    view. Their cosines, each group in ascending order and the negatives first, pass through a
    differentiable sorting network; ``p_i`` is the mass of item i on the last P ranks, and::

        L = mean over anchors and items of BCE(p_i, [i is a positive])

    No gradient goes to what an anchor is compared with. The order within a group is free, so
    an item that is clearly on its side has nearly no gradient; since both groups are ordered
    beforehand, the least similar positives meet the most similar negatives in the middle of
    the network, and these strong ones get the gradient.

    Source: Shvetsova et al., Learning by Sorting (ICCV 2023, arXiv 2301.02009), section 3, and
    the official code; all defaults are theirs. There the learning rate is 24 for a batch of 1024
    (SGD), since the mean over K + P items makes gradients small. Projector there: three layers of
    2048 with batch norm after each (``projector_last_norm: true``).

    Args:
        negatives: K, at most the global batch size - 1. Default 10.
        steepness: of the network's comparators. Default 1.
        network: ``odd_even``, or ``bitonic`` for large K + P.
        distribution: ``cauchy`` or ``logistic``.
        chunk_size: anchors whose similarities to the global batch are held at once.

    Worked value: one positive at cosine 1 and one negative at -1: ``-ln(1/2 + atan(2) / pi) =
    0.159680``; all similarities equal: ``ln 2`` for K = P = 1, 0.201983 for K = 10 (the trivial
    value "uniform"). With steepness 1 the loss never reaches 0.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(
        self,
        negatives: int = 10,
        steepness: float = 1.0,
        network: Literal["odd_even", "bitonic"] = "odd_even",
        distribution: Literal["cauchy", "logistic"] = "cauchy",
        chunk_size: int = 1024,
    ) -> None:
        super().__init__()
        positive("groco", negatives=negatives, steepness=steepness, chunk_size=chunk_size)
        if network not in ("odd_even", "bitonic") or distribution not in ("cauchy", "logistic"):
            raise UserError(
                "objective 'groco': network is odd_even or bitonic and distribution cauchy or logistic, "
                f"got {network!r} and {distribution!r}"
            )
        self.negatives, self.steepness, self.chunk_size = negatives, steepness, chunk_size
        self.network: Kind = network
        self.distribution: Distribution = distribution
        self._networks: dict[tuple[int, torch.device], SortingNetwork] = {}  # fixed tables, no state

    def forward(self, z1: Tensor, z2: Tensor) -> Terms:
        """Two views ``[B, D]``, each an anchor once."""
        return self.over_peers([z1, z2], 2)

    def over_peers(self, views: Sequence[Tensor], n_global: int) -> Terms:
        """The loss of the global batch over all views as anchors.

        Args:
            views: ``[B, D]`` by view.
            n_global: the first so many may be positives.
        """
        return self.over_views(views, [view.detach() for view in views[:n_global]])

    def over_views(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Terms:
        """As :meth:`over_peers`, with anchors and what they are compared with from different nets.

        Args:
            students: the anchors, ``[B, D]`` by view.
            teachers: the positives, ``[B, D]`` by view, the first views of ``students``; also the
                negatives of these views. Never gets gradient.

        Returns:
            Terms with parts ``ordered`` (share of anchors all of whose positives are above all
            their negatives), ``positive_similarity`` and ``negative_similarity`` (of the K).

        Raises:
            ValueError: no view is left to be a positive, or the batch has too few negatives.
        """
        if not teachers or len(students) < 2:
            raise ValueError(f"groco wants two views or more, got {len(students)} and {len(teachers)} global")
        with full_precision(students[0].device):
            anchors = [F.normalize(at_least_float32(z), dim=1) for z in students]
            others = [F.normalize(at_least_float32(z.detach()), dim=1) for z in teachers]
            rows = []
            for v, anchor in enumerate(anchors):
                pool = others[v] if v < len(others) else anchor.detach()
                above = [(anchor * z).sum(dim=1) for p, z in enumerate(others) if p != v]
                rows.append(self._anchors(torch.stack(above, dim=1), self._hardest(anchor, pool)))
            table = torch.cat(rows)
            total, *facts = (all_reduce_sum(table.sum(dim=0)) / global_count(len(table), table)).unbind()
        names = ("ordered", "positive_similarity", "negative_similarity")
        parts = {name: value.detach() for name, value in zip(names, facts, strict=True)}
        return Terms(total, parts, {"uniform": self._uniform(len(students), len(teachers))})

    def _hardest(self, anchor: Tensor, pool: Tensor) -> Tensor:
        """``[B, K]``: the largest cosines with other samples of all processes."""
        everyone = gather_no_grad(pool)  # [G, D]
        if self.negatives > len(everyone) - 1:
            raise ValueError(
                f"groco: {self.negatives} negatives need a batch of at least {self.negatives + 1}, "
                f"got {len(everyone)}; lower objective.negatives or raise the batch size"
            )
        first = rank() * len(anchor) if world_size() > 1 else 0
        found = []
        for begin in range(0, len(anchor), self.chunk_size):
            rows = anchor[begin : begin + self.chunk_size]
            similarity = rows @ everyone.T
            own = torch.arange(len(rows), device=rows.device)
            similarity[own, own + first + begin] = -math.inf
            found.append(similarity.topk(self.negatives, dim=1).values)
        return torch.cat(found)

    def _anchors(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """``[B, 4]``: loss and facts of each anchor, from similarities ``[B, P]`` and ``[B, K]``."""
        n_positive = positives.shape[1]
        items = torch.cat([negatives.sort(dim=1).values, positives.sort(dim=1).values], dim=1)
        side = torch.zeros(items.shape[1], dtype=items.dtype, device=items.device)
        side[-n_positive:] = 1.0
        mass = self._network(n_positive, items.device).rank_mass(items, side).clamp(0.0, 1.0)
        loss = F.binary_cross_entropy(mass, side.expand_as(mass), reduction="none").mean(dim=1)
        hits = (positives.amin(dim=1) > negatives.amax(dim=1)).to(items.dtype)
        return torch.stack(
            [loss, hits, positives.mean(dim=1).detach(), negatives.mean(dim=1).detach()], dim=1
        )

    def _network(self, n_positive: int, device: torch.device) -> SortingNetwork:
        """One network for each number of positives: local anchors have one more than global ones."""
        key = (n_positive, device)
        if key not in self._networks:
            size = self.negatives + n_positive
            network = SortingNetwork(size, self.network, self.steepness, self.distribution)
            self._networks[key] = network.to(device)
        return self._networks[key]

    def _uniform(self, n_views: int, n_global: int) -> float:
        """The loss when all similarities are equal."""
        counts = [n_global - (v < n_global) for v in range(n_views)]
        return sum(uniform_loss(self.negatives, p, self.network) for p in counts) / len(counts)

    def remedies(self) -> dict[str, str]:
        cause = "positives and the hardest negatives are equally similar"
        return {
            "uniform": f"{cause}; raise the learning rate (the paper's is 24 with SGD) or use milder views",
            "point": f"{cause}, as all vectors are the same; lower the learning rate",
        }

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        problems = []
        if views < 2:
            problems.append(
                f"objective 'groco' orders views of a sample, got {views}; set views to 2 or more"
            )
        if batch_size <= self.negatives:
            problems.append(
                f"objective 'groco' takes {self.negatives} negatives from the batch, and batch_size is "
                f"{batch_size}; lower objective.negatives or use at least {self.negatives + 1}"
            )
        return problems


@lru_cache(maxsize=64)
def uniform_loss(negatives: int, positives: int, network: Kind = "odd_even") -> float:
    """GroCo's loss of one anchor whose similarities are all equal (any steepness, any distribution)."""
    side = torch.zeros(negatives + positives, dtype=torch.float64)
    side[-positives:] = 1.0
    with torch.no_grad():
        mass = SortingNetwork(len(side), network).rank_mass(
            torch.zeros(1, len(side), dtype=torch.float64), side
        )
    return float(F.binary_cross_entropy(mass[0], side))
