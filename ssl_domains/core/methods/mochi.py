"""MoCHi: momentum contrast with synthetic hard negatives."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.collectives import all_reduce_mean, gather_no_grad
from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.methods.momentum_contrast import MomentumContrast
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.parts.hard_negatives import MixedNegatives, mix_hard_negatives
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("mochi")
class MoCHi(MomentumContrast):
    """MoCo with mixtures of the hardest negatives as further negatives (Kalantidis et al., NeurIPS 2020).

    For every query the N most similar entries of the queue are mixed with each other (s times) and
    with the query (s' times, the query with a share below one half); all real negatives stay. The
    mixtures are constants: the query's gradient goes through its product with them only. They
    are never stored. MoCHi(N, s, s') of the paper is ``hardest, pairs, with_query``.

    Without a queue (``queue_size: 0``) the pool is the batch's other keys, of all processes.

    Args:
        encoder: the student encoder.
        objective: an InfoNCE; ``moco`` of temperature 0.2 (MoCo v2), or without a queue ``info_nce``.
        views: the first is the query, the second the key.
        hardest: N, at most the queue's size; 1024.
        pairs: s, mixtures of two hard negatives; 1024.
        with_query: s', mixtures with the query; 128.
        from_epoch: first epoch with synthetic negatives. Default 10, the paper's for ImageNet-100
            in 200 epochs (recalled from re-implementations): before, the queue holds noise.
        options: those of ``momentum_contrast``.

    Besides the objective's, parts are ``accuracy_real`` (the positive ranks before all REAL
    negatives) and the mean cosines of the query with its hardest negatives and either mixture.

    Source: arXiv 2010.01028, section 3. That the query inside a mixture gets no gradient, and
    that the two of a pair differ, is not said in the paper; re-implementations detach it.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        hardest: int = 1024,
        pairs: int = 1024,
        with_query: int = 128,
        from_epoch: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(encoder, objective, views, **options)
        for name, value in {"pairs": pairs, "with_query": with_query, "from_epoch": from_epoch}.items():
            if value < 0:
                raise ValueError(f"method.{name} must not be negative, got {value}")
        limit = None if self.queue is None else self.queue.size
        if hardest < 1 or (limit is not None and hardest > limit):
            raise ValueError(f"method.hardest must lie between 1 and queue_size ({limit}), got {hardest}")
        self.hardest, self.pairs, self.with_query = hardest, pairs, with_query
        self.from_epoch, self.epoch = from_epoch, 0

    def before_epoch(self, source: Source, epoch: int) -> None:
        super().before_epoch(source, epoch)
        self.epoch = epoch

    def _contrast(self, query: Tensor, key: Tensor, index: Tensor, draw: Draw) -> Terms:
        if self.epoch < self.from_epoch or not self.pairs + self.with_query:
            return super()._contrast(query, key, index, draw)
        if self.queue is None:
            pool, owner = gather_no_grad(F.normalize(key, dim=1)), gather_no_grad(index)
        else:
            pool, owner = self.queue.keys, self.queue.index
        own = owner[None, :] == index[:, None]
        mixed = mix_hard_negatives(
            query, pool, draw.fork("mochi"),
            hardest=self.hardest, pairs=self.pairs, with_query=self.with_query, exclude=own,
        )  # fmt: skip
        facts = self._facts(query, key, mixed)
        if self.queue is None:
            terms = self.objective(query, key, query_negatives=mixed.values)
            return Terms(terms.total, terms.parts | facts, terms.trivial)
        terms = self.objective(query, key, negatives=pool, query_negatives=mixed.values, ignore_mask=own)
        uniform = math.log(1 + len(pool) + self.pairs + self.with_query)
        return Terms(terms.total, terms.parts | facts, {"uniform": uniform})

    @torch.no_grad()
    def _facts(self, query: Tensor, key: Tensor, mixed: MixedNegatives) -> dict[str, Tensor]:
        """Accuracy over real negatives, and how similar each kind is."""
        query, key = F.normalize(query.float(), dim=1), F.normalize(key.float(), dim=1)
        positive = (query * key).sum(dim=1)
        cosine = torch.bmm(mixed.values, query[:, :, None])[..., 0]  # [B, s + s']
        parts = {
            "accuracy_real": (positive > mixed.similarity[:, 0]).float().mean(),
            "cosine_hardest": mixed.similarity.clamp_min(-1.0).mean(),
        }
        if self.pairs:
            parts["cosine_pairs"] = cosine[:, : self.pairs].mean()
        if self.with_query:
            parts["cosine_with_query"] = cosine[:, self.pairs :].mean()
        return {name: all_reduce_mean(value) for name, value in parts.items()}

    def check(self, *, batch_size: int, n_samples: int | None) -> list[str]:
        problems = super().check(batch_size=batch_size, n_samples=n_samples)
        if self.queue is None and self.hardest > batch_size:
            problems.append(
                f"method 'mochi' without a queue takes its {self.hardest} hardest negatives from the batch, "
                f"and batch_size is {batch_size}; lower method.hardest, or set method.queue_size"
            )
        return problems
