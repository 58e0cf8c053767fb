"""T-JEPA's rows per second: whole batches and counter-based masks, against the published way row by row.

Prints rows per second of the masks alone, of loading and masking, and of pretraining (loading,
masking, training step) with either, and their ratios, measured in the same run. The plain
version is the published arrangement, written anew: a data set gives one row at a time, a collate
function stacks them and, for every row, shuffles the columns and cuts context and target index
lists, collected into tensors.

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


Row = dict[str, torch.Tensor]


def row_of(numbers: np.ndarray) -> Row:
    """``[..., N]`` numbers without a gap as the encoder takes them."""
    numeric = torch.from_numpy(numbers)
    missing = torch.zeros(numeric.shape, dtype=torch.bool)
    return {
        "numeric": numeric,
        "missing": missing,
        "categorical": torch.zeros(*numeric.shape[:-1], 0, dtype=torch.int64),
    }


def collated(table: np.ndarray, rows: np.ndarray) -> Row:
    """The published arrangement: a data set's rows one by one, stacked."""
    found = [row_of(table[i]) for i in rows]
    return {key: torch.stack([row[key] for row in found]) for key in found[0]}


def training_step(columns: int, depth: int) -> Callable[[Row, Mask], None]:
    """One step of T-JEPA: teacher, student, predictor, loss, backward, AdamW, EMA."""
    spec = TableSpec(tuple(ColumnSpec(f"x{j}", "numeric", f"x{j}") for j in range(columns)), ())
    encoder = FTTransformer(spec, depth=depth)
    predictor, teacher = encoder.predictor(64, depth=depth), Teacher(encoder)
    objective = MaskedMSE()
    parameters = [*encoder.parameters(), *predictor.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3.66e-4)

    def step(x: Row, mask: Mask) -> None:
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
    table = rng.normal(size=(50_000, args.columns)).astype(np.float32)
    order = rng.permutation(len(table))

    def rows(i: int) -> np.ndarray:
        return order[(np.arange(args.batch) + args.batch * i) % len(order)]

    def ours(i: int) -> Mask:
        return masker(Set(args.columns), Draw(0, i, index))

    def plain(i: int) -> Mask:
        return rowwise(args.columns, args.batch, masker, Draw(0, i, index), rng)

    step = training_step(args.columns, args.depth)
    for name, fast, slow, repeats in (
        ("masks alone", ours, plain, 3 * args.steps),
        (
            "loading and masks",
            lambda i: (row_of(table[rows(i)]), ours(i)),
            lambda i: (collated(table, rows(i)), plain(i)),
            3 * args.steps,
        ),
        (
            "pretraining",
            lambda i: step(row_of(table[rows(i)]), ours(i)),
            lambda i: step(collated(table, rows(i)), plain(i)),
            args.steps,
        ),
    ):
        a, b = seconds(fast, repeats), seconds(slow, repeats)
        print(
            f"{name}: batched {args.batch / a:,.0f} rows/s, row by row {args.batch / b:,.0f} rows/s, "
            f"ratio {b / a:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
