"""Alice with corresponding against random and same-image pairs (sheet 58)."""

from __future__ import annotations

from typing import Literal

from benchmarks.claims._volumes import dice, fit, unet
from benchmarks.claims.common import Result, judge
from ssl_domains.core import registry
from ssl_domains.core.grid_masking import TubeMask
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.objectives.distillation import TeacherCrossEntropy
from ssl_domains.evaluation.data import ProbeData
from ssl_domains.evaluation.embeddings import extract
from ssl_domains.evaluation.probes import FewShotProbe
from ssl_domains.medical3d.alice import Alice
from ssl_domains.medical3d.data import VolumeSource
from ssl_domains.medical3d.domain import MedicalDomain
from ssl_domains.medical3d.pairs import AnatomicalPairs

STEPS, FINE, BATCH, SHOTS, K = 100, 60, 8, 5, 32
DATA = "generated://phantoms?patients=24&size=32&bend=10&noise=30&alike=100"
Kind = Literal["exact", "random", "same"]
PAIRS: dict[str, Kind] = {"corresponding": "exact", "random": "random", "same image": "same"}


def pretrained(source: VolumeSource, seed: int, oracle: Kind) -> Encoder:
    """Alice with one kind of pairs; both crops get the same augmentation."""
    method = Alice(
        unet(source, seed, (8, 16, 32)), TeacherCrossEntropy(K, teacher_temperature=0.04),
        AnatomicalPairs(source.spec, oracle, augment="intensity"), TubeMask(0.75), source.spec,
        projector=[64, 32], prototypes=K, heads=2, ffn=64, momentum=(0.98, 1.0), freeze_last=0,
    )  # fmt: skip
    fit(method, source, seed, steps=STEPS, batch_size=BATCH)
    return method.encoder_for_export()


def few_shot(encoder: Encoder, source: VolumeSource, seed: int) -> float:
    """Accuracy of the organ in the middle of a patch, from few labelled patches an organ."""
    assert source.labels is not None
    rows = {s: r[source.labels[r] >= 0] for s, r in source.splits.items()}
    x = {s: extract(encoder, source, rows[s]) for s in ("train", "test")}
    y = {s: source.labels[rows[s]] for s in ("train", "test")}
    data = ProbeData(x, y, "classification", int(source.labels.max()) + 1)
    return (
        sum(float((FewShotProbe(SHOTS).predict(data, seed + d).value == y["test"]).mean()) for d in range(3))
        / 3
    )


def run(seeds: int) -> Result:
    """Three kinds of pairs from the same start."""
    registry.scan_core()
    registry.load_domain("medical3d")
    source = MedicalDomain().open(DATA, label="mask", patch=(16, 16, 16), per_volume=40, test=0.3)
    values: dict[str, list[float]] = {}
    organ, few = f"{SHOTS} labelled patches an organ", "segmentation, 2 labelled volumes"
    for seed in range(seeds):
        nets = {"untrained": unet(source, seed, (8, 16, 32))}
        nets |= {name: pretrained(source, seed, oracle) for name, oracle in PAIRS.items()}
        for name, net in nets.items():
            values.setdefault(f"{organ}: {name}", []).append(few_shot(net, source, seed))
            values.setdefault(f"{few}: {name}", []).append(dice(net, source, 2, FINE, seed))
    verdicts = {
        f"{key}, against {other}": judge(values[f"{key}: corresponding"], values[f"{key}: {other}"])
        for key in (organ, few)
        for other in ("random", "same image", "untrained")
    }
    return Result(
        name="alice",
        paper="Alice (ICCV 2023)",
        claim="Pairs of crops that show the same part of the body of two patients pretrain better than pairs of any two parts.",
        setting=f"24 generated phantoms of 32 voxels with exact correspondence, organs of one density, patches of 16; U-Net of 8 to 32 channels, {K} "
        f"outputs, batch {BATCH}, {STEPS} steps; masking, cross-attention and reconstruction as in the paper for all conditions.",
        metric="test accuracy, or mean test Dice",
        values=values,
        verdict=verdicts[f"{organ}, against random"],
        notes="; ".join(f"{k}: {v}" for k, v in verdicts.items())
        + ". Phantoms, not scans: only there is the correspondence known.",
    )
