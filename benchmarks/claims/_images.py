"""What the claims on images share: Fashion-MNIST, a small encoder, training, and two probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.claims.common import FETCH, data_root
from ssl_domains.core import registry
from ssl_domains.core.interfaces import Encoder, Source
from ssl_domains.core.methods.base import Method
from ssl_domains.core.samplers import Sampler
from ssl_domains.core.schedules import WarmupCosine
from ssl_domains.evaluation.data import ProbeData
from ssl_domains.evaluation.embeddings import extract
from ssl_domains.evaluation.knn import KNNProbe
from ssl_domains.evaluation.probes import FewShotProbe
from ssl_domains.image.domain import ImageDomain
from ssl_domains.image.encoders import ImageResNet
from ssl_domains.image.views import ImageAugment
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.optimizers import AdamW
from ssl_domains.trainer.outcome import FitResult

ENCODER = "ResNet-10 of 16 to 128 channels whose first layers divide the side by 4 (307,000 parameters)"


def fashion(n_train: int, n_test: int, classes: Sequence[int] | None = None) -> Source:
    """Fashion-MNIST: training rows from its training part, test rows from its test part.

    Args:
        n_train: rows to pretrain on, drawn once (not by the seed of a run).
        n_test: rows to test on.
        classes: only these; None: all ten.

    Raises:
        SystemExit: the data are not there, with the command.
    """
    folder = data_root() / "files/usr/share/datasets/fashion-mnist"
    if not folder.exists():
        raise SystemExit(f"no Fashion-MNIST in {folder}: run `{FETCH}`")
    registry.scan_core()
    registry.load_domain("image")
    source = ImageDomain().open(str(folder))
    labels = np.asarray(source.labels)
    rng = np.random.default_rng(0)
    chosen = {}
    for split, n in (("train", n_train), ("test", n_test)):
        rows = source.splits[split]
        rows = rows if classes is None else rows[np.isin(labels[rows], classes)]
        chosen[split] = np.sort(rng.permutation(rows)[:n])
    source.splits = {**chosen, "valid": np.empty(0, dtype=np.int64)}
    return source


def small_encoder(source: Source, seed: int) -> Encoder:
    """See :data:`ENCODER`; the same weights for the same seed."""
    torch.manual_seed(seed)
    return ImageResNet(source.spec, depth=10, width=16, stem="large")


def simclr_views(source: Source, **options: Any) -> ImageAugment:
    """SimCLR's views for small images, with crops of at least a fifth of the area."""
    return ImageAugment(source.spec, "simclr_small", **{"scale": (0.2, 1.0), **options})


def fit(
    method: Method,
    source: Source,
    seed: int,
    *,
    steps: int,
    batch_size: int = 128,
    lr: float = 2e-3,
    sampler: Sampler | None = None,
    probe: Callable[[Encoder, int], dict[str, float]] | None = None,
    probe_every: float = 0,
) -> FitResult:
    """AdamW, warm-up over a tenth, cosine; nothing is written."""
    config = TrainConfig(
        batch_size=batch_size,
        steps=steps,
        seed=seed,
        on_collapse="off",
        guard_every=0,
        probe_every=probe_every,
    )
    trainer = Trainer(
        method, source, config, optimizer=AdamW(lr=lr, weight_decay=1e-4), sampler=sampler, probe=probe,
        schedule=WarmupCosine(warmup=0.1, total_steps=steps), progress=False,
    )  # fmt: skip
    return trainer.fit()


def probe_data(encoder: Encoder, source: Source) -> ProbeData:
    """Frozen features of train and test rows."""
    labels = np.asarray(source.labels)
    rows = {split: source.splits[split] for split in ("train", "test")}
    x = {split: extract(encoder, source, r) for split, r in rows.items()}
    y = {split: labels[r] for split, r in rows.items()}
    return ProbeData(x, y, "classification", int(labels.max()) + 1)


def knn(data: ProbeData, k: int = 20) -> float:
    """Accuracy of the k nearest training rows."""
    return float((KNNProbe(k).predict(data, 0).value == data.y["test"]).mean())


def few_shot(data: ProbeData, shots: int, draws: int = 3) -> float:
    """Accuracy of a linear probe on few labels, the mean over draws of them."""
    found = [FewShotProbe(shots).predict(data, draw).value for draw in range(draws)]
    return float(np.mean([(value == data.y["test"]).mean() for value in found]))
