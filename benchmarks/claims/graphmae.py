"""GraphMAE with and without re-masking, and against the untrained encoder (sheet 60)."""

from __future__ import annotations

from benchmarks.claims.common import Result, data_root, judge, pretrained

SHOTS = 20


def recipe(remask: bool) -> dict:
    """The paper's Cora settings on WordNet's verbs, narrower (256) and shorter (200 epochs), 300 words as features."""
    root = data_root()
    return {
        "domain": "graph",
        "data": {
            "nodes": str(root / "wordnet_verbs_nodes.csv"),
            "edges": str(root / "wordnet_verbs_edges.csv"),
            "label": "label",
            "text": ["gloss"],
            "max_words": 300,
            "test": 0.5,
        },
        "encoder": {"name": "gat", "width": 256, "edge_features": False},
        "mask": {"name": "random", "ratio": 0.5, "noise": 0.05},
        "method": {"name": "masked_reconstruction", "predictor": {"remask": remask}},
        "objective": {"name": "scaled_cosine", "gamma": 3},
        "optimizer": {"name": "adam", "lr": 1e-3, "weight_decay": 2e-4},
        "schedule": {"name": "warmup_cosine", "warmup": 0.0},
        "train": {"batch_size": "full", "epochs": 200, "on_collapse": "off"},
        "evaluate": {"probes": ["linear", {"name": "few_shot", "shots": SHOTS}]},
    }


def run(seeds: int) -> Result:
    """Linear probe on the frozen, unmasked encoder output."""
    values: dict[str, list[float]] = {}

    def add(condition: str, score: float) -> None:
        values.setdefault(condition, []).append(score)

    for seed in range(seeds):
        with_remask, without = (pretrained(recipe(r), seed).evaluation for r in (True, False))
        for label, key in ((f"{SHOTS} labels a class", f"few_shot(shots={SHOTS})"), ("all labels", "linear")):
            add(f"{label}: GraphMAE", with_remask.value(key))
            add(f"{label}: without re-masking", without.value(key))
            for kind in ("random", "raw"):
                add(f"{label}: {kind}", with_remask.value(f"{key}.{kind}"))
    few = f"{SHOTS} labels a class: "
    against = {
        k: judge(values[few + "GraphMAE"], values[few + k]) for k in ("without re-masking", "random", "raw")
    }
    return Result(
        name="graphmae",
        paper="GraphMAE (KDD 2022)",
        claim="A linear probe on GraphMAE beats the untrained encoder, and re-masking before the decoder helps.",
        setting="WordNet 3.0 verbs (13,767 nodes, 30,536 pointers, 15 classes, gloss as bag of words); GAT 2 x 256, "
        "200 epochs, 300 words, otherwise the paper's Cora settings.",
        metric="test accuracy",
        values=values,
        verdict="holds" if {against["without re-masking"], against["random"]} == {"holds"} else "open",
        notes="; ".join(f"with few labels, against {k}: {v}" for k, v in against.items()) + ".",
    )
