"""Global and local contrast against random start, with one and two labelled volumes (sheet 45)."""

from __future__ import annotations

from typing import Any

from benchmarks.claims._volumes import BRAINS, brains, dice, fit, unet
from benchmarks.claims.common import Result, judge
from ssl_domains.core import registry
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.objectives.contrastive import InfoNCE
from ssl_domains.core.samplers import Sampler
from ssl_domains.medical3d.data import VolumeSource
from ssl_domains.medical3d.global_local import GlobalLocal
from ssl_domains.medical3d.partitions import Partitions
from ssl_domains.medical3d.views import VolumeAugment

STEPS, FINE, BATCH, VOLUMES = 200, 80, 12, (1, 2)
START, BEST = "random start", "G^D, then L^R"
VARIANTS: dict[str, dict[str, Any]] = {
    "G^R (SimCLR)": {"variant": "random", "global_share": 1.0},
    "G^D-": {"variant": "partition", "global_share": 1.0},
    "G^D": {"variant": "cross", "global_share": 1.0},
    BEST: {"variant": "cross", "global_share": 0.6},
}


def pretrained(source: VolumeSource, seed: int, options: dict[str, Any]) -> Encoder:
    """The network after pretraining; batches of three volumes and four parts for all variants."""
    encoder = unet(source, seed)
    method = GlobalLocal(
        encoder, InfoNCE(0.1, intra=True, exclude_positives=True), VolumeAugment(source.spec, "global_local"),
        source.spec, blocks=2, hidden=256, width=64, **options,
    )  # fmt: skip
    sampler: Sampler = (
        registry.get("sampler", "shuffle")() if options["variant"] == "random" else Partitions(4)
    )
    fit(method, source, seed, steps=STEPS, batch_size=BATCH, sampler=sampler)
    return method.encoder_for_export()


def run(seeds: int) -> Result:
    """All variants from the same start; the same labelled volumes for a seed."""
    source = brains()
    values: dict[str, list[float]] = {}
    for seed in range(seeds):
        nets = {START: unet(source, seed)}
        nets |= {name: pretrained(source, seed, options) for name, options in VARIANTS.items()}
        for name, net in nets.items():
            for volumes in VOLUMES:
                found = dice(net, source, volumes, FINE, seed)
                values.setdefault(f"{volumes} labelled: {name}", []).append(found)
    verdicts = {v: judge(values[f"{v} labelled: {BEST}"], values[f"{v} labelled: {START}"]) for v in VOLUMES}
    against = {v: judge(values[f"{v} labelled: G^D"], values[f"{v} labelled: G^R (SimCLR)"]) for v in VOLUMES}
    return Result(
        name="global_local",
        paper="Contrastive learning of global and local features (NeurIPS 2020)",
        claim="With one and with two labelled volumes, a U-Net pretrained by partition-aware global and then local contrast "
        "segments better than one that starts at random.",
        setting=f"{BRAINS}; U-Net of 8 to 64 channels, 4 partitions, batch {BATCH}, {STEPS} steps (two fifths of them local where L^R "
        f"is), fine-tuning of {FINE} steps.",
        metric="mean test Dice",
        values=values,
        verdict=verdicts[1] if verdicts[1] == verdicts[2] else "open",
        notes="Global and local against random start: "
        + "; ".join(f"{v} labelled: {word}" for v, word in verdicts.items())
        + ". G^D against G^R: "
        + "; ".join(f"{v} labelled: {word}" for v, word in against.items())
        + ". The training volumes are deformations of one brain: what differs between people is not in them.",
    )
