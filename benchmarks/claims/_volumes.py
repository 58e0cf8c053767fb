"""What the claims on volumes share: two brains or phantoms, training, segmentation with few volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.claims.common import FETCH, data_root
from ssl_domains.core import registry
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.methods.base import Method
from ssl_domains.core.samplers import Sampler
from ssl_domains.core.schedules import WarmupCosine
from ssl_domains.evaluation.segmentation import SegmentationProbe
from ssl_domains.medical3d.data import VolumeSource
from ssl_domains.medical3d.domain import MedicalDomain
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.optimizers import AdamW

BRAINS = (
    "axial slices of 56 x 48 voxels at 4 mm; pretraining on 16 smooth deformations of Colin27 (one person), test on MNI152 "
    "and two deformations of it, 8 structures of the AAL atlas"
)


def brains(**data: Any) -> VolumeSource:
    """Slices of the brains that ``prepare_medical3d.py`` makes.

    Raises:
        SystemExit: they are not there, with the command.
    """
    table = data_root() / "brains" / "brains.csv"
    if not table.exists():
        raise SystemExit(f"{table} is not there: run `{FETCH} --volumes`")
    registry.scan_core()
    registry.load_domain("medical3d")
    given = {"axis": "axial", "size": (56, 48), "spacing": 4, "window": "percentile", "foreground": 0.15}
    return MedicalDomain().open(str(table), **{**given, **data})


def unet(source: VolumeSource, seed: int, features: tuple[int, ...] = (8, 16, 32, 64)) -> Encoder:
    """A small U-Net with its decoder; the same weights for the same seed."""
    torch.manual_seed(seed)
    return registry.get("encoder", "monai_unet")(
        source.spec, features=features, decoder=True, norm="batch", act="relu"
    )


def fit(
    method: Method,
    source: VolumeSource,
    seed: int,
    *,
    steps: int,
    batch_size: int,
    sampler: Sampler | None = None,
) -> None:
    """AdamW at 1e-3, warm-up over a tenth, cosine; nothing is written."""
    config = TrainConfig(batch_size=batch_size, steps=steps, seed=seed, on_collapse="off", guard_every=0)
    Trainer(
        method, source, config, optimizer=AdamW(lr=1e-3, weight_decay=1e-4), sampler=sampler,
        schedule=WarmupCosine(warmup=0.1, total_steps=steps), progress=False,
    ).fit()  # fmt: skip


def dice(encoder: Encoder, source: VolumeSource, volumes: int, steps: int, seed: int) -> float:
    """Mean Dice on the test volumes after fine-tuning on so many labelled ones."""
    probe = SegmentationProbe(volumes=volumes, steps=steps)
    torch.manual_seed(seed)
    where = torch.device("cpu")
    model = probe.fitted(encoder, source, seed, where)
    return float(next(s.value for s in probe.scored(model, source, where) if s.metric == "dice"))


def share_of_near(
    source: VolumeSource, rows: np.ndarray, batch_size: int, bits: int = 6, draws: int = 50
) -> float:
    """Share of the samples in a random batch that have a near-duplicate (difference hash) of their own volume in it."""
    from ssl_domains.curation.hashing import difference_hash

    rng = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        batch = rng.choice(rows, min(batch_size, len(rows)), replace=False)
        code = difference_hash(source.grey(batch))
        near = (code[:, None] != code[None]).sum(axis=2) <= bits
        near &= source.recordings[batch][:, None] == source.recordings[batch][None]
        np.fill_diagonal(near, False)
        found.append(near.any(axis=1).mean())
    return float(np.mean(found))
