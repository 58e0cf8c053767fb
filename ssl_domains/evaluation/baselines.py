"""What the pretrained encoder is compared with: random encoders, raw features, trees."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from ssl_domains.core.interfaces import Encoder, Source
from ssl_domains.evaluation import metrics
from ssl_domains.evaluation.data import Prediction, ProbeData
from ssl_domains.evaluation.embeddings import extract

MakeEncoder = Callable[[int], Encoder]


def random_embeddings(
    make_encoder: MakeEncoder,
    source: Source,
    index: np.ndarray,
    seed: int,
    *,
    batch_size: int = 1024,
    device: str = "auto",
) -> np.ndarray:
    """``[n, D]`` embeddings of a freshly initialised encoder.

    Args:
        make_encoder: builds the architecture of the pretrained encoder; called under a random
            state of its own that ``seed`` fixes, so it may use PyTorch's global generator.
        source: gives the batches.
        index: ``[n]`` global row numbers.
        seed: of the initialisation.
        batch_size: rows a forward pass.
        device: see :func:`~ssl_domains.evaluation.embeddings.extract`.
    """
    return extract(seeded(make_encoder, seed), source, index, batch_size=batch_size, device=device)


def seeded(make_encoder: MakeEncoder, seed: int) -> Encoder:
    """An encoder whose initialisation depends on the seed alone; the global generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_encoder(seed)


def raw_baselines(source: Source, index: np.ndarray) -> dict[str, np.ndarray]:
    """``{"raw": [n, F], "raw:name": ...}``: the domain's plain features, and others that a
    source offers by ``raw_baselines(indices) -> {name: array}``. Empty when there are none."""
    found: dict[str, np.ndarray] = {}
    plain = source.raw_features(index)
    if plain is not None and plain.shape[1]:
        found["raw"] = np.asarray(plain, dtype=np.float32)
    offer = getattr(source, "raw_baselines", None)
    for name, values in (offer(index) if offer is not None else {}).items():
        found[f"raw:{name}"] = np.asarray(values, dtype=np.float32)
    return found


def filled(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """``x [n, F]`` with missing values replaced by the column means of the rows ``train``."""
    if np.isfinite(x).all():
        return x
    x = np.where(np.isfinite(x), x, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without any value: 0
        means = np.nan_to_num(np.nanmean(x[train], axis=0))
    return np.where(np.isnan(x), means, x)


def tree_prediction(data: ProbeData, max_iter: int = 200, learning_rate: float = 0.1) -> Prediction:
    """Histogram gradient boosting on the raw features; the number of trees is chosen on valid.

    Args:
        data: raw features; missing values are allowed.
        max_iter: most trees a class or output.
        learning_rate: shrinkage.
    """
    if data.task == "classification":
        return _classifier(data, data.y["train"], data.y["valid"], data.n_classes, max_iter, learning_rate)
    train, valid = (data.y[s].reshape(len(data.y[s]), -1) for s in ("train", "valid"))
    if data.task == "multilabel":
        each = [
            _classifier(data, t.astype(np.int64), v.astype(np.int64), 2, max_iter, learning_rate)
            for t, v in zip(train.T, valid.T)
        ]
        scores = np.stack([p.score[:, 1] for p in each if p.score is not None], axis=1)
        return Prediction(scores >= 0.5, scores)
    columns = [_regressor(data, t, v, max_iter, learning_rate) for t, v in zip(train.T, valid.T)]
    return Prediction(np.stack(columns, axis=1).reshape(-1, *data.y["train"].shape[1:]))


def _classifier(
    data: ProbeData, train: np.ndarray, valid: np.ndarray, n_classes: int, max_iter: int, rate: float
) -> Prediction:
    n = len(data.x["test"])
    classes = np.unique(train)
    scores = np.zeros((n, n_classes))
    if len(classes) == 1:
        scores[:, classes[0]] = 1.0
        return Prediction(scores.argmax(1), scores)
    model = HistGradientBoostingClassifier(
        max_iter=max_iter, learning_rate=rate, early_stopping=False, random_state=0
    ).fit(data.x["train"], train)
    # Log-loss, not accuracy: it tells stages apart that accuracy ties.
    losses = [_log_loss(p, valid, classes) for p in model.staged_predict_proba(data.x["valid"])]
    best = int(np.argmin(losses))
    for stage, proba in enumerate(model.staged_predict_proba(data.x["test"])):
        if stage == best:
            scores[:, classes] = proba
            break
    return Prediction(scores.argmax(1), scores)


def _log_loss(proba: np.ndarray, y: np.ndarray, classes: np.ndarray) -> float:
    at = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    likelihood = np.where(classes[at] == y, proba[np.arange(len(y)), at], 0.0)
    return float(-np.log(likelihood.clip(1e-12)).mean())


def _regressor(
    data: ProbeData, train: np.ndarray, valid: np.ndarray, max_iter: int, rate: float
) -> np.ndarray:
    model = HistGradientBoostingRegressor(
        max_iter=max_iter, learning_rate=rate, early_stopping=False, random_state=0
    ).fit(data.x["train"], train)
    errors = [float(((p - valid) ** 2).mean()) for p in model.staged_predict(data.x["valid"])]
    best = int(np.argmin(errors))
    for stage, value in enumerate(model.staged_predict(data.x["test"])):
        if stage == best:
            return np.asarray(value)
    raise AssertionError("unreachable: one of the stages is the best")


def tree_scores(data: ProbeData, resamples: int = 100) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of the trees on the test rows, and their bootstrap deviations."""
    prediction = tree_prediction(data)
    y = data.y["test"]
    return metrics.score(y, prediction, data.task), metrics.bootstrap(y, prediction, data.task, resamples)
