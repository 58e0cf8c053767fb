"""Probes with a protocol of their own: cross-validated SVM, clustering, link prediction.

They do not predict the test rows' labels once, so they return their scores themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from ssl_domains.core.interfaces import Encoder, Source
from ssl_domains.core.links import Links
from ssl_domains.core.registry import register
from ssl_domains.evaluation import metrics
from ssl_domains.evaluation.data import LabelledRows, Prediction, subset
from ssl_domains.evaluation.embeddings import extract
from ssl_domains.evaluation.probes import Probe, _positive


class Score(NamedTuple):
    """One number of a protocol.

    Attributes:
        metric: its name.
        value: the score.
        error: standard error of ``value``, where the protocol knows it.
        n: samples that ``error`` is over.
        part: the part of the data that it is about; empty: all of them.
    """

    metric: str
    value: float
    error: float = float("nan")
    n: int = 0
    part: str = ""


def plain(scores: Mapping[str, float]) -> list[Score]:
    """Scores by name, without errors."""
    return [Score(name, value) for name, value in scores.items()]


@dataclass(frozen=True)
class Features:
    """Features of some rows, and where they come from.

    Attributes:
        z: ``[m, D]``.
        index: ``[m]`` sorted global row numbers of ``z``.
        source: the data.
        labelled: its labelled rows, or None.
        encoder: what made ``z``; None: plain features.
        options: ``batch_size`` and ``device`` of its forward passes.
    """

    z: np.ndarray
    index: np.ndarray
    source: Source
    labelled: LabelledRows | None
    encoder: Encoder | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """``[n, D]`` of these global rows."""
        return self.z[np.searchsorted(self.index, rows)]

    def embed(self, source: Source, rows: np.ndarray) -> np.ndarray:
        """``[n, D]`` embeddings of another source's rows."""
        assert self.encoder is not None, "plain features have no encoder"
        return extract(self.encoder, source, rows, **self.options)


class ProtocolProbe(Probe):
    """Base of probes that return their own scores.

    ``tunes_encoder`` says that it needs the encoder, so plain features have no such row.

    Attributes:
        main: name of the score that stands in the table.
        spread: what a score's own error is over.
    """

    main: str = ""
    spread: ClassVar[str] = ""

    def part_key(self, part: str) -> str:
        """Name of the rows about a part of the data."""
        return (
            self.key.replace(self.registered_name, f"{self.registered_name}_{part}", 1) if part else self.key
        )

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        """One sentence when the probe cannot run on these data, else an empty string."""
        return ""

    def rows(self, source: Source) -> np.ndarray:
        """``[n]`` rows that it needs besides the labelled ones."""
        return np.empty(0, dtype=np.int64)

    def counts(self, source: Source) -> dict[str, int]:
        """Numbers of what is scored, by name, for the table's caption."""
        return {}

    def measure(self, features: Features, seed: int) -> list[Score]:
        """The scores, in the same order each time."""
        raise TypeError(f"{type(self).__name__} does not define measure")

    def baselines(self, source: Source) -> dict[str, list[Score]]:
        """Scores of what needs no encoder, by the name of a kind of features."""
        return {}


def _all_rows(labelled: LabelledRows) -> np.ndarray:
    return np.sort(np.concatenate(list(labelled.rows.values())))


@register("probe", "svm")
class SVMProbe(ProtocolProbe):
    """An SVM cross-validated over all labelled rows: the protocol of graph classification.

    Stratified folds; in each, C is chosen by an inner cross-validation on the training part. This is
    what InfoGraph, GraphCL and GraphMAE (KDD 2022, section 4.2) report: 10 folds, RBF kernel, features
    as they are. The splits of the data play no part.

    Args:
        folds: outer folds. Default 10.
        kernel: ``rbf`` or ``linear``.
        grid: values of C. Default 0.001 to 10 (GraphMAE's code).
        inner: inner folds. Default 5 (scikit-learn's).
        max_rows: at most so many rows, a fixed random subset: an RBF kernel is quadratic.
        scale: standardise features on the training part of each fold. The papers do not.
    """

    draws = "divisions into folds"
    main = "accuracy"

    def __init__(
        self,
        folds: int = 10,
        kernel: Literal["rbf", "linear"] = "rbf",
        grid: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 10.0),
        inner: int = 5,
        max_rows: int = 10_000,
        scale: bool = False,
    ) -> None:
        for value in grid:
            _positive("every C", value)
        if folds < 2 or inner < 2:
            raise ValueError(f"folds and inner must be at least 2, got {folds} and {inner}")
        if kernel not in ("rbf", "linear"):
            raise ValueError(f"kernel must be rbf or linear, got {kernel!r}")
        self.folds, self.kernel, self.grid, self.inner = folds, kernel, sorted(grid), inner
        self.max_rows, self.scale = max_rows, scale

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if labelled is None:
            return "The SVM probe needs labels."
        if labelled.task != "classification":
            return f"The SVM probe classifies; the task is {labelled.task}."
        fewest = np.bincount(labelled.labels[_all_rows(labelled)])
        fewest = fewest[fewest > 0].min()
        if fewest < 2:
            return "The SVM probe needs at least 2 labelled rows of each class."
        return ""

    def measure(self, features: Features, seed: int) -> list[Score]:
        from sklearn.model_selection import GridSearchCV, StratifiedKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        assert features.labelled is not None
        rows = subset(_all_rows(features.labelled), self.max_rows)
        x, y = features.at(rows).astype(np.float64), features.labelled.labels[rows]
        folds = min(self.folds, int(np.bincount(y)[np.unique(y)].min()))
        guess = np.empty_like(y)
        by_fold: list[float] = []
        for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
            inner = min(self.inner, int(np.bincount(y[train])[np.unique(y[train])].min()))
            steps = [StandardScaler()] if self.scale else []
            model: Any = make_pipeline(*steps, SVC(kernel=self.kernel, random_state=seed))
            if inner >= 2:
                model = GridSearchCV(model, {"svc__C": self.grid}, cv=inner)
            guess[test] = model.fit(x[train], y[train]).predict(x[test])
            by_fold.append(float((guess[test] == y[test]).mean()))
        scores = metrics.score(y, Prediction(guess), "classification")
        return plain({**scores, "accuracy": float(np.mean(by_fold))})


@register("probe", "clustering")
class ClusteringProbe(ProtocolProbe):
    """How well k-means clusters agree with the classes: NMI and ARI, chance-corrected or normalised.

    K-means with as many clusters as classes on all labelled rows; labels are read for the scores only.

    Args:
        unit: bring embeddings to unit length first (cosine distances).
        n_init: restarts of k-means; the tightest is taken.
        max_rows: at most so many rows, a fixed random subset.
    """

    draws = "starts of k-means"
    main = "nmi"

    def __init__(self, unit: bool = True, n_init: int = 10, max_rows: int = 50_000) -> None:
        _positive("n_init", n_init)
        self.unit, self.n_init, self.max_rows = unit, n_init, max_rows

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if labelled is None:
            return "The clustering probe needs labels to compare with."
        if labelled.task != "classification":
            return f"The clustering probe compares clusters with classes; the task is {labelled.task}."
        return ""

    def measure(self, features: Features, seed: int) -> list[Score]:
        from sklearn.cluster import KMeans
        from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

        assert features.labelled is not None
        rows = subset(_all_rows(features.labelled), self.max_rows)
        z, y = features.at(rows).astype(np.float64), features.labelled.labels[rows]
        if self.unit:
            z = z / np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12)
        clusters = KMeans(len(np.unique(y)), n_init=self.n_init, random_state=seed).fit_predict(z)
        nmi, ari = normalized_mutual_info_score(y, clusters), adjusted_rand_score(y, clusters)
        return plain({"nmi": float(nmi), "ari": float(ari)})


@register("probe", "link_prediction")
class LinkPredictionProbe(ProtocolProbe):
    """Tells held-out edges from pairs that are no edge, from the embeddings of the two ends.

    Needs a source that holds edges out (``data.link_test`` of graphs): neither pretraining nor the
    embedding of any node sees them. A pair is the elementwise product of its ends (and, directed,
    both ends beside it); a logistic regression is fitted on edges of the graph and as many
    non-edges, C is chosen on the validation pairs, scores are of the test pairs.

    Args:
        form: ``hadamard`` (node2vec, KDD 2016, table 1) with a fitted classifier, or ``cosine``: the
            cosine of the ends alone, nothing is fitted.
        grid: inverse penalties C.
        max_pairs: training pairs of each kind.
        hits: K of Hits@K: share of test edges that score above the K-th best non-edge (Open Graph
            Benchmark, NeurIPS 2020).
    """

    draws = "draws of training pairs"
    main = "roc_auc"

    def __init__(
        self,
        form: Literal["hadamard", "cosine"] = "hadamard",
        grid: Sequence[float] = (0.01, 0.1, 1.0, 10.0),
        max_pairs: int = 20_000,
        hits: int = 50,
    ) -> None:
        if form not in ("hadamard", "cosine"):
            raise ValueError(f"form must be hadamard or cosine, got {form!r}")
        for value in (*grid, max_pairs, hits):
            _positive("every value of grid, max_pairs and hits", value)
        self.form, self.grid, self.max_pairs, self.hits = form, sorted(grid), max_pairs, hits

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if getattr(source, "links", None) is None:
            return "Link prediction needs held-out edges: set data.link_test=0.1 (graphs)."
        return ""

    def rows(self, source: Source) -> np.ndarray:
        links: Links = source.links  # type: ignore[attr-defined]
        return links.rows()

    def measure(self, features: Features, seed: int) -> list[Score]:
        links: Links = features.source.links  # type: ignore[attr-defined]
        y, s = self._scored(features, links, seed)
        found = {"roc_auc": metrics.roc_auc(y, s), "average_precision": metrics.average_precision(y, s)}
        return plain({**found, f"hits_at_{self.hits}": hits_at(y, s, self.hits)})

    def _scored(self, features: Features, links: Links, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(labels, scores) of the test pairs."""
        pairs, y = _both(links, "test")
        if self.form == "cosine":
            a, b = (features.at(pairs[:, i]).astype(np.float64) for i in (0, 1))
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            return y, (a * b).sum(1) / norms.clip(1e-12)
        return y, self._fitted(features, links, seed)

    def _fitted(self, features: Features, links: Links, seed: int) -> np.ndarray:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        rng = np.random.default_rng(seed)
        some = {
            sign: pairs[rng.permutation(len(pairs))[: self.max_pairs]]
            for sign, pairs in ((1, links.positive["train"]), (0, links.negative["train"]))
        }
        train = np.concatenate([some[1], some[0]])
        y = np.repeat([1, 0], [len(some[1]), len(some[0])])
        z = features.z.astype(np.float64)
        spread = Features((z - z.mean(0)) / z.std(0).clip(1e-12), features.index, features.source, None)
        x = _joined(spread, train, links.directed)
        scaler = StandardScaler().fit(x)
        best, top = None, -np.inf
        valid, y_valid = _both(links, "valid") if len(links.positive["valid"]) else (train, y)
        for c in self.grid:
            model = LogisticRegression(C=c, max_iter=500).fit(scaler.transform(x), y)
            x_valid = scaler.transform(_joined(spread, valid, links.directed))
            score = metrics.roc_auc(y_valid, model.decision_function(x_valid))
            if score > top:
                best, top = model, score
        assert best is not None
        test = scaler.transform(_joined(spread, _both(links, "test")[0], links.directed))
        return np.asarray(best.decision_function(test))


def _both(links: Links, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(pairs, labels): the true ones first."""
    positive, negative = links.positive[split], links.negative[split]
    return np.concatenate([positive, negative]), np.repeat([1, 0], [len(positive), len(negative)])


def _joined(features: Features, pairs: np.ndarray, directed: bool) -> np.ndarray:
    a, b = features.at(pairs[:, 0]), features.at(pairs[:, 1])
    return np.concatenate([a * b, a, b], axis=1) if directed else a * b


def hits_at(y: np.ndarray, s: np.ndarray, k: int) -> float:
    """Share of the true pairs that score above the k-th best false one (ties do not count)."""
    false = np.sort(s[y == 0])[::-1]
    if len(false) < k:
        return 1.0
    return float((s[y == 1] > false[k - 1]).mean())
