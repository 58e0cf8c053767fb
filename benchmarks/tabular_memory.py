"""Peak resident memory of pretraining on a large Parquet file, generated here row group by row group.

    python benchmarks/tabular_memory.py [--rows 10000000] [--columns 16] [--steps 300] [--limit-gib 3]

Prints the process's resident memory after each stage, its peak, and the peak as a ratio of the
file's uncompressed size. Generation runs in a process of its own, which does not count. Exits
with 1 when the peak is above the limit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 250_000


def generate(path: Path, rows: int, columns: int) -> None:
    """Numbers from three hidden factors, some missing, three categorical columns, and a label."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(3, columns))
    writer = None
    for start in range(0, rows, GROUP):
        n = min(GROUP, rows - start)
        factors = rng.normal(size=(n, 3))
        values = factors @ mix + 0.3 * rng.normal(size=(n, columns))
        values[rng.random((n, columns)) < 0.02] = np.nan
        table = {f"x{j}": pa.array(values[:, j], from_pandas=True) for j in range(columns)}
        for j, size in enumerate((4, 50, 5000)):
            table[f"c{j}"] = pa.array(np.char.add("v", rng.integers(0, size, n).astype(str)))
        table["y"] = pa.array((factors[:, 0] > 0).astype(np.int64))
        batch = pa.table(table)
        writer = writer or pq.ParquetWriter(path, batch.schema)
        writer.write_table(batch)
    if writer is not None:
        writer.close()


def resident() -> float:
    """Resident memory now, in GiB (Linux), else the peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**30
    except OSError:
        return peak()


def peak() -> float:
    """Peak resident memory of this process, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def report(stage: str, since: float) -> None:
    """One line."""
    took = time.perf_counter() - since
    print(f"{stage:>10}: {took:7.1f} s, resident {resident():.2f} GiB, peak {peak():.2f} GiB", flush=True)


def train(path: Path, steps: int) -> None:
    """Opens the table and takes steps of masked reconstruction on shuffled rows."""
    start = time.perf_counter()
    import torch

    from ssl_domains.core.masking import RandomMask
    from ssl_domains.core.random import Draw
    from ssl_domains.tabular.domain import Tabular
    from ssl_domains.tabular.encoders import FTTransformer
    from ssl_domains.tabular.objectives import MixedReconstruction

    report("import", start)
    start = time.perf_counter()
    source = Tabular().open(path, label="y")
    report("open", start)
    start = time.perf_counter()
    again = Tabular().open(path, label="y")
    assert len(again) == len(source)
    report("open again", start)
    start = time.perf_counter()
    net = FTTransformer(source.spec, width=32, depth=1, heads=4, ffn=64)
    predictor, objective = net.predictor(32, depth=1, width=32), MixedReconstruction(source.spec, 32)
    modules = torch.nn.ModuleList([net, predictor, objective])
    optimizer, masker = torch.optim.AdamW(modules.parameters(), lr=1e-3), RandomMask(0.5)
    order = np.random.default_rng(0).permutation(source.splits["train"])
    for step in range(steps):
        batch = source.fetch(order[(np.arange(512) + 512 * step) % len(order)])
        mask = masker(net.layout(batch.x), Draw(0, step, batch.index))
        prediction = predictor(net(batch.x, mask), mask, batch.x)
        loss = objective(prediction, net.targets(batch.x).select(mask)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    report("train", start)
    start = time.perf_counter()
    touched = 0
    for begin in range(0, len(order), 65_536):  # every training row once, in shuffled order
        touched += len(source.fetch(order[begin : begin + 65_536]))
    report("one epoch", start)


def main() -> None:
    """Generates, trains, judges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--limit-gib", type=float, default=3.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tabular-memory-") as folder:
        os.environ["SSL_DOMAINS_CACHE"] = folder
        path = Path(folder) / "table.parquet"
        worker = multiprocessing.get_context("spawn").Process(
            target=generate, args=(path, args.rows, args.columns)
        )
        worker.start()
        worker.join()
        size = 8 * args.rows * (args.columns + 4) / 2**30
        print(
            f"{args.rows:,} rows, {path.stat().st_size / 2**30:.2f} GiB on disk, about {size:.2f} GiB decoded"
        )
        train(path, args.steps)
    print(f"peak {peak():.2f} GiB, {peak() / size:.2f} of the decoded table; limit {args.limit_gib} GiB")
    if peak() > args.limit_gib:
        sys.exit(1)


if __name__ == "__main__":
    main()
