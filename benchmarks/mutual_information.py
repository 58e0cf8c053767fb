"""Mutual information between all features of a large catalogue: peak memory and time, against a plain loop.

    python benchmarks/mutual_information.py [--items 1000000] [--limit-mib 300]

The catalogue is generated here: an id, categories of up to 100,000 values, a number, and lists of
tags. It is written as Parquet by a process of its own and opened as the domain opens any table.
Memory is what the computation adds to the process, at its peak. The plain loop holds the columns
as pandas categories and calls scikit-learn's ``mutual_info_score`` for each pair of single-valued
features; it runs in a process of its own, too. Exits with 1 above the limit, or where both disagree.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 250_000
SINGLE = {"shop": 50, "brand": 5_000, "series": 100_000, "colour": 12, "size": 9}


def generate(path: Path, items: int) -> None:
    """Two hidden kinds decide most columns; each group of rows is written by itself."""
    rng = np.random.default_rng(0)
    writer = None
    for start in range(0, items, GROUP):
        n = min(GROUP, items - start)
        kind = rng.integers(0, 200, n)
        table = {"id": pa.array(np.char.add("i", np.arange(start, start + n).astype(str)))}
        for name, size in SINGLE.items():
            value = np.where(rng.random(n) < 0.7, kind * 7919 % size, rng.integers(0, size, n))
            table[name] = pa.array(np.char.add(name[:1], value.astype(str)))
        table["price"] = pa.array(kind + rng.normal(size=n))
        counts = rng.integers(0, 4, n)
        tags = (np.repeat(kind, counts) * 31 + rng.integers(0, 5, counts.sum())) % 500
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        table["tags"] = pa.ListArray.from_arrays(offsets, pa.array(np.char.add("t", tags.astype(str))))
        batch = pa.table(table)
        writer = writer or pq.ParquetWriter(path, batch.schema)
        writer.write_table(batch)
    if writer is not None:
        writer.close()


def resident() -> float:
    """Resident memory now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watch(threading.Thread):
    """Largest resident memory while it runs, in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.ended = resident(), threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.005):
            self.most = max(self.most, resident())

    def stop(self) -> float:
        self.ended.set()
        self.join()
        return self.most


def ours(path: Path, answer: multiprocessing.Queue) -> None:
    """The domain's way; answers with names, matrix, seconds, added and whole MiB."""
    from ssl_domains.tabular.data import TableOptions
    from ssl_domains.tabular.plan import PlanOptions
    from ssl_domains.tabular.readers import open_reader
    from ssl_domains.tabular.recommendation.dependence import mutual_information
    from ssl_domains.tabular.recommendation.entities import EntityOptions, open_entities

    plan = PlanOptions(columns=dict.fromkeys(SINGLE, "categorical"), max_categories=200_000)
    source = open_entities(
        open_reader(path), EntityOptions("item", "id", table=TableOptions(valid=0, test=0, plan=plan))
    )
    before, watch = resident(), Watch()
    watch.start()
    begin = time.perf_counter()
    found = mutual_information(source)
    seconds = time.perf_counter() - begin
    answer.put((source.entity.features, found, seconds, watch.stop() - before, before))


def plain(path: Path, answer: multiprocessing.Queue) -> None:
    """pandas and scikit-learn, pair by pair."""
    import pandas as pd
    from sklearn.metrics import mutual_info_score

    frame = pd.read_parquet(path, columns=["id", *SINGLE]).astype("category")
    codes = {name: frame[name].cat.codes.to_numpy() for name in frame}
    del frame
    before, watch = resident(), Watch()
    watch.start()
    begin = time.perf_counter()
    found = {pair: mutual_info_score(codes[pair[0]], codes[pair[1]]) for pair in combinations(codes, 2)}
    seconds = time.perf_counter() - begin
    answer.put((found, seconds, watch.stop() - before, before))


def alone(target, path: Path) -> tuple:
    """What a function puts into its queue, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    worker = context.Process(target=target, args=(path, answer))
    worker.start()
    found = answer.get()
    worker.join()
    return found


def main() -> None:
    """Generates, measures, compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--limit-mib", type=float, default=300.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutual-information-") as folder:
        os.environ["SSL_DOMAINS_CACHE"] = folder
        path = Path(folder) / "catalogue.parquet"
        worker = multiprocessing.get_context("spawn").Process(target=generate, args=(path, args.items))
        worker.start()
        worker.join()
        names, matrix, seconds, added, base = alone(ours, path)
        pairs = len(names) * (len(names) - 1) // 2
        print(f"{args.items:,} items, {len(names)} features, {pairs} pairs")
        print(f"streamed: {seconds:6.1f} s for {pairs} pairs, {added:6.0f} MiB added to {base:.0f}")
        found, plain_seconds, plain_added, plain_base = alone(plain, path)
        line = f"{plain_seconds:6.1f} s for {len(found)} pairs, {plain_added:6.0f} MiB added to"
        print(f"   plain: {line} {plain_base:.0f}")
    gap = max(abs(matrix[names.index(a), names.index(b)] - value) for (a, b), value in found.items())
    print(f"largest difference {gap:.1e} nats; limit {args.limit_mib:.0f} MiB")
    if added > args.limit_mib or gap > 1e-6:
        sys.exit(1)


if __name__ == "__main__":
    main()
