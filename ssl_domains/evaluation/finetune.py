"""End-to-end training of a copy of the encoder with a linear head."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.registry import register
from ssl_domains.evaluation import metrics
from ssl_domains.evaluation.data import LabelledRows, Prediction
from ssl_domains.evaluation.embeddings import resolve_device, to_device
from ssl_domains.evaluation.probes import Probe
from ssl_domains.evaluation.targets import Targets


@register("probe", "fine_tune")
class FineTuneProbe(Probe):
    """AdamW on the whole network, stopped early by the validation score.

    On a random encoder this is the supervised baseline. Real targets are standardised with
    the training rows' mean and scale. The encoder that is passed in never changes.

    Args:
        lr: learning rate of the head.
        encoder_lr: learning rate of the encoder.
        weight_decay: of matrices; biases and scales have none.
        epochs: at most; a source with ``full_batch`` takes one step an epoch, and 10 are
            counted as one.
        batch_size: labelled rows a step.
        patience: epochs without a better validation score before it stops.
        device: see :func:`~ssl_domains.evaluation.embeddings.resolve_device`.
    """

    draws = "head initialisations and batch orders"
    tunes_encoder = True

    def __init__(
        self,
        lr: float = 1e-2,
        encoder_lr: float = 1e-3,
        weight_decay: float = 1e-4,
        epochs: int = 30,
        batch_size: int = 128,
        patience: int = 6,
        device: str = "auto",
    ) -> None:
        if not (lr > 0 and encoder_lr >= 0 and epochs >= 1 and batch_size >= 1 and patience >= 1):
            raise ValueError("lr must be above 0; epochs, batch_size and patience at least 1")
        self.lr, self.encoder_lr, self.weight_decay = lr, encoder_lr, weight_decay
        self.epochs, self.batch_size, self.patience, self.device = epochs, batch_size, patience, device

    def predict_encoder(
        self, encoder: Encoder, source: Source, labelled: LabelledRows, seed: int, views: Views | None = None
    ) -> Prediction:
        """Trains on the train rows, keeps the weights that are best on valid, predicts the test rows."""
        where = resolve_device(self.device, encoder)
        cuda = [where] if where.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), torch.enable_grad():
            torch.manual_seed(seed)
            run = _Run(self, encoder, source, labelled, where, np.random.default_rng(seed))
            return run.best()


class _Run:
    """One fine-tuning run."""

    def __init__(
        self,
        options: FineTuneProbe,
        encoder: Encoder,
        source: Source,
        labelled: LabelledRows,
        where: torch.device,
        rng: np.random.Generator,
    ) -> None:
        self.options, self.source, self.labelled, self.where, self.rng = options, source, labelled, where, rng
        self.targets = Targets.of(labelled.labels[labelled.rows["train"]], labelled.task, labelled.n_classes)
        self.encoder = copy.deepcopy(encoder).float().to(where)
        for parameter in self.encoder.parameters():
            parameter.requires_grad_(True)
        head = nn.Linear(int(encoder.pooled_width), self.targets.width)
        self.head = nn.Sequential(nn.BatchNorm1d(int(encoder.pooled_width), affine=False), head).to(where)
        self.optimizer = torch.optim.AdamW(self._groups(), lr=options.lr)

    def _groups(self) -> list[dict[str, object]]:
        """Encoder and head have their own rate; only matrices decay."""
        groups: list[dict[str, object]] = []
        for module, lr in ((self.encoder, self.options.encoder_lr), (self.head, self.options.lr)):
            for matrices in (True, False):
                chosen = [p for p in module.parameters() if (p.ndim > 1) == matrices]
                decay = self.options.weight_decay if matrices else 0.0
                groups.append({"params": chosen, "lr": lr, "weight_decay": decay})
        return [group for group in groups if group["params"]]

    def best(self) -> Prediction:
        """Trains until the validation score stops rising."""
        main, y_valid = metrics.MAIN[self.labelled.task], self.labelled.labels[self.labelled.rows["valid"]]
        rounds = 10 if self.source.full_batch else 1
        top, waited = -np.inf, 0
        kept = self._predict("test")
        for _ in range(self.options.epochs):
            for _ in range(rounds):
                self._epoch()
            valid = metrics.score(y_valid, self._predict("valid"), self.labelled.task)[main]
            if valid > top:
                top, waited, kept = valid, 0, self._predict("test")
            else:
                waited += 1
            if waited >= self.options.patience:
                break
        return kept

    def _epoch(self) -> None:
        self.encoder.train()
        self.head.train()
        rows = self.rng.permutation(self.labelled.rows["train"])
        # Parts of nearly equal size: no last batch of one row, on which batch norm would fail.
        parts = 1 if self.source.full_batch else -(-len(rows) // self.options.batch_size)
        parts = max(1, min(parts, len(rows) // 2))
        for part in np.array_split(rows, parts):
            loss = self.targets.loss(self._outputs(part), self.labelled.labels[part])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([*self.encoder.parameters(), *self.head.parameters()], 1.0)
            self.optimizer.step()

    def _outputs(self, rows: np.ndarray) -> Tensor:
        out: Tensor = self.head(self.encoder(to_device(self.source.fetch(rows), self.where).x).pooled)
        return out

    def _predict(self, split: str) -> Prediction:
        self.encoder.eval()
        self.head.eval()
        rows = self.labelled.rows[split]
        step = len(rows) if self.source.full_batch else max(self.options.batch_size, 1024)
        if hasattr(self.source, "pieces"):  # samples of different lengths: no more than training holds
            step = self.options.batch_size
        with torch.no_grad():
            out = [self._outputs(rows[i : i + step]).float().cpu() for i in range(0, len(rows), step)]
        return self.targets.prediction(torch.cat(out), self.labelled.labels[rows])
