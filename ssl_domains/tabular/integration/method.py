"""Self-supervised adversarial contrastive learning of a pair classifier (SSACL)."""

from __future__ import annotations

import math
from dataclasses import fields

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Encoded, Output, Tokens
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.parts.adversarial import adversarial_offset
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.tabular.integration.matcher import Row


@method("pair_classification")
class PairClassification(Method):
    """SSACL (arXiv 2412.00324): are two rows the same thing? Generated pairs, adversarial positives.

    Positives of a row are its perturbed views; negatives are other rows of the batch, which is a
    random part of the table. Loss ``L_nce + adversarial_weight * L_adv``: binary cross-entropy over
    all pairs (1 for P positives, 0 for Q negatives), and over pairs of a row and itself moved by
    ``d = argmax_{|d| <= epsilon} -log p(E(t) + d, E(t))`` in the space of its cells.

    The authors' released code moves against the gradient, which makes the pairs easier, does not
    use what it moved, and takes no backward pass; here d goes up the loss, as the text says.

    A copy of a row (all cells equal) is no negative of it; the part ``equal_rows`` is the share of
    such pairs in the batch. Duplicates that differ are false negatives which nobody can see: their
    share is about that of duplicates in the table over the number of rows.

    Args:
        encoder: one that compares pairs (``text_cells``).
        objective: ``binary_cross_entropy``.
        views: the first is the clean row, the others are its positives.
        negatives: Q, at most ``batch_size - 1``. Default 20 (the paper's).
        near_negatives: share of them that are the most similar rows of the batch, by the cosine of
            ``pooled``; the paper's are all random, and nearly all easy. Default 0.
        adversarial_weight: of L_adv; 0 leaves it out. Default 0.5 (the paper's).
        epsilon: length of d, over all cells of a row, which have length 1 each. Default 0.01 (the paper's).
        adversarial_steps: 1: one gradient step of length epsilon; more: projected steps of
            ``epsilon / steps`` (the paper's iterative form has 3).
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        negatives: int = 20,
        near_negatives: float = 0.0,
        adversarial_weight: float = 0.5,
        epsilon: float = 0.01,
        adversarial_steps: int = 1,
    ) -> None:
        super().__init__()
        if not hasattr(encoder, "match"):
            raise ValueError(
                "method 'pair_classification' needs an encoder that compares pairs; use text_cells"
            )
        if negatives < 1 or adversarial_steps < 1:
            raise ValueError("method.negatives and method.adversarial_steps must be at least 1")
        if not 0.0 <= near_negatives <= 1.0:
            raise ValueError(f"method.near_negatives is a share and must lie in [0, 1], got {near_negatives}")
        if adversarial_weight < 0 or epsilon < 0:
            raise ValueError("method.adversarial_weight and method.epsilon must not be negative")
        self.encoder, self.objective, self.views = encoder, objective, views
        self.negatives, self.near_negatives = negatives, near_negatives
        self.adversarial_weight, self.epsilon = adversarial_weight, epsilon
        self.adversarial_steps = adversarial_steps

    def check(self, *, batch_size: int, n_samples: int | None) -> list[str]:
        """Negatives come from the batch, so it must hold two rows."""
        problems = super().check(batch_size=batch_size, n_samples=n_samples)
        if batch_size < 2:
            problems.append(
                "pair_classification takes negatives from the batch; set train.batch_size to 2 or more"
            )
        return problems

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        n, positives = len(batch), len(views) - 1
        encoded = self.encoder({key: torch.cat([view.x[key] for view in views]) for key in batch.x})
        missing = torch.cat([view.x["missing"] for view in views])
        rows = self.encoder.rows(encoded.tokens.values, missing)  # type: ignore[operator]
        other, equal = self._negatives(batch.x, encoded.pooled[:n], draw.fork("negatives"))
        anchor = torch.arange(n, device=batch.index.device)
        left = torch.cat([anchor.repeat(positives), anchor.repeat_interleave(other.shape[1])])
        right = torch.cat([torch.arange(n, len(views) * n, device=anchor.device), other.flatten()])
        label = torch.cat([anchor.new_ones(positives * n), anchor.new_zeros(other.numel())]).float()
        weight = torch.cat([anchor.new_ones(positives * n).float(), 1.0 - equal.flatten().float()])
        logits = self.encoder.match(rows.take(left), rows.take(right))  # type: ignore[operator]
        terms = self.objective(logits, label, weight)
        parts = {"pairs": terms.total.detach(), **terms.parts}
        parts |= {"equal_rows": _equal(batch.x).float().mean()} | _recalls(logits.detach(), label)
        total = terms.total
        if self.adversarial_weight > 0:
            adversarial, gain = self._adversarial(rows, n, draw.fork("adversarial"))
            total = total + self.adversarial_weight * adversarial.total
            parts |= {"adversarial": adversarial.total.detach(), "adversarial_gain": gain}
        clean = Encoded(Tokens(encoded.tokens.values[:n]), encoded.pooled[:n])
        return Output(total, parts, stages(clean), self._trivial(positives, other.shape[1]))

    def _negatives(self, x: dict[str, Tensor], pooled: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Places in the batch ``[B, Q]`` of the negatives, and where such a pair is of equal rows."""
        n = len(pooled)
        count = min(self.negatives, n - 1)
        near = round(self.near_negatives * count)
        equal = _equal(x)
        order = draw.uniform(n)  # [B, B]: random ranks; rows that may not be taken come last
        if near:
            similarity = pooled.detach() @ pooled.detach().T
            itself = torch.eye(n, dtype=torch.bool, device=pooled.device)
            closest = similarity.masked_fill(itself | equal, -2.0).topk(near, dim=1).indices
            order = order.scatter(1, closest, -1.0)
        order = order + 2.0 * equal + 4.0 * torch.eye(n, device=order.device)
        chosen = order.topk(count, dim=1, largest=False).indices
        return chosen, equal.gather(1, chosen)

    def _adversarial(self, rows: Row, n: int, draw: Draw) -> tuple[Terms, Tensor]:
        """L_adv of the first n rows, and by how much d raised it."""
        clean = rows.take(torch.arange(n, device=rows.cells.device))
        fixed, missing = clean.cells.detach(), clean.missing

        def logits(d: Tensor, other: Row) -> Tensor:
            moved = self.encoder.rows(fixed + d, missing)  # type: ignore[operator]
            return self.encoder.match(moved, other)  # type: ignore[operator]

        def loss(d: Tensor) -> Tensor:
            return F.softplus(-logits(d, frozen).float())

        frozen = Row(*(getattr(clean, field.name).detach() for field in fields(clean)))
        start = draw.normal(fixed.shape[1] * fixed.shape[2]).view_as(fixed)
        start = start.masked_fill(missing[..., None], 0.0)
        d = adversarial_offset(loss, start, self.epsilon, self.adversarial_steps)
        terms = self.objective(logits(d, clean), fixed.new_ones(n))
        with torch.no_grad():
            gain = (loss(d) - loss(torch.zeros_like(d))).mean()
        return terms, gain

    def _trivial(self, positives: int, negatives: int) -> dict[str, float]:
        """The loss of one probability for all pairs: 1/2, and the best one."""
        share, weight = positives / (positives + negatives), self.adversarial_weight
        p = (share + weight) / (1.0 + weight)
        prior = -(share + weight) * math.log(p) - (1.0 - share) * math.log1p(-p)
        return {"uniform": (1.0 + weight) * math.log(2.0), "prior": prior}


def _equal(x: dict[str, Tensor]) -> Tensor:
    """``[B, B]`` bool: other rows whose cells are all the same."""
    flat = x["chars"].flatten(1)
    weights = torch.arange(1, flat.shape[1] + 1, device=flat.device)
    key = ((flat.long() + 1) * (weights * 0x9E3779B97F4A7C1 ^ 0x2545F4914F6CDD1D)).sum(dim=1)
    same = key[:, None] == key
    return same & ~torch.eye(len(flat), dtype=torch.bool, device=flat.device)


def _recalls(logits: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Shares of positives and negatives on the right side of 1/2."""
    hit = (logits > 0) == (label > 0.5)
    return {
        "accuracy_positives": (hit & (label > 0.5)).sum() / (label > 0.5).sum(),
        "accuracy_negatives": (hit & (label < 0.5)).sum() / (label < 0.5).sum(),
    }
