"""The sentence at the head of a report, from the numbers alone."""

from __future__ import annotations

import math

from ssl_domains.evaluation.metrics import LOWER_IS_BETTER, TITLES
from ssl_domains.evaluation.results import Evaluation, Row

PROBE_ORDER = ("linear", "mlp", "knn", "boosted_trees", "fine_tune", "few_shot", "label_fraction")


PLAIN = {
    "raw": "raw features",
    "popularity": "ranking by popularity",
    "mean": "the mean of the training part",
}
"""Baselines without an encoder, and what sentences call them."""


def main_probe(evaluation: Evaluation) -> str | None:
    """The probe that the verdict speaks of: linear where it was run."""
    present = list(dict.fromkeys(r.probe for r in evaluation.rows if r.features == "pretrained"))
    ranked = sorted(present, key=lambda p: PROBE_ORDER.index(p) if p in PROBE_ORDER else len(PROBE_ORDER))
    return ranked[0] if ranked else None


def clear(ours: Row, other: Row) -> bool:
    """True when the difference is above two standard deviations of the two spreads together."""
    spreads = [s for s in (ours.std, other.std) if math.isfinite(s)]
    return abs(ours.mean - other.mean) > 2 * math.sqrt(sum(s * s for s in spreads))


def verdict(evaluation: Evaluation) -> str:
    """One or two plain sentences: did pretraining help, and does it beat raw features."""
    probe = main_probe(evaluation)
    ours = evaluation.find(probe) if probe else None
    if probe is None or ours is None:
        return _without_probe(evaluation)
    metric = f"{probe.replace('_', '-')} {TITLES.get(ours.metric, ours.metric)}"
    random = evaluation.find(probe, "random")
    beside = "".join(_against(ours, evaluation.find(probe, key), name) for key, name in PLAIN.items())
    if random is None:
        return f"{metric[0].upper()}{metric[1:]} {ours.mean:.3f}.{beside}"
    return (
        f"{_effect(ours, random)}: {metric} {ours.mean:.3f}, against {random.mean:.3f} for the same encoder "
        f"untrained.{beside}"
    )


def _effect(ours: Row, random: Row) -> str:
    if not clear(ours, random):
        return "Pretraining made no clear difference"
    return "Pretraining helped" if better(ours, random) else "Pretraining hurt"


def better(ours: Row, other: Row) -> bool:
    """Whether the score is better, which for errors means lower."""
    return ours.mean < other.mean if ours.metric in LOWER_IS_BETTER else ours.mean > other.mean


def _against(ours: Row, plain: Row | None, name: str) -> str:
    if plain is None:
        return ""
    if not clear(ours, plain):
        return f" It is level with {name} ({plain.mean:.3f})."
    return f" It {'beats' if better(ours, plain) else 'stays below'} {name} ({plain.mean:.3f})."


def _without_probe(evaluation: Evaluation) -> str:
    ours, random = (evaluation.diagnostics.get(name, {}).get("rankme") for name in ("pretrained", "random"))
    if ours is None:
        return "There is nothing to judge this encoder by."
    beside = "" if random is None else f", against {random:.1f} for the same encoder untrained"
    return (
        f"No labels, so no probe: the embeddings have an effective rank of {ours:.1f} of {evaluation.width}"
        f"{beside}. A high rank is necessary for good features, not sufficient; look at the neighbours below."
    )
