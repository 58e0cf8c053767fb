"""``report.html``: one page with all the evidence of a run, which opens anywhere and asks for nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.evaluation import label_curve, page, plots, samples
from ssl_domains.evaluation.expect import check_expectations
from ssl_domains.evaluation.metrics import TITLES
from ssl_domains.evaluation.page import cell, esc
from ssl_domains.evaluation.results import Evaluation, MapSample, Row
from ssl_domains.evaluation.unlabelled import NAMES
from ssl_domains.evaluation.verdict import better, clear, main_probe, verdict

FEATURES = {
    "pretrained": "pretrained encoder",
    "random": "random encoder",
    "raw": "raw features",
    "trees": "trees on raw features",
    "popularity": "popularity",
    "mean": "mean of the training part",
}
PROBES = {
    "linear": "linear",
    "knn": "kNN",
    "few_shot": "few-shot",
    "fine_tune": "fine-tune",
    "mlp": "MLP",
    "boosted_trees": "boosted trees, joined with raw",
    "trees": "trees",
}
GUARD_NAMES = {"rank": "RankMe", "rankme": "RankMe", "cosine": "mean cosine", "dead": "dead dimensions"}
MAX_CLASSES = 10


def write_report(
    run_dir: str | Path,
    evaluation: Evaluation,
    *,
    title: str,
    subtitle: Sequence[str] = (),
    metrics_rows: Sequence[Mapping[str, Any]] = (),
    card: Mapping[str, Any] | None = None,
    recipe_yaml: str = "",
    findings: Sequence[str | Mapping[str, Any]] = (),
    expect: Mapping[str, str] | None = None,
    environment: Mapping[str, Any] | None = None,
    embeddings: Mapping[str, np.ndarray] | None = None,
    labels: np.ndarray | None = None,
    label_name: str = "label",
    seconds: float | None = None,
) -> Path:
    """Writes ``report.html`` into the run directory (under a temporary name, then renamed).

    Args:
        run_dir: where to write.
        evaluation: what was found.
        title: heading, such as "t_jepa on insurance.csv".
        subtitle: short facts below the title (domain, method, date).
        metrics_rows: rows of the metrics log: ``step``, ``loss``, ``parts/...``, ``lr``,
            ``guard/<stage>/<statistic>``, ``probe/...``; whatever is missing is left out.
        card: numbers about the data (``source.card()``), nested as it likes.
        recipe_yaml: the resolved recipe; comments (origins) are muted.
        findings: the guard's sentences, or mappings with ``message`` and maybe ``step``, ``stage``.
        expect: the recipe's conditions, checked here.
        environment: versions, device and so on.
        embeddings: for the map, ``{"pretrained": [n, D], "random": ...}``; default: the
            evaluation's own sample.
        labels: ``[n]`` or ``[n, L]`` labels of these rows.
        label_name: what the label is called.
        seconds: wall time of the run.
    """
    sample = evaluation.sample
    if embeddings is not None:
        n = len(next(iter(embeddings.values()), np.empty(0)))
        sample = MapSample(np.arange(n), dict(embeddings), labels)
    body = "\n".join(
        part
        for part in (
            _header(title, [*subtitle, *_time(seconds)], evaluation),
            _scores(evaluation),
            label_curve.section(evaluation, _order, features_title, _score),
            _expectations(expect or {}, evaluation),
            _map(evaluation, sample, label_name),
            _training(metrics_rows),
            _guard(metrics_rows, findings),
            _diagnostics(evaluation),
            samples.neighbours(evaluation),
            *samples.figures(evaluation),
            page.section("Data", page.key_values(card or {})),
            page.section("Recipe", page.code(recipe_yaml)),
            page.section("Environment", page.key_values(environment or {})),
        )
        if part
    )
    path = Path(run_dir) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".report.{os.getpid()}.partial")
    try:
        partial.write_text(page.page(title, body), encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def features_title(name: str) -> str:
    """``raw:degree`` is "raw features (degree)"."""
    head, _, rest = name.partition(":")
    return FEATURES.get(head, head) + (f" ({rest})" if rest else "")


def probe_title(key: str) -> str:
    """``few_shot(shots=5)`` is "few-shot (shots=5)"."""
    head, bracket, rest = key.partition("(")
    return PROBES.get(head, head.replace("_", " ")) + (f" ({rest}" if bracket else "")


def _time(seconds: float | None) -> list[str]:
    if seconds is None:
        return []
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    shown = [
        f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min"), (left if not hours else 0, "s")) if n
    ]
    return [f"run time {' '.join(shown) or 'under 1 s'}"]


def _header(title: str, facts: Sequence[str], evaluation: Evaluation) -> str:
    line = "".join(f"<span>{esc(fact)}</span>" for fact in facts)
    return (
        f'<header><h1>{esc(title)}</h1><p class="meta">{line}</p>'
        f'<p class="verdict">{esc(verdict(evaluation))}</p>{_tiles(evaluation)}</header>'
    )


def _tiles(evaluation: Evaluation) -> str:
    tiles: list[str] = []
    probe = main_probe(evaluation)
    ours = evaluation.find(probe) if probe else None
    if probe is not None and ours is not None:
        what = f"{probe_title(probe)} probe, {TITLES.get(ours.metric, ours.metric)}"
        tiles.append(_tile(f"{ours.mean:.3f}", what))
        tiles += [
            _gain(ours, evaluation.find(probe, name), f"over {FEATURES[name]}")
            for name in ("random", "raw", "popularity", "mean")
        ]
    rank = evaluation.diagnostics.get("pretrained", {}).get("rankme")
    if rank is not None:
        tiles.append(_tile(f"{rank:.1f}", f"effective rank (RankMe) of {evaluation.width} dimensions"))
    if ours is None:
        tiles += [
            _tile(page.number(evaluation.diagnostics["pretrained"][key]), NAMES[key])
            for key in ("dead_dimensions", "uniformity", "view_consistency")
            if key in evaluation.diagnostics.get("pretrained", {})
        ]
    return f'<div class="tiles">{"".join(tiles)}</div>' if any(tiles) else ""


def _tile(value: str, text: str, tone: str = "") -> str:
    return f'<div class="tile"><b class="{tone}">{esc(value)}</b><small>{esc(text)}</small></div>'


def _gain(ours: Row, other: Row | None, text: str) -> str:
    if other is None:
        return ""
    gain = ours.mean - other.mean
    tone = "" if not clear(ours, other) else "good" if better(ours, other) else "bad"
    return _tile(f"{gain:+.3f}".replace("-", "−"), text, tone)


def _order(names: Sequence[str]) -> list[str]:
    heads = list(FEATURES)
    return sorted(dict.fromkeys(names), key=lambda n: heads.index(n.split(":")[0]))


def _scores(evaluation: Evaluation) -> str:
    curve = label_curve.points_of(evaluation)  # these have a section of their own
    main = [row for row in evaluation.rows if row.main and row.probe not in curve]
    notes = "".join(f'<p class="note">{esc(note)}</p>' for note in evaluation.notes)
    if not main:
        return page.section("Probes", notes)
    probes = list(dict.fromkeys(row.probe for row in main if row.features != "trees"))
    features = _order([row.features for row in main])
    n = ", ".join(f"{count:,} {split}" for split, count in evaluation.n_rows.items())
    metric = TITLES.get(main[0].metric, main[0].metric)
    caption = f"{metric[0].upper()}{metric[1:]} on the test rows; the best of each column is bold. Rows: {n}."
    rows = [_score_row(evaluation, name, probes) for name in features]
    titles = {row.probe: _column_title(row, main[0].metric) for row in main}
    table = page.table(["features", *(titles[p] for p in probes)], rows, caption=caption)
    columns = [  # the trees have no probe: they stand in every panel
        (titles[p], [(r.features, r.mean, r.std) for r in main if r.probe in (p, "trees")]) for p in probes
    ]
    chart = plots.score_chart(columns, {name: features_title(name) for name in features}) if columns else ""
    return page.section(
        "Probes", table, page.figure(chart, label="scores of all probes"), _spreads(main), notes,
        page.disclosure("All scores", _all_scores(evaluation, features)),
    )  # fmt: skip


def _column_title(row: Row, metric: str) -> str:
    """The probe, and its metric where that is not the one that the caption names."""
    title = probe_title(row.probe)
    return title if row.metric == metric else f"{title}, {TITLES.get(row.metric, row.metric)}"


def _score_row(evaluation: Evaluation, features: str, probes: Sequence[str]) -> str:
    label = page.dot(plots.colour(features)) + esc(features_title(features))
    if features == "trees":
        found = evaluation.find("trees", "trees")
        text = _score(found) if found else "–"
        return page.row(label, [f'<td class="c" colspan="{max(len(probes), 1)}">{text}</td>'])
    cells = []
    for probe in probes:
        found = evaluation.find(probe, features)
        best = found is not None and found.mean == evaluation.best(probe, found.metric)
        cells.append(cell(_score(found) if found else "–", best=best))
    return page.row(label, cells)


def _score(row: Row) -> str:
    digits = 3 if abs(row.mean) < 100 else 1
    spread = f' <span class="sd">± {row.std:,.{digits}f}</span>' if math.isfinite(row.std) else ""
    return f"{row.mean:,.{digits}f}{spread}" if math.isfinite(row.mean) else "–"


def _spreads(rows: Sequence[Row]) -> str:
    """What each spread is over, said once for all cells that share it."""
    groups: dict[str, dict[str, None]] = {}
    for row in rows:
        if math.isfinite(row.std):
            where = features_title(row.features)
            groups.setdefault(f"{row.n} {row.spread}", {}).setdefault(
                where if row.features == "trees" else f"{probe_title(row.probe)} on {where}"
            )
    parts = [f"{what} ({', '.join(cells)})" for what, cells in groups.items()]
    text = f"± is one standard deviation over {'; over '.join(parts)}." if parts else ""
    return page.disclosure("What the spreads are over", f'<p class="note">{esc(text)}</p>') if text else ""


def _all_scores(evaluation: Evaluation, features: Sequence[str]) -> str:
    pairs = list(dict.fromkeys((row.probe, row.metric) for row in evaluation.rows))
    rows = []
    for probe, metric in pairs:
        found = [evaluation.find(probe, name, metric) for name in features]
        cells = [
            cell(_score(r) if r else "–", best=r is not None and r.mean == evaluation.best(probe, metric))
            for r in found
        ]
        rows.append(page.row(esc(f"{probe_title(probe)}, {TITLES.get(metric, metric)}"), cells))
    return page.table(["probe and score", *(features_title(name) for name in features)], rows)


def _expectations(expect: Mapping[str, str], evaluation: Evaluation) -> str:
    if not expect:
        return ""
    failed = {failure.key: failure for failure in check_expectations(expect, evaluation)}
    rows = []
    for key, text in expect.items():
        try:
            value = page.number(evaluation.value(key))
        except KeyError:
            value = "–"
        state = '<span class="bad">missed</span>' if key in failed else '<span class="good">met</span>'
        rows.append(page.row(esc(key), [cell(esc(text)), cell(esc(value)), cell(state)]))
    return page.section("Expected by the recipe", page.table(["value", "expected", "found", ""], rows))


def _map(evaluation: Evaluation, sample: MapSample | None, label_name: str) -> str:
    if sample is None or not sample.embeddings:
        return ""
    keep = np.linspace(0, len(sample.index) - 1, min(len(sample.index), 3000)).astype(np.int64)
    chosen = {name: z[keep] for name, z in sample.embeddings.items()}
    labels = None if sample.labels is None else np.asarray(sample.labels)[keep]
    colour, entries, continuous = _colours(labels, evaluation)
    svg = plots.embedding_map(chosen, colour, continuous=continuous, titles=FEATURES)
    if not svg:
        return page.section(
            "Map of the embeddings", "<p>The embeddings do not vary, so there is nothing to draw.</p>"
        )
    return page.section("Map of the embeddings", page.legend(entries), page.figure(svg, _map_caption(
        len(keep), label_name, labels, evaluation, continuous)))  # fmt: skip


def _map_caption(
    n: int, name: str, labels: np.ndarray | None, evaluation: Evaluation, continuous: bool
) -> str:
    coloured = ""
    if labels is not None and evaluation.task == "multilabel":
        coloured = f", coloured by the number of {name} entries that are set"
    elif labels is not None:
        coloured = f", coloured by {name}" + (
            " (colour scale from the 2nd to the 98th percentile)" if continuous else ""
        )
    return (
        f"{n:,} samples{coloured}. PCA shows the directions of largest variance; t-SNE shows which samples "
        "are near one another, and neither its distances between groups nor their sizes mean anything."
    )


def _colours(
    labels: np.ndarray | None, evaluation: Evaluation
) -> tuple[np.ndarray | None, list[tuple[str, str]], bool]:
    """Colours of the points, the legend, and whether they are numbers for a colour bar."""
    if labels is None:
        return None, [], False
    if evaluation.task != "classification":
        flat = labels.reshape(len(labels), -1).astype(np.float64)
        return (flat.sum(1) if evaluation.task == "multilabel" else flat[:, 0]), [], True
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    common = classes[np.argsort(-counts, kind="stable")]
    shown = common if len(common) <= MAX_CLASSES else common[: MAX_CLASSES - 1]
    colour = {int(c): plots.PALETTE[i] for i, c in enumerate(sorted(shown))}
    names = evaluation.class_names or []
    entries = [(hue, names[c] if c < len(names) else f"class {c}") for c, hue in colour.items()]
    if len(common) > len(shown):
        entries.append((plots.OTHER, f"{len(common) - len(shown)} other classes"))
    if (labels < 0).any():
        entries.append((plots.OTHER, "unlabelled"))
    return np.array([colour.get(int(c), plots.OTHER) for c in labels.reshape(-1)]), entries, False


def _training(rows: Sequence[Mapping[str, Any]]) -> str:
    caption = (
        "RankMe is the effective rank of each stage that the guard watches; a fall towards 1 is a collapse."
    )
    ranks = page.figure(plots.progress_curves(rows), caption, "RankMe by stage, and probes")
    curves = page.figure(plots.learning_curves(rows), label="loss, its parts and the learning rate")
    return page.section("Pretraining", curves, ranks)


def _guard(rows: Sequence[Mapping[str, Any]], findings: Sequence[str | Mapping[str, Any]]) -> str:
    watched = any(key.startswith(plots.GUARD_PREFIX) for key in plots.keys_of(rows))
    if not findings and not watched:
        return ""
    said = "".join(f'<p class="finding">{esc(_finding(f))}</p>' for f in findings)
    return page.section("Guard", said or "<p>The guard found no sign of collapse.</p>", _guard_table(rows))


def _finding(finding: str | Mapping[str, Any]) -> str:
    if isinstance(finding, str):
        return finding
    text = (
        finding.get("message")
        or finding.get("sentence")
        or ", ".join(f"{k}: {v}" for k, v in finding.items())
    )
    return f"Step {finding['step']:,}: {text}" if isinstance(finding.get("step"), int) else str(text)


def _guard_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The guard's last numbers, stages down, statistics across."""
    last: dict[str, dict[str, float]] = {}
    for key in plots.keys_of(rows):
        stage, _, name = key.removeprefix(plots.GUARD_PREFIX).rpartition("/")
        values = plots.series(rows, key)[1]
        if key.startswith(plots.GUARD_PREFIX) and stage and len(values):
            last.setdefault(stage, {})[name] = float(values[-1])
    columns = list(dict.fromkeys(name for each in last.values() for name in each))
    body = [page.row(esc(s), [cell(esc(page.number(v.get(c)))) for c in columns]) for s, v in last.items()]
    head = ["stage", *(GUARD_NAMES.get(c, c.replace("_", " ")) for c in columns)]
    return page.table(head, body, caption="Last look at each stage.") if body else ""


def _diagnostics(evaluation: Evaluation) -> str:
    found = evaluation.diagnostics
    names = list(dict.fromkeys(name for each in found.values() for name in each))
    rows = [
        page.row(esc(NAMES.get(name, name)), [cell(esc(page.number(v.get(name)))) for v in found.values()])
        for name in names
    ]
    return page.section(
        "Without labels", page.table(["", *(features_title(n) for n in found)], rows) if rows else ""
    )
