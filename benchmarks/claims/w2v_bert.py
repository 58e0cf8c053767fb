"""w2v-BERT against its contrastive part alone and its prediction of codes alone, on Russian speech (sheet 08)."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.claims.common import Result, judge, pretrained, speech_data

STEPS = 160
PROBES: list[Any] = [{"name": "frames", "layer": -1, "max_frames": 6_000, "max_rows": 60, "epochs": 15}]
KEY = "frames(layer=-1, max_frames=6000, max_rows=60, epochs=15)"
WEIGHTS = {"both": (1.0, 1.0), "contrast alone": (1.0, 0.0), "prediction alone": (0.0, 1.0)}


def recipe(beta: float, gamma: float) -> dict[str, Any]:
    """The paper's losses and mask; 2 + 2 blocks of 96 instead of 12 + 12 of 1,024, 128 codes instead of 1,024, 50 distractors."""
    return {
        "domain": "speech",
        "data": {"source": str(speech_data("speech_russian.csv")), "max_seconds": 5.0},
        "encoder": {
            "name": "speech_conformer", "width": 96, "depth": 4, "heads": 4, "ffn": 192, "kernel": 15,
            "subsample": "stack", "stack": 2,
        },
        "mask": {"name": "span"},
        "method": {
            "name": "w2v_bert", "context_layer": 2, "codes": 128, "code_width": 64, "width": 64, "distractors": 50,
            "temperature": [2.0, 0.1, 0.995], "beta": beta, "gamma": gamma,
        },
        "objective": {"name": "info_nce", "in_batch": False, "temperature": 0.1},
        "sampler": {"name": "bucket", "budget": 45},
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01},
        "schedule": {"name": "warmup_cosine", "warmup": 0.1},
        "train": {
            "batch_size": 32, "steps": STEPS, "clip_norm": 5.0, "on_collapse": "off", "guard_every": 0, "log_every": 50,
        },
        "evaluate": {"probes": PROBES, "tree": False, "seeds": 1, "diagnostic_rows": 100, "map_rows": 50},
    }  # fmt: skip


def run(seeds: int) -> Result:
    """Frame accuracy of phones on the top layer, and how many codes are in use at the end."""
    values: dict[str, list[float]] = {}
    codes: dict[str, list[float]] = {}
    for seed in range(seeds):
        for name, (beta, gamma) in WEIGHTS.items():
            found = pretrained(recipe(beta, gamma), seed, evaluate={"seeds": 1})
            values.setdefault(name, []).append(found.evaluation.value(KEY))
            used = [row["code_perplexity"] for row in found.metrics if "code_perplexity" in row]
            codes.setdefault(name, []).append(used[-1])
            if name == "both":
                values.setdefault("untrained", []).append(found.evaluation.value(f"{KEY}.random"))
                values.setdefault("log-mel", []).append(found.evaluation.value(f"{KEY}.raw"))
    against = {
        k: judge(values["both"], values[k])
        for k in ("contrast alone", "prediction alone", "untrained", "log-mel")
    }
    used = {name: statistics.fmean(v) for name, v in codes.items()}
    return Result(
        name="w2v_bert",
        paper="w2v-BERT (ASRU 2021)",
        claim="Contrast and prediction of codes together, from the first step, give a better top layer than either alone; "
        "without contrast the codes are worth nothing.",
        setting=f"festvox-ru (1.7 h, one speaker, 51 phones with times), {STEPS} steps of 45 s, 2 + 2 conformer blocks of 96, "
        "one codebook of 128, 50 distractors; a linear layer on the top layer.",
        metric="frame accuracy",
        values=values,
        verdict=against["contrast alone"],
        notes=f"Both against: {against}. Perplexity of the drawn codes at the end, of 128: "
        + ", ".join(f"{name} {value:.0f}" for name, value in used.items())
        + ".",
        extra={f"code perplexity, {name}": value for name, value in used.items()},
    )
