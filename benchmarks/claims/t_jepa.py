"""T-JEPA with and without its register token, against the same encoder untrained and raw columns (sheet 24)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.claims.common import Result, data_root, interval, judge

if TYPE_CHECKING:
    from ssl_domains.evaluation.results import Evaluation

STEPS = 400
TURNS = 8.0  # sum of 1 - momentum over the run: exp(-8) of the teacher is still its random start
LEARNING_RATE = 3.66e-4  # of the authors' Jannis run
PROBES: dict[str, dict[str, Any]] = {
    "linear": {"name": "linear", "grid": [0.1], "max_iter": 100},
    "mlp": {"name": "mlp", "hidden": [128], "epochs": 40, "patience": 6},
}
REGISTERS = {"T-JEPA": 1, "T-JEPA without register": 0}
SETS: dict[str, dict[str, Any]] = {
    "letter": {"source": "letter.csv", "label": "lettr"},
    "diamonds": {"source": "diamonds.csv", "label": "price"},
    "dna": {"source": "dna.csv", "label": "class", "include": [f"p{j}" for j in range(21, 41)]},
}
ROWS = 2000  # labelled rows a split
OLD = (
    "An earlier version of this claim failed: on LetterRecognition and Satellite, 10 epochs (470 and 150 steps), "
    "learning rate 3.66e-4 and an EMA from 0.996, few-label linear probes gave 0.673 (pretrained), 0.680 (untrained), "
    "0.695 (raw) on LetterRecognition and 0.805, 0.804, 0.818 on Satellite at 20 labels a class. With that EMA "
    "the sum of 1 - momentum over the run is 0.9 and 0.3 (78 in the authors' Jannis run of 39,000 steps), so 40 % and "
    "74 % of the exported teacher was still its random start. The EMA now begins at 1 - 16 / steps, which makes the sum "
    "8, and the probes see 2,000 labels instead of a few a class. This was settled before these test scores were computed. "
    "Tried on validation rows of LetterRecognition, one seed that is not among these, width 64: learning rate 1e-3 for 1,500 "
    "steps gave 0.785 (linear) and 0.910 (MLP) against 0.791 and 0.911 untrained; the same with standard instead of min-max "
    "scaling for 600 steps 0.796 and 0.914 against 0.807 and 0.916, while RankMe fell from 4.3 to 1.2. Neither was better "
    "than untrained, so the claim keeps the authors' rate and scaling."
)


def recipe(name: str, registers: int) -> dict[str, Any]:
    """T-JEPA scaled down: 2 encoder layers and 1 predictor layer instead of 16 and 16."""
    data = {**SETS[name], "source": str(data_root() / SETS[name]["source"])}
    return {
        "domain": "tabular",
        "data": {**data, "scaling": "minmax", "valid": 0.1, "test": 0.3},
        "encoder": {
            "name": "ft_transformer",
            "width": 32,
            "depth": 2,
            "registers": registers,
            "pooled": "flatten",
        },
        "mask": {"name": "disjoint_subsets"},
        "method": {
            "name": "latent_prediction",
            "momentum": [1.0 - 2.0 * TURNS / STEPS, 1.0],
            "predictor": {"depth": 1},
        },
        "objective": {"name": "masked_mse"},
        "optimizer": {"name": "adamw", "lr": LEARNING_RATE, "weight_decay": 0.0},
        "schedule": {"name": "warmup_cosine", "warmup": 0.033},
        "train": {"batch_size": 64, "steps": STEPS, "clip_value": 1.0, "on_collapse": "off"},
        "evaluate": {"probes": [], "tree": False, "diagnostic_rows": 500, "map_rows": 10, "seeds": 1},
    }


def measured(name: str, registers: int, seed: int) -> Evaluation:
    """One run, probed beside an untrained encoder of its own seed."""
    import ssl_domains
    from ssl_domains.evaluation import evaluate_encoder
    from ssl_domains.recipe.build import build
    from ssl_domains.recipe.check import read_recipe

    probes = [{probe: {k: v for k, v in options.items() if k != "name"}} for probe, options in PROBES.items()]
    with tempfile.TemporaryDirectory() as folder:
        run = ssl_domains.pretrain(
            recipe(name, registers), f"train.seed={seed}", run=Path(folder) / "run", progress=False
        )
        experiment = build(read_recipe(run.path / "recipe.yaml", [], {}, []))
        return evaluate_encoder(
            run.encoder.encoder, experiment.source, make_encoder=experiment.make_encoder, probes=probes,
            seeds=[seed], max_rows=ROWS, diagnostic_rows=500, map_rows=10,
        )  # fmt: skip


def run(seeds: int) -> Result:
    """Linear and MLP probes on the flattened EMA tokens."""
    values: dict[str, list[float]] = {}
    ranks: dict[str, list[float]] = {}
    for name in SETS:
        for condition, registers in REGISTERS.items():
            for seed in range(seeds):
                found = measured(name, registers, seed)
                ranks.setdefault(f"{name}: {condition}", []).append(found.value("rankme"))
                for probe in PROBES:
                    key = next(row.probe for row in found.rows if row.probe.startswith(probe))
                    values.setdefault(f"{name}, {probe}: {condition}", []).append(found.value(key))
                    if registers:
                        for kind in ("random", "raw"):
                            row = found.find(key, kind)
                            assert row is not None
                            values.setdefault(f"{name}, {probe}: {kind}", []).append(row.mean)
    return result(values, ranks)


def result(values: dict[str, list[float]], ranks: dict[str, list[float]]) -> Result:
    """The record of all runs."""
    verdict, notes = _judged(values)
    rank = "; ".join(f"{key} {interval(v)[0]:.1f}" for key, v in ranks.items())
    return Result(
        name="t_jepa",
        paper="T-JEPA (ICLR 2025)",
        claim="A probe on T-JEPA's tokens beats the same probe on the untrained encoder's tokens and on the raw columns.",
        setting="LetterRecognition (20,000 x 16 numbers, 26 classes), diamonds (53,940 x 6 numbers and 3 categories, "
        "price), DNA (3,186 x 20 categories around the junction, 3 classes); 30 % test rows; FT-Transformer of width 32 "
        f"and 2 layers, predictor of 1, batch 64, {STEPS} steps, EMA from {1 - 2 * TURNS / STEPS:.3f} to 1, "
        f"learning rate {LEARNING_RATE:g}, otherwise the authors' Jannis run; probes on 2,000 labelled rows a split; each seed has its "
        "own untrained encoder.",
        metric="test accuracy (diamonds: R²), higher is better",
        values=values,
        verdict=verdict,
        notes=f"{notes}{f' RankMe of the exported encoder: {rank}.' if rank else ''} {OLD}",
    )


def _judged(values: dict[str, list[float]]) -> tuple[str, str]:
    """The verdict over all tables and probes (with the register, as in the paper), and each part."""
    parts, every = [], []
    for name in SETS:
        for probe in PROBES:
            key = f"{name}, {probe}"
            ours = values.get(f"{key}: T-JEPA")
            if ours is None:
                parts.append(f"{key}: not measured")
                continue
            against = {kind: judge(ours, values[f"{key}: {kind}"]) for kind in ("random", "raw")}
            without = values.get(f"{key}: T-JEPA without register")
            register = "not measured" if without is None else judge(ours, without)
            every += against.values()
            parts.append(
                f"{key}: {against['random']} against untrained, {against['raw']} against raw, "
                f"{register} with against without the register"
            )
    verdict = "holds" if set(every) == {"holds"} else "fails" if "fails" in every else "open"
    return verdict, "; ".join(parts) + "."
