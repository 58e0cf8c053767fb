"""Views of a batch of graphs: all graphs at once against a loop over graphs.

    python benchmarks/graph_views.py --graphs 16 128 512 --nodes 30

``batched`` is ``graph_augment`` on the block-diagonal batch. ``loop`` makes the same views (the random
numbers depend on nodes and edges alone, so they are equal, which is checked) of each graph by itself and
joins them. Times are the best of interleaved rounds; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from ssl_domains.core.batch import Batch
from ssl_domains.core.random import Draw
from ssl_domains.graph.data import GraphSource
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.views import GraphAugment

CASES: dict[str, dict[str, float]] = {
    "edges and features": {},
    "nodes": {"edge_drop": 0.0, "feature_drop": 0.0, "node_drop": 0.2},
    "subgraph": {"edge_drop": 0.0, "feature_drop": 0.0, "subgraph": 0.2},
}


def random_graphs(count: int, nodes: int, features: int = 64) -> GraphSource:
    """``count`` random graphs of about ``nodes`` nodes and three edges a node."""
    rng = np.random.default_rng(0)
    graphs = []
    for _ in range(count):
        n = int(rng.integers(nodes // 2, nodes * 3 // 2 + 1))
        edges = torch.from_numpy(rng.integers(0, n, (2, 3 * n)))
        graphs.append(Data(x=torch.from_numpy(rng.random((n, features), dtype=np.float32)), edge_index=edges))
    return GraphDomain().open(graphs)


def loop(views: GraphAugment, parts: list[Batch]) -> Tensor:
    """Features of the first view, graph by graph."""
    return torch.cat([views(part, Draw(0, 0, part.index))[0].x.x for part in parts])


def best(forms: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Best seconds of each form, interleaved."""
    times = dict.fromkeys(forms, float("inf"))
    for _ in range(rounds):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            times[name] = min(times[name], time.perf_counter() - start)
    return times


def measure(source: GraphSource, rounds: int) -> Iterator[dict[str, object]]:
    """Seconds of both forms and their ratio for each case."""
    count = len(source)
    batch = source.fetch(np.arange(count))
    parts = [source.fetch([i]) for i in range(count)]
    for name, case in CASES.items():
        views = GraphAugment(**case)  # type: ignore[arg-type]
        forms: dict[str, Callable[[], Tensor]] = {
            "batched": partial(loop, views, [batch]),
            "loop": partial(loop, views, parts),
        }
        assert torch.equal(forms["batched"](), forms["loop"]())
        times = best(forms, rounds)
        yield {"graphs": count, "views": name, "ratio": round(times["loop"] / times["batched"], 1), **times}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graphs", type=int, nargs="+", default=[16, 128, 512])
    parser.add_argument("--nodes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON line for each case")
    options = parser.parse_args()
    for count in options.graphs:
        for row in measure(random_graphs(count, options.nodes), options.rounds):
            plain = f"{count:>6} graphs  {row['views']:<20} loop / batched = {row['ratio']:>6}"
            print(json.dumps(row) if options.json else plain, flush=True)


if __name__ == "__main__":
    main()
