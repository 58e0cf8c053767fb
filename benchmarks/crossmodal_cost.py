"""What CrossModal costs: a step against its two towers alone, a cached tower against a live one, a large
retrieval.

    python benchmarks/crossmodal_cost.py --steps 8 --rounds 3 --items 100000

CPU milliseconds a step of this one-threaded process, medians of interleaved rounds; memory of the retrieval
is the growth of the peak resident set.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from typing import Any

import numpy as np
import torch

from ssl_domains.core.random import Draw
from ssl_domains.core.retrieval import Lists
from ssl_domains.crossmodal.retrieval import ranks
from ssl_domains.recipe.build import Experiment, build
from ssl_domains.recipe.check import read_recipe

BATCH = 128


def opened(**sections: Any) -> Experiment:
    """The CLIP recipe on generated scenes."""
    made = build(read_recipe("crossmodal/clip", (), sections))
    made.source = made.source.for_pretraining()  # type: ignore[attr-defined]
    made.method.before_training(made.source)
    return made


def towers_alone(made: Experiment, steps: int) -> float:
    """Seconds a step of both towers' forward and backward, with fetching."""
    encoder: Any = made.method.encoder
    begin = time.process_time()
    for step in range(steps):
        batch = made.source.fetch((np.arange(BATCH) + step * BATCH) % len(made.source))
        total = sum(encoder.part(p)(batch.x[p]).pooled.square().mean() for p in encoder.names)
        total.backward()  # type: ignore[union-attr]
        encoder.zero_grad()
    return (time.process_time() - begin) / steps


def whole(made: Experiment, steps: int) -> float:
    """Seconds a step of the method, with fetching."""
    begin = time.process_time()
    for step in range(steps):
        batch = made.source.fetch((np.arange(BATCH) + step * BATCH) % len(made.source))
        made.method(batch, Draw(0, step, batch.index)).loss.backward()
        made.method.zero_grad()
    return (time.process_time() - begin) / steps


def retrieval(items: int, width: int = 128) -> tuple[float, float]:
    """Seconds and MiB of ranking as many queries as items."""
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(items, width, generator=generator)
    queries = gallery + 0.5 * torch.randn(items, width, generator=generator)
    right = Lists(np.arange(items + 1), np.arange(items))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    found = ranks(queries, gallery, right)
    seconds = time.process_time() - begin
    assert np.median(found) == 1
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=100_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seconds, memory = retrieval(args.items)  # first: later parts would have raised the peak
    print(f"{args.items:,} queries among as many: {seconds:.1f} s of CPU, {memory:.0f} MiB above the vectors")
    live = opened()
    frozen = opened(method={"towers": {"a": "frozen"}})
    cached = opened(method={"towers": {"a": "cached"}})
    times: dict[str, list[float]] = {name: [] for name in ("towers", "step", "frozen", "cached")}
    for _ in range(args.rounds):
        times["towers"].append(towers_alone(live, args.steps))
        times["step"].append(whole(live, args.steps))
        times["frozen"].append(whole(frozen, args.steps))
        times["cached"].append(whole(cached, args.steps))
    ms = {name: 1000 * statistics.median(values) for name, values in times.items()}
    rows = (
        ("two towers' bare forward and backward", ms["towers"], 1.0),
        ("a step of CrossModal, over the towers alone", ms["step"], ms["step"] / ms["towers"]),
        ("image tower frozen, live", ms["frozen"], 1.0),
        ("image tower frozen, cached, over live", ms["cached"], ms["cached"] / ms["frozen"]),
    )
    for name, value, ratio in rows:
        print(f"{name:45} {value:8.1f} ms a step of {BATCH}, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
