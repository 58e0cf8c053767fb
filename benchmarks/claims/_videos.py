"""What the claims on clips share: Widelands, a small transformer, training within a budget of time, and two probes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.claims._images import probe_data
from benchmarks.claims.common import FETCH, data_root
from ssl_domains.core import registry
from ssl_domains.core.interfaces import Encoder, Source
from ssl_domains.core.methods.base import Method
from ssl_domains.core.schedules import WarmupCosine
from ssl_domains.evaluation.probes import FewShotProbe
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.optimizers import AdamW
from ssl_domains.video.encoders.vit import VideoViT

ENCODER = "transformer of 4 blocks of width 96 on cubes of 2 x 8 x 8 (100 tokens)"
BATCH, LR = 64, 1.5e-3


def widelands(label: str, group: str, limit: int | None = None) -> Source:
    """Clips of drawn units, split by ``group``; see ``data_cards/widelands_clips.md``.

    Raises:
        SystemExit: the data are not there, with the command.
    """
    path = data_root() / "widelands_clips.npz"
    if not path.exists():
        raise SystemExit(f"{path} is not there: run `{FETCH} --videos`")
    registry.scan_core()
    domain = registry.load_domain("video")()
    return domain.open(str(path), label=label, group=group, valid=0.0, test=0.3, limit=limit)


def small_encoder(source: Source, seed: int, **options: Any) -> VideoViT:
    """See :data:`ENCODER`; the same weights for the same seed."""
    torch.manual_seed(seed)
    return VideoViT(source.spec, patch=8, width=96, depth=4, heads=4, **options)


def step_seconds(method: Method, source: Source, steps: int = 4) -> float:
    """Seconds of a step: the least of a few, so that other load on the machine counts little."""
    from ssl_domains.core.random import Draw

    rows = source.splits["train"][:BATCH]
    batch = source.fetch(rows)
    batch.label = None
    found = []
    for step in range(steps + 1):
        start = time.process_time()
        method(batch, Draw(0, step, batch.index)).loss.backward()
        method.zero_grad(set_to_none=True)
        found.append(time.process_time() - start)
    return min(found[1:])


def fit(method: Method, source: Source, seed: int, steps: int) -> None:
    """AdamW as VideoMAE has it, warm-up over a tenth, cosine; nothing is written."""
    config = TrainConfig(batch_size=BATCH, steps=steps, seed=seed, on_collapse="off", guard_every=0)
    optimizer = AdamW(lr=LR, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = WarmupCosine(warmup=0.1, total_steps=steps)
    Trainer(method, source, config, optimizer=optimizer, schedule=schedule, progress=False).fit()


def probes(encoder: Encoder, sources: dict[str, Source], shots: dict[str, int]) -> dict[str, float]:
    """Accuracy of a linear probe on a few labels a class (mean of 3 draws), by question."""
    found = {}
    for name, source in sources.items():
        data = probe_data(encoder.eval(), source)
        draws = [FewShotProbe(shots[name]).predict(data, draw).value for draw in range(3)]
        found[name] = float(np.mean([(value == data.y["test"]).mean() for value in draws]))
    return found
