"""GroCo against SimCLR in kNN, and its mechanism (sheet 05)."""

from __future__ import annotations

from benchmarks.claims._images import ENCODER, fashion, fit, knn, probe_data, simclr_views, small_encoder
from benchmarks.claims.common import Result, judge
from ssl_domains.core.interfaces import Source
from ssl_domains.core.methods.joint_embedding import JointEmbedding
from ssl_domains.core.objectives.contrastive import NTXent
from ssl_domains.core.objectives.ordering import GroCo

TRAIN, TEST, BATCH, STEPS = 4000, 2000, 128, 400
BASE, ORDER = "SimCLR, temperature 0.5", "GroCo"


def one_run(name: str, source: Source, seed: int) -> dict[str, float]:
    """kNN; for GroCo also how many anchors are in order, early and late."""
    encoder, views = small_encoder(source, seed), simclr_views(source)
    objective = GroCo() if name == ORDER else NTXent(0.5)
    method = JointEmbedding(
        encoder, objective, views, projector=[128, 128, 128], projector_last_norm=name == ORDER
    )
    rows = fit(method, source, seed, steps=STEPS, batch_size=BATCH).rows
    data = probe_data(method.encoder, source)
    found = {"kNN (20)": knn(data), "kNN (1)": knn(data, 1)}
    ordered = [row["ordered"] for row in rows if "ordered" in row]
    if ordered:
        found |= {
            "anchors in order, first 20 steps": ordered[0],
            "anchors in order, last 20 steps": ordered[-1],
        }
    return found


def run(seeds: int) -> Result:
    """Both objectives, seeds paired, and the untrained encoder."""
    source = fashion(TRAIN, TEST)
    runs = {name: [one_run(name, source, seed) for seed in range(seeds)] for name in (BASE, ORDER)}
    values = {f"{name}: {key}": [r[key] for r in found] for name, found in runs.items() for key in found[0]}
    untrained = [knn(probe_data(small_encoder(source, seed), source)) for seed in range(seeds)]
    values["untrained encoder: kNN (20)"] = untrained
    ours = values[f"{ORDER}: kNN (20)"]
    mechanism = judge(
        values[f"{ORDER}: anchors in order, last 20 steps"],
        values[f"{ORDER}: anchors in order, first 20 steps"],
    )
    return Result(
        name="groco",
        paper="Learning by Sorting, GroCo (ICCV 2023)",
        claim="With group ordering constraints kNN is better than with SimCLR's loss.",
        setting=f"{TRAIN:,} images of Fashion-MNIST, {ENCODER}, projector 128-128-128, 10 negatives, batch {BATCH}, {STEPS} steps "
        f"of AdamW for both; {TEST:,} test images.",
        metric="kNN accuracy, or the share of anchors whose positive is above all 10 hardest negatives",
        values=values,
        verdict=judge(ours, values[f"{BASE}: kNN (20)"]),
        notes="The paper's margin is one of ImageNet and long training. "
        f"The share of anchors in order rises: {mechanism}; above the untrained encoder: {judge(ours, untrained)}.",
    )
