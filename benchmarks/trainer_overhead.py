"""Step of the Trainer against a hand-written loop of the same modules, interleaved.

    python benchmarks/trainer_overhead.py [--rounds 9]

Times are CPU times of this one-threaded process, so that other work on the machine does not count.
Prints for a tiny and for a larger model: milliseconds a step of either loop, their ratio and
difference. The Trainer logs every 20 steps and its guard looks every 100, as by default.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Encoded, Output, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.methods.base import Method
from ssl_domains.core.random import Draw
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.optimizers import AdamW


class Rows:
    """Random rows in memory."""

    labels, task, class_names, full_batch, spec = None, None, None, False, None

    def __init__(self, n: int, width: int) -> None:
        self.x = torch.randn(n, width)
        self.splits = {"train": np.arange(n)}

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, indices: Any) -> Batch:
        rows = torch.as_tensor(indices)
        return Batch(self.x[rows], rows)


class Net(Encoder):
    """A stack of linear layers."""

    def __init__(self, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.width = hidden
        layers: list[nn.Module] = [nn.Linear(width, hidden)]
        for _ in range(depth):
            layers += [nn.GELU(), nn.Linear(hidden, hidden)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor, mask: Any = None, *, layers: bool = False) -> Encoded:
        z = self.net(x)
        return Encoded(Tokens(z[:, None]), z)


class Contrast(Method):
    """Two noisy copies, one product."""

    def __init__(self, encoder: Net) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = [batch.x + 0.1 * draw.normal(batch.x.shape[1]) for _ in range(2)]
        a, b = (F.normalize(self.encoder(v).pooled, dim=1) for v in views)
        logits = a @ b.T / 0.2
        loss = F.cross_entropy(logits, torch.arange(len(a), device=a.device))
        positive = (a * b).sum(1).mean().detach()
        return Output(loss, {"positive": positive}, {"encoder": a.detach(), "projector": b.detach()})


def by_hand(method: Method, source: Rows, batch: int, steps: int) -> float:
    """Seconds a step of a plain loop."""
    begin = time.process_time()
    groups = method.parameter_groups()
    optimizer = AdamW().build(groups)
    order = torch.randperm(len(source)).numpy()
    for step in range(steps):
        start = step * batch % (len(source) - batch)
        found = source.fetch(order[start : start + batch])
        method(found, Draw(0, step, found.index)).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (time.process_time() - begin) / steps


def by_trainer(method: Method, source: Rows, batch: int, steps: int) -> float:
    """Seconds a step of the Trainer."""
    begin = time.process_time()
    Trainer(method, source, TrainConfig(batch_size=batch, steps=steps), progress=False).fit()
    return (time.process_time() - begin) / steps


def compare(name: str, hidden: int, depth: int, batch: int, steps: int, rounds: int) -> None:
    """Both loops in turn, some rounds; medians."""
    source = Rows(20_000, 64)
    methods = [Contrast(Net(64, hidden, depth)) for _ in range(2)]
    by_hand(methods[0], source, batch, 5)
    by_trainer(methods[1], source, batch, 5)
    plain, ours = [], []
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            if which:
                ours.append(by_trainer(methods[1], source, batch, steps))
            else:
                plain.append(by_hand(methods[0], source, batch, steps))
    ratios = [a / b for a, b in zip(ours, plain, strict=True)]
    a, b = statistics.median(plain), statistics.median(ours)
    best = min(ours) / min(plain)
    print(
        f"{name:8s} by hand {1000 * a:7.3f} ms  trainer {1000 * b:7.3f} ms  "
        f"ratio {statistics.median(ratios):.3f} (of the fastest rounds {best:.3f})  "
        f"difference {1000 * (min(ours) - min(plain)):+.3f} ms"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    compare("tiny", hidden=64, depth=1, batch=128, steps=300, rounds=rounds)
    compare("20 ms", hidden=320, depth=4, batch=256, steps=100, rounds=rounds)
