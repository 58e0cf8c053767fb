"""RankMe's order of runs against the order of their probe accuracies (sheet 30)."""

from __future__ import annotations

from scipy import stats

from benchmarks.claims.common import Result, data_root, interval, pretrained

LAMBDAS = (0.0, 0.0005, 0.002, 0.005, 0.02, 0.1, 1.0)
RATES = (3e-4, 3e-3)
SHOTS = 20


def recipe(lambda_: float, lr: float) -> dict:
    """Barlow Twins on corrupted columns; only its loss weight and learning rate vary."""
    return {
        "domain": "tabular",
        "data": {"source": str(data_root() / "letter.csv"), "label": "lettr", "test": 0.3},
        "encoder": {"name": "ft_transformer", "width": 32, "depth": 2, "norm": "pre", "registers": 0},
        "views": {"name": "column_corruption", "rate": 0.3},
        "method": {"name": "joint_embedding", "projector": [128, 128]},
        "objective": {"name": "barlow_twins", "lambda_": lambda_},
        "optimizer": {"name": "adamw", "lr": lr, "weight_decay": 1e-5},
        "schedule": {"name": "warmup_cosine", "warmup": 0.05},
        "train": {"batch_size": 512, "epochs": 8, "on_collapse": "off"},
        "evaluate": {"probes": [{"few_shot": {"shots": SHOTS}}]},
    }


def run(seeds: int) -> Result:
    """One rank correlation a seed, over runs of the same method that differ in two hyper-parameters."""
    correlations, regrets, table = [], [], {}
    for seed in range(seeds):
        ranks, scores = [], []
        for lambda_ in LAMBDAS:
            for lr in RATES:
                evaluation = pretrained(recipe(lambda_, lr), seed)
                ranks.append(evaluation.value("rankme"))
                scores.append(evaluation.value(f"few_shot(shots={SHOTS})"))
                table.setdefault(f"accuracy at lambda {lambda_:g}, lr {lr:g}", []).append(scores[-1])
                table.setdefault(f"RankMe at lambda {lambda_:g}, lr {lr:g}", []).append(ranks[-1])
        correlations.append(float(stats.spearmanr(ranks, scores).statistic))
        regrets.append(max(scores) - scores[max(range(len(ranks)), key=ranks.__getitem__)])
    mean, half = interval(correlations)
    verdict = "holds" if mean - half > 0 else "fails" if mean + half < 0 else "open"
    return Result(
        name="rankme",
        paper="RankMe (ICML 2023)",
        claim="Among runs of one method, RankMe orders them as the labelled probe does (rank correlation above 0).",
        setting=f"Barlow Twins on LetterRecognition, {len(LAMBDAS) * len(RATES)} runs a seed over lambda and learning "
        f"rate, 8 epochs; RankMe of the encoder output, probe with {SHOTS} labels a class.",
        metric="see the condition",
        values={
            "Spearman correlation of RankMe and accuracy": correlations,
            "accuracy lost by choosing the run with the highest RankMe": regrets,
            **table,
        },
        verdict=verdict,
        notes="The paper computes RankMe on the projector's output; an exported encoder has no projector, so the "
        "encoder's output is used, which the paper also reports as working.",
    )
