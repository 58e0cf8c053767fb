"""The triplet loss, with triplets given or mined in the batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.collectives import all_gather_rows, gather_no_grad, rank
from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.numerics import at_least_float32, full_precision, global_mean
from ssl_domains.core.registry import objective


@objective("triplet")
class Triplet(Objective):
    """``max(0, d(query, positive) - d(query, negative) + margin)``, the mean over queries (and negatives).

    Worked value, squared distances 1 and 4: margin 1 gives 0, margin 4 gives 1.

    Args:
        margin: default 0.2 (FaceNet, Schroff et al., CVPR 2015, section 3.1, on unit vectors).
        squared: squared Euclidean distances (FaceNet); False: Euclidean.
        normalize: vectors are scaled to unit length first (FaceNet).
        mining: which of the batch's other keys are negatives where none are given: ``all``; ``semi_hard``:
            the
            nearest one that is farther than the positive, where there is none the farthest (FaceNet, 3.2);
            ``hardest``: the nearest one (VSE++, Faghri et al., BMVC 2018); ``random``: one drawn by chance.
        symmetric: keys are queries too.
        gather: negatives are of the global batch.
    """

    def __init__(
        self,
        margin: float = 0.2,
        *,
        squared: bool = True,
        normalize: bool = True,
        mining: Literal["semi_hard", "hardest", "all", "random"] = "semi_hard",
        symmetric: bool = False,
        gather: bool = True,
    ) -> None:
        super().__init__()
        if not margin > 0:
            raise UserError(f"objective 'triplet': margin must be positive, got {margin}")
        if mining not in ("semi_hard", "hardest", "all", "random"):
            raise UserError(
                f"objective 'triplet': mining must be semi_hard, hardest, all or random, got {mining!r}"
            )
        self.margin, self.squared, self.normalize, self.mining = margin, squared, normalize, mining
        self.symmetric, self.gather = symmetric, gather

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        negatives: Tensor | None = None,
        *,
        ignore_mask: Tensor | None = None,
        query_weights: Tensor | None = None,
    ) -> Terms:
        """The loss of the global batch.

        Args:
            query: ``[B, D]``.
            key: ``[B, D]``, the positive of each query.
            negatives: ``[B, D]``: one for each query; None: mined among the keys of the batch.
            ignore_mask: ``[B, G]`` bool over the global batch's keys: no negatives of this query, beside its
                own key.
            query_weights: ``[B]`` weights in the mean; 0 leaves a query out.

        Returns:
            Parts ``accuracy`` (the positive is nearer than the negative) and ``active`` (share of triplets
            with a loss); trivial ``constant``: the margin, when all vectors are one.
        """
        with full_precision(query.device):
            query, key = self._side(query), self._side(key)
            if negatives is not None:
                near, far = self._apart(query, key), self._apart(query, self._side(negatives))[:, None]
                return self._terms([(near, far, torch.ones_like(far, dtype=torch.bool))], [query_weights])
            tasks = [self._mined(query, key, ignore_mask)]
            if self.symmetric:
                turned = None if ignore_mask is None else _turned(ignore_mask, self.gather)
                tasks.append(self._mined(key, query, turned))
            return self._terms(tasks, [query_weights] * len(tasks))

    def _side(self, x: Tensor) -> Tensor:
        x = at_least_float32(x)
        return F.normalize(x, dim=-1) if self.normalize else x

    def _apart(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances row by row."""
        square = (a - b).square().sum(-1)
        return square if self.squared else (square + 1e-12).sqrt()

    def _mined(self, query: Tensor, key: Tensor, ignore: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Distances to the positive ``[B]`` and to negatives ``[B, K]``, and which of these count."""
        every = all_gather_rows(key) if self.gather else key
        own = torch.arange(len(query), device=query.device) + (rank() * len(query) if self.gather else 0)
        square = (query.square().sum(1)[:, None] + every.square().sum(1)[None] - 2 * query @ every.T).clamp(
            min=0
        )
        far = square if self.squared else (square + 1e-12).sqrt()
        allowed = torch.ones_like(far, dtype=torch.bool).scatter_(1, own[:, None], False)
        if ignore is not None:
            allowed = allowed & ~ignore
        near = self._apart(query, key)
        if self.mining == "all":
            return near, far, allowed
        with torch.no_grad():
            seen = far.detach()
            if self.mining == "random":
                chosen = torch.rand_like(seen).masked_fill(~allowed, -1).argmax(1)
            elif self.mining == "hardest":
                chosen = seen.masked_fill(~allowed, torch.inf).argmin(1)
            else:
                farther = allowed & (seen > near.detach()[:, None])
                semi = seen.masked_fill(~farther, torch.inf).argmin(1)
                farthest = seen.masked_fill(~allowed, -torch.inf).argmax(1)
                chosen = torch.where(farther.any(1), semi, farthest)
        return near, far.gather(1, chosen[:, None]), allowed.any(1, keepdim=True)

    def _terms(self, tasks: list[tuple[Tensor, Tensor, Tensor]], weights: list[Tensor | None]) -> Terms:
        losses, right, counts = [], [], []
        for (near, far, allowed), weight in zip(tasks, weights, strict=True):
            count = allowed.to(near.dtype)
            if weight is not None:
                count = count * weight.to(near.dtype)[:, None]
            losses.append(F.relu(near[:, None] - far + self.margin).flatten())
            right.append((far > near[:, None]).to(near.dtype).flatten())
            counts.append(count.flatten())
        loss, good, count = torch.cat(losses), torch.cat(right), torch.cat(counts)
        parts = {
            "accuracy": global_mean(good.detach(), count),
            "active": global_mean((loss.detach() > 0).to(loss.dtype), count),
        }
        return Terms(global_mean(loss, count), parts, {"constant": self.margin})

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        """Mining needs other samples in the batch."""
        if batch_size < 2:
            return ["Triplets are mined among the other samples of a batch; raise the batch size."]
        return []


def _turned(mask: Tensor, gather: bool) -> Tensor:
    """The transpose of a ``[B, G]`` mask: rows of this process in the joined transpose."""
    if not gather:
        return mask.T
    whole = gather_no_grad(mask)
    begin = rank() * len(mask)
    return whole[:, begin : begin + len(mask)].T
