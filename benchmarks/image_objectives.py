"""What GroCo and MoCHi cost over plain InfoNCE: forward and backward of the loss alone, on the CPU.

    python benchmarks/image_objectives.py

Both sides get the same vectors; times are the best of interleaved rounds in one process, so only the
ratios mean something. GroCo stands beside NT-Xent on two views; ``sorting`` is its share that goes
through the network as a whole permutation matrix would, instead of by the mass of two groups. MoCHi
stands beside MoCo with the same queue, and beside MoCo with a queue longer by as many keys as MoCHi
makes negatives a query.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.objectives.contrastive import MoCo, NTXent
from ssl_domains.core.objectives.ordering import GroCo
from ssl_domains.core.parts.hard_negatives import mix_hard_negatives
from ssl_domains.core.parts.sorting import SortingNetwork
from ssl_domains.core.random import Draw

Step = Callable[[], Tensor]


def vectors(*shape: int, seed: int = 0) -> Tensor:
    """Fixed random numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measure(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Best seconds of each, rounds interleaved."""
    best = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step().backward()
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step().backward()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def show(title: str, best: dict[str, float]) -> None:
    """A table with the first as the unit."""
    print(f"\n{title}")
    unit = next(iter(best.values()))
    for name, seconds in best.items():
        print(f"  {name:<44} {1e3 * seconds:>9.1f} ms {seconds / unit:>7.2f}")


def groco(batch: int, width: int, rounds: int) -> None:
    a, b = vectors(batch, width).requires_grad_(), vectors(batch, width, seed=1).requires_grad_()
    contrast = NTXent(0.5)
    steps: dict[str, Step] = {"NT-Xent": lambda: contrast(a, b).total}
    for negatives, network in ((10, "odd_even"), (50, "odd_even"), (50, "bitonic")):
        loss = GroCo(negatives, network=network)  # type: ignore[arg-type]
        steps[f"GroCo, {negatives} negatives, {network}"] = lambda loss=loss: loss(a, b).total  # type: ignore[misc]
    show(f"GroCo, batch {batch}, width {width}", measure(steps, rounds))
    x, side = vectors(2 * batch, 11).requires_grad_(), (torch.arange(11) >= 10).float()
    network = SortingNetwork(11)
    parts: dict[str, Step] = {
        "group mass, 11 items": lambda: network.rank_mass(x, side).sum(),
        "whole permutation matrix": lambda: (network(x)[1] @ side).sum(),
    }
    show("of it the sorting network", measure(parts, rounds))


def mochi(batch: int, queue: int, width: int, sizes: tuple[int, int, int], rounds: int) -> None:
    hardest, pairs, with_query = sizes
    q, k = vectors(batch, width).requires_grad_(), vectors(batch, width, seed=1)
    keys = F.normalize(vectors(queue + pairs + with_query, width, seed=2), dim=1)
    loss = MoCo(temperature=0.2)

    def mixed() -> Tensor:
        made = mix_hard_negatives(
            q,
            keys[:queue],
            Draw(0, 0, torch.arange(batch)),
            hardest=hardest,
            pairs=pairs,
            with_query=with_query,
        )
        return loss(q, k, negatives=keys[:queue], query_negatives=made.values).total

    steps: dict[str, Step] = {
        "MoCo": lambda: loss(q, k, negatives=keys[:queue]).total,
        f"MoCo, queue longer by {pairs + with_query}": lambda: loss(q, k, negatives=keys).total,
        f"MoCHi({hardest}, {pairs}, {with_query})": mixed,
    }
    show(f"MoCHi, batch {batch}, queue {queue}, width {width}", measure(steps, rounds))


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, float32; the last column: times the first row of its table")
    for batch, width in ((256, 128), (1024, 2048)):
        groco(batch, width, options.rounds)
    for queue, sizes in ((1024, (64, 64, 32)), (16384, (1024, 512, 256)), (65536, (1024, 1024, 128))):
        mochi(256, queue, 128, sizes, options.rounds)


if __name__ == "__main__":
    main()
