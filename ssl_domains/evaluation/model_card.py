"""``card.md``: the model card that travels with an encoder."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_domains.evaluation.metrics import TITLES
from ssl_domains.evaluation.page import number
from ssl_domains.evaluation.report import features_title, probe_title
from ssl_domains.evaluation.results import Evaluation, Row
from ssl_domains.evaluation.verdict import verdict


def write_model_card(
    run_dir: str | Path,
    evaluation: Evaluation,
    *,
    title: str,
    domain: str = "",
    method: str = "",
    card: Mapping[str, Any] | None = None,
    recipe_yaml: str = "",
    environment: Mapping[str, Any] | None = None,
    licence: str = "unknown",
) -> Path:
    """Writes ``card.md``: data, method, numbers, intended use, limits, licence.

    Args:
        run_dir: where to write.
        evaluation: the numbers.
        title: heading.
        domain: name of the domain.
        method: name of the method.
        card: numbers about the data (``source.card()``).
        recipe_yaml: the resolved recipe.
        environment: versions, device and so on.
        licence: of the weights; nobody but the user can know it, since it follows the data's.
    """
    recipe = f"```yaml\n{recipe_yaml.rstrip().replace('```', '` ` `')}\n```" if recipe_yaml else ""
    parts = [
        f"---\nlibrary_name: ssl_domains\nlicense: {_quoted(licence)}\ntags: [self-supervised-learning, "
        f"{_quoted(domain or 'unknown')}]\n---",
        f"# {_line(title)}",
        _line(verdict(evaluation)),
        _block("Data", _bullets(card or {})),
        _block(
            "Method", f"{_line(method)} ({_line(domain)}), trained without labels." if method else "", recipe
        ),
        _block("Numbers", _numbers(evaluation), *(_line(note) for note in evaluation.notes)),
        _block(
            "Intended use",
            "Embedding of data of the same kind as the training data: search, clustering, visualisation, "
            "and small models on top (`ssl-domains embed`).",
        ),
        _block(
            "Limits",
            "The encoder knows the training data's distribution only. Probe scores are measured on splits of "
            "that data and say nothing of others. Biases of the data are in the embeddings. It has not been "
            "checked for decisions about people.",
        ),
        _block(
            "Licence", f"{_line(licence)}. The licence of the weights depends on that of the training data."
        ),
        _block("Environment", _bullets(environment or {})),
    ]
    path = Path(run_dir) / "card.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".card.{os.getpid()}.partial")
    partial.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def _line(text: Any) -> str:
    """One line of text; a table's bar and HTML brackets are escaped."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _quoted(text: str) -> str:
    return '"' + _line(text).replace('"', "'") + '"'


def _block(title: str, *parts: str) -> str:
    kept = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *kept]) if kept else ""


def _bullets(values: Mapping[str, Any], depth: int = 0) -> str:
    lines = []
    for key, value in values.items():
        name = f"{'  ' * depth}- {_line(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            lines += [f"{name}:", _bullets(value, depth + 1)]
        else:
            items = value if isinstance(value, list | tuple) else [value]
            shown = ", ".join(_line(number(v)) for v in items[:12]) + (", ..." if len(items) > 12 else "")
            lines.append(f"{name}: {shown}")
    return "\n".join(line for line in lines if line)


def _numbers(evaluation: Evaluation) -> str:
    rows = [
        f"| {_line(features_title(r.features))} | {_line(probe_title(r.probe))} "
        f"| {TITLES.get(r.metric, r.metric)} | {r.mean:.4g} | {_spread(r)} |"
        for r in evaluation.rows
    ]
    head = ["| features | probe | score | mean | standard deviation |", "|---|---|---|---:|---|"]
    found = evaluation.diagnostics.get("pretrained", {})
    without = ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in found.items())
    return "\n".join([*head, *rows] if rows else []) + (f"\n\nWithout labels: {without}." if without else "")


def _spread(row: Row) -> str:
    return f"{row.std:.2g} over {row.n} {_line(row.spread)}" if math.isfinite(row.std) else "–"
