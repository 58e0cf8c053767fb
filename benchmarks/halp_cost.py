"""What HaLP's term costs over MoCo, and what the frame costs over a plain loop.

    python benchmarks/halp_cost.py --hidden 128 --rounds 5

Same views, GRU, head and queue of 16,384 keys. ``plain`` is a hand-written MoCo loop without the package's
method, trainer or objective. CPU milliseconds a step of this one-threaded process; medians of interleaved
rounds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import Any

import torch
from torch.nn import functional as F

from ssl_domains.core.methods.base import Progress
from ssl_domains.core.methods.halp import HaLP
from ssl_domains.core.methods.momentum_contrast import MomentumContrast
from ssl_domains.core.objectives.contrastive import MoCo
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.random import Draw
from ssl_domains.skeleton.data import BodySource
from ssl_domains.skeleton.domain import SkeletonDomain
from ssl_domains.skeleton.encoders.bigru import BiGRU
from ssl_domains.skeleton.views import BodyAugment
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.optimizers import SGD

QUEUE, BATCH = 16384, 64
OPTIONS: dict[str, Any] = {"projector": [256, 128], "projector_norm": "none", "queue_size": QUEUE}


def method_of(cls: type, source: BodySource, hidden: int) -> Any:
    """A method with a queue that is full."""
    torch.manual_seed(0)
    method = cls(BiGRU(source.spec, hidden, 1), MoCo(0.07), BodyAugment(source.spec), **OPTIONS)
    method.queue.index.fill_(len(source) + 1)
    return method


def by_hand(source: BodySource, hidden: int, steps: int) -> float:
    """Seconds a step of MoCo written down plainly."""
    torch.manual_seed(0)
    views = BodyAugment(source.spec)
    net = torch.nn.ModuleList([BiGRU(source.spec, hidden, 1), mlp(2 * hidden, [256, 128], norm="none")])
    slow = copy.deepcopy(net).requires_grad_(False)
    queue = F.normalize(torch.randn(QUEUE, 128), dim=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    begin = time.process_time()
    for step in range(steps):
        batch = source.fetch([(step * BATCH + i) % len(source) for i in range(BATCH)])
        one, two = views(batch, Draw(0, step, batch.index))
        query = F.normalize(net[1](net[0](one.x).pooled), dim=1)
        with torch.no_grad():
            for a, b in zip(slow.parameters(), net.parameters(), strict=True):
                a.lerp_(b, 0.001)
            key = F.normalize(slow[1](slow[0](two.x).pooled), dim=1)
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1) / 0.07
        loss = F.cross_entropy(logits, torch.zeros(BATCH, dtype=torch.int64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue = torch.cat([key, queue[:-BATCH]])
    return (time.process_time() - begin) / steps


def by_steps(method: Any, source: BodySource, steps: int) -> float:
    """Seconds a step of a method in a bare loop."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    begin = time.process_time()
    for step in range(steps):
        batch = source.fetch([(step * BATCH + i) % len(source) for i in range(BATCH)])
        loss = method(batch, Draw(0, step, batch.index)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(Progress(step + 1, steps))
    return (time.process_time() - begin) / steps


def by_trainer(method: Any, source: BodySource, steps: int) -> float:
    """Seconds a step of the Trainer."""
    config = TrainConfig(batch_size=BATCH, steps=steps, on_collapse="off")
    begin = time.process_time()
    Trainer(method, source, config, optimizer=SGD(lr=0.01), progress=False).fit()
    return (time.process_time() - begin) / steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = SkeletonDomain().open("generated://motions?clips=400&people=10", valid=0.0, test=0.0)
    forms: dict[str, Any] = {
        "plain": lambda: by_hand(source, options.hidden, options.steps),
        "MoCo": lambda: by_steps(method_of(MomentumContrast, source, options.hidden), source, options.steps),
        "HaLP": lambda: by_steps(method_of(HaLP, source, options.hidden), source, options.steps),
        "MoCo, Trainer": lambda: by_trainer(
            method_of(MomentumContrast, source, options.hidden), source, options.steps
        ),
    }
    found: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(options.rounds):
        for name, form in forms.items():
            found[name].append(form())
    middle = {name: statistics.median(times) for name, times in found.items()}
    for name, seconds in middle.items():
        print(
            f"{name:14s} {1000 * seconds:8.1f} ms a step  {1 / seconds:6.1f} steps/s  "
            f"{seconds / middle['plain']:.3f} of plain"
        )
    print(f"HaLP / MoCo = {middle['HaLP'] / middle['MoCo']:.3f}")


if __name__ == "__main__":
    main()
