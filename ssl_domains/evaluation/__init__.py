"""Evidence that a pretrained encoder is worth something, beside its baselines.

Public names, imported on first use (importing this package does not import torch)::

    extract(encoder, source, indices, *, batch_size=1024, device="auto", progress=None) -> [n, D] float32
    embed_to_file(encoder, source, path, *, indices=None, layout="columns", ...) -> Path   .parquet .csv .npy

    evaluate_encoder(encoder, source, *, make_encoder=None, probes=("linear", "knn"), seeds=3,
                     tree=False, views=None, ...) -> Evaluation
    Evaluation.value("linear")            also "linear.random", "linear.raw.macro_f1", "linear_gain", "rankme"
    Evaluation.save(folder)               evaluation.json + evaluation_map.npz; Evaluation.load(folder)
    build_probe("knn" | {"knn": {"k": 5}} | Probe) -> Probe

    parse_expectation(">= 0.84", where="expect.linear") -> Expectation
    check_expectations({"linear": "> random"}, evaluation) -> list[Failure]

    write_report(run_dir, evaluation, *, title=..., metrics_rows=..., card=..., recipe_yaml=..., ...) -> Path
    write_model_card(run_dir, evaluation, *, title=..., card=..., ...) -> Path

Probes (``register("probe", name)``): ``linear``, ``mlp``, ``knn``, ``boosted_trees``, ``few_shot``,
``label_fraction``, ``label_curve``, ``fine_tune``, ``consistency``,
``linear_augmented``, ``same_class``, ``svm``, ``clustering``,
``link_prediction``, ``retrieval``.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "extract": "embeddings",
    "embed_to_file": "writer",
    "ProbeData": "data",
    "Prediction": "data",
    "Probe": "probes",
    "build_probe": "probes",
    "Evaluation": "results",
    "Row": "results",
    "evaluate_encoder": "evaluate",
    "parse_expectation": "expect",
    "check_expectations": "expect",
    "Expectation": "expect",
    "Failure": "expect",
    "write_report": "report",
    "write_model_card": "model_card",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
