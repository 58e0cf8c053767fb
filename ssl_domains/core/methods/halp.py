"""HaLP: momentum contrast with positives that are made in the embedding space."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.collectives import all_reduce_sum, world_size
from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.methods.base import Progress
from ssl_domains.core.methods.momentum_contrast import MomentumContrast
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.parts.latent_positives import latent_positives
from ssl_domains.core.parts.spherical_kmeans import spherical_kmeans
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("halp")
class HaLP(MomentumContrast):
    """MoCo pulled towards hallucinated positives between prototypes (Shah et al., HaLP, CVPR 2023).

    ``L = L_MoCo + mu * L_h`` with ``L_h = - mean over the kept (i, m) of q_i . z_im / temperature``, with the
    objective's temperature. There are no negatives in it, and only the query has a gradient. The positives
    z are made from the keys: :func:`~ssl_domains.core.parts.latent_positives.latent_positives`. Prototypes
    are the centroids of a spherical k-means on the newest entries of the queue.

    The term starts when the queue has been filled twice, since prototypes of a cold queue mean nothing; a
    run that starts from a trained queue (``fork`` of a MoCo run, or ``init_from``) has it at once. The
    paper always starts so: MoCo for 200 epochs, then HaLP with the optimizer's state kept. Weights and
    checkpoints fit those of ``momentum_contrast`` with the same options.

    Args:
        encoder: the student encoder.
        objective: an InfoNCE with a fixed temperature; ``moco`` of 0.07 in the paper.
        views: the first is the query, the second the key.
        mu: weight of the term. Default 2 (NTU-60; 1 on PKU-MMD II). 0 is MoCo.
        positives: M, latent positives a key. Default 100.
        spread: lambda; steps are uniform in [(1 - lambda), 1] of the largest. Default 0.8; null: the largest,
            less 0.01.
        prototypes: number of prototypes. Default 20, from ``recent`` = 256 entries of the queue, fitted
            anew every ``refresh`` = 10 steps: the paper's.
        recent: newest entries of the queue that prototypes are fitted on.
        refresh: steps between two fits.
        from_epoch: first epoch with the term; before, the run is MoCo. Default 0; 200 of 450 on NTU-60.
        options: those of ``momentum_contrast``; the paper's are ``projector: [2048, 128]``,
            ``projector_norm: none``, ``queue_size: 16384``, ``momentum: 0.999``.

    Parts are the objective's, ``latent`` (L_h) and ``accepted`` (share of latent positives that pass the
    filter).

    Raises:
        ValueError: an option out of range, no queue, or fewer entries in it than prototypes.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        mu: float = 2.0,
        positives: int = 100,
        spread: float | None = 0.8,
        prototypes: int = 20,
        recent: int = 256,
        refresh: int = 10,
        from_epoch: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(encoder, objective, views, **options)
        if self.queue is None:
            raise ValueError("method halp fits its prototypes on the queue; set method.queue_size above 0")
        if min(mu, from_epoch) < 0 or positives < 1 or refresh < 1 or prototypes < 2:
            raise ValueError(
                "method.mu and from_epoch must be 0 or more, positives and refresh 1 or more, prototypes 2"
            )
        if spread is not None and not 0.0 <= spread <= 1.0:
            raise ValueError(f"method.spread must lie in [0, 1], got {spread}")
        recent = min(recent, self.queue.size)
        if recent < prototypes:
            raise ValueError(
                f"method.prototypes {prototypes} need as many entries of the queue, there are {recent}"
            )
        if not isinstance(getattr(objective, "temperature", None), float):
            raise ValueError("method halp wants an objective with a fixed temperature, such as moco")
        if (
            getattr(objective, "learn_temperature", False)
            or getattr(objective, "log_scale", None) is not None
        ):
            raise ValueError(
                "method halp wants an objective with a fixed temperature; set learn_temperature: false"
            )
        self.mu, self.positives, self.spread = mu, positives, spread
        self.n_prototypes, self.recent, self.refresh = prototypes, recent, refresh
        self.from_epoch, self.epoch = from_epoch, 0
        self.centroids: Tensor | None = None
        self.seen, self.fitted_at = 0, -1

    # Prototypes are no buffers: the weights of a MoCo run have to fit.
    def get_extra_state(self) -> dict[str, Any]:
        """What a resumed run needs beside the weights."""
        state: dict[str, Any] = {"seen": self.seen, "fitted_at": self.fitted_at}
        return state if self.centroids is None else state | {"centroids": self.centroids}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes :meth:`get_extra_state` back."""
        self.seen, self.fitted_at = int(state["seen"]), int(state["fitted_at"])
        self.centroids = state.get("centroids")

    def before_epoch(self, source: Source, epoch: int) -> None:
        super().before_epoch(source, epoch)
        self.epoch = epoch

    def forward(self, batch: Batch, draw: Draw) -> Output:
        self.refresh_prototypes(draw)
        return super().forward(batch, draw)

    def refresh_prototypes(self, draw: Draw) -> None:
        """Fits the prototypes on the queue as it is before this batch, the same on every process."""
        assert self.queue is not None
        if not self.training or not self.mu or self.epoch < self.from_epoch:
            return
        if self.seen == 0 and bool((self.queue.index >= 0).all()):
            self.seen = 2 * self.queue.size + 1  # a trained queue came with the weights
        warm = self.seen > 2 * self.queue.size
        if not warm or (self.centroids is not None and draw.step - self.fitted_at < self.refresh):
            return
        rows = torch.arange(self.recent, device=self.queue.keys.device)
        own = Draw(draw.seed, draw.step, rows).fork("prototypes")
        self.centroids = spherical_kmeans(self.queue.newest(self.recent), self.n_prototypes, own)
        self.fitted_at = draw.step

    def _contrast(self, query: Tensor, key: Tensor, index: Tensor, draw: Draw) -> Terms:
        terms = super()._contrast(query, key, index, draw)
        if self.centroids is None or not self.mu or self.epoch < self.from_epoch:
            return terms
        latent, accepted = self._latent(query, key, draw.fork("latent positives"))
        parts = terms.parts | {"latent": latent.detach(), "accepted": accepted}
        assert self.queue is not None
        point = math.log(1 + self.queue.size) - self.mu / float(self.objective.temperature)  # type: ignore[arg-type]
        return Terms(terms.total + self.mu * latent, parts, {"uniform": point})  # when all vectors are one

    def _latent(self, query: Tensor, key: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """L_h and the accepted share, over the batches of all processes."""
        assert self.centroids is not None
        with torch.autocast(query.device.type, enabled=False):
            wide = torch.promote_types(query.dtype, torch.float32)
            query, key = F.normalize(query.to(wide), dim=1), F.normalize(key.detach().to(wide), dim=1)
            self.centroids = self.centroids.to(key.device)
            made = latent_positives(key, self.centroids, draw, count=self.positives, spread=self.spread)
            weight = made.kept.to(wide)
            pull = (made.values * weight[..., None]).sum(dim=1)  # [B, D]: one product a query instead of M
            cosines = (query * pull).sum()
            sums = all_reduce_sum(
                torch.stack([cosines, weight.sum(), torch.ones_like(cosines) * weight.numel()])
            )
            temperature = float(self.objective.temperature)  # type: ignore[arg-type]
            loss = -sums[0] / (sums[1].detach() + 1e-8) / temperature
            return loss, (sums[1] / sums[2]).detach()

    def after_step(self, progress: Progress) -> None:
        self.seen += sum(len(keys) for keys, _ in self._pending) * world_size()
        super().after_step(progress)
