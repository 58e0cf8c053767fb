"""One real table and one real graph, pretrained in a few minutes without a network."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

from ssl_domains.core.errors import UserError

RECIPES = {"table": "quickstart/table", "graph": "quickstart/graph"}
_NEEDS = ("torch_geometric", "networkx", "pandas", "statsmodels")


def quickstart(out: str | Path = "runs/quickstart", *overrides: str) -> dict[str, Path]:
    """Pretrains ``quickstart/table`` and ``quickstart/graph`` and prints where the reports are.

    The table is the RAND health insurance experiment that ships with statsmodels; the graph is
    the import graph of an installed library. Nothing is downloaded.

    Args:
        out: folder of the two runs; with a number behind it when it is taken.
        overrides: further overrides for both, such as ``"train.steps=20"``.

    Returns:
        Run directories by name.

    Raises:
        UserError: the packages of the ``quickstart`` extra are missing.
    """
    missing = [name.replace("_", "-") for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise UserError(f"quickstart needs {', '.join(missing)}: pip install 'ssl-domains[quickstart]'")
    from ssl_domains import render
    from ssl_domains.api import Run, pretrain

    console, began = render.console(), time.monotonic()
    folder = _free(Path(out))
    runs: dict[str, Run] = {}
    for name, recipe in RECIPES.items():
        console.print(f"[bold]{name}[/]: ssl-domains pretrain {recipe}")
        runs[name] = pretrain(recipe, *overrides, run=folder / name)
    console.print()
    console.print(
        render.scores({name: run.evaluation for name, run in runs.items() if run.evaluation is not None})
    )
    minutes = (time.monotonic() - began) / 60
    for name, run in runs.items():
        for sentence in [*run.notes, *run.missed]:
            console.print(f"{name}: {render.escape(sentence)}")
        console.print(f"{name} report: {render.escape(run.files().get('report', run.path))}", soft_wrap=True)
    console.print(
        f"\n{minutes:.1f} minutes. Your own table:  ssl-domains pretrain tabular/t_jepa data.source=my.csv"
    )
    return {name: run.path for name, run in runs.items()}


def _free(folder: Path) -> Path:
    """The folder, or the next free one with a number."""
    found, number = folder, 2
    while found.exists():
        found, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return found
