"""Batches of distinct clusters against shuffled ones under SimCLR (sheet 49)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.claims._images import (
    ENCODER,
    fashion,
    few_shot,
    fit,
    knn,
    probe_data,
    simclr_views,
    small_encoder,
)
from benchmarks.claims.common import Result, judge
from ssl_domains.core.cluster_sampler import DistinctClusters
from ssl_domains.core.interfaces import Source
from ssl_domains.core.methods.joint_embedding import JointEmbedding
from ssl_domains.core.objectives.contrastive import NTXent
from ssl_domains.core.samplers import Sampler, Shuffle
from ssl_domains.image.guided import AutoencoderClusters

TRAIN, TEST, BATCH, CLUSTERS, STEPS, SHOTS = 3000, 2000, 10, 20, 1000, 10
EPOCHS = 5
BASE, GUIDED, ORACLE = "shuffled", "clusters of auto-encoder codes", "true classes (a bound)"


def false_negatives(batches: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """Share of ordered pairs in a batch whose classes are the same."""
    same = sum((labels[b][:, None] == labels[b][None]).sum() - len(b) for b in batches)
    return float(same / sum(len(b) * (len(b) - 1) for b in batches))


def one_run(sampler: Sampler, source: Source, seed: int) -> dict[str, float]:
    """Probes, and the false negatives of the first epoch."""
    method = JointEmbedding(
        small_encoder(source, seed), NTXent(0.1), simclr_views(source), projector=[128, 64]
    )
    fit(method, source, seed, steps=STEPS, batch_size=BATCH, lr=1e-3, sampler=sampler)
    rows = source.splits["train"]
    n = sampler.n_batches(rows, BATCH) or len(rows) // BATCH
    rate = false_negatives(sampler.epoch(rows, BATCH, n, seed, 0), np.asarray(source.labels))
    data = probe_data(method.encoder, source)
    return {"kNN": knn(data), f"{SHOTS} labels a class": few_shot(data, SHOTS), "false negatives": rate}


def samplers(source: Source, folder: Path) -> dict[str, Sampler]:
    """The three; the auto-encoder is trained once, and its codes serve all seeds."""
    rows = source.splits["train"]
    found = AutoencoderClusters(CLUSTERS, epochs=EPOCHS).features(source, rows)
    codes = np.zeros((len(source), found.shape[1]), dtype=np.float32)
    codes[rows] = found
    np.save(folder / "codes.npy", codes)
    np.save(folder / "classes.npy", np.asarray(source.labels).astype(np.int64))
    return {
        BASE: Shuffle(),
        GUIDED: DistinctClusters(CLUSTERS, features=str(folder / "codes.npy")),
        ORACLE: DistinctClusters(features=str(folder / "classes.npy")),
    }


def run(seeds: int) -> Result:
    """Three ways to make batches, seeds paired."""
    source = fashion(TRAIN, TEST)
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            name: [one_run(sampler, source, seed) for seed in range(seeds)]
            for name, sampler in samplers(source, Path(folder)).items()
        }
    values = {f"{name}: {key}": [r[key] for r in found] for name, found in runs.items() for key in found[0]}
    verdicts = {
        key: judge(values[f"{GUIDED}: {key}"], values[f"{BASE}: {key}"], higher=key != "false negatives")
        for key in runs[BASE][0]
    }
    return Result(
        name="g_simclr",
        paper="G-SimCLR (ICDM 2020 workshops)",
        claim="SimCLR learns better features from batches of distinct clusters than from shuffled ones.",
        setting=f"{TRAIN:,} images of Fashion-MNIST, {ENCODER}, projector 128-64, temperature 0.1, batch {BATCH}, {CLUSTERS} clusters of "
        f"the codes of a denoising auto-encoder (at most {EPOCHS} epochs), {STEPS} steps for all; {TEST:,} test images. The auto-encoder's "
        "own training comes on top.",
        metric="accuracy, or the share of pairs in a batch with equal class",
        values=values,
        verdict=verdicts["kNN"],
        notes="A batch of 10 of 10 classes, where the idea has most to give. "
        + "; ".join(f"{k}: {v}" for k, v in verdicts.items())
        + ".",
    )
