"""RankMe's order of runs against the order of their probe accuracies (sheet 30)."""

from __future__ import annotations

from scipy import stats

from benchmarks.claims.common import Result, data_root, interval, pretrained

LAMBDAS = (0.0, 0.0005, 0.002, 0.005, 0.02, 0.1, 1.0)
RATES = (1e-3,)
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
        "train": {"batch_size": 512, "epochs": 8, "guard_every": 31},
        "evaluate": {"probes": [{"name": "few_shot", "shots": SHOTS}]},
    }


def last_rank(rows: list[dict], stage: str) -> float:
    """RankMe of a stage at the guard's last look (256 rows of a training batch)."""
    return [row[f"guard/{stage}/rank"] for row in rows if f"guard/{stage}/rank" in row][-1]


def run(seeds: int) -> Result:
    """One rank correlation a seed, over runs of the same method that differ in their loss weight."""
    by_projector, by_encoder, regrets = [], [], []
    table: dict[str, list[float]] = {}
    for seed in range(seeds):
        projector, encoder, scores = [], [], []
        for lambda_ in LAMBDAS:
            for lr in RATES:
                trained = pretrained(recipe(lambda_, lr), seed, evaluate={"seeds": 1})
                projector.append(last_rank(trained.metrics, "projector"))
                encoder.append(trained.evaluation.value("rankme"))
                scores.append(trained.evaluation.value(f"few_shot(shots={SHOTS})"))
                setting = f"at lambda {lambda_:g}, lr {lr:g}"
                table.setdefault(f"accuracy {setting}", []).append(scores[-1])
                table.setdefault(f"RankMe of the projector {setting}", []).append(projector[-1])
                table.setdefault(f"RankMe of the encoder {setting}", []).append(encoder[-1])
        by_projector.append(float(stats.spearmanr(projector, scores).statistic))
        by_encoder.append(float(stats.spearmanr(encoder, scores).statistic))
        regrets.append(max(scores) - scores[max(range(len(scores)), key=projector.__getitem__)])
    mean, half = interval(by_projector)
    verdict = "holds" if mean - half > 0 else "fails" if mean + half < 0 else "open"
    return Result(
        name="rankme",
        paper="RankMe (ICML 2023)",
        claim="Among runs of one method, RankMe orders them as the labelled probe does (rank correlation above 0).",
        setting=f"Barlow Twins on LetterRecognition, {len(LAMBDAS) * len(RATES)} runs a seed over lambda, "
        f"8 epochs; probe with {SHOTS} labels a class on the encoder's output.",
        metric="see the condition",
        values={
            "Spearman correlation of the projector's RankMe and accuracy": by_projector,
            "Spearman correlation of the encoder's RankMe and accuracy": by_encoder,
            "accuracy lost by choosing the run with the projector's highest RankMe": regrets,
            **table,
        },
        verdict=verdict,
        notes="Judged on the projector's output, as the paper defines it: 256 rows of the last batch, 128 wide. The "
        "encoder's RankMe is taken from 10,000 rows.",
    )
