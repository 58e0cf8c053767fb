"""Momentum contrast: keys of an EMA teacher, negatives from a queue."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Encoded, Output, View
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import momentum_ramp, stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.base import Objective, Terms, mean_terms
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.parts.queue import Queue
from ssl_domains.core.parts.teacher import Teacher
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("momentum_contrast")
class MomentumContrast(Method):
    """Keys of an EMA teacher, negatives from a queue: MoCo (CVPR 2020), v2 and v3.

    v3 is ``queue_size: 0``, ``symmetric: true`` and a predictor.

    Args:
        encoder: the student encoder.
        objective: an InfoNCE that takes ``negatives [K, D]`` when there is a queue.
        views: the first is the query, the second the key (both ways if ``symmetric``).
        projector: widths of the projector; ``[2048, 128]`` as MoCo v2.
        predictor: hidden widths of the predictor on the query side (v3); empty: none.
        queue_size: K, default 65,536 (the paper's). 0: negatives are the batch's other keys.
        momentum: EMA momentum, one number (0.999, the paper's) or ``[start, end]`` (cosine).
        symmetric: also use the second view as query.
        projector_norm: ``batch`` (v3), or ``none`` (v2's projector, and that of HaLP and CMD).
        last_norm: projector and predictor end in a batch norm without scale (v3).

    A row of the queue that holds the query's own sample (a short data set comes round before
    the queue does) is not counted as its negative. The papers' shuffling of batch norm is not
    needed: heads normalise over the global batch and the keys' statistics are the teacher's own.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        projector: Sequence[int] = (2048, 128),
        predictor: Sequence[int] = (),
        queue_size: int = 65536,
        momentum: float | tuple[float, float] = 0.999,
        symmetric: bool = False,
        projector_norm: str = "batch",
        last_norm: bool = False,
    ) -> None:
        super().__init__()
        if projector_norm not in ("batch", "layer", "none"):
            raise ValueError(f"method.projector_norm must be batch, layer or none, got {projector_norm!r}")
        self.encoder, self.objective, self.views = encoder, objective, views
        self.projector = mlp(encoder.pooled_width, projector, norm=projector_norm, last_norm=last_norm)  # type: ignore[arg-type]
        self.embedding_width = projector[-1] if projector else encoder.pooled_width
        self.predictor: nn.Module | None = None
        if predictor:
            self.predictor = mlp(
                self.embedding_width, [*predictor, self.embedding_width], last_norm=last_norm
            )
        self.teacher_encoder = Teacher(encoder)
        self.teacher_projector = Teacher(self.projector)
        self.queue = Queue(queue_size, self.embedding_width) if queue_size else None
        self.momentum = momentum_ramp(momentum, "cosine")
        self.symmetric = symmetric
        self._pending: list[tuple[Tensor, Tensor]] = []

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        encoded, query = self._student(views[0])
        key = self._teacher(views[1])
        terms = [self._contrast(query, key, batch.index, draw)]
        if self.symmetric:
            other, its_key = self._student(views[1])[1], self._teacher(views[0])
            terms.append(self._contrast(other, its_key, batch.index, draw.fork("other view")))
        if self.queue is not None and self.training:
            self._pending.append((F.normalize(key, dim=1), batch.index))
        total = mean_terms(terms)
        trivial = total.trivial
        if self.queue is not None and not trivial:  # the few own rows that are left out do not matter
            trivial = {"uniform": math.log(1 + self.queue.size)}
        return Output(total.total, total.parts, stages(encoded, projector=query, teacher=key), trivial)

    def _student(self, view: View) -> tuple[Encoded, Tensor]:
        encoded = self.encoder(view.x)
        z = self.projector(encoded.pooled)
        return encoded, z if self.predictor is None else self.predictor(z)

    @torch.no_grad()
    def _teacher(self, view: View) -> Tensor:
        return self.teacher_projector(self.teacher_encoder(view.x).pooled)

    def _contrast(self, query: Tensor, key: Tensor, index: Tensor, draw: Draw) -> Terms:
        """The loss of one direction; ``draw`` is for methods that make negatives of their own."""
        if self.queue is None:
            return self.objective(query, key)
        own = self.queue.index[None, :] == index[:, None]
        return self.objective(query, key, negatives=self.queue.keys, ignore_mask=own)

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        momentum = self.momentum.value(progress.fraction)
        self.teacher_encoder.update(self.encoder, momentum)
        self.teacher_projector.update(self.projector, momentum)
        for keys, index in self._pending:
            assert self.queue is not None
            self.queue.push(keys, index)
        self._pending.clear()
