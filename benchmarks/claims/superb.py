"""SUPERB's learned sum over layers against the last layer, filter banks and an untrained encoder (sheet 29)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.claims.common import Result, judge, pretrained, speech_data

if TYPE_CHECKING:
    from ssl_domains.evaluation.results import Evaluation

STEPS = 200
LAYERS = {"learned sum": "weighted", "last layer": -1}
TASKS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "keyword spotting, accuracy": ("superb_utterance", {"epochs": 40}, True),
    "speaker identification, accuracy": (
        "superb_utterance", {"of": "speaker", "epochs": 12, "max_rows": 100}, True,
    ),
    "speaker verification, equal error rate": (
        "speaker_verification", {"train": True, "epochs": 8, "width": 64, "max_rows": 100}, False,
    ),
    "phones, error rate": (
        "recognition", {"units": "phones", "min_seconds": 1.0, "epochs": 25, "lr": 0.01, "width": 64, "max_rows": 60}, False,
    ),
    "characters, error rate": (
        "recognition", {"epochs": 25, "lr": 0.01, "width": 64, "max_rows": 60}, False,
    ),
}  # fmt: skip
"""Name of a task: probe, options, whether higher is better. Widths, rows and epochs are below SUPERB's."""
SUM, BANKS, LOGMEL = "learned sum", "filter banks", "log-mel, not normalised"
METRICS = {"superb_utterance": "accuracy", "speaker_verification": "equal_error_rate"}
ABX = {"name": "abx", "triples": 1000, "max_rows": 40, "min_seconds": 1.0}


def probes() -> list[dict[str, Any]]:
    """One list for all tasks, as a recipe's ``evaluate.probes`` has it: each task with the learned sum and with
    the last layer, and ABX, for which nothing is trained."""
    tasks = [{"name": name, **options} for name, options, _ in TASKS.values()]
    return [
        {**task, "layer": layer} if layer != "weighted" else task
        for layer in LAYERS.values()
        for task in tasks
    ] + [ABX]


def recipe() -> dict[str, Any]:
    """TERA's alterations, head, loss and schedule; 3 blocks of 96 instead of 768, three frames a token."""
    return {
        "domain": "speech",
        "data": {"source": str(speech_data("speech_superb.csv")), "label": "label"},
        "views": {"name": "sound_crop", "crop": 5.0},
        "encoder": {"name": "speech_transformer", "width": 96, "depth": 3, "heads": 4, "stack": 3},
        "mask": {"name": "alteration", "span": 3},
        "method": {"name": "masked_reconstruction", "predictor": {"head": "mlp"}},
        "objective": {"name": "masked_l1"},
        "sampler": {"name": "bucket", "budget": 60},
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01},
        "schedule": {"name": "warmup_linear", "warmup": 0.07},
        "train": {"batch_size": 32, "steps": STEPS, "clip_norm": 5.0, "on_collapse": "off", "guard_every": 0},
        "evaluate": {
            "probes": probes(), "tree": False, "seeds": 1, "max_rows": 600, "diagnostic_rows": 100, "map_rows": 50,
        },
    }  # fmt: skip


def numbers(evaluation: Evaluation) -> dict[tuple[str, str, str], float]:
    """Score by features, probe and metric."""
    return {(row.features, row.probe, row.metric): row.mean for row in evaluation.rows}


def filter_banks() -> dict[tuple[str, str, str], float]:
    """The same heads on SUPERB's own baseline: Kaldi's filter banks with differences, normalised over the recording."""
    from ssl_domains.core import registry
    from ssl_domains.evaluation.evaluate import evaluate_encoder
    from ssl_domains.recipe.build import open_source
    from ssl_domains.recipe.check import read_recipe

    source = open_source(read_recipe(recipe()))[1]
    tasks = [{"name": name, **options} for name, options, _ in TASKS.values()]
    encoder = registry.get("encoder", "speech_features")(source.spec)
    return numbers(
        evaluate_encoder(
            encoder, source, probes=[*tasks, ABX], seeds=1, max_rows=600, diagnostic_rows=100, map_rows=50
        )
    )


def run(seeds: int) -> Result:
    """Each task with the learned sum, with the last layer, on the untrained encoder and on features."""
    from ssl_domains.evaluation.probes import build_probe

    values: dict[str, list[float]] = {}
    banks = filter_banks()
    for seed in range(seeds):
        number = numbers(pretrained(recipe(), seed, evaluate={"seeds": 1}).evaluation)
        for task, (name, options, _) in TASKS.items():
            metric = METRICS.get(name) or ("phone" if "units" in options else "character") + "_error_rate"
            for title, layer in LAYERS.items():
                own = options if layer == "weighted" else {**options, "layer": layer}
                key = build_probe({name: own}).key
                values.setdefault(f"{task}: {title}", []).append(number["pretrained", key, metric])
            key = build_probe({name: options}).key
            for title, found, features in (
                ("untrained, learned sum", number, "random"),
                (BANKS, banks, "pretrained"),
                (LOGMEL, number, "raw"),
            ):
                values.setdefault(f"{task}: {title}", []).append(found[features, key, metric])
        key = build_probe({"abx": {k: v for k, v in ABX.items() if k != "name"}}).key
        for title, found, features in (
            ("last layer", number, "pretrained"),
            ("untrained, last layer", number, "random"),
            (BANKS, banks, "pretrained"),
            (LOGMEL, number, "raw"),
        ):
            values.setdefault(f"ABX of phones, error: {title}", []).append(found[features, key, "abx_error"])
    others = ("last layer", "untrained, learned sum", BANKS)
    against = {
        task: {
            other: judge(values[f"{task}: {SUM}"], values[f"{task}: {other}"], higher=higher)
            for other in others
        }
        for task, (_, _, higher) in TASKS.items()
    }
    verdicts = [verdict for by in against.values() for verdict in by.values()]
    overall = next((v for v in ("fails", "open") if v in verdicts), "holds")
    return Result(
        name="superb",
        paper="SUPERB (Interspeech 2021), protocol of Self-Supervised Speech Representation Learning: A Review",
        claim="A frozen encoder that was pretrained on the unlabelled recordings, read through a learned weighted sum over its "
        "layers, beats its last layer alone, the untrained encoder and filter banks on content and on speaker tasks.",
        setting=f"TERA, {STEPS} steps of at most 60 s, 3 blocks of 96, three frames a token (altered bands are of the joined frames); festvox-ru (620 sentences of one speaker, 620 "
        "cut-out words of 18 kinds) and 2,474 lines of Fish Fillets (4 speakers, levels kept apart); heads of 64 to 256, "
        "12 to 40 epochs, 60 to 100 recordings a split where that is less than there are. Filter banks are SUPERB's baseline (80, two differences, normalised over the recording).",
        metric="score",
        values=values,
        verdict=overall,
        notes="The learned sum against the others: "
        + "; ".join(
            f"{task}: " + ", ".join(f"{o} {v}" for o, v in by.items()) for task, by in against.items()
        )
        + ". The verdict holds where all of these do. Log-mel that is not normalised stands beside: it keeps the colour of "
        "microphone and voice that TERA's input and the filter banks lose. Test speakers are those of the training part, since "
        "there are four; words come out of running speech, most of them short function words.",
    )
