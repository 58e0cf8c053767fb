"""Mixed Barlow Twins against Barlow Twins at long training on few images (sheets 33 and 32)."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.claims._images import ENCODER, fashion, fit, knn, probe_data, simclr_views, small_encoder
from benchmarks.claims.common import Result, judge
from ssl_domains.core.interfaces import Encoder, Source
from ssl_domains.core.methods.base import Method
from ssl_domains.core.methods.joint_embedding import JointEmbedding
from ssl_domains.core.methods.mixed_views import MixedViews
from ssl_domains.core.objectives.mixed_barlow_twins import MixedBarlowTwins
from ssl_domains.core.objectives.redundancy import BarlowTwins
from ssl_domains.core.random import Draw

TRAIN, TEST, BATCH, WIDTH, STEPS, LOOKS = 256, 2000, 64, 128, 800, 10
LAMBDA, REGULARIZER = 1 / WIDTH, 4.0
BASE, MIXED = "Barlow Twins", "Mixed Barlow Twins"


def method(name: str, source: Source, seed: int) -> Method:
    encoder, views = small_encoder(source, seed), simclr_views(source)
    if name == MIXED:
        return MixedViews(encoder, MixedBarlowTwins(LAMBDA, REGULARIZER), views, projector=[WIDTH, WIDTH])
    return JointEmbedding(encoder, BarlowTwins(LAMBDA), views, projector=[WIDTH, WIDTH])


@torch.no_grad()
def loss(model: Method, source: Source, split: str) -> float:
    """Barlow Twins' own loss on rows of a split, with batch statistics, as in training."""
    rows = source.splits[split][:TRAIN]
    values = []
    for number, part in enumerate(np.split(rows, TRAIN // BATCH)):
        batch = source.fetch(part)
        first, second = simclr_views(source)(batch, Draw(99, number, batch.index))
        values.append(
            BarlowTwins(LAMBDA)(*(model.projector(model.encoder(v.x).pooled) for v in (first, second))).total
        )
    return float(torch.stack(values).mean())


def one_run(name: str, source: Source, seed: int) -> dict[str, float]:
    """kNN over training, and the gap between train and held-out loss at the end."""
    model = method(name, source, seed)
    # three passes a step against two: as many passes in all
    steps = STEPS if name == MIXED else STEPS * 3 // 2

    def probe(encoder: Encoder, step: int) -> dict[str, float]:
        return {"knn": knn(probe_data(encoder, source))}

    per_epoch = TRAIN // BATCH
    result = fit(
        model, source, seed, steps=steps, batch_size=BATCH, probe=probe, probe_every=steps / LOOKS / per_epoch
    )
    curve = [row["probe/knn"] for row in result.rows if "probe/knn" in row]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    losses = {split: loss(model, source, split) for split in ("train", "test")}
    model.load_state_dict(state)
    return {
        "kNN at the end": curve[-1],
        "kNN lost since its best": max(curve) - curve[-1],
        "loss on training images": losses["train"],
        "loss on held-out images": losses["test"],
        "gap": losses["test"] - losses["train"],
    }


def run(seeds: int) -> Result:
    """Both methods, seeds paired."""
    source = fashion(TRAIN, TEST)
    runs = {name: [one_run(name, source, seed) for seed in range(seeds)] for name in (BASE, MIXED)}
    values = {f"{name}: {key}": [r[key] for r in found] for name, found in runs.items() for key in found[0]}
    verdicts = {
        key: judge(values[f"{MIXED}: {key}"], values[f"{BASE}: {key}"], higher=higher)
        for key, higher in (("kNN at the end", True), ("kNN lost since its best", False), ("gap", False))
    }
    return Result(
        name="mixed_barlow_twins",
        paper="Mixed Barlow Twins (2023)",
        claim="After long training on few images, Barlow Twins with mixtures is better in kNN and overfits its own loss less.",
        setting=f"{TRAIN} images of Fashion-MNIST, {ENCODER}, projector {WIDTH}-{WIDTH}, lambda 1/128, regulariser "
        f"{REGULARIZER:g}, batch {BATCH}; {STEPS // (TRAIN // BATCH)} epochs of three passes, for Barlow Twins half as many "
        f"again of two; kNN (20) on {TEST:,} test images.",
        metric="accuracy, or Barlow Twins' loss where it says so",
        values=values,
        verdict=verdicts["kNN at the end"],
        notes=f"kNN is measured at {LOOKS} points of the run. "
        + "; ".join(f"{k}: {v}" for k, v in verdicts.items())
        + ".",
    )
