"""Probes that train a small network on frozen features: an MLP, and VIME's semi-supervised predictor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import register
from ssl_domains.evaluation import metrics
from ssl_domains.evaluation.data import LabelledRows, Prediction, ProbeData
from ssl_domains.evaluation.embeddings import extract, frozen, to_device
from ssl_domains.evaluation.probes import Probe
from ssl_domains.evaluation.targets import Targets


def network(inputs: int, hidden: Sequence[int], outputs: int, dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def standardised(x: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Features ``[n, D]`` by split, float32, with mean 0 and deviation 1 on the training rows."""
    train = x["train"].astype(np.float64)
    mean, std = train.mean(0), train.std(0)
    std = np.where(std > 1e-12, std, 1.0)
    return {key: torch.as_tensor((value - mean) / std, dtype=torch.float32) for key, value in x.items()}


class Fit:
    """AdamW on a network, stopped when the validation score no longer rises.

    Args:
        net: gives ``[B, width]``.
        x, y: features and labels by split.
        targets: of the task.
        lr, weight_decay, epochs, batch_size, patience: see :class:`MLPProbe`.
        rng: order of the batches.
    """

    def __init__(
        self, net: nn.Module, x: dict[str, Tensor], y: dict[str, np.ndarray], targets: Targets, *,
        lr: float, weight_decay: float, epochs: int, batch_size: int, patience: int, rng: np.random.Generator,
    ) -> None:  # fmt: skip
        self.net, self.x, self.y, self.targets = net, x, y, targets
        self.epochs, self.batch_size, self.patience, self.rng = epochs, batch_size, patience, rng
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=weight_decay)

    def run(self, more: Callable[[], Tensor] | None = None) -> Prediction:
        """Of the test rows, by the weights that were best on valid.

        Args:
            more: a term that is added to the loss of each step (consistency).
        """
        main = metrics.MAIN[self.targets.task]
        top, waited, kept = -np.inf, 0, copy.deepcopy(self.net.state_dict())
        for _ in range(self.epochs):
            self._epoch(more)
            valid = metrics.score(self.y["valid"], self._predict("valid"), self.targets.task)[main]
            if valid > top:
                top, waited, kept = valid, 0, copy.deepcopy(self.net.state_dict())
            else:
                waited += 1
            if waited >= self.patience:
                break
        self.net.load_state_dict(kept)
        return self._predict("test")

    def _epoch(self, more: Callable[[], Tensor] | None) -> None:
        self.net.train()
        n = len(self.y["train"])
        for rows in np.array_split(self.rng.permutation(n), -(-n // self.batch_size)):
            loss = self.targets.loss(self.net(self.x["train"][rows]), self.y["train"][rows])
            if more is not None:
                loss = loss + more()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def _predict(self, split: str) -> Prediction:
        self.net.eval()
        return self.targets.prediction(self.net(self.x[split]), self.y[split])


class _Trained(Probe):
    """Options that both probes have."""

    draws = "initialisations and batch orders"

    def __init__(
        self, hidden: Sequence[int], dropout: float, lr: float, weight_decay: float, epochs: int,
        batch_size: int, patience: int,
    ) -> None:  # fmt: skip
        if not (lr > 0 and epochs >= 1 and batch_size >= 1 and patience >= 1 and 0 <= dropout < 1):
            raise ValueError(
                "lr must be above 0; epochs, batch_size and patience at least 1; dropout in [0, 1)"
            )
        self.hidden, self.dropout = tuple(hidden), dropout
        self.options = {
            "lr": lr, "weight_decay": weight_decay, "epochs": epochs, "batch_size": batch_size,
            "patience": patience,
        }  # fmt: skip

    def fit(
        self, x: dict[str, Tensor], y: dict[str, np.ndarray], task: str, n_classes: int,
        rng: np.random.Generator,
    ) -> Fit:  # fmt: skip
        """A network for the task, not trained yet; under the caller's random state."""
        targets = Targets.of(y["train"], task, n_classes)
        net = network(x["train"].shape[1], self.hidden, targets.width, self.dropout)
        return Fit(net, x, y, targets, rng=rng, **self.options)  # type: ignore[arg-type]


@register("probe", "mlp")
class MLPProbe(_Trained):
    """A small MLP on standardised frozen features, stopped early by the validation score.

    Between the linear probe and fine-tuning: it can use what is in an embedding but not linearly
    so, and on raw features it is the usual neural baseline of a table.

    Args:
        hidden: widths of the hidden layers.
        dropout: after each of them.
        lr: of AdamW.
        weight_decay: of AdamW.
        epochs: at most.
        batch_size: labelled rows a step.
        patience: epochs without a better validation score before it stops.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (256, 256),
        dropout: float = 0.1,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        epochs: int = 100,
        batch_size: int = 256,
        patience: int = 10,
    ) -> None:
        super().__init__(hidden, dropout, lr, weight_decay, epochs, batch_size, patience)

    def predict(self, data: ProbeData, seed: int) -> Prediction:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            rng = np.random.default_rng(seed)
            return self.fit(standardised(data.x), data.y, data.task, data.n_classes, rng).run()


@register("probe", "consistency")
class ConsistencyProbe(_Trained):
    """VIME's semi-supervised half: a predictor on the frozen encoder that must agree on corrupted copies.

    Loss ``supervised(f(e(x))) + beta * consistency``, where the consistency is the mean squared
    difference between ``f(e(x~_k))`` of K corrupted copies of an unlabelled row and ``f(e(x))`` of
    the row itself, on outputs before the softmax (Yoon et al., NeurIPS 2020, section 4.2; the
    authors' code takes the variance over the copies instead). The copies are the run's own views,
    whichever they are: for VIME, a corruption of each cell with probability ``p_m``. Rows whose
    label is not drawn are the unlabelled ones.

    Needs a run with views: without them only the supervised term is left, and the raw features
    have no such probe.

    Args:
        fraction: share of the training labels that may be used; the other rows are unlabelled.
        beta: weight of the consistency term (1 in the paper; 0: supervised alone).
        copies: K, corrupted copies a row (3 in the authors' code).
        unlabelled: unlabelled rows a step.
        hidden, dropout, lr, weight_decay, epochs, batch_size, patience: see :class:`MLPProbe`;
            two layers of 100 and batches of 128 are those of the authors' code.
        pool: at most this many unlabelled rows are used.
    """

    draws = "draws of labelled rows, initialisations and batch orders"
    tunes_encoder = True

    def __init__(
        self,
        fraction: float = 0.1,
        beta: float = 1.0,
        copies: int = 3,
        unlabelled: int = 128,
        hidden: Sequence[int] = (100, 100),
        dropout: float = 0.0,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        epochs: int = 100,
        batch_size: int = 128,
        patience: int = 10,
        pool: int = 4096,
    ) -> None:
        super().__init__(hidden, dropout, lr, weight_decay, epochs, batch_size, patience)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], not {fraction}")
        if beta < 0 or copies < 1 or unlabelled < 1 or pool < 1:
            raise ValueError("beta must not be negative; copies, unlabelled and pool at least 1")
        self.fraction, self.beta, self.copies = fraction, beta, copies
        self.unlabelled, self.pool = unlabelled, pool

    def predict_encoder(
        self, encoder: Encoder, source: Source, labelled: LabelledRows, seed: int, views: Views | None = None
    ) -> Prediction:
        """Trains on a share of the train labels and on corrupted copies of the other train rows."""
        rng = np.random.default_rng(seed)
        train = rng.permutation(labelled.rows["train"])
        cut = max(2, round(self.fraction * len(train)))
        rows = {**labelled.rows, "train": train[:cut]}
        rest = train[cut:] if cut < len(train) else train
        embedded = {split: extract(encoder, source, index) for split, index in rows.items()}
        y = {split: labelled.labels[index] for split, index in rows.items()}
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            semi = views is not None and self.beta > 0
            if semi:
                copies = self._copies(encoder, source, views, rest[: self.pool], seed)  # type: ignore[arg-type]
                embedded["copies"] = copies.reshape(-1, copies.shape[-1])
            x = standardised(embedded)
            fit = self.fit(x, y, labelled.task, labelled.n_classes, rng)
            if not semi:
                return fit.run()
            return fit.run(self._term(fit.net, x["copies"].view(copies.shape), rng))

    def _copies(
        self, encoder: Encoder, source: Source, views: Views, rows: np.ndarray, seed: int
    ) -> np.ndarray:
        """``[n, 1 + K, D]``: embeddings of unlabelled rows and of K corrupted copies of each.

        The encoder is frozen, so they are computed once: each row keeps its K copies.
        """
        out: list[Tensor] = []
        views.prepare(source)
        with frozen(encoder, "auto") as (model, where), torch.no_grad():
            for start in range(0, len(rows), 1024):
                batch = to_device(source.fetch(rows[start : start + 1024]), where)
                kept = [model(batch.x).pooled]
                for k in range(self.copies):
                    view = views(batch, Draw(seed, k, batch.index).fork("consistency"))[-1]
                    kept.append(model(view.x).pooled)
                out.append(torch.stack(kept, dim=1).float().cpu())
        return torch.cat(out).numpy()

    def _term(self, net: nn.Module, copies: Tensor, rng: np.random.Generator) -> Callable[[], Tensor]:
        """``beta *`` the mean squared difference of a row's copies to the row, on a draw of rows."""

        def term() -> Tensor:
            rows = rng.integers(0, len(copies), self.unlabelled)
            out = net(copies[rows].flatten(0, 1)).view(self.unlabelled, 1 + self.copies, -1)
            return self.beta * consistency(out)

        return term


def consistency(out: Tensor) -> Tensor:
    """Mean squared difference between a row's outputs ``[B, 0]`` and those of its copies ``[B, 1:]``.

    Args:
        out: ``[B, 1 + K, C]``; the first is that of the row itself.
    """
    return (out[:, 1:] - out[:, :1]).square().mean()
