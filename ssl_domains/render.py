"""What the command line prints; rich is imported only here, and only when something is printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ssl_domains.api import Run
    from ssl_domains.checks import Check
    from ssl_domains.curation.curate import Curation
    from ssl_domains.evaluation.results import Evaluation, Row
    from ssl_domains.integration import Integration
    from ssl_domains.recipe.listing import Difference, ResolvedValue
    from ssl_domains.trainer.profile import Profile

FEATURES = {
    "pretrained": "pretrained",
    "random": "random encoder",
    "raw": "raw features",
    "trees": "boosted trees",
    "popularity": "popularity",
}
"""Columns of the table of results: features by their name in an evaluation."""


def console() -> Console:
    """The console on standard output; no colours when it is not a terminal."""
    from rich.console import Console

    made = Console(highlight=False)
    if not made.is_terminal:  # a file or a pipe has no width: do not squeeze tables into 80 columns
        made = Console(highlight=False, width=120)
    return made


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table in the house style."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def escape(value: Any) -> str:
    """Text that rich prints as it is."""
    from rich.markup import escape as _escape

    return str(_escape(str(value)))


def run(result: Run) -> None:
    """Where everything is, the table of results, and whether ``expect`` was met."""
    from ssl_domains.evaluation.verdict import verdict

    out = console()
    if result.evaluation is not None:
        out.print(scores({result.recipe_name: result.evaluation}))
        out.print(escape(verdict(result.evaluation)))
        for note in result.evaluation.notes:
            out.print(escape(note))
    for sentence in result.notes:
        out.print(escape(sentence))
    for sentence in result.missed:
        out.print(f"[bold red]expect[/]: {escape(sentence)}")
    if result.met:
        out.print(f"[green]expect[/]: met ({escape(', '.join(result.met))})")
    for name, path in result.files().items():
        out.print(f"{name + ':':<9} {escape(path)}", soft_wrap=True)


def integration(result: Integration) -> None:
    """How many rows became how many, what to know, and where everything is."""
    out = console()
    joined = result.rows - result.tuples
    out.print(
        f"{result.rows:,} rows became {result.tuples:,} ({joined:,} joined to others); "
        f"{result.conflicts:,} cells held "
        "different values"
    )
    if result.scores:
        out.print(
            "against the truth: " + ", ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
        )
    for note in result.notes:
        out.print(escape(note))
    out.print(f"table:    {escape(result.path)}", soft_wrap=True)
    out.print(f"run:      {escape(result.run)}   (use it again with --run)", soft_wrap=True)


def scores(evaluations: Mapping[str, Evaluation]) -> Table:
    """One row for each probe of each evaluation; columns are the features it was run on."""
    seen = {row.features for e in evaluations.values() for row in e.rows}
    features = [name for name in FEATURES if name in seen]
    shown = [name for name in features if name != "trees"]
    made = table("", "probe", "metric", *(FEATURES.get(name, name) for name in features))
    for title, evaluation in evaluations.items():
        mains = [row for row in evaluation.rows if row.main]
        probes = dict.fromkeys((row.probe, row.metric) for row in mains if row.features in shown)
        for probe, metric in probes:
            cells = [_cell(evaluation, mains, probe, metric, name) for name in features]
            made.add_row(escape(title), escape(probe), metric, *cells)
    return made


def _cell(evaluation: Evaluation, rows: Sequence[Row], probe: str, metric: str, features: str) -> str:
    wanted = [r for r in rows if r.features == features and (r.probe == probe or features == "trees")]
    if not wanted:
        return "-"
    row = wanted[0]
    spread = f" ± {row.std:.3f}" if row.n > 1 and math.isfinite(row.std) else ""
    text = f"{row.mean:.3f}{spread}"
    return f"[bold]{text}[/]" if row.mean == evaluation.best(probe, metric) and features != "trees" else text


def profile(found: Profile) -> None:
    """Parts of a step with their shares, and the advice."""
    out, made = console(), table("part", "ms a step", "share")
    for part, ms in found.ms.items():
        made.add_row(part, f"{ms:.2f}", f"{found.share[part]:.0%}")
    out.print(made)
    out.print(f"{found.samples_per_second:,.0f} samples a second over {found.steps} steps")
    out.print(escape(found.advice))


def listing(names: Mapping[str, Iterable[tuple[str, str]]]) -> None:
    """Names by kind, each with one line."""
    out = console()
    for kind, rows in names.items():
        made = table(kind, "")
        for name, summary in rows:
            made.add_row(escape(name), escape(summary))
        out.print(made)


def resolved(rows: Sequence[ResolvedValue]) -> None:
    """A resolved recipe as YAML-like lines with the origin of each value."""
    out = console()
    section = None
    width = max((len(_line(row)) for row in rows), default=0)
    for row in rows:
        head, _, tail = row.key.partition(".")
        if tail and head != section:
            out.print(f"[bold]{head}[/]:")
        section = head
        style = "dim" if row.origin == "default" else "cyan" if row.origin.startswith("override") else ""
        text = f"{escape(_line(row)):<{min(width, 60)}}  # {escape(row.origin)}"
        out.print(f"[{style}]{text}[/]" if style else text, soft_wrap=True)


def _line(row: ResolvedValue) -> str:
    from ssl_domains.recipe.schema import inline

    head, _, tail = row.key.partition(".")
    return f"  {tail}: {inline(row.value)}" if tail else f"{head}: {inline(row.value)}"


def differences(a: str, b: str, rows: Sequence[Difference]) -> None:
    """Two columns of values."""
    from ssl_domains.recipe.schema import inline

    if not rows:
        console().print("no difference")
        return
    made = table("", escape(a), escape(b))
    for row in rows:
        made.add_row(escape(row.key), escape(inline(row.a)), escape(inline(row.b)))
    console().print(made)


def inspection(found: Mapping[str, Any], lines: str) -> None:
    """What was found in a source, then the recipe lines."""
    out = console()
    for key, item in found.items():
        if isinstance(item, list) and item and all(isinstance(x, Mapping) for x in item):
            _rows(out, key, item)
        elif isinstance(item, Mapping):
            out.print(f"[bold]{escape(key)}[/]")
            for name, inner in item.items():
                out.print(f"  {escape(name)}: {escape(_short(inner))}", soft_wrap=True)
        else:
            out.print(f"[bold]{escape(key)}[/]: {escape(_short(item))}", soft_wrap=True)
    out.print("\n[bold]recipe lines[/]")
    out.print(escape(lines), soft_wrap=True)


def _rows(out: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    made = table(*columns, title=title)
    for row in rows:
        made.add_row(*(escape(_short(row.get(column, ""))) for column in columns))
    out.print(made)


def _short(item: Any) -> str:
    if isinstance(item, float):
        return f"{item:.4g}"
    text = str(item)
    return text if len(text) <= 300 else text[:297] + "..."


def checks(found: Sequence[Check]) -> None:
    """The doctor's findings, with the command that mends each."""
    made = table("", "check", "found", "to mend it")
    for check in found:
        mark = "[green]ok[/]" if check.ok else "[red]no[/]"
        made.add_row(mark, check.name, escape(check.found), escape(check.fix))
    console().print(made)


def curation(found: Curation) -> None:
    """What was left out, with the closest pairs."""
    out = console()
    gone = found.rows - found.kept
    out.print(
        f"{found.rows:,} rows, {gone:,} left out as near-duplicates "
        f"({found.of_held_out:,} of them of held-out rows)"
    )
    if found.examples:
        pairs = table("left out", "because of", "similarity")
        for one, other, value in found.examples:
            pairs.add_row(escape(one), escape(other), f"{value:.3f}")
        out.print(pairs)
    out.print(f"rows:     {found.path}   (train.rows={found.path} in a recipe)")
