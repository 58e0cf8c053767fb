"""Cluster prediction: views predict one another's balanced assignment to prototypes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.collectives import rank, world_size
from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.parts.prototypes import Prototypes
from ssl_domains.core.parts.queue import Queue
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("cluster_prediction")
class ClusterPrediction(Method):
    """SwAV (NeurIPS 2020): online clustering with swapped prediction, multi-crop included.

    The objective's first ``code_views`` views give assignments, each with a queue of its own;
    all views predict them, so small local crops come last.

    Args:
        encoder: the domain's encoder.
        objective: ``swav``.
        views: at least two; the code views first.
        projector: widths of the projector; ``[2048, 128]`` (the paper's).
        prototypes: K; 3,000 (the paper's). A few times the number of expected groups is enough
            on small data.
        freeze_prototypes_epochs: epochs at the start in which prototypes stay as they are; 1.
        queue_size: past embeddings of each view that join the assignment (3,840 in the
            paper's small-batch runs, from epoch 15); 0: none.
        queue_from_epoch: first epoch that uses the queue.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        projector: Sequence[int] = (2048, 128),
        prototypes: int = 3000,
        freeze_prototypes_epochs: int = 1,
        queue_size: int = 0,
        queue_from_epoch: int = 15,
    ) -> None:
        super().__init__()
        self.encoder, self.objective, self.views = encoder, objective, views
        self.projector = mlp(encoder.pooled_width, projector)
        width = projector[-1] if projector else encoder.pooled_width
        self.embedding_width = width
        self.prototypes = Prototypes(width, prototypes)
        self.freeze_epochs, self.queue_from = freeze_prototypes_epochs, queue_from_epoch
        self.code_views = int(getattr(objective, "code_views", 2))
        self.queues = nn.ModuleList(
            Queue(queue_size, width) for _ in range(self.code_views if queue_size else 0)
        )
        self.epoch = 0
        self._pending: list[tuple[list[Tensor], Tensor]] = []

    def before_epoch(self, source: Source, epoch: int) -> None:
        self.epoch = epoch

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        encoded = [self.encoder(view.x) for view in views]
        z = [self.projector(e.pooled) for e in encoded]
        frozen = self.epoch < self.freeze_epochs
        scores = [self.prototypes(v, frozen=frozen) for v in z]
        terms = self.objective(scores, queue_scores=self._queue_scores())
        if len(self.queues) and self.training:
            self._pending.append(
                ([F.normalize(v.detach(), dim=1) for v in z[: self.code_views]], batch.index)
            )
        seen = stages(encoded[0], projector=z[0])
        return Output(terms.total, terms.parts, seen, terms.trivial)

    @torch.no_grad()
    def _queue_scores(self) -> list[Tensor] | None:
        """For each queue the scores of this process's share: all hold the same queue, and the assignment
        joins the rows of all."""
        if not len(self.queues) or self.epoch < self.queue_from:
            return None
        shares = [queue.get_buffer("keys").tensor_split(world_size())[rank()] for queue in self.queues]
        return [self.prototypes(share) for share in shares]

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        for keys, index in self._pending:
            for queue, view_keys in zip(self.queues, keys, strict=True):
                queue.push(view_keys, index)  # type: ignore[operator]
        self._pending.clear()
