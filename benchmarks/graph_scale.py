"""Memory and time of sampled pretraining as a graph grows, against full batches.

    python benchmarks/graph_scale.py --nodes 10000 100000 1000000
    python benchmarks/graph_scale.py --nodes 1000000 --on-disk

Each size runs in a process of its own: a random graph with ten edges a node and 32 features, a GAT of
2 x 64, GraphMAE. ``sampled`` takes batches of 512 seeds with 10 neighbours in each of 2 hops; ``full`` the
whole graph. Printed are the seconds to open the data, the seconds a step (the median), and the peak
resident memory of the process less what it held after its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def resident() -> float:
    """Peak resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(nodes: int, folder: Path) -> None:
    """Node and edge tables as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    columns = {f"x{i}": rng.random(nodes, dtype=np.float32) for i in range(32)}
    pq.write_table(pa.table({"id": np.arange(nodes), **columns}), folder / "nodes.parquet")
    ends = rng.integers(0, nodes, (2, 5 * nodes))
    pq.write_table(pa.table({"source": ends[0], "target": ends[1]}), folder / "edges.parquet")


def measure(folder: Path, mode: str, on_disk: bool, steps: int) -> dict[str, Any]:
    """One size and mode, in this process."""
    import torch

    from ssl_domains.core.masking import RandomMask
    from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction
    from ssl_domains.core.objectives.regression import ScaledCosineError
    from ssl_domains.core.random import Draw
    from ssl_domains.graph.domain import GraphDomain
    from ssl_domains.graph.encoders import GAT

    before, start = resident(), time.perf_counter()
    sampled = [10, 10] if mode == "sampled" else None
    source = GraphDomain().open(
        nodes=str(folder / "nodes.parquet"),
        edges=str(folder / "edges.parquet"),
        neighbors=sampled,
        full_batch_limit=1 << 40,
        on_disk=on_disk,
    )
    opened, after_open = time.perf_counter() - start, resident()
    method = MaskedReconstruction(GAT(source.spec, 64, heads=4), ScaledCosineError(), RandomMask(0.5))
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    order, times = np.random.default_rng(0).permutation(len(source)), []
    for step in range(steps):
        start = time.perf_counter()
        rows = order[step * 512 : (step + 1) * 512] if sampled else np.arange(len(source))
        batch = source.fetch(rows)
        loss = method(batch, Draw(0, step, batch.index)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return {
        "nodes": len(source),
        "edges": len(source.incoming.source),
        "mode": mode,
        "on_disk": on_disk,
        "open_seconds": round(opened, 2),
        "step_seconds": round(float(np.median(times)), 3),
        "open_mb": round(after_open - before),
        "peak_mb": round(resident() - before),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--full", type=int, default=100_000, help="largest size for full batches")
    parser.add_argument("--on-disk", action="store_true")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        folder, mode = options.inside
        print(json.dumps(measure(Path(folder), mode, options.on_disk, options.steps)))
        return
    for nodes in options.nodes:
        with tempfile.TemporaryDirectory() as folder:
            write(nodes, Path(folder))
            for mode in (
                ("sampled", "full") if nodes <= options.full and not options.on_disk else ("sampled",)
            ):
                command = [sys.executable, __file__, "--inside", folder, mode, "--steps", str(options.steps)]
                command += ["--on-disk"] if options.on_disk else []
                told = {**os.environ, "SSL_DOMAINS_CACHE": folder}  # converted edges go with the folder
                found = subprocess.run(command, capture_output=True, text=True, check=True, env=told)
                print(found.stdout.strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
