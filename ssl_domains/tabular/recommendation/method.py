"""Item recommendation by two towers, with a self-supervised task on items of the whole catalogue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Batch, Encoded, Output
from ssl_domains.core.collectives import gather_no_grad
from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.contrastive import InfoNCE
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.tabular.recommendation.frequency import StreamingFrequency
from ssl_domains.tabular.recommendation.spec import RecommendationSpec
from ssl_domains.tabular.recommendation.towers import TwoTower

CATALOGUE = "catalogue"
"""Key of ``Batch.meta`` under which a step's items of the second loader travel."""


@method("item_recommendation")
class ItemRecommendation(Method):
    """Self-supervised item recommendation (Yao et al., CIKM 2021, arXiv 2007.12865).

    ``L = L_main + alpha * L_self``. ``L_main`` is the batch softmax of users over the items of the
    batch (logged interactions), with the logarithm of an item's frequency taken off its logit:
    ``softmax(s(u, i) / t - ln q_i)`` (Yi et al., RecSys 2019). ``L_self`` is a one-sided InfoNCE
    between two masked views of items that a second loader draws UNIFORMLY from the catalogue, so
    items that nobody chose get gradient, too. Both on cosines; the item tower serves both.

    Args:
        encoder: ``two_tower``.
        objective: ``info_nce``, of the main loss; the self-supervised one is built alike.
        views: gives two views of items (``feature_masking``).
        spec: of the interactions.
        alpha: weight of the self-supervised loss; 0 is the plain two-tower model. The paper tunes
            it; default 0.3, ours.
        temperature: of the self-supervised loss; default that of the objective.
        item_batch: items a step of the second loader; default as many as interactions.
        items: where they come from: ``uniform``, the catalogue, or ``logged``, the items of the
            batch's own interactions (the paper's ablation, and worse on the tail).
        correction: frequencies for the batch softmax: ``counts`` of the training interactions
            (default: exact, and known here), ``streaming`` estimates (:class:`StreamingFrequency`;
            for interactions whose distribution drifts), or ``none``.
        rate: of the streaming estimate.
        mode: ``joint`` (the paper); ``pretrain_finetune``: first the self-supervised loss alone,
            then the main loss alone; ``pretrain``: the self-supervised loss alone.
        pretrain: share of the run that ``pretrain_finetune`` pretrains for.
        share: what the self-supervised task has in common with the item tower: ``all`` of it, or
            the ``embeddings``, with an MLP of its own.
        repeats: an item that stands in the batch more than once is to its users a negative
            (``keep``, as in the formula) or left out of their denominators (``remove``; wants
            ``objective.exclude_positives: true``).
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        spec: RecommendationSpec,
        alpha: float = 0.3,
        temperature: float | None = None,
        item_batch: int | None = None,
        items: Literal["uniform", "logged"] = "uniform",
        correction: Literal["counts", "streaming", "none"] = "counts",
        rate: float = 0.01,
        mode: Literal["joint", "pretrain_finetune", "pretrain"] = "joint",
        pretrain: float = 0.5,
        share: Literal["all", "embeddings"] = "all",
        repeats: Literal["keep", "remove"] = "keep",
    ) -> None:
        super().__init__()
        _check(encoder, objective, alpha, pretrain, item_batch, repeats)
        assert isinstance(encoder, TwoTower)
        assert isinstance(objective, InfoNCE)
        self.encoder: TwoTower = encoder
        self.objective, self.views = objective, views
        self.contrast = InfoNCE(temperature or objective.temperature, gather=objective.gather)
        self.alpha, self.item_batch, self.items = alpha, item_batch, items
        self.correction, self.mode, self.pretrain, self.repeats = correction, mode, pretrain, repeats
        self.embedding_width = encoder.width
        self.weights = (1.0, alpha) if mode == "joint" else (0.0, 1.0)
        item = encoder.towers["item"]
        self.own_head: nn.Module | None = item.head() if share == "embeddings" else None  # type: ignore[operator]
        n_items = len(spec.item.ids)
        self.frequency = StreamingFrequency(n_items, rate) if correction == "streaming" else None
        self.register_buffer("inverse", torch.ones(n_items), persistent=False)
        self._met: list[Tensor] = []

    def before_training(self, source: Source) -> None:
        """Mutual information, and the items' frequencies in training."""
        super().before_training(source)
        counts = getattr(source, "item_counts", None)
        if counts is not None and self.correction == "counts":
            chosen = torch.from_numpy(counts).clamp_min(1).to(torch.float32)
            self.inverse = (chosen.sum() / chosen).to(next(self.parameters()).device)

    def training_step(self, micro_batches: list[Batch], trainer: Any) -> Output:
        """The loop's step, with a second loader that draws items uniformly."""
        self.set_stage(trainer.progress())
        beside: list[Batch] = []
        if self.weights[1] and self.items == "uniform":
            catalogue = trainer.source.items
            size = self.item_batch or trainer.budget.batch_size
            beside = trainer.beside("items", catalogue, np.arange(len(catalogue)), size)
        if beside:
            micro_batches = [_with(batch, more) for batch, more in zip(micro_batches, beside, strict=True)]
        output: Output = trainer.accumulate(micro_batches)
        trainer.update()
        return output

    def set_stage(self, progress: Progress) -> None:
        """Weights of the main and of the self-supervised loss at this point of the run."""
        if self.mode == "pretrain_finetune":
            self.weights = (0.0, 1.0) if progress.fraction < self.pretrain else (1.0, 0.0)

    def forward(self, batch: Batch, draw: Draw) -> Output:
        terms: dict[str, Terms] = {}
        stages: dict[str, Tensor] = {}
        if self.weights[0]:
            user, item = (self.encoder({name: batch.x[name]}).pooled for name in ("user", "item"))
            terms["main"] = self._main(user, item, batch.meta["item"], draw.step)
            stages |= {"encoder": item.detach(), "user": user.detach()}
        if self.weights[1]:
            first, second = self._views(batch, draw)
            terms["self"] = self.contrast(first, second)
            stages |= {"masked item": first.detach()}
            stages.setdefault("encoder", second.detach())
        total = torch.stack([w * terms[name].total for name, w in self._weighted() if name in terms]).sum()
        parts = {f"{name}/{key}": value for name, t in terms.items() for key, value in t.parts.items()}
        parts |= {f"{name}/loss": t.total.detach() for name, t in terms.items()}
        trivial = next(iter(terms.values())).trivial if len(terms) == 1 else {}
        return Output(total, parts, stages, trivial)

    def _weighted(self) -> list[tuple[str, float]]:
        return list(zip(("main", "self"), self.weights, strict=True))

    def _main(self, user: Tensor, item: Tensor, index: Tensor, step: int) -> Terms:
        """The batch softmax; a pair weight ``1 / q_i`` is ``-ln q_i`` on the logit."""
        options: dict[str, Tensor] = {}
        joined = gather_no_grad(index) if self.objective.gather else index
        if self.frequency is not None:
            options["weights"] = self.frequency.weight(joined, step)[None]
            if self.training:
                self._met.append(joined)
        elif self.correction == "counts":
            options["weights"] = self.inverse[joined][None]
        if self.repeats == "remove":
            options["positive_ids"] = index
        terms: Terms = self.objective(user, item, **options)
        return terms

    def _views(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        """``[N, D]`` vectors of two masked views of the second loader's items, or of the batch's own."""
        found = batch.meta.get(CATALOGUE, {"x": {"item": batch.x["item"]}, "index": batch.meta["item"]})
        items = Batch(found["x"], found["index"])
        first, second = self.views(items, draw.fork("items").at(items.index))[:2]
        return self._vector(first.x), self._vector(second.x)

    def _vector(self, x: dict[str, Any]) -> Tensor:
        encoded: Encoded = self.encoder(x)
        if self.own_head is None:
            return encoded.pooled
        out: Tensor = self.own_head(encoded.tokens.values.flatten(1))
        return out

    def after_step(self, progress: Progress) -> None:
        """Streaming frequencies take in what the step has met."""
        super().after_step(progress)
        if self.frequency is not None and self._met:
            self.frequency.update(torch.cat(self._met), progress.step)
        self._met.clear()


def _with(batch: Batch, items: Batch) -> Batch:
    """The batch with a step's items of the second loader."""
    return replace(batch, meta={**batch.meta, CATALOGUE: {"x": items.x, "index": items.index}})


def _check(
    encoder: Encoder,
    objective: Objective,
    alpha: float,
    pretrain: float,
    item_batch: int | None,
    repeats: str,
) -> None:
    """Raises ValueError, one sentence, for what does not fit."""
    if not isinstance(encoder, TwoTower):
        raise ValueError("method 'item_recommendation' needs encoder 'two_tower'")
    if not isinstance(objective, InfoNCE) or not objective.in_batch or objective.symmetric or objective.intra:
        raise ValueError("method 'item_recommendation' needs a one-sided contrast: set objective: info_nce")
    if alpha < 0:
        raise ValueError(f"method.alpha must not be negative, got {alpha}")
    if not 0.0 < pretrain < 1.0:
        raise ValueError(
            f"method.pretrain is a share of the run and must lie between 0 and 1, got {pretrain}"
        )
    if item_batch is not None and item_batch < 2:
        raise ValueError(f"method.item_batch must be at least 2, got {item_batch}")
    if repeats == "remove" and objective.form != "own":
        raise ValueError("method.repeats: remove needs objective.exclude_positives: true")
