"""D-SLA's copies of a batch of graphs: all graphs at once against one graph at a time.

    python benchmarks/graph_perturbation.py --graphs 16 64 256

The graphs are syntax trees of an installed library's functions (about 54 nodes). ``batched`` is
``graph_edits`` with the paper's settings on the block-diagonal batch. ``one at a time`` calls it on each
graph by itself and joins the copies; numbers are drawn per graph, so both give the same copies, which is
checked. ``plain Python`` edits each graph as the paper's algorithm reads: a breadth-first search, sampled
deletions, rejection of pairs that are joined; its copies are others of the same kind. Times are the best of
interleaved rounds; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.random import Draw
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.edits import GraphEdits
from ssl_domains.graph.structure import join_graphs


def edges_by_copy(views: GraphEdits, batch: Batch) -> list[set[tuple[int, int]]]:
    """Edges of each view, as pairs of global node numbers."""
    made = views(batch, Draw(0, 0, batch.index))
    return [{tuple(e) for e in v.x.node_index[v.x.edge_index].T.tolist()} for v in made]


def batched(views: GraphEdits, batch: Batch) -> Any:
    """One batch of all views."""
    return join_graphs([v.x for v in views(batch, Draw(0, 0, batch.index))])


def one_at_a_time(views: GraphEdits, parts: list[Batch]) -> Any:
    """The same, graph by graph."""
    return join_graphs([v.x for part in parts for v in views(part, Draw(0, 0, part.index))])


def plain_python(
    parts: list[Batch], copies: int = 3, strength: float = 0.2, hops: int = 3, mask: float = 0.8
) -> Any:
    """The algorithm with sets and lists, from PyG graphs to PyG graphs."""
    rng = random.Random(0)
    made = []
    for part in parts:
        x = part.x
        n = len(x.x)
        joined = {tuple(e) for e in x.edge_index.T.tolist() if e[0] < e[1]}
        near: dict[int, list[int]] = {v: [] for v in range(n)}
        for u, v in joined:
            near[u].append(v)
            near[v].append(u)
        center = rng.choice([v for v in near if near[v]])
        region, front = {center}, [center]
        for _ in range(hops):
            front = [w for v in front for w in near[v] if w not in region]
            region |= set(front)
        for role in range(copies + 2):
            nodes = list(range(n)) if role == copies + 1 else sorted(region)
            inside = (
                [e for e in joined if e[0] in region and e[1] in region] if role <= copies else list(joined)
            )
            scale = role if role <= copies else 4
            count = min(max(1, int(len(inside) * strength * scale)), len(inside)) if role else 0
            kept = joined - set(rng.sample(inside, count))
            added: set[tuple[int, int]] = set()
            free = len(nodes) * (len(nodes) - 1) // 2 - len(inside)
            while len(added) < min(count, free):
                u, v = sorted(rng.sample(nodes, 2))
                if (u, v) not in joined:
                    added.add((u, v))
            features = x.x.clone()
            features[rng.sample(nodes, int(mask * len(region)))] = 0.0
            edges = [*kept, *added]
            both = torch.tensor([*edges, *[(v, u) for u, v in edges], *[(v, v) for v in range(n)]]).T
            made.append(
                type(x)(x=features, edge_index=both, batch=x.batch, ptr=x.ptr, node_index=x.node_index)
            )
    return join_graphs(made)


def best(forms: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Best seconds of each form, interleaved."""
    times = dict.fromkeys(forms, float("inf"))
    for _ in range(rounds):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            times[name] = min(times[name], time.perf_counter() - start)
    return times


def measure(count: int, source: Any, rounds: int) -> dict[str, Any]:
    """Times and ratios for one batch of ``count`` graphs."""
    views = GraphEdits(source.spec)
    views.prepare(source)
    rows = np.arange(count)
    batch, parts = source.fetch(rows), [source.fetch([i]) for i in rows]
    whole = edges_by_copy(views, batch)
    pieces = [edges_by_copy(views, part) for part in parts]
    assert all(whole[c] == set().union(*(piece[c] for piece in pieces)) for c in range(views.n_views))
    times = best(
        {
            "batched": lambda: batched(views, batch),
            "one at a time": lambda: one_at_a_time(views, parts),
            "plain Python": lambda: plain_python(parts),
        },
        rounds,
    )
    return {
        "graphs": count,
        "copies": views.n_views,
        "seconds": {name: round(value, 5) for name, value in times.items()},
        "one at a time / batched": round(times["one at a time"] / times["batched"], 1),
        "plain Python / batched": round(times["plain Python"] / times["batched"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graphs", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--source", default="ast-graph://torch_geometric", help="any data of many graphs")
    parser.add_argument("--json", action="store_true", help="print one JSON line for each size")
    options = parser.parse_args()
    source = GraphDomain().open(options.source)
    for count in options.graphs:
        row = measure(count, source, options.rounds)
        one, plain = row["one at a time / batched"], row["plain Python / batched"]
        text = f"{count:>6} graphs  one at a time / batched = {one:>6}   plain Python / batched = {plain:>6}"
        print(json.dumps(row) if options.json else text, flush=True)


if __name__ == "__main__":
    main()
