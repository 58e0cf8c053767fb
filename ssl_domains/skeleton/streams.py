"""Momentum contrast on several streams of a skeleton, with mutual distillation between them."""

from __future__ import annotations

from itertools import permutations
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.collectives import all_reduce_mean
from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.methods.halp import HaLP
from ssl_domains.core.objectives.base import Objective, mean_terms
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


def mutual_distillation(
    query: Tensor,
    key: Tensor,
    student_queue: Tensor,
    teacher_queue: Tensor,
    *,
    top_k: int = 8192,
    teacher_temperature: float = 0.05,
    student_temperature: float = 0.1,
    chunk: int = 512,
) -> Tensor:
    """``KL(softmax(top-k(key . teacher_queue) / 0.05) || softmax((query . student_queue)[same] / 0.1))``,
    mean over the batch: how alike a sample is to its neighbours in the teacher's stream, told to the
    student's (CMD, Mao et al., ECCV 2022, section 3.3).

    Args:
        query: ``[B, D]`` unit vectors of the student's stream.
        key: ``[B, D]`` unit vectors of the teacher's stream; no gradient.
        student_queue: ``[K, D]``; row k is the same sample as row k of ``teacher_queue``.
        teacher_queue: ``[K, D]``.
        top_k: neighbours, at most K.
        teacher_temperature: default 0.05.
        student_temperature: default 0.1.
        chunk: rows at a time.
    """
    total = query.new_zeros(())
    for q, k in zip(query.split(chunk), key.detach().split(chunk)):
        with torch.no_grad():
            best, at = (k @ teacher_queue.T).topk(min(top_k, len(teacher_queue)), dim=1)
            target = F.softmax(best / teacher_temperature, dim=1)
        logits = (q @ student_queue.T).gather(1, at) / student_temperature
        total = total + F.kl_div(F.log_softmax(logits, dim=1), target, reduction="sum")
    return total / len(query)


@method("stream_contrast")
class StreamContrast(Method):
    """MoCo or HaLP on every stream, and mutual distillation between streams: CMD, three-stream HaLP.

    Every branch of the encoder ``multi_stream`` has a projector, an EMA teacher, a queue and prototypes of
    its own, as :class:`~ssl_domains.core.methods.halp.HaLP` has them; all see the same views. Their losses
    are summed, and for each ordered pair of streams :func:`mutual_distillation` is added. With ``mu: 0``
    this is CMD. Queues stay aligned, since all streams push the same samples at the same time.

    Args:
        encoder: ``multi_stream``.
        objective: as for ``halp``; shared by the streams.
        views: two views.
        mu: weight of each stream's HaLP term. Default 2.
        cross: weight of the mutual distillation. Default 1; 0: streams learn apart.
        top_k: neighbours in it. Default 8192, at most the queue's size.
        teacher_temperature: default 0.05 (CMD).
        student_temperature: default 0.1 (CMD).
        options: those of ``halp``.

    Raises:
        ValueError: an encoder of one stream, or an option out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        mu: float = 2.0,
        cross: float = 1.0,
        top_k: int = 8192,
        teacher_temperature: float = 0.05,
        student_temperature: float = 0.1,
        positives: int = 100,
        spread: float | None = 0.8,
        prototypes: int = 20,
        recent: int = 256,
        refresh: int = 10,
        from_epoch: int = 0,
        projector: tuple[int, ...] = (2048, 128),
        projector_norm: str = "none",
        queue_size: int = 16384,
        momentum: float | tuple[float, float] = 0.999,
    ) -> None:
        super().__init__()
        branches = getattr(encoder, "branches", None)
        if branches is None:
            raise ValueError("method stream_contrast wants several streams; use encoder: multi_stream")
        if cross < 0 or top_k < 1 or not min(teacher_temperature, student_temperature) > 0:
            raise ValueError("method.cross cannot be negative, top_k at least 1, temperatures above 0")
        options: dict[str, Any] = {
            "mu": mu, "positives": positives, "spread": spread, "prototypes": prototypes, "recent": recent,
            "refresh": refresh, "from_epoch": from_epoch, "projector": projector,
            "projector_norm": projector_norm, "queue_size": queue_size, "momentum": momentum,
        }  # fmt: skip
        self.objective, self.views, self.cross = objective, views, cross
        self.streams = nn.ModuleList(HaLP(branch, objective, views, **options) for branch in branches)
        # The same modules are the streams' encoders; held twice, a checkpoint would hold them twice.
        object.__setattr__(self, "_joined", [encoder])
        self.embedding_width = int(projector[-1]) if projector else encoder.pooled_width
        self.names = [str(name) for name in getattr(encoder, "streams", range(len(branches)))]
        self.distil = {"top_k": top_k, "teacher_temperature": teacher_temperature,
                       "student_temperature": student_temperature}  # fmt: skip

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """The encoder of all streams."""
        return cast(Encoder, cast(Any, self._joined)[0])

    def _each(self) -> list[HaLP]:
        return [cast(HaLP, stream) for stream in self.streams]

    def before_training(self, source: Source) -> None:
        self.views.prepare(source)

    def before_epoch(self, source: Source, epoch: int) -> None:
        for stream in self._each():
            stream.before_epoch(source, epoch)

    def restarts(self) -> list[int]:
        """Those of the streams."""
        return sorted({epoch for stream in self._each() for epoch in stream.restarts()})

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))[:2]
        queries, keys, terms = [], [], []
        seen: dict[str, Tensor] = {}
        for name, stream in zip(self.names, self._each(), strict=True):
            own = draw.fork(name)
            stream.refresh_prototypes(own)
            encoded, query = stream._student(views[0])
            key = stream._teacher(views[1])
            terms.append(stream._contrast(query, key, batch.index, own))
            seen |= {f"{k}_{name}": v for k, v in stages(encoded, projector=query, teacher=key).items()}
            queries.append(F.normalize(query.float(), dim=1))
            keys.append(F.normalize(key.float(), dim=1))
            if self.training:
                stream._pending.append((keys[-1], batch.index))
        total = torch.stack([t.total for t in terms]).sum()
        parts = {
            f"{k}_{n}": v
            for n, t in zip(self.names, terms)
            for k, v in t.parts.items()
            if k in ("accuracy", "accepted", "latent")
        }
        parts["contrast"] = mean_terms([t._replace(parts={}) for t in terms]).total.detach()
        if self.cross:
            pull = self._cross(queries, keys)
            total = total + self.cross * pull
            parts["cross"] = pull.detach()
        return Output(total, parts, seen)

    def _cross(self, queries: list[Tensor], keys: list[Tensor]) -> Tensor:
        """Sum over ordered pairs of streams, mean over the batches of all processes."""
        banks = [cast(Any, s.queue).keys for s in self._each()]
        with torch.autocast(queries[0].device.type, enabled=False):
            pulls = [
                mutual_distillation(queries[b], keys[a], banks[b], banks[a], **self.distil)  # type: ignore[arg-type]
                for a, b in permutations(range(len(queries)), 2)
            ]
        return all_reduce_mean(torch.stack(pulls).sum())

    def after_step(self, progress: Progress) -> None:
        for stream in self._each():
            stream.after_step(progress)
