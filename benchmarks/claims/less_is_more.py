"""Less is More: reduced slices against all of them, at equal epochs and at equal steps (sheet 17)."""

from __future__ import annotations

import numpy as np

from benchmarks.claims._volumes import BRAINS, brains, dice, fit, share_of_near, unet
from benchmarks.claims.common import Result, judge
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.methods.cluster_prediction import ClusterPrediction
from ssl_domains.core.objectives.clustering import SwAV
from ssl_domains.curation.redundancy import reduce_rows
from ssl_domains.evaluation.data import ProbeData
from ssl_domains.evaluation.embeddings import extract
from ssl_domains.evaluation.probes import LinearProbe
from ssl_domains.medical3d.data import VolumeSource
from ssl_domains.medical3d.views import VolumeAugment

EPOCHS, BATCH, FINE, FEATURES, BITS = 14, 32, 60, (8, 16, 32), 6
FULL, EPOCH, STEP, DRAWN = (
    "all slices",
    "reduced, equal epochs",
    "reduced, equal steps",
    "random subset, equal epochs",
)


def pretrained(source: VolumeSource, rows: np.ndarray, steps: int, seed: int) -> Encoder:
    """SwAV on these rows, with means and scales of their own."""
    source.pretrain_index = rows  # type: ignore[attr-defined]
    source.refit(rows)
    views = VolumeAugment(source.spec, "simclr", flip=0.0, local_views=2, local_size=(24, 24))
    method = ClusterPrediction(unet(source, seed, FEATURES), SwAV(), views, projector=[64, 32], prototypes=24)
    for name, parameter in method.encoder.named_parameters():
        if "upcat" in name:  # SwAV knows no decoder
            parameter.requires_grad_(False)
    fit(method, source, seed, steps=steps, batch_size=min(BATCH, len(rows)))
    return method.encoder_for_export()


def position(encoder: Encoder, source: VolumeSource) -> float:
    """R2 of the place of a test slice in its volume, linear on frozen features."""
    assert source.labels is not None
    depth = source.labels[:, :1]
    x = {s: extract(encoder, source, source.splits[s]) for s in ("train", "valid", "test")}
    y = {s: depth[source.splits[s]] for s in x}
    guess = LinearProbe().predict(ProbeData(x, y, "regression", 0), 0).value.reshape(-1, 1)
    return float(1 - ((guess - y["test"]) ** 2).sum() / ((y["test"] - y["test"].mean(0)) ** 2).sum())


def run(seeds: int) -> Result:
    """All conditions from the same start."""
    source = brains(label="position")
    every = source.splits["train"]
    found = reduce_rows(source, every, "dhash", BITS)
    kept = found.rows[found.kept]
    per_epoch = {"full": max(len(every) // BATCH, 1), "kept": max(len(kept) // min(BATCH, len(kept)), 1)}
    values: dict[str, list[float]] = {}
    for seed in range(seeds):
        some = np.sort(np.random.default_rng(seed).choice(every, len(kept), replace=False))
        plan = {
            FULL: (every, EPOCHS * per_epoch["full"]),
            EPOCH: (kept, EPOCHS * per_epoch["kept"]),
            STEP: (kept, EPOCHS * per_epoch["full"]),
            DRAWN: (some, EPOCHS * per_epoch["kept"]),
        }
        for name, (rows, steps) in plan.items():
            net = pretrained(source, rows, steps, seed)
            values.setdefault(f"R2 of the slice's place: {name}", []).append(position(net, source))
            for parameter in net.parameters():
                parameter.requires_grad_(True)
            values.setdefault(f"Dice, 2 labelled volumes: {name}", []).append(
                dice(net, source, 2, FINE, seed)
            )
    titles = ("R2 of the slice's place", "Dice, 2 labelled volumes")
    verdicts = {
        f"{t}, {name}": judge(values[f"{t}: {name}"], values[f"{t}: {FULL}"])
        for t in titles
        for name in (EPOCH, STEP)
    }
    near = [share_of_near(source, rows, BATCH, BITS) for rows in (every, kept)]
    return Result(
        name="less_is_more",
        paper="Less is More (Computers in Biology and Medicine 2024)",
        claim="SwAV on slices that differ from one another pretrains better than SwAV on all slices, at equal epochs (so with "
        "fewer steps) and at equal steps.",
        setting=f"{BRAINS}; {len(every)} slices, of which the difference hash with threshold {BITS} keeps {len(kept)}; U-Net encoder of 8 to "
        f"32 channels, 24 prototypes, batch {BATCH}, {EPOCHS} epochs of all slices.",
        metric="see the condition",
        values=values,
        verdict=verdicts[f"{titles[0]}, {EPOCH}"],
        notes="Against all slices: "
        + "; ".join(f"{k}: {v}" for k, v in verdicts.items())
        + f". Samples with a near-duplicate of their own volume in a batch: {near[0]:.2f} of all slices, {near[1]:.2f} of the reduced ones.",
        extra={"kept": float(len(kept)), "all": float(len(every))},
    )
