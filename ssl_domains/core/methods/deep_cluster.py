"""DeepCluster v2: every epoch, k-means over the embeddings of the last one gives the labels of the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.interfaces import Encoder, Source, Views, pretrain_rows
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.base import Objective, mean_terms
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.parts.kmeans import spherical_kmeans
from ssl_domains.core.parts.queue import MemoryBank
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


@method("deep_cluster")
class DeepClusterV2(Method):
    """DeepCluster v2 (Caron et al., NeurIPS 2020, appendix C): offline clustering with fixed centroids.

    A bank remembers the last embedding of every sample for each code view. Before an epoch each of the heads
    clusters one bank by spherical k-means; its centroids are the weights of a classifier without gradient,
    its clusters the labels of the samples in that epoch, which all views predict. The first banks are filled
    by a pass over the data.

    Args:
        encoder: the domain's encoder.
        objective: ``cross_entropy``.
        views: at least two; the code views first.
        projector: widths of the projector; ``[2048, 128]`` (the paper's).
        clusters: K of each head; ``[3000, 3000, 3000]`` (the paper's). A few times the number of expected
        groups
            is enough on small data.
        code_views: views whose embeddings are remembered.
        temperature: of the scores; 0.1 (the paper's).
        iterations: of k-means; 10 (the paper's).
    """

    assignments: Tensor

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        projector: Sequence[int] = (2048, 128),
        clusters: Sequence[int] = (3000, 3000, 3000),
        code_views: int = 2,
        temperature: float = 0.1,
        iterations: int = 10,
    ) -> None:
        super().__init__()
        if not clusters or min(clusters) < 2 or code_views < 1:
            raise ValueError("method.clusters must be numbers of at least 2, and code_views at least 1")
        self.encoder, self.objective, self.views = encoder, objective, views
        self.projector = mlp(encoder.pooled_width, projector)
        self.embedding_width = projector[-1] if projector else encoder.pooled_width
        self.clusters, self.code_views = tuple(clusters), min(code_views, views.n_views)
        self.temperature, self.iterations = temperature, iterations
        for i, k in enumerate(self.clusters):
            self.register_buffer(f"centroids{i}", F.normalize(torch.randn(k, self.embedding_width), dim=1))
        self.banks = nn.ModuleList()
        self._pending: list[tuple[Tensor, list[Tensor]]] = []

    def before_training(self, source: Source) -> None:
        """Makes the banks, as large as the data."""
        super().before_training(source)
        device = next(self.encoder.parameters()).device
        if not len(self.banks):
            self.banks.extend(
                MemoryBank(len(source), self.embedding_width, momentum=0.0) for _ in range(self.code_views)
            )
            self.banks.to(device)
            labels = torch.full((len(self.clusters), len(source)), -1, dtype=torch.int64, device=device)
            self.register_buffer("assignments", labels)

    @torch.no_grad()
    def before_epoch(self, source: Source, epoch: int) -> None:
        """Clusters the banks."""
        rows = pretrain_rows(source)
        index = torch.as_tensor(rows, device=self.assignments.device)
        if not bool(self._banks()[0].written[index].all()):
            self._fill(source, epoch)
        for i, k in enumerate(self.clusters):
            z = self._banks()[i % len(self.banks)].read(index)
            centroids, found = spherical_kmeans(z, min(k, len(z)), self.iterations, seed=epoch * 1000 + i)
            self.get_buffer(f"centroids{i}")[: len(centroids)] = centroids
            self.assignments[i, index] = found

    def _fill(self, source: Source, epoch: int) -> None:
        """The first embeddings, of one pass over the rows that training goes over."""
        rows, device = pretrain_rows(source), self.assignments.device
        step = len(rows) if source.full_batch else 256
        for start in range(0, len(rows), step):
            batch = source.fetch(rows[start : start + step]).to(device)
            views = self.views(batch, Draw(epoch, -1, batch.index))
            for bank, view in zip(self._banks(), views, strict=False):
                z = self.projector(self.encoder(view.x).pooled).float()
                bank.rows[batch.index] = F.normalize(z, dim=1)
                bank.written[batch.index] = True

    def _banks(self) -> list[MemoryBank]:
        return list(self.banks)  # type: ignore[arg-type]

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        encoded = [self.encoder(view.x) for view in views]
        z = [self.projector(e.pooled) for e in encoded]
        terms = mean_terms(
            self.objective(self._scores(v, i), self.assignments[i, batch.index])
            for i in range(len(self.clusters))
            for v in z
        )
        if self.training:
            self._pending.append((batch.index, [v.detach() for v in z[: self.code_views]]))
        return Output(terms.total, terms.parts, stages(encoded[0], projector=z[0]), terms.trivial)

    def _scores(self, z: Tensor, head: int) -> Tensor:
        centroids = self.get_buffer(f"centroids{head}")
        return F.linear(F.normalize(z.float(), dim=1), centroids) / self.temperature

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        for index, embeddings in self._pending:
            for bank, z in zip(self._banks(), embeddings, strict=True):
                bank.update(index, z)
        self._pending.clear()
