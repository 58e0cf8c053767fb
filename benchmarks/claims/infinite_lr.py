"""Infinite learning rate against repeated cosine when the data arrives in three shifts (sheet 23)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.claims.common import Result, data_root, judge
from ssl_domains.core.interfaces import Source
from ssl_domains.core.masking import RandomMask
from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction
from ssl_domains.core.random import Draw
from ssl_domains.core.schedules import Infinite, RepeatedCosine, Schedule
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.encoders import FTTransformer
from ssl_domains.tabular.objectives import MixedReconstruction

TASKS = ((0, 1, 2), (3, 4, 5, 6), (7, 8, 9))
STEPS, WARMUP, COOLDOWN, ANNEAL, BATCH, PEAK = 300, 15, 45, 45, 64, 2e-3


@dataclass
class Trunk:
    """A model in training: what a constant-phase checkpoint holds."""

    method: MaskedReconstruction
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    step: int = 0

    def train(self, source: Source, rows: np.ndarray, n: int, rng: np.random.Generator) -> Iterator[int]:
        """``n`` steps on ``rows``; yields after each."""
        self.method.train()
        for _ in range(n):
            self.schedule.apply(self.optimizer, self.step)
            batch = source.fetch(rng.choice(rows, BATCH, replace=False))
            loss = self.method(batch, Draw(0, self.step, batch.index)).loss
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.step += 1
            yield self.step


def start(source: Source, schedule: Schedule, seed: int) -> Trunk:
    torch.manual_seed(seed)
    encoder = FTTransformer(source.spec, width=32, heads=2, depth=2, ffn=64, dropout=0.0)
    objective = MixedReconstruction(source.spec, encoder.width)
    method = MaskedReconstruction(encoder, objective, RandomMask(0.5), {"width": 32, "heads": 2, "depth": 1})
    optimizer = torch.optim.AdamW(method.parameters(), lr=PEAK, betas=(0.9, 0.95), weight_decay=0.05)
    for group in optimizer.param_groups:
        group["initial_lr"] = PEAK
    return Trunk(method, optimizer, schedule)


@torch.no_grad()
def held_out(trunk: Trunk, source: Source, rows: np.ndarray) -> float:
    """Reconstruction loss on held-out rows under masks that never change."""
    trunk.method.eval()
    batch = source.fetch(rows)
    return float(trunk.method(batch, Draw(99, 0, batch.index)).loss)


def one_run(source: Source, kind: str, seed: int) -> dict[str, float]:
    """Losses of all tasks after each task, and the old tasks' rise while a new one starts."""
    rng = np.random.default_rng(seed)
    names = [str(name).lstrip("d") for name in source.class_names or ()]
    labels = np.array([int(names[code]) for code in np.asarray(source.labels)])
    train = [np.intersect1d(source.splits["train"], np.flatnonzero(np.isin(labels, task))) for task in TASKS]
    test = [np.intersect1d(source.splits["test"], np.flatnonzero(np.isin(labels, task))) for task in TASKS]
    schedule: Schedule
    if kind == "infinite":
        schedule = Infinite(warmup_steps=WARMUP, cooldown_steps=COOLDOWN, anneal_steps=ANNEAL)
    else:
        schedule = RepeatedCosine(task_steps=STEPS, warmup_steps=WARMUP)
    trunk = start(source, schedule, seed)
    matrix, rises = np.zeros((3, 3)), []
    for t, rows in enumerate(train):
        # both spend STEPS a task: the trunk stops ANNEAL steps early, its annealed fork takes the rest
        n = STEPS - ANNEAL if kind == "infinite" else STEPS
        before = [held_out(trunk, source, test[i]) for i in range(t)]
        for done, _ in enumerate(trunk.train(source, rows, n, rng), start=1):
            if t and done <= STEPS // 10 and done % 10 == 0:
                rises += [held_out(trunk, source, test[i]) - before[i] for i in range(t)]
        judged = trunk
        if kind == "infinite":
            judged = copy.deepcopy(trunk)
            judged.schedule.start_annealing(judged.step)  # type: ignore[attr-defined]
            for _ in judged.train(source, rows, ANNEAL, rng):
                pass
        matrix[t] = [held_out(judged, source, test[i]) for i in range(3)]
    forgetting = np.mean([matrix[2, i] - matrix[:, i].min() for i in range(2)])
    return {"forgetting": float(forgetting), "final": float(matrix[2].mean()), "rise": float(np.mean(rises))}


def run(seeds: int) -> Result:
    """Both schedules on the same shifts, seeds paired."""
    source = Tabular().open(source=str(data_root() / "digits.csv"), label="digit", test=0.2, valid=0.0)
    runs = {k: [one_run(source, k, seed) for seed in range(seeds)] for k in ("infinite", "repeated cosine")}
    values = {f"{kind}: {name}": [r[name] for r in all_] for kind, all_ in runs.items() for name in all_[0]}
    verdicts = {
        name: judge(values[f"infinite: {name}"], values[f"repeated cosine: {name}"], higher=False)
        for name in ("forgetting", "rise", "final")
    }
    return Result(
        name="infinite_lr",
        paper="Beyond Cosine Decay: infinite learning rate (CoLLAs 2025)",
        claim="On data that arrives in three shifts, the infinite schedule forgets less than repeated cosine.",
        setting="Masked columns of scikit-learn's digits (1,797 x 64), tasks {0-2}, {3-6}, {7-9}, FT-Transformer of "
        f"2 layers, {STEPS} steps a task for both (the infinite run's annealed fork is counted in).",
        metric="held-out reconstruction loss (lower is better)",
        values=values,
        verdict=verdicts["forgetting"],
        notes="forgetting: rise of the old tasks' loss over their best value, from annealed models; rise: mean rise of "
        "the old tasks' loss over the first tenth of each new task; final: mean over tasks at the end. "
        + "; ".join(f"{name}: {verdict}" for name, verdict in verdicts.items())
        + ".",
    )
