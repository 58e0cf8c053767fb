"""Views of a batch of clips: all at once against clip by clip.

    python benchmarks/skeleton_views.py --clips 16 64 256

``batched`` is ``body_augment`` on the batch, ``loop`` the same on each clip by itself; random numbers
depend on the clip alone, so the views are equal, which is checked. CPU times of this process, the best of
interleaved rounds; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch
from ssl_domains.core.random import Draw
from ssl_domains.skeleton.data import BodySource
from ssl_domains.skeleton.domain import SkeletonDomain
from ssl_domains.skeleton.views import BodyAugment

CASES: dict[str, dict[str, Any]] = {
    "HaLP's": {},
    "crop alone": {"shear": 0.0, "corrupt": 0.0},
    "all": {"rotate": 30.0, "scale": (0.9, 1.1), "jitter": 0.02, "flip": 0.5, "combine": "all"},
}


def joined(views: BodyAugment, parts: list[Batch]) -> Tensor:
    """Points of the first view of every part."""
    return torch.cat([views(part, Draw(0, 0, part.index))[0].x["points"] for part in parts])


def best(forms: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each form, interleaved."""
    times = dict.fromkeys(forms, float("inf"))
    for _ in range(rounds):
        for name, form in forms.items():
            start = time.process_time()
            form()
            times[name] = min(times[name], time.process_time() - start)
    return times


def measure(source: BodySource, count: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Seconds of both forms and their ratio for each case."""
    batch = source.fetch(list(range(count)))
    parts = [source.fetch([i]) for i in range(count)]
    for name, case in CASES.items():
        views = BodyAugment(source.spec, **case)
        forms: dict[str, Callable[[], Tensor]] = {
            "batched": partial(joined, views, [batch]),
            "loop": partial(joined, views, parts),
        }
        assert torch.allclose(forms["batched"](), forms["loop"](), atol=1e-4)
        times = best(forms, rounds)
        yield {"clips": count, "views": name, "ratio": round(times["loop"] / times["batched"], 1), **times}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON line for each case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = SkeletonDomain().open(f"generated://motions?clips={max(options.clips)}&people=10")
    for count in options.clips:
        for row in measure(source, count, options.rounds):
            plain = (
                f"{count:>5} clips  {row['views']:<12} loop / batched = {row['ratio']:>6}  "
                f"({1000 * row['batched']:.1f} ms a batch)"
            )
            print(json.dumps(row) if options.json else plain, flush=True)


if __name__ == "__main__":
    main()
