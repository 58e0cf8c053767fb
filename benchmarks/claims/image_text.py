"""Pictures and names trained together against either tower alone (the cross-modal part of CLIP, 2103.00020)."""

from __future__ import annotations

from typing import Any

from benchmarks.claims.common import Result, data_root, judge, pretrained

BOTH, PICTURES, WORDS = (
    "both towers trained",
    "image tower trained, text tower random",
    "text tower trained, image tower random",
)
EPOCHS, KEY = 40, "recall@10"


def recipe(frozen: str | None) -> dict[str, Any]:
    """CLIP on the stamps; one tower may stay as it was made."""
    root = data_root()
    table = root / "stamps.csv"
    if not table.exists():
        raise SystemExit(f"{table} is not there: run `bash benchmarks/fetch.sh --pairs`")
    columns = {"a": "image", "b": "caption"}
    return {
        "domain": "crossmodal",
        "data": {"source": str(table), "columns": columns, "label": "label", "valid": 0.1, "test": 0.3},
        "a": {
            "domain": "image",
            "data": {"size": 48},
            "encoder": {"name": "image_resnet", "depth": 10, "width": 16},
            **(
                {}
                if frozen == "a"
                else {"views": {"name": "image_augment", "scale": [0.6, 1.0], "n_views": 2}}
            ),
        },
        "b": {"domain": "text", "encoder": {"name": "text_transformer", "width": 64, "depth": 2, "heads": 4}},
        "encoder": {"name": "towers", "width": 128},
        "method": {"name": "cross_modal", "towers": {frozen: "frozen"} if frozen else {}},
        "objective": "clip",
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05},
        "schedule": {"name": "warmup_cosine", "warmup": 0.1},
        "train": {"batch_size": 128, "epochs": EPOCHS},
        "evaluate": {"probes": [{"name": "pair_retrieval", "cutoffs": [10, 1, 5]}], "seeds": 1},
    }


def one_run(seed: int) -> dict[str, float]:
    """Recall at 10, mean of both ways, by condition."""
    found: dict[str, float] = {}
    for name, frozen in ((BOTH, None), (PICTURES, "b"), (WORDS, "a")):
        made = pretrained(recipe(frozen), seed, evaluate={"seeds": 1}, data={"seed": seed})
        rows = {
            (row.probe.split("(")[0], row.features): row.mean
            for row in made.evaluation.rows
            if row.metric == KEY
        }
        ways = ("pair_retrieval_a_to_b", "pair_retrieval_b_to_a")
        found[name] = sum(rows[way, "pretrained"] for way in ways) / 2
        if frozen is None:
            found["both towers random"] = sum(rows[way, "random"] for way in ways) / 2
    return found


def run(seeds: int) -> Result:
    """Seeds draw the split, too."""
    runs = [one_run(seed) for seed in range(seeds)]
    values = {name: [r[name] for r in runs] for name in runs[0]}
    return Result(
        name="image_text",
        paper="CLIP: pictures and names (Radford et al., ICML 2021)",
        claim="Pictures find their names better when both towers are trained than with either tower alone.",
        setting=f"Tux Paint's stamps, 48 pixels, ResNet-10 and a 2-layer transformer from random weights, {EPOCHS} epochs.",
        metric="recall at 10 of held-out pairs, mean of both ways (higher is better)",
        values=values,
        verdict=judge(
            values[BOTH], [max(p, w) for p, w in zip(values[PICTURES], values[WORDS], strict=True)]
        ),
    )
