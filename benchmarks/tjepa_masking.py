"""T-JEPA's masks: batched and counter-based, against the published procedure row by row.

Prints rows per second of the masks alone and of a whole training step with either, and their
ratios, measured in the same run. The plain version follows the published procedure: for every
row, shuffle the columns, cut context and target index lists, collect them into tensors.

    python benchmarks/tjepa_masking.py [--columns 54] [--batch 512] [--depth 4] [--steps 10]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from ssl_domains.core.batch import Mask
from ssl_domains.core.layout import Set
from ssl_domains.core.masking import DisjointSubsets
from ssl_domains.core.objectives.regression import MaskedMSE
from ssl_domains.core.parts.teacher import Teacher
from ssl_domains.core.random import Draw
from ssl_domains.tabular.encoders import FTTransformer
from ssl_domains.tabular.spec import ColumnSpec, TableSpec


def rowwise(n: int, batch: int, masker: DisjointSubsets, draw: Draw, rng: np.random.Generator) -> Mask:
    """The published procedure: sizes by step, index sets row by row."""
    n_context, n_target = masker.sizes(n, draw)
    contexts, targets = [], []
    for _ in range(batch):
        order = rng.permutation(n)
        context, rest = order[:n_context], order[n_context:]
        contexts.append(torch.from_numpy(np.sort(context)))
        sets = [np.sort(rng.choice(rest, n_target, replace=False)) for _ in range(masker.n_targets)]
        targets.append(torch.from_numpy(np.stack(sets)))
    context_index = torch.stack(contexts)
    hidden = torch.ones(batch, n, dtype=torch.bool).scatter_(1, context_index, False)
    return Mask(hidden, context_index, torch.stack(targets, dim=1))


def seconds(call: Callable[[int], object], repeats: int) -> float:
    """Median time of a call, after two to warm up."""
    times = []
    for i in range(repeats + 2):
        start = time.perf_counter()
        call(i)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def training_step(columns: int, batch: int, depth: int) -> Callable[[Mask], None]:
    """One step of T-JEPA on random rows: teacher, student, predictor, loss, backward, AdamW, EMA."""
    spec = TableSpec(tuple(ColumnSpec(f"x{j}", "numeric", f"x{j}") for j in range(columns)), ())
    encoder = FTTransformer(spec, depth=depth)
    predictor, teacher = encoder.predictor(64, depth=depth), Teacher(encoder)
    objective = MaskedMSE()
    parameters = [*encoder.parameters(), *predictor.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3.66e-4)
    x = {
        "numeric": torch.randn(batch, columns),
        "missing": torch.zeros(batch, columns, dtype=torch.bool),
        "categorical": torch.zeros(batch, 0, dtype=torch.int64),
    }

    def step(mask: Mask) -> None:
        with torch.no_grad():
            target = teacher(x).tokens.select(mask)
        loss = objective(predictor(encoder(x, mask), mask, x), target).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.update(encoder, 0.996)

    return step


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--columns", type=int, default=54)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--depth", type=int, default=4, help="blocks of encoder and predictor (paper: 16)")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    masker, index, rng = DisjointSubsets(), torch.arange(args.batch), np.random.default_rng(0)

    def ours(i: int) -> Mask:
        return masker(Set(args.columns), Draw(0, i, index))

    def plain(i: int) -> Mask:
        return rowwise(args.columns, args.batch, masker, Draw(0, i, index), rng)

    step = training_step(args.columns, args.batch, args.depth)
    for name, fast, slow, repeats in (
        ("masks alone", ours, plain, 3 * args.steps),
        ("training step", lambda i: step(ours(i)), lambda i: step(plain(i)), args.steps),
    ):
        a, b = seconds(fast, repeats), seconds(slow, repeats)
        print(
            f"{name}: batched {args.batch / a:,.0f} rows/s, row by row {args.batch / b:,.0f} rows/s, "
            f"ratio {b / a:.2f}"
        )


if __name__ == "__main__":
    main()
