"""Pictures and captions trained together against each tower trained alone (CLIP, 2103.00020)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.claims.common import FETCH, Result, data_root, judge
from ssl_domains.evaluation.results import Evaluation
from ssl_domains.text.data import draw_splits

BOTH, APART = "both towers together", "towers trained apart, frozen; only projections learn from pairs"
NONE, CHANCE = "nothing trained (without pairs no other tower does better)", "chance"
PROBES = {
    BOTH: "categories from pictures: image tower of the pairs",
    APART: "categories from pictures: image tower alone (SimCLR)",
    NONE: "categories from pictures: image tower untrained",
}
EPOCHS, BATCH, KEY = 10, 128, "recall@10"
OPTIMIZER = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05}
IMAGE = {"name": "image_resnet", "depth": 10, "width": 16, "stem": "large"}
TEXT = {"name": "text_transformer", "width": 64, "depth": 2, "heads": 4}
VIEWS = {"name": "image_augment", "family": "simclr_small", "strength": 0.5, "scale": [0.4, 1.0]}


def table(folder: Path, seed: int) -> Path:
    """Pairs of drawings and captions with a column ``split`` that every run of the seed goes by: a quarter is
    held out, drawings of a series stay together."""
    source = data_root() / "clipart.csv"
    if not source.exists():
        raise SystemExit(f"{source} is not there: run `{FETCH} --pairs`")
    frame = pd.read_csv(source, dtype=str, keep_default_na=False)
    frame["path"] = [str(source.parent / path) for path in frame["path"]]
    frame["split"] = "train"
    for name, rows in draw_splits(len(frame), 0.05, 0.25, seed, list(frame["series"])).items():
        frame.loc[rows, "split"] = name
    frame.to_csv(folder / "pairs.csv", index=False)
    return folder / "pairs.csv"


def recipe(pairs: Path, seed: int, epochs: int, **sections: Any) -> dict[str, Any]:
    """What all runs share, with the sections that differ."""
    return {
        "data": {"source": str(pairs), "split": "split"},
        "optimizer": OPTIMIZER,
        "schedule": {"name": "warmup_cosine", "warmup": 0.1},
        "train": {"batch_size": BATCH, "epochs": epochs, "seed": seed},
        **sections,
    }


def together(pairs: Path, seed: int, apart: dict[str, Path] | None, epochs: int) -> dict[str, Any]:
    """CLIP; from towers that were trained before, whose features are computed once, or from random weights."""
    a: dict[str, Any] = {"domain": "image", "data": {"size": 32, "fit": "pad"}, "encoder": IMAGE}
    b: dict[str, Any] = {"domain": "text", "data": {"length": 24}, "encoder": TEXT}
    if apart is None:
        a["views"] = {**VIEWS, "n_views": 1}
    else:
        a, b = ({"domain": p["domain"], "init_from": str(apart[k])} for k, p in (("a", a), ("b", b)))
    made = recipe(pairs, seed, epochs, domain="crossmodal", a=a, b=b)
    made["data"] |= {"columns": {"a": "path", "b": "caption"}, "label": "category"}
    return {
        **made,
        "encoder": {"name": "towers", "width": 128},
        "method": {"name": "cross_modal", "towers": {} if apart is None else {"a": "cached", "b": "cached"}},
        "objective": "clip",
        "evaluate": {"probes": [{"name": "pair_retrieval", "cutoffs": [10, 1, 5]}, "tower"], "seeds": 1},
    }


def alone(pairs: Path, seed: int, epochs: int) -> dict[str, dict[str, Any]]:
    """SimCLR on the pictures, SimCSE with words left out on the captions; neither sees a pair."""
    image = recipe(
        pairs,
        seed,
        epochs,
        domain="image",
        encoder=IMAGE,
        views=VIEWS,
        objective={"name": "nt_xent", "temperature": 0.2},
    )
    image["data"] |= {"size": 32, "fit": "pad", "path": "path", "label": "category"}
    text = recipe(
        pairs, seed, epochs, domain="text", encoder=TEXT, views={"name": "text_augment", "drop": 0.2, "mask": 0.1},
        objective={"name": "info_nce", "temperature": 0.05, "symmetric": True},
    )  # fmt: skip
    text["data"] |= {"length": 24, "column": "caption"}
    method = {"name": "joint_embedding", "projector": [128, 64]}
    return {
        key: {**made, "method": method, "evaluate": {"probes": []}}
        for key, made in (("a", image), ("b", text))
    }


def read(evaluation: Evaluation, features: str) -> tuple[float, float]:
    """Recall at 10, the mean of both ways; and the accuracy of the linear probe on the image tower."""
    rows = [row for row in evaluation.rows if row.features == features]
    recall = [row.mean for row in rows if row.probe.startswith("pair_retrieval") and row.metric == KEY]
    probe = [row.mean for row in rows if row.probe.startswith("tower_a") and row.metric == "accuracy"]
    assert len(recall) == 2
    assert len(probe) == 1
    return float(np.mean(recall)), probe[0]


def one_run(seed: int, epochs: int = EPOCHS) -> dict[str, float]:
    """Recall, and accuracy of the probe, by condition."""
    import ssl_domains

    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = table(folder, seed)

        def trained(made: dict[str, Any], run: str) -> Evaluation | None:
            return ssl_domains.pretrain(made, run=folder / run, progress=False).evaluation

        for key, made in alone(pairs, seed, epochs).items():
            trained(made, key)
        apart = {"a": folder / "a", "b": folder / "b"}
        for condition, towers in ((BOTH, None), (APART, apart)):
            # Projections of cached towers cost nearly nothing; they get five times the epochs.
            made = together(pairs, seed, towers, epochs if towers is None else 5 * epochs)
            evaluation = trained(made, "pairs" if towers is None else "joined")
            assert evaluation is not None
            found[condition], found[PROBES[condition]] = read(evaluation, "pretrained")
            if towers is None:
                found[NONE], found[PROBES[NONE]] = read(evaluation, "random")
                n = next(row.n for row in evaluation.rows if row.probe.startswith("pair_retrieval"))
                found[CHANCE] = 10 / n
    order = [BOTH, APART, NONE, CHANCE, *PROBES.values()]
    return {condition: found[condition] for condition in order}


def run(seeds: int) -> Result:
    """Seeds draw the split, too."""
    runs = [one_run(seed) for seed in range(seeds)]
    values = {name: [r[name] for r in runs] for name in runs[0]}
    return Result(
        name="image_text",
        paper="CLIP: pictures and captions (Radford et al., ICML 2021)",
        claim="Held-out pictures find their captions better when both towers learn from pairs than when each learns alone.",
        setting=f"Open Clip Art: 4,447 drawings of 32 pixels with titles and keywords, a quarter held out, no series on both "
        f"sides; ResNet-10 (16 to 128 channels) and a 2-layer transformer (64 wide) from random weights, {EPOCHS} epochs. "
        "Apart: SimCLR and SimCSE for as many epochs, then a linear projection of each frozen tower, learned from the same "
        "pairs by the same loss. Keywords often hold a picture's category, so the probe's rows tell what captions add.",
        metric="recall at 10 of held-out pairs, mean of both ways; of the last three rows accuracy (higher is better)",
        values=values,
        verdict=judge(values[BOTH], values[APART]),
    )
