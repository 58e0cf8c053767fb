"""Scores of predictions, by task; each is checked against scikit-learn's in the tests.

They are written with bincounts and ranks because the spread of a score takes a hundred
evaluations of each (bootstrap).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from ssl_domains.evaluation.data import Prediction

MAIN = {"classification": "accuracy", "regression": "r2", "multilabel": "map"}
LOWER_IS_BETTER = frozenset(
    {
        "rmse",
        "mae",
        "equal_error_rate",
        "phone_error_rate",
        "character_error_rate",
        "word_error_rate",
        "abx_error",
        "hd95",
        "distance_mm",
        "median_mm",
        "wall_mm",
        "centre_mm",
    }
)
TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "roc_auc": "ROC AUC",
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "MAE",
    "micro_f1": "micro F1",
    "map": "mAP",
    "nmi": "NMI",
    "ari": "ARI",
    "average_precision": "average precision",
    "dice": "Dice",
    "nsd": "surface Dice",
    "hd95": "HD95 (mm)",
    "distance_mm": "distance (mm)",
    "median_mm": "median distance (mm)",
    "wall_mm": "distance of the box's walls (mm)",
    "centre_mm": "distance of the box's centre (mm)",
    "iou": "IoU of the box",
    "rank1": "Rank-1",
    "rank5": "Rank-5",
    "equal_error_rate": "equal error rate",
    "phone_error_rate": "phone error rate",
    "character_error_rate": "character error rate",
    "word_error_rate": "word error rate",
    "frame_accuracy": "frame accuracy",
    "abx_error": "ABX error",
}


def score(y: np.ndarray, prediction: Prediction, task: str) -> dict[str, float]:
    """All scores of the task, its main one (:data:`MAIN`) among them.

    Args:
        y: true labels ``[n]`` or ``[n, L]``.
        prediction: of the same rows.
        task: "classification", "regression" or "multilabel".
    """
    if task == "classification":
        return _classification(y, prediction)
    if task == "regression":
        return _regression(y, prediction.value)
    return _multilabel(y, prediction)


def bootstrap(
    y: np.ndarray, prediction: Prediction, task: str, repeats: int = 100, seed: int = 0
) -> dict[str, float]:
    """Standard deviation of each score over resamples of the test rows (with replacement)."""
    rng = np.random.default_rng(seed)
    draws: list[dict[str, float]] = []
    for _ in range(repeats):
        pick = rng.integers(0, len(y), len(y))
        chosen = None if prediction.score is None else prediction.score[pick]
        draws.append(score(y[pick], Prediction(prediction.value[pick], chosen), task))
    names = draws[0].keys() if draws else ()
    return {name: deviation([d[name] for d in draws if name in d]) for name in names}


def deviation(values: list[float]) -> float:
    """Standard deviation of the finite values (n - 1); NaN below two of them."""
    kept = [v for v in values if np.isfinite(v)]
    return float(np.std(kept, ddof=1)) if len(kept) > 1 else float("nan")


def _classification(y: np.ndarray, prediction: Prediction) -> dict[str, float]:
    guess = prediction.value
    n = int(max(y.max(), guess.max())) + 1
    table = np.bincount(y * n + guess, minlength=n * n).reshape(n, n)  # [true, guessed]
    hit, true, guessed = table.diagonal(), table.sum(1), table.sum(0)
    seen, either = true > 0, (true + guessed) > 0
    result = {
        "accuracy": float(hit.sum() / len(y)),
        "balanced_accuracy": float((hit[seen] / true[seen]).mean()),
        "macro_f1": float((2 * hit[either] / (true + guessed)[either]).mean()),
    }
    if prediction.score is not None and prediction.score.shape[1] == 2:
        result["roc_auc"] = roc_auc(y, prediction.score[:, 1])
    return result


def roc_auc(y: np.ndarray, s: np.ndarray) -> float:
    """Area under the ROC curve from ranks (Mann-Whitney), NaN when only one class is there."""
    positive = y.astype(bool)
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg:
        return float("nan")
    ranks = rankdata(s)
    return float((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def average_precision(y: np.ndarray, s: np.ndarray) -> float:
    """Sum of precision times recall gained, over distinct thresholds; NaN without a positive."""
    order = np.argsort(-s, kind="stable")
    hit, s = y[order].astype(bool), s[order]
    if not hit.any():
        return float("nan")
    last = np.append(s[1:] != s[:-1], True)  # last row of each group of equal scores
    found = np.cumsum(hit)[last]
    precision = found / (np.flatnonzero(last) + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / hit.sum())


def _regression(y: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    y, guess = y.reshape(len(y), -1), guess.reshape(len(y), -1)
    error = guess - y
    total = ((y - y.mean(0)) ** 2).sum(0)
    left = (error**2).sum(0)
    # A constant target has nothing to explain: 1 when hit exactly, else 0 (as scikit-learn).
    r2 = np.where(total > 0, 1 - left / np.where(total > 0, total, 1.0), np.where(left == 0, 1.0, 0.0))
    return {
        "r2": float(r2.mean()),
        "rmse": float(np.sqrt((error**2).mean(0)).mean()),
        "mae": float(np.abs(error).mean()),
    }


def _multilabel(y: np.ndarray, prediction: Prediction) -> dict[str, float]:
    guess, true = prediction.value.astype(bool), y.astype(bool)
    hit, denominator = int((guess & true).sum()), int(guess.sum() + true.sum())
    result = {"micro_f1": 2 * hit / denominator if denominator else 0.0}
    if prediction.score is not None:
        each = np.array([average_precision(t, s) for t, s in zip(true.T, prediction.score.T)])
        result["map"] = float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")
    return result
