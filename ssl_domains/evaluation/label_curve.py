"""The few-label curve of a report: a table and a plot of the scores over the share of labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ssl_domains.evaluation import page, plots
from ssl_domains.evaluation.metrics import TITLES
from ssl_domains.evaluation.page import cell, esc
from ssl_domains.evaluation.results import Evaluation, Row

POINT = re.compile(r"label_fraction\(fraction=([0-9.eE+-]+)(?:, probe=(\w+))?\)")
Curves = dict[str, list[tuple[float, str]]]


def curves(evaluation: Evaluation) -> Curves:
    """``{probe: [(fraction, key of the rows), ...]}``, rising, of probes with two fractions or more."""
    found: Curves = {}
    for key in dict.fromkeys(row.probe for row in evaluation.rows):
        match = POINT.fullmatch(key)
        if match:
            found.setdefault(match[2] or "linear", []).append((float(match[1]), key))
    return {probe: sorted(points) for probe, points in found.items() if len(points) > 1}


def points_of(evaluation: Evaluation) -> set[str]:
    """Keys of all rows that belong to a curve."""
    return {key for points in curves(evaluation).values() for _, key in points}


def section(
    evaluation: Evaluation,
    order: Callable[[Sequence[str]], list[str]],
    title: Callable[[str], str],
    score: Callable[[Row], str],
) -> str:
    """The section of the report, or "" without a curve.

    Args:
        evaluation: what was found.
        order: sorts kinds of features.
        title: what a kind of features is called.
        score: a row's number with its spread, as HTML.
    """
    parts: list[str] = []
    for probe, points in curves(evaluation).items():
        keys = [key for _, key in points]
        main = [row for row in evaluation.rows if row.main and row.probe in keys]
        metric = main[0].metric
        names = order([row.features for row in main])
        head = ["features", *(percent(fraction) for fraction, _ in points)]
        body = []
        for name in names:
            cells = []
            for key in keys:
                row = evaluation.find(key, name)
                best = row is not None and row.mean == evaluation.best(key, metric)
                cells.append(cell(score(row) if row else "–", best=best))
            body.append(page.row(page.dot(plots.colour(name)) + esc(title(name)), cells))
        what = TITLES.get(metric, metric)
        caption = f"{probe} probe: {what} on the test rows by the share of the training labels."
        lines = [(name, [evaluation.find(key, name) for key in keys]) for name in names]
        chart = plots.label_curve(
            [fraction for fraction, _ in points],
            [(name, [(r.mean, r.std) if r else (float("nan"),) * 2 for r in rows]) for name, rows in lines],
            {name: title(name) for name in names},
            what,
            f"labels-{probe}",
        )
        table = page.table(head, body, caption=caption)
        parts += [table, page.figure(chart, label=f"few-label curve of the {probe} probe")]
    return page.section("Few labels", *parts) if parts else ""


def percent(share: float) -> str:
    """``0.01`` is "1 %"."""
    return f"{100 * share:g} %"
