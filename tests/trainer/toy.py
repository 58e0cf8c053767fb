"""A tiny source and methods for the trainer's tests; also runs as a program (resume, signals).

python toy.py RUN STEPS [resume] [slow]
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Encoded, Output, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.parts.teacher import Teacher
from ssl_domains.core.random import Draw
from ssl_domains.core.schedules import WarmupCosine
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.optimizers import AdamW
from ssl_domains.trainer.run import RunDirectory


@dataclass(frozen=True)
class Spec:
    width: int

    def to_dict(self) -> dict[str, Any]:
        return {"width": self.width}


class Rows:
    """``n`` rows in memory; every eighth is not in the training split."""

    labels = None
    task = None
    class_names = None

    def __init__(
        self, n: int = 90, width: int = 6, full_batch: bool = False, dtype: Any = torch.float32
    ) -> None:
        self.x = torch.randn(n, width, generator=torch.Generator().manual_seed(5)).to(dtype)
        self.spec, self.full_batch = Spec(width), full_batch
        number = np.arange(n)
        self.splits = {"train": number[number % 8 != 7], "test": number[number % 8 == 7]}
        self.fetched: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, indices: Any) -> Batch:
        rows = torch.as_tensor(np.asarray(indices))
        self.fetched.append(rows.tolist())
        return Batch(self.x[rows], rows, label=rows % 3)


class Net(Encoder):
    def __init__(self, spec: Spec, hidden: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = hidden
        self.net = nn.Sequential(
            nn.Linear(spec.width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, hidden)
        )

    def forward(self, x: Tensor, mask: Any = None, *, layers: bool = False) -> Encoded:
        z = self.net(x)
        return Encoded(Tokens(z[:, None]), z)


class Regress(Method):
    """Predicts the row from a noisy copy: a plain mean loss, without state."""

    def __init__(self, encoder: Net, noise: float = 0.1) -> None:
        super().__init__()
        self.encoder, self.noise = encoder, noise
        self.head = nn.Linear(encoder.width, encoder.net[0].in_features)
        self.seen: list[Batch] = []

    def forward(self, batch: Batch, draw: Draw) -> Output:
        self.seen.append(batch)
        noise = draw.normal(batch.x.shape[1]).to(batch.x.dtype)
        z = self.encoder(batch.x + self.noise * noise).pooled
        loss = F.mse_loss(self.head(z), batch.x)
        return Output(loss, {"mse": loss.detach()}, {"encoder": z.detach()})


class Stateful(Method):
    """Dropout, batch norm, a momentum teacher, a queue, an epoch counter from a hook, global randomness."""

    def __init__(self, encoder: Net) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp(encoder.width, [8, 4])
        self.teacher = Teacher(nn.Sequential(encoder.net, self.projector))
        self.register_buffer("queue", F.normalize(torch.randn(32, 4), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.shift = 0.0
        self.delay = 0.0
        self._keys: Tensor | None = None

    def before_epoch(self, source: Any, epoch: int) -> None:
        self.shift = 0.01 * epoch

    def forward(self, batch: Batch, draw: Draw) -> Output:
        time.sleep(self.delay)
        z = self.encoder(
            batch.x + 0.1 * draw.normal(batch.x.shape[1]) + 0.01 * torch.randn(1) + self.shift
        ).pooled
        q = F.normalize(self.projector(z), dim=1)
        k = F.normalize(self.teacher(batch.x + 0.1 * draw.normal(batch.x.shape[1])), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.T], 1) / 0.2
        loss = F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64))
        self._keys = k
        stages = {"encoder": z.detach(), "projector": q.detach(), "teacher": k.detach()}
        return Output(loss, {"positive": (q * k).sum(1).mean().detach()}, stages)

    def after_step(self, progress: Progress) -> None:
        self.teacher.update(nn.Sequential(self.encoder.net, self.projector), 0.9 + 0.1 * progress.fraction)
        assert self._keys is not None
        place = (int(self.pointer) + torch.arange(len(self._keys))) % len(self.queue)
        self.queue[place] = self._keys
        self.pointer += len(self._keys)


def stateful_trainer(run: RunDirectory | None, steps: int, delay: float = 0.0, **train: Any) -> Trainer:
    """9 batches an epoch; checkpoints every 7 steps, rows every 5, the guard every 4."""
    torch.manual_seed(0)
    source = Rows()
    method = Stateful(Net(source.spec, dropout=0.2))
    method.delay = delay
    settings = {
        "batch_size": 8,
        "steps": steps,
        "log_every": 5,
        "checkpoint_every": 7,
        "guard_every": 4,
        "seed": 3,
    }
    config = TrainConfig(**(settings | {"clip_norm": 1.0, "accumulate": 2} | train))
    optimizer = AdamW(lr=0.01, weight_decay=0.04, weight_decay_end=0.4)
    schedule = lambda total_steps: WarmupCosine(warmup_steps=3, total_steps=40)  # noqa: E731
    return Trainer(
        method, source, config, optimizer=optimizer, schedule=schedule, run=run, progress=False,
        probe=lambda encoder, step: {"noise": float(torch.randn(()))},
    )  # fmt: skip


if __name__ == "__main__":
    from ssl_domains.trainer.signals import Interrupted

    torch.set_num_threads(1)
    folder, wanted = sys.argv[1], int(sys.argv[2])
    again, slow = "resume" in sys.argv[3:], "slow" in sys.argv[3:]
    directory = RunDirectory.open(folder) if again else RunDirectory.create(folder)
    try:
        stateful_trainer(directory, wanted, delay=0.02 if slow else 0.0).fit(resume=again)
    except Interrupted as stop:
        print(stop)
        sys.exit(130)
