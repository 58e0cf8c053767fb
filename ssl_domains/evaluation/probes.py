"""Probes on frozen embeddings: linear, few-shot, label fraction.

They are fitted on train, choose on valid, and are scored on test.

A probe is registered under ``probe`` and says what the test rows are; the scores are computed
elsewhere (:mod:`ssl_domains.evaluation.metrics`), the same way for all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from ssl_domains.core import registry
from ssl_domains.core.errors import RecipeError
from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.registry import register
from ssl_domains.evaluation import metrics
from ssl_domains.evaluation.data import LabelledRows, Prediction, ProbeData


class Probe:
    """Base of all probes. Constructor arguments are keys of the recipe.

    Attributes:
        registered_name: name in recipes.
        key: name of this probe's rows: the registered name, with the options that were given.
        draws: what differs between two seeds, or "" when a probe is deterministic; then its
            spread is taken over resamples of the test rows.
        tunes_encoder: True: gets the encoder, not embeddings (no raw-feature baseline), through
            ``predict_encoder(encoder, source, labelled, seed, views)``.
        joins_raw: True: gets the raw features beside the embeddings, joined; alone for the
            raw-feature baseline.
    """

    registered_name: ClassVar[str] = ""
    draws: str = ""
    tunes_encoder: bool = False
    joins_raw: bool = False
    key: str = ""

    def parts(self) -> list[Probe]:
        """The probes that are run for this entry of the recipe: itself, or the points of a curve."""
        return [self]

    def predict(self, data: ProbeData, seed: int) -> Prediction:
        """Fits on train, chooses on valid, predicts the test rows (whose labels it must not read)."""
        raise TypeError(f"{type(self).__name__} does not define predict")


def register_probes() -> None:
    """Imports the modules whose decorators register the probes."""
    from ssl_domains.evaluation import (  # noqa: F401
        augmented,
        boosting,
        finetune,
        frames,
        knn,
        localisation,
        per_recording,
        protocols,
        recognition,
        retrieval,
        same_class,
        segmentation,
        superb,
        trained,
    )


def build_probe(what: str | Mapping[str, Any] | Probe) -> Probe:
    """A probe from a recipe's entry: ``knn``, ``{name: knn, k: 5}`` or ``{knn: {k: 5}}``.

    Raises:
        RecipeError: no such probe (with the nearest name), or an option that it does not take.
    """
    register_probes()

    if isinstance(what, Probe):
        what.key = what.key or what.registered_name
        return what
    if isinstance(what, Mapping) and isinstance(what.get("name"), str):
        what = {what["name"]: {key: value for key, value in what.items() if key != "name"}}
    if isinstance(what, Mapping) and len(what) != 1:
        form = "one name and its options, such as {name: knn, k: 5}"
        raise RecipeError(f"evaluate.probes: {dict(what)!r} must be {form}")
    name, options = (what, {}) if isinstance(what, str) else next(iter(what.items()))
    options = dict(options or {})
    try:
        probe: Probe = registry.get("probe", name)(**options)
    except KeyError as error:
        raise RecipeError(f"evaluate.probes: {error.args[0]}") from None
    except (TypeError, ValueError) as error:
        raise RecipeError(f"evaluate.probes.{name}: {error}") from None
    given = ", ".join(f"{key}={value}" for key, value in options.items() if key != "device")
    probe.key = f"{name}({given})" if given else name
    return probe


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, not {value}")


@register("probe", "linear")
class LinearProbe(Probe):
    """Logistic regression (one-vs-rest for multi-label), or ridge regression, on standardised features.

    The scaler is fitted on the training rows; C or alpha is the one with the best main score
    on the validation rows (ties: the stronger penalty).

    Args:
        grid: inverse penalties C to choose from (classification, multi-label).
        alphas: ridge penalties to choose from (regression).
        max_iter: L-BFGS iterations a fit.
    """

    def __init__(
        self,
        grid: Sequence[float] = (0.01, 0.1, 1.0, 10.0),
        alphas: Sequence[float] = (1e-3, 1e-1, 1.0, 10.0, 100.0, 1e3, 1e4),
        max_iter: int = 500,
    ) -> None:
        for value in (*grid, *alphas):
            _positive("every penalty", value)
        self.grid, self.alphas, self.max_iter = sorted(grid), sorted(alphas, reverse=True), max_iter

    def predict(self, data: ProbeData, seed: int) -> Prediction:
        scaler = StandardScaler().fit(_float64(data.x["train"]))
        x = {split: scaler.transform(_float64(values)) for split, values in data.x.items()}
        scaled = ProbeData(x, data.y, data.task, data.n_classes)
        if data.task == "regression":
            return self._best([_Ridge(scaled, alpha) for alpha in self.alphas], scaled)
        return self._best(_fit_path(scaled, self.grid, self.max_iter), scaled)

    @staticmethod
    def _best(models: Sequence[_Ridge | _Logistic | _OneVsRest], data: ProbeData) -> Prediction:
        main = metrics.MAIN[data.task]
        x, y = data.x["valid"], data.y["valid"]
        scores = np.array([metrics.score(y, model.predict(x), data.task)[main] for model in models])
        best = int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))
        return models[best].predict(data.x["test"])


def _float64(x: np.ndarray) -> np.ndarray:
    """Float64 while it is cheap: L-BFGS in float32 stops early on badly scaled problems."""
    return x.astype(np.float64 if x.size < 50_000_000 else np.float32)


class _Ridge:
    """Ridge regression with one penalty."""

    def __init__(self, data: ProbeData, alpha: float) -> None:
        self.model = Ridge(alpha=alpha).fit(data.x["train"], data.y["train"])

    def predict(self, x: np.ndarray) -> Prediction:
        return Prediction(np.asarray(self.model.predict(x)))


class _Logistic:
    """One fitted logistic regression; classes that training never saw get probability 0."""

    def __init__(self, classes: np.ndarray, coef: np.ndarray, bias: np.ndarray, n_classes: int) -> None:
        self.classes, self.coef, self.bias, self.n_classes = classes, coef, bias, n_classes

    def predict(self, x: np.ndarray) -> Prediction:
        proba = np.zeros((len(x), self.n_classes))
        proba[:, self.classes] = self._softmax(x @ self.coef.T + self.bias)
        return Prediction(proba.argmax(1), proba)

    def _softmax(self, logits: np.ndarray) -> np.ndarray:
        if len(self.classes) == 2:  # scikit-learn keeps one row of coefficients for two classes
            logits = np.hstack([np.zeros_like(logits), logits])
        e = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(e / e.sum(1, keepdims=True))


def _logistic_path(
    x: np.ndarray, y: np.ndarray, grid: Sequence[float], max_iter: int, n_classes: int
) -> list[_Logistic]:
    """One model a C in rising order, each started from the one before it."""
    classes = np.unique(y).astype(np.int64)
    if len(classes) == 1:
        return [_Logistic(classes, np.zeros((1, x.shape[1])), np.zeros(1), n_classes)] * len(grid)
    model = LogisticRegression(max_iter=max_iter, warm_start=True)
    path = []
    for c in grid:
        model.set_params(C=c)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, y)
        path.append(_Logistic(classes, model.coef_.copy(), model.intercept_.copy(), n_classes))
    return path


class _OneVsRest:
    """One logistic regression a label; a label is predicted when its probability reaches 1/2."""

    def __init__(self, models: Sequence[_Logistic]) -> None:
        self.models = models

    def predict(self, x: np.ndarray) -> Prediction:
        proba = [m.predict(x).score for m in self.models]
        scores = np.stack([p[:, 1] for p in proba if p is not None], axis=1)
        return Prediction(scores >= 0.5, scores)


def _fit_path(data: ProbeData, grid: Sequence[float], max_iter: int) -> list[_Logistic] | list[_OneVsRest]:
    x, y = data.x["train"], data.y["train"]
    if data.task == "classification":
        return _logistic_path(x, y, grid, max_iter, data.n_classes)
    paths = [_logistic_path(x, column, grid, max_iter, 2) for column in y.T.astype(np.int64)]
    return [_OneVsRest(models) for models in zip(*paths)]


@register("probe", "few_shot")
class FewShotProbe(Probe):
    """A linear probe on few labelled rows; each seed draws other rows.

    Few labels leave none to choose with: C is fixed, and ridge picks its penalty by
    leave-one-out on the drawn rows. Means and scales come from all training rows, unlabelled.

    Args:
        shots: labelled rows a class; regression and multi-label have no classes and get
            ``10 * shots`` rows.
        c: inverse penalty of the logistic regression.
    """

    draws = "draws of labelled rows"

    def __init__(self, shots: int = 5, c: float = 1.0) -> None:
        _positive("shots", shots)
        _positive("c", c)
        self.shots, self.c = shots, c

    def predict(self, data: ProbeData, seed: int) -> Prediction:
        rng = np.random.default_rng(seed)
        scaler = StandardScaler().fit(_float64(data.x["train"]))
        x, y = scaler.transform(_float64(data.x["train"])), data.y["train"]
        rows = self._draw(y, data.task, rng)
        test = scaler.transform(_float64(data.x["test"]))
        if data.task == "regression":
            return Prediction(np.asarray(RidgeCV(np.logspace(-1, 5, 13)).fit(x[rows], y[rows]).predict(test)))
        few = ProbeData({"train": x[rows]}, {"train": y[rows]}, data.task, data.n_classes)
        return _fit_path(few, [self.c], 500)[0].predict(test)

    def _draw(self, y: np.ndarray, task: str, rng: np.random.Generator) -> np.ndarray:
        if task != "classification":
            return rng.permutation(len(y))[: 10 * self.shots]
        order = rng.permutation(len(y))
        picked = [order[y[order] == c][: self.shots] for c in np.unique(y)]
        return np.concatenate(picked)


@register("probe", "label_fraction")
class LabelFractionProbe(Probe):
    """A probe on a random fraction of the labelled training rows; each seed draws another.

    Settings are still chosen on all validation rows, the same ones for every kind of features.

    Args:
        fraction: share of the training labels, in (0, 1]; at least two rows, and one of each
            class, are kept.
        probe: name of the probe that is fitted on them, with its defaults. With ``fine_tune`` (or another
            that trains the encoder) this is the customary semi-supervised protocol; on the random
            encoder it is supervision on as many labels.
    """

    draws = "draws of labelled rows"

    def __init__(self, fraction: float = 0.1, probe: str = "linear") -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], not {fraction}")
        self.fraction, self.inner = fraction, _inner(probe)
        self.joins_raw = self.inner.joins_raw
        self.tunes_encoder = self.inner.tunes_encoder

    def predict(self, data: ProbeData, seed: int) -> Prediction:
        return self.inner.predict(data.with_train(self._rows(data.y["train"], data.task, seed)), seed)

    def predict_encoder(
        self, encoder: Encoder, source: Source, labelled: LabelledRows, seed: int, views: Views | None = None
    ) -> Prediction:
        """As :meth:`predict`, by a probe that trains a copy of the encoder."""
        train = labelled.rows["train"]
        chosen = train[self._rows(labelled.labels[train], labelled.task, seed)]
        fewer = replace(labelled, rows={**labelled.rows, "train": chosen})
        return self.inner.predict_encoder(encoder, source, fewer, seed, views)  # type: ignore[attr-defined,no-any-return]

    def _rows(self, y: np.ndarray, task: str, seed: int) -> np.ndarray:
        order = np.random.default_rng(seed).permutation(len(y))
        rows = order[: max(2, round(self.fraction * len(y)))]
        if task == "classification":
            first = order[np.unique(y[order], return_index=True)[1]]
            rows = np.union1d(rows, first)
        return rows


def _inner(name: str) -> Probe:
    """The probe that a fraction of the labels is given to.

    Raises:
        ValueError: it draws labels by itself, or does not go by labels of single rows.
    """
    inner = build_probe(name)
    fits = hasattr(inner, "predict_encoder") or type(inner).predict is not Probe.predict
    if not fits or isinstance(inner, FewShotProbe | LabelFractionProbe | LabelCurve):
        raise ValueError(f"probe must be one that is fitted on all labels, not {name!r}")
    return inner


@register("probe", "label_curve")
class LabelCurve(Probe):
    """The few-label curve: ``label_fraction`` at several fractions; a table and a plot in the report.

    Args:
        fractions: shares of the training labels.
        probe: name of the probe that is fitted, with its defaults.
    """

    def __init__(self, fractions: Sequence[float] = (0.01, 0.1, 1.0), probe: str = "linear") -> None:
        if not fractions:
            raise ValueError("fractions must hold at least one share of the labels")
        self.points = [LabelFractionProbe(fraction, probe) for fraction in sorted(set(fractions))]
        for point in self.points:
            inner = "" if probe == "linear" else f", probe={probe}"
            point.key = f"label_fraction(fraction={point.fraction:g}{inner})"

    def parts(self) -> list[Probe]:
        return list(self.points)
