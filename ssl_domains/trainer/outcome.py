"""Where a training loop starts from, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class FitResult:
    """How a run ended.

    Attributes:
        steps: optimizer steps done, from the very start.
        samples: samples seen over all processes.
        seconds: time in the loop, earlier parts of a resumed run included.
        rows: the metrics.
        findings: sentences of the guard.
        checkpoint: the last one; None without a run directory.
    """

    steps: int
    samples: int
    seconds: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Fork:
    """Where a new run takes its state from: weights, optimizer moments, schedule, step, memory.

    Attributes:
        checkpoint: of the other run, which is only read.
        anneal: start the infinite schedule's annealing at once.
    """

    checkpoint: Path
    anneal: bool = False
