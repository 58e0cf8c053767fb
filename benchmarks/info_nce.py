"""InfoNCE in blocks of rows against the dense form: time and peak memory of a forward and backward pass.

    python benchmarks/info_nce.py --sizes 256 4096 16384 65536

A batch of B samples has 2 B anchors with 2 B - 1 candidates each (NT-Xent, width 128).
``dense`` is the literal formula, ``lightly`` its NTXentLoss where that package is installed.
Times are the best of interleaved rounds in one process (the least disturbed). Peak memory is
what the resident set grows by in a process of its own, after a small warm-up; inputs and their
gradients are counted for all alike. The dense forms are left out from ``--dense-limit`` on, and wherever
they would not fit into 60 % of the free memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_domains.core.objectives.contrastive import NTXent

TEMPERATURE = 0.5
Form = Callable[[Tensor, Tensor], Tensor]


def dense(q: Tensor, k: Tensor) -> Tensor:
    """NT-Xent as it is written down: one matrix of logits, one cross-entropy."""
    z = F.normalize(torch.cat([q, k]), dim=1)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(q)))


def forms() -> dict[str, Form]:
    """Ours first; the others are told as ratios to it."""
    ours = NTXent(TEMPERATURE)
    found: dict[str, Form] = {"ssl_domains": lambda q, k: ours(q, k).total, "dense": dense}
    try:
        from lightly.loss import NTXentLoss
    except ImportError:
        return found
    return {**found, "lightly": NTXentLoss(TEMPERATURE)}


def step(form: Form, batch: int, width: int) -> tuple[float, float]:
    """Seconds and value of one forward and backward pass on fresh vectors."""
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(batch, width, generator=g).requires_grad_() for _ in range(2))
    start = time.perf_counter()
    loss = form(q, k)
    loss.backward()
    return time.perf_counter() - start, loss.item()


def status(name: str) -> float:
    """MiB of a line of /proc/self/status (VmRSS, VmHWM)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name + ":"))
    return int(line.split()[1]) / 1024


def peak(name: str, batch: int, width: int) -> float:
    """MiB by which one step raises the resident set; run in a process of its own."""
    form = forms()[name]
    step(form, 32, width)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    step(form, batch, width)
    return status("VmHWM") - before


def measured_peak(name: str, batch: int, width: int) -> float:
    command = [sys.executable, __file__, "--peak", name, "--sizes", str(batch), "--width", str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def free_memory() -> float:
    """MiB that the machine can give."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable")) / 1024


def fitting(batch: int, limit: int) -> dict[str, Form]:
    """All forms, or ours alone where the dense ones are out of reach."""
    every = forms()
    needed = 4 * (2 * batch) ** 2 * 4 / 2**20  # four matrices of float32 at the peak
    if batch < limit and needed < 0.6 * free_memory():
        return every
    print(f"batch {batch}: the dense forms want about {needed / 1024:.0f} GiB and are left out")
    return dict(list(every.items())[:1])


def compare(batch: int, width: int, rounds: int, limit: int) -> None:
    """One block of the table."""
    chosen = fitting(batch, limit)
    rounds = rounds if batch <= 4096 else 1 if batch > 16384 else 2
    times: dict[str, list[float]] = {name: [] for name in chosen}
    values: dict[str, float] = {}
    for form in chosen.values():
        step(form, min(batch, 512), width)
    for _ in range(rounds):
        for name, form in chosen.items():
            seconds, values[name] = step(form, batch, width)
            times[name].append(seconds)
    memory = {name: measured_peak(name, batch, width) for name in chosen}
    best = {name: min(seconds) for name, seconds in times.items()}
    for name in chosen:
        time_ratio = best["ssl_domains"] / best[name]
        memory_ratio = memory["ssl_domains"] / max(memory[name], 0.1)
        figures = f"{best[name] * 1e3:>9.1f} {memory[name]:>9.1f} {values[name]:>9.5f}"
        print(f"{batch:>7} {name:<12} {figures} {time_ratio:>6.2f} {memory_ratio:>8.3f}", flush=True)


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 4096, 16384])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dense-limit", type=int, default=65536)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak(options.peak, options.sizes[0], options.width)))
        return
    print(f"{torch.get_num_threads()} threads, width {options.width}, float32, CPU; ratios: ours / this")
    print(f"{'batch':>7} {'form':<12} {'ms':>9} {'MiB':>9} {'loss':>9} {'time':>6} {'memory':>8}")
    for batch in options.sizes:
        compare(batch, options.width, options.rounds, options.dense_limit)


if __name__ == "__main__":
    main()
