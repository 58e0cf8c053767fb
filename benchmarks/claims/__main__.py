"""Runs one claim, some, or all; see the package's docstring."""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from benchmarks.claims.common import Result, interval, write_table


def names() -> list[str]:
    """Every module here with a ``run``."""
    folder = Path(__file__).parent
    stems = (p.stem for p in folder.glob("*.py"))
    return sorted(stem for stem in stems if not stem.startswith("_") and stem != "common")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("claims", nargs="*", help=f"any of: {', '.join(names())}; none: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only rewrite docs/claims.md")
    args = parser.parse_args()
    unknown = set(args.claims) - set(names())
    if unknown:
        parser.error(f"no claim is called {', '.join(sorted(unknown))}; there are: {', '.join(names())}")
    for name in [] if args.table else args.claims or names():
        start, busy = time.perf_counter(), time.process_time()
        result: Result = importlib.import_module(f"benchmarks.claims.{name}").run(args.seeds)
        result.minutes = (time.perf_counter() - start) / 60
        result.core_minutes = (time.process_time() - busy) / 60
        result.save()
        print(f"\n{result.paper}\n{result.claim}\n-> {result.verdict} ({result.minutes:.1f} min)")
        for condition, values in result.values.items():
            mean, half = interval(values)
            print(f"  {condition:<44} {mean:.4g} ± {half:.2g}")
    write_table()


if __name__ == "__main__":
    main()
