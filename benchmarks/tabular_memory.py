"""Peak resident memory of ``pretrain`` and ``embed`` on large Parquet folders, generated here file by file.

    python benchmarks/tabular_memory.py [--rows 1000000 10000000] [--columns 16] [--steps 300] [--limit-gib 3]

For each size a process of its own runs the same as ``ssl-domains pretrain`` (open and fit, masked
reconstruction on shuffled rows, evaluation, report), reads every training row once more in
shuffled order, and embeds a million rows of the folder into a Parquet file. It prints after each
stage the resident memory, its peak, and the peak of the memory that is the process's own: not pages of
memory-mapped files (libraries, encoded rows), which the system takes back when others want them.
Generation runs in another process, which does not count. At the end stand the peaks and their
ratios. Exits with 1 when a peak is above the limit.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import multiprocessing.connection
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 250_000
GROUPS_A_FILE = 4


def generate(folder: Path, rows: int, columns: int) -> None:
    """Numbers from three hidden factors, some missing, three categorical columns, and a label; a
    million rows a file."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(3, columns))
    writer = None
    for number, start in enumerate(range(0, rows, GROUP)):
        n = min(GROUP, rows - start)
        factors = rng.normal(size=(n, 3))
        values = factors @ mix + 0.3 * rng.normal(size=(n, columns))
        values[rng.random((n, columns)) < 0.02] = np.nan
        table = {f"x{j}": pa.array(values[:, j], from_pandas=True) for j in range(columns)}
        for j, size in enumerate((4, 50, 5000)):
            table[f"c{j}"] = pa.array(np.char.add("v", rng.integers(0, size, n).astype(str)))
        table["y"] = pa.array((factors[:, 0] > 0).astype(np.int64))
        batch = pa.table(table)
        if number % GROUPS_A_FILE == 0:
            if writer is not None:
                writer.close()
            writer = pq.ParquetWriter(folder / f"part-{number // GROUPS_A_FILE:04d}.parquet", batch.schema)
        assert writer is not None
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


class Own(threading.Thread):
    """Looks every 20 ms how much anonymous memory this process has (Linux; elsewhere NaN)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = float("nan")

    def run(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE") / 2**30
        while True:
            try:
                numbers = Path("/proc/self/statm").read_text().split()
            except OSError:
                return
            own = (int(numbers[1]) - int(numbers[2])) * page
            self.peak = own if math.isnan(self.peak) else max(self.peak, own)
            time.sleep(0.02)


def report(stage: str, since: float, own: Own) -> None:
    """One line."""
    took = time.perf_counter() - since
    print(
        f"{stage:>10}: {took:7.1f} s, resident {resident():.2f} GiB, peak {peak():.2f} GiB, "
        f"own peak {own.peak:.2f} GiB",
        flush=True,
    )


def recipe(folder: Path, steps: int) -> dict:
    """Masked columns with a small encoder: memory is about the rows, not the weights."""
    return {
        "domain": "tabular",
        "data": {"source": str(folder), "label": "y"},
        "encoder": {"name": "ft_transformer", "width": 32, "depth": 1, "heads": 4, "ffn": 64},
        "mask": {"name": "random", "ratio": 0.5},
        "method": {"name": "masked_reconstruction", "predictor": {"depth": 1, "width": 32}},
        "objective": "mixed_columns",
        "train": {"batch_size": 512, "steps": steps},
        "evaluate": {"probes": ["linear", "knn"], "seeds": 1, "max_rows": 5000, "tree": False},
    }


def measure(data: Path, work: Path, steps: int, send: multiprocessing.connection.Connection) -> None:
    """Pretrains, reads an epoch, embeds; sends the peak."""
    own = Own()
    own.start()
    start = time.perf_counter()
    import ssl_domains
    from ssl_domains.tabular.domain import Tabular

    report("import", start, own)
    start = time.perf_counter()
    run = ssl_domains.pretrain(recipe(data, steps), run=work / "run", progress=False)
    report("pretrain", start, own)
    start = time.perf_counter()
    source = Tabular().open(data, label="y")
    report("open again", start, own)
    start = time.perf_counter()
    order = np.random.default_rng(0).permutation(source.splits["train"])
    touched = 0
    for begin in range(0, len(order), 65_536):
        touched += len(source.fetch(order[begin : begin + 65_536]))
    assert touched == len(order)
    report("one epoch", start, own)
    del order
    start = time.perf_counter()
    limit = min(len(source), 1_000_000)
    out = ssl_domains.embed(run.path, data, work / "embeddings.parquet", limit=limit)
    assert pq.ParquetFile(out).metadata.num_rows == limit
    report("embed", start, own)
    send.send((peak(), own.peak))


def one_size(rows: int, columns: int, steps: int) -> tuple[float, float]:
    """Generates a folder and measures it; the peaks in GiB, resident and own."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="tabular-memory-") as name:
        folder = Path(name)
        os.environ["SSL_DOMAINS_CACHE"] = str(folder / "cache")
        (folder / "data").mkdir()
        worker = context.Process(target=generate, args=(folder / "data", rows, columns))
        worker.start()
        worker.join()
        on_disk = sum(file.stat().st_size for file in (folder / "data").iterdir()) / 2**30
        size = 8 * rows * (columns + 4) / 2**30
        print(f"{rows:,} rows, {on_disk:.2f} GiB on disk, about {size:.2f} GiB decoded", flush=True)
        receive, send = context.Pipe(duplex=False)
        worker = context.Process(target=measure, args=(folder / "data", folder, steps, send))
        worker.start()
        worker.join()
        if worker.exitcode:
            sys.exit(worker.exitcode)
        resident_peak, own_peak = receive.recv()
        return float(resident_peak), float(own_peak)


def main() -> None:
    """Measures each size, judges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--columns", type=int, default=16)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--limit-gib", type=float, default=3.0)
    args = parser.parse_args()
    peaks = {rows: one_size(rows, args.columns, args.steps) for rows in args.rows}
    first = peaks[args.rows[0]]
    for rows, (value, own) in peaks.items():
        print(
            f"{rows:>12,} rows: peak {value:.2f} GiB, {value / first[0]:.2f} of the first size; "
            f"own {own:.2f} GiB, {own / first[1]:.2f}"
        )
    print(f"limit {args.limit_gib} GiB")
    if max(value for value, _ in peaks.values()) > args.limit_gib:
        sys.exit(1)


if __name__ == "__main__":
    main()
