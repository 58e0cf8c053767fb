"""Where the time of a step goes, and what to change."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ssl_domains.core.interfaces import Source
from ssl_domains.core.methods.base import Method
from ssl_domains.core.samplers import Sampler
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.optimizers import OptimizerConfig

PARTS = ("fetch", "transfer", "forward", "backward", "optimizer", "hooks")


@dataclass(frozen=True)
class Profile:
    """Mean time of a step by part.

    Attributes:
        ms: milliseconds of ``fetch transfer forward backward optimizer hooks`` (views are part of
            forward; a method that owns its step has forward, backward and optimizer in ``forward``).
        steps: measured steps.
        samples_per_second: of this process.
        advice: one sentence.
    """

    ms: dict[str, float]
    steps: int
    samples_per_second: float
    advice: str

    @property
    def share(self) -> dict[str, float]:
        """Shares of the step, in [0, 1]."""
        total = max(sum(self.ms.values()), 1e-12)
        return {part: value / total for part, value in self.ms.items()}

    def __str__(self) -> str:
        lines = [f"{part:10s} {ms:9.3f} ms {self.share[part]:6.1%}" for part, ms in self.ms.items()]
        return "\n".join([*lines, f"{self.samples_per_second:.0f} samples/s", self.advice])


def profile(
    method: Method,
    source: Source,
    config: TrainConfig,
    *,
    optimizer: OptimizerConfig | None = None,
    schedule: Any = None,
    sampler: Sampler | None = None,
    steps: int = 20,
    warmup: int = 5,
) -> Profile:
    """Runs some steps, waiting for the device after each part. Nothing is written; weights change.

    Args:
        method, source, config, optimizer, schedule, sampler: as for :class:`Trainer`; the budget and the
            checkpoints of ``config`` do not matter.
        steps: measured steps.
        warmup: steps before them that do not count.
    """
    budget = {"steps": steps + warmup, "epochs": None, "samples": None}
    trainer = Trainer(
        method,
        source,
        config.model_copy(update=budget),
        optimizer=optimizer,
        schedule=schedule,
        sampler=sampler,
        progress=False,
    )
    trainer.prepare()
    stream, total = trainer.stream(), dict.fromkeys(PARTS, 0.0)
    clock = _Clock(trainer.device)
    for number in range(steps + warmup):
        spent = _step(trainer, stream, clock)
        if number >= warmup:
            total = {part: total[part] + spent.get(part, 0.0) for part in PARTS}
    ms = {part: 1000 * seconds / steps for part, seconds in total.items()}
    rate = trainer.budget.batch_size / max(sum(ms.values()) / 1000, 1e-12)
    return Profile(ms, steps, rate, advise(ms, config, trainer.device.type))


class _Clock:
    """Adds up the time between calls under a name."""

    def __init__(self, device: torch.device) -> None:
        self._wait: Callable[[], None] | None = {
            "cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize
        }.get(device.type)  # fmt: skip
        self.spent: dict[str, float] = {}
        self._last = 0.0

    def start(self) -> None:
        self.spent = {}
        self._last = time.perf_counter()

    def stop(self, part: str) -> None:
        if self._wait is not None:
            self._wait()
        now = time.perf_counter()
        self.spent[part] = self.spent.get(part, 0.0) + now - self._last
        self._last = now


def _step(trainer: Trainer, stream: Any, clock: _Clock) -> dict[str, float]:
    """The loop's step, with a clock."""
    epoch, number = trainer.order.position(trainer.step)
    if number == 0:
        trainer.method.before_epoch(trainer.source, epoch)
    clock.start()
    found = next(stream)
    clock.stop("fetch")
    batches = found if trainer.device.type == "cpu" else [batch.to(trainer.device) for batch in found]
    clock.stop("transfer")
    own = getattr(trainer.method, "training_step", None)
    if own is not None:
        own(batches, trainer)
        clock.stop("forward")
    else:
        for batch in batches:
            output = trainer.forward(batch)
            clock.stop("forward")
            trainer.backward(output.loss)
            clock.stop("backward")
        trainer.update()
        clock.stop("optimizer")
    trainer.step += 1
    trainer.method.after_step(trainer.progress())
    clock.stop("hooks")
    return clock.spent


def advise(ms: dict[str, float], config: TrainConfig, device: str) -> str:
    """One sentence on what to change, from the times of the parts."""
    total = max(sum(ms.values()), 1e-12)
    share = {part: value / total for part, value in ms.items()}
    if share["fetch"] > 0.2:
        more = "set train.num_workers to 2 or more"
        if config.num_workers:
            more = "raise train.num_workers, or store the data as Parquet"
        return f"{share['fetch']:.0%} of a step waits for data: {more}"
    if share["transfer"] > 0.15:
        return f"{share['transfer']:.0%} of a step copies data: set train.num_workers (pinned memory)"
    if share["hooks"] > 0.25:
        return f"{share['hooks']:.0%} of a step is the method's after_step: a smaller teacher or queue helps"
    if share["optimizer"] > 0.3:
        return f"{share['optimizer']:.0%} of a step is the optimizer: raise train.batch_size"
    if total < 5:
        return "steps are short, so fixed costs count: raise train.batch_size"
    if device == "cuda" and config.precision == "fp32":
        return "the device computes most of the time: set train.precision to bf16"
    return "the device computes most of the time: only a smaller encoder, fewer views or more processes help"
