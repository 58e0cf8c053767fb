"""MoCHi against MoCo v2 (sheet 62)."""

from __future__ import annotations

import numpy as np
import torch

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
from ssl_domains.core.diagnostics import uniformity
from ssl_domains.core.interfaces import Source
from ssl_domains.core.methods.mochi import MoCHi
from ssl_domains.core.methods.momentum_contrast import MomentumContrast
from ssl_domains.core.objectives.contrastive import MoCo

TRAIN, TEST, BATCH, STEPS, QUEUE, SHOTS = 4000, 2000, 128, 400, 1024, 10
HARDEST, PAIRS, WITH_QUERY = 64, 64, 32
BASE, MIXED = "MoCo v2", f"MoCHi({HARDEST}, {PAIRS}, {WITH_QUERY})"


def one_run(name: str, source: Source, seed: int) -> dict[str, float]:
    """Probes, and what the paper looks at: the proxy task and the spread over the sphere."""
    encoder, views = small_encoder(source, seed), simclr_views(source)
    options = {"projector": [128, 64], "queue_size": QUEUE, "momentum": 0.99}
    mixing = {"hardest": HARDEST, "pairs": PAIRS, "with_query": WITH_QUERY, "from_epoch": 2}
    objective = MoCo(temperature=0.2)
    if name == BASE:
        method: MomentumContrast = MomentumContrast(encoder, objective, views, **options)
    else:
        method = MoCHi(encoder, objective, views, **options, **mixing)
    rows = fit(method, source, seed, steps=STEPS, batch_size=BATCH).rows
    data = probe_data(method.encoder, source)
    with torch.no_grad():
        projected = method.projector.eval()(torch.from_numpy(data.x["test"]))
    late = [row["accuracy"] for row in rows if "accuracy" in row][-5:]
    return {
        f"{SHOTS} labels a class": few_shot(data, SHOTS),
        "kNN": knn(data),
        "proxy task, positive first": float(np.mean(late)),
        "uniformity of the projections (lower is more uniform)": uniformity(projected),
    }


def run(seeds: int) -> Result:
    """Both methods, seeds paired."""
    source = fashion(TRAIN, TEST)
    runs = {name: [one_run(name, source, seed) for seed in range(seeds)] for name in (BASE, MIXED)}
    values = {f"{name}: {key}": [r[key] for r in found] for name, found in runs.items() for key in found[0]}
    keys = list(runs[BASE][0])
    verdicts = {
        key: judge(values[f"{MIXED}: {key}"], values[f"{BASE}: {key}"], higher=key in keys[:2])
        for key in keys
    }
    return Result(
        name="mochi",
        paper="Hard negative mixing, MoCHi (NeurIPS 2020)",
        claim="A linear probe on MoCHi's features beats one on MoCo v2's.",
        setting=f"{TRAIN:,} images of Fashion-MNIST, {ENCODER}, projector 128-64, queue {QUEUE}, temperature 0.2, EMA 0.99, batch "
        f"{BATCH}, {STEPS} steps for both (mixtures from the third epoch); {TEST:,} test images.",
        metric="accuracy; uniformity where it says so",
        values=values,
        verdict=verdicts[keys[0]],
        notes="The paper's gain on ImageNet is in transfer more than in linear accuracy. Verdicts (harder proxy task and "
        "more uniform projections are what the paper reports): "
        + "; ".join(f"{k}: {v}" for k, v in verdicts.items())
        + ".",
    )
