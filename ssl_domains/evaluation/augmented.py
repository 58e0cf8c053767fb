"""A linear probe on augmented training samples, as image papers report it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core import registry
from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import register
from ssl_domains.evaluation.data import LabelledRows, Prediction
from ssl_domains.evaluation.embeddings import extract, frozen, to_device
from ssl_domains.evaluation.probes import Probe
from ssl_domains.evaluation.targets import Targets


@register("probe", "linear_augmented")
class LinearAugmentedProbe(Probe):
    """A linear layer by SGD on a frozen encoder, each epoch on freshly augmented training samples.

    The customary protocol of image papers (MoCo, SimSiam, Barlow Twins): random crops and mirroring for
    training, plain samples for the test. Features are standardised by the plain training samples; the
    learning rate falls along a cosine to 0.

    Args:
        views: whose first view of a sample is seen.
        options: of the views; None: crops and mirroring alone, for ``image_augment``.
        epochs: passes over the training samples (100 in the papers).
        lr: for 256 samples a step; scaled with ``batch_size``.
        momentum: of SGD.
        batch_size: samples a step.
        device: see :func:`~ssl_domains.evaluation.embeddings.extract`.
    """

    draws = "augmentations and head initialisations"
    tunes_encoder = True

    def __init__(
        self,
        views: str = "image_augment",
        options: Mapping[str, Any] | None = None,
        epochs: int = 30,
        lr: float = 0.1,
        momentum: float = 0.9,
        batch_size: int = 256,
        device: str = "auto",
    ) -> None:
        if epochs < 1 or batch_size < 1 or not lr > 0 or not 0 <= momentum < 1:
            raise ValueError("epochs and batch_size must be at least 1, lr above 0, momentum in [0, 1)")
        default = {"family": "crop_flip", "n_views": 1} if views == "image_augment" else {}
        self.views, self.options = views, default if options is None else dict(options)
        self.epochs, self.lr, self.momentum = epochs, lr, momentum
        self.batch_size, self.device = batch_size, device

    def predict_encoder(
        self, encoder: Encoder, source: Source, labelled: LabelledRows, seed: int
    ) -> Prediction:
        """Trains the layer on the train rows and predicts the test rows."""
        views = self._views(source)
        plain = {
            split: torch.from_numpy(extract(encoder, source, labelled.rows[split], device=self.device))
            for split in ("train", "test")
        }
        mean, std = plain["train"].mean(dim=0), plain["train"].std(dim=0).clamp_min(1e-6)
        train_y = labelled.labels[labelled.rows["train"]]
        targets = Targets.of(train_y, labelled.task, labelled.n_classes)
        with frozen(encoder, self.device) as (model, where), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Linear(plain["train"].shape[1], targets.width).to(where)
            mean, std = mean.to(where), std.to(where)
            self._train(head, model, source, views, labelled, targets, mean, std, seed, where)
            with torch.no_grad():
                out = head((plain["test"].to(where) - mean) / std).float().cpu()
        return targets.prediction(out, labelled.labels[labelled.rows["test"]])

    def _views(self, source: Source) -> Views:
        cls = registry.get("views", self.views)
        given = {"spec": source.spec} if "spec" in inspect.signature(cls).parameters else {}
        views: Views = cls(**given, **self.options)
        views.prepare(source)
        return views

    def _train(
        self,
        head: nn.Linear,
        model: Encoder,
        source: Source,
        views: Views,
        labelled: LabelledRows,
        targets: Targets,
        mean: Tensor,
        std: Tensor,
        seed: int,
        where: torch.device,
    ) -> None:
        rows, rng = labelled.rows["train"], np.random.default_rng(seed)
        parts = 1 if source.full_batch else max(1, len(rows) // self.batch_size)
        rate = self.lr * min(self.batch_size, len(rows)) / 256
        optimizer = torch.optim.SGD(head.parameters(), rate, momentum=self.momentum)
        total, step = self.epochs * parts, 0
        for epoch in range(self.epochs):
            for part in np.array_split(rng.permutation(rows), parts):
                batch = to_device(source.fetch(part), where)
                with torch.no_grad():
                    z = model(views(batch, Draw(seed, epoch, batch.index))[0].x).pooled.float()
                loss = targets.loss(head((z - mean) / std), labelled.labels[part])
                optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / total))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                step += 1
