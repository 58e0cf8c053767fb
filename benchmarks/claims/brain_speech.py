"""Contrast against regression of the same features, and what clamping and the subject layer are worth (sheet 11)."""

from __future__ import annotations

from typing import Any

from benchmarks.claims.common import Result, judge, pretrained

CONTRAST, REGRESSION = "contrast", "regression of the same features"
EPOCHS, KEYS = 10, {"": "recall@1", "among the first 10: ": "recall@10"}


def sections(condition: str) -> dict[str, Any]:
    """What differs from the recipe."""
    if condition == REGRESSION:
        return {"objective": {"name": "masked_mse"}}
    if condition == "contrast without clamping":
        return {"a": {"data": {"clamp": 0.0}}}
    if condition == "contrast without subject layer":
        return {"a": {"encoder": {"subject_layer": False}}}
    return {}


def one_run(seed: int) -> dict[str, float]:
    """Share of held-out segments whose sound is found first, and among the first 10."""
    found: dict[str, float] = {}
    names = (CONTRAST, REGRESSION, "contrast without clamping", "contrast without subject layer")
    for name in names:
        made = pretrained(
            "crossmodal/brain_speech", seed, train={"epochs": EPOCHS}, evaluate={"seeds": 1}, **sections(name)
        )
        rows = [r for r in made.evaluation.rows if r.probe.startswith("pair_retrieval_a_to_b")]
        by = {(row.features, row.metric): row.mean for row in rows}
        for title, key in KEYS.items():
            found[title + name] = by["pretrained", key]
            if name == CONTRAST:
                found[title + "untrained"] = by["random", key]
    return dict(sorted(found.items(), key=lambda item: "10" in item[0]))


def run(seeds: int) -> Result:
    """Seeds draw weights and batches; the experiment is one."""
    runs = [one_run(seed) for seed in range(seeds)]
    values = {name: [r[name] for r in runs] for name in runs[0]}
    return Result(
        name="brain_speech",
        paper="Decoding speech from non-invasive brain recordings (Defossez et al., Nature Machine Intelligence 2023)",
        claim="Which segment was heard is told better by contrast than by regression of the same features.",
        setting=f"generated://listening (6 subjects, 24 sensors, features of a story), {EPOCHS} epochs, the recipe's net.",
        metric="share of held-out segments whose sound is found first (higher is better)",
        values=values,
        verdict=judge(values[CONTRAST], values[REGRESSION]),
        notes="On generated recordings: no M/EEG set with its sound is in a package that can be fetched here. The paper's "
        "measure, the first 10, was run before: at its ceiling (contrast 0.995, regression 0.991). So the first alone, not "
        "looked at before, decides.",
    )
