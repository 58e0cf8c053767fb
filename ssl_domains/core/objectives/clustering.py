"""SwAV, and Sinkhorn's balanced assignment over the global batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.collectives import all_reduce_sum, world_size
from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.numerics import at_least_float32, full_precision, global_mean, positive
from ssl_domains.core.registry import objective


@objective("swav")
class SwAV(Objective):
    """Swapped prediction: each view predicts the balanced cluster codes of the others.

    For every view i that gives codes, ``q_i = sinkhorn(scores_i)`` without gradient; the loss
    is the mean over i and over all views ``v != i`` of ``-sum_k q_i log softmax(scores_v / t)``.

    Source: Caron et al. 2020 (arXiv 2006.09882), eq. 2 to 5, and its official code.

    Args:
        temperature: t. Default 0.1.
        epsilon: Sinkhorn's entropy weight; larger is softer. Default 0.05.
        iterations: Sinkhorn iterations, at least 1. Default 3.
        code_views: the first so many views give codes (the global crops). Default 2.

    Trivial value "uniform": ``ln K``, all scores alike.

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(
        self, temperature: float = 0.1, epsilon: float = 0.05, iterations: int = 3, code_views: int = 2
    ) -> None:
        super().__init__()
        positive(
            "swav", temperature=temperature, epsilon=epsilon, iterations=iterations, code_views=code_views
        )
        self.temperature, self.epsilon = temperature, epsilon
        self.iterations, self.code_views = iterations, code_views

    def forward(self, scores: Sequence[Tensor], queue_scores: Sequence[Tensor] | None = None) -> Terms:
        """Loss of the global batch.

        Args:
            scores: for each view ``[B, K]``, cosines between embeddings and prototypes; rows
                aligned over the views.
            queue_scores: for each code view ``[Q, K]``, scores of queued embeddings with the
                present prototypes; they only help to balance the codes. None without queue. With
                several processes each gives another share of the queued rows.

        Returns:
            Terms with parts ``code_entropy`` and ``used_prototypes`` (perplexity of the mean
            code, from 1 to K).

        Raises:
            ValueError: fewer than two views, or queues that do not match the code views.
        """
        coded = min(self.code_views, len(scores))
        if len(scores) < 2 or (queue_scores is not None and len(queue_scores) != coded):
            queues = "no" if queue_scores is None else len(queue_scores)
            raise ValueError(
                f"swav: needs two views or more and a queue per code view, got {len(scores)} and {queues}"
            )
        with full_precision(scores[0].device):
            codes = [self._codes(scores[i], queue_scores[i] if queue_scores else None) for i in range(coded)]
            logs = [F.log_softmax(at_least_float32(s) / self.temperature, dim=1) for s in scores]
            pairs = [-(q * logs[v]).sum(1) for i, q in enumerate(codes) for v in range(len(scores)) if v != i]
            total = global_mean(torch.cat(pairs))
            parts = _code_statistics(torch.cat(codes))
        return Terms(total, parts, {"uniform": math.log(scores[0].shape[1])})

    @torch.no_grad()
    def _codes(self, scores: Tensor, queue: Tensor | None) -> Tensor:
        joined = scores if queue is None else torch.cat([scores, queue.to(scores.dtype)])
        return sinkhorn(joined, self.epsilon, self.iterations)[: len(scores)]

    def remedies(self) -> dict[str, str]:
        settings = f"epsilon {self.epsilon:g}, temperature {self.temperature:g}"
        cause = f"codes are uniform, or not predicted ({settings})"
        point = "all samples are as near to every prototype; lower the learning rate, or use fewer prototypes"
        return {
            "uniform": f"{cause}; lower objective.epsilon (0.05), the temperature, or the learning rate",
            "point": point,
            "line": point,
        }

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        problems = []
        if views < 2:
            problems.append(
                f"objective 'swav' predicts one view's code from another, got {views}; set views to 2"
            )
        if batch_size < 2:
            problems.append(
                f"objective 'swav' balances codes over the batch, and batch_size is {batch_size}; "
                "use at least 2"
            )
        return problems


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Balanced soft assignment of the global batch's rows to K prototypes.

    Alternately scales ``exp(scores / epsilon)`` so that prototypes hold equal mass and rows
    sum to 1, ending with the rows. In the log domain, so that no score overflows or loses all
    its digits, in at least float32. Processes may hold different numbers of rows.

    Args:
        scores: ``[B, K]``.
        epsilon: temperature of the assignment. Default 0.05.
        iterations: at least 1; prototypes get equal mass only in the limit. Default 3.

    Returns:
        ``[B, K]``, rows summing to 1, without gradient.

    Raises:
        UserError: epsilon not above 0, or fewer than 1 iteration.
    """
    if not epsilon > 0 or iterations < 1:
        raise UserError(
            f"sinkhorn: needs epsilon above 0 and iterations of at least 1, got {epsilon}, {iterations}"
        )
    logs = at_least_float32(scores.detach()) / epsilon
    for _ in range(iterations):
        logs = logs - _global_logsumexp(logs)
        logs = F.log_softmax(logs, dim=1)
    return logs.exp()


def _global_logsumexp(logs: Tensor) -> Tensor:
    """``logsumexp`` over the rows of all processes, ``[K]``."""
    rows = len(logs)
    top = logs.amax(dim=0) if rows else logs.new_full((logs.shape[1],), -math.inf)
    if world_size() > 1:
        dist.all_reduce(top, op=dist.ReduceOp.MAX)
    return top + all_reduce_sum((logs - top).exp().sum(dim=0)).log()


@torch.no_grad()
def _code_statistics(codes: Tensor) -> dict[str, Tensor]:
    """Mean entropy of the codes, and the perplexity of the mean code, over all processes."""
    mass = all_reduce_sum(codes.sum(dim=0))
    share = mass / mass.sum().clamp_min(1e-12)
    return {
        "code_entropy": global_mean(torch.special.entr(codes).sum(dim=1)),
        "used_prototypes": torch.special.entr(share).sum().exp(),
    }
