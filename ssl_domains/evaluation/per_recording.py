"""Answers for whole recordings (videos, volumes), averaged over their samples; AUC of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np

from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import register
from ssl_domains.evaluation import metrics
from ssl_domains.evaluation.data import LabelledRows, Prediction
from ssl_domains.evaluation.probes import Probe, build_probe
from ssl_domains.evaluation.protocols import Features, ProtocolProbe, Score

RESAMPLES = 100
ON_EMBEDDINGS = ("same_class", "svm", "clustering")
"""Protocols that go by embeddings and labels alone."""


def means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """``[g, ...]`` float64 means of ``values [n, ...]`` over equal ``groups [n]``, in the groups' order."""
    _, at, count = np.unique(groups, return_inverse=True, return_counts=True)
    total = np.zeros((len(count), *values.shape[1:]))
    np.add.at(total, at, values)
    return np.asarray(total / count.reshape(-1, *[1] * (values.ndim - 1)))


def averaged(prediction: Prediction, groups: np.ndarray, task: str) -> Prediction:
    """One prediction a group: the mean of probabilities, label scores or numbers.

    Args:
        prediction: of n samples. Classes without probabilities count as votes.
        groups: ``[n]`` number of each sample's recording.
        task: as of :func:`~ssl_domains.evaluation.metrics.score`.
    """
    if task == "regression":
        return Prediction(means(prediction.value, groups))
    score = prediction.score
    if score is None and task == "classification":
        score = np.eye(int(prediction.value.max()) + 1)[prediction.value]
    found = means(np.asarray(prediction.value if score is None else score), groups)
    return Prediction(found.argmax(1) if task == "classification" else found >= 0.5, found)


class _Answers(ProtocolProbe):
    """Base of probes that do something with another probe's predictions."""

    spread: ClassVar[str] = "resamples of the test rows"

    def _take(self, probe: str | Mapping[str, Any], protocols: tuple[str, ...] = ()) -> None:
        if isinstance(probe, Mapping):
            options = {key: value for key, value in probe.items() if key != "name"}
            if "name" not in probe:
                raise ValueError(f"probe must be a name or {{name: ..., options}}, got {dict(probe)}")
            probe = {str(probe["name"]): options} if options else str(probe["name"])
        self.inner = inner = build_probe(probe)
        protocol = isinstance(inner, ProtocolProbe)
        answers = hasattr(inner, "predict_encoder") or type(inner).predict is not Probe.predict
        if inner.joins_raw or (inner.registered_name not in protocols if protocol else not answers):
            more = f", or {', '.join(protocols)}" if protocols else ""
            raise ValueError(
                "probe must be one that predicts labels from embeddings or trains the encoder, such as "
                f"linear, knn or fine_tune{more}; got {inner.key!r}"
            )
        self.draws, self.tunes_encoder = inner.draws, inner.tunes_encoder

    def answers(self, features: Features, seed: int) -> tuple[np.ndarray, Prediction]:
        """True labels and what the inner probe says, of the test rows."""
        labelled = features.labelled
        assert labelled is not None
        if self.inner.tunes_encoder:
            said = self.inner.predict_encoder(features.encoder, features.source, labelled, seed, None)  # type: ignore[attr-defined]
        else:
            said = self.inner.predict(labelled.data(features.z, features.index), seed)
        return labelled.labels[labelled.rows["test"]], said


def why_not_recordings(source: Source, labelled: LabelledRows) -> str:
    """One sentence when answers cannot be averaged over recordings, else an empty string."""
    recordings = getattr(source, "recordings", None)
    if recordings is None:
        return "These data do not say which samples are of one recording, so nothing can be averaged over it."
    for rows in labelled.rows.values():
        order = rows[np.argsort(recordings[rows], kind="stable")]
        same = recordings[order[1:]] == recordings[order[:-1]]
        one, other = labelled.labels[order[1:]][same], labelled.labels[order[:-1]][same]
        if len(one) and not np.array_equal(one, other):
            return "Samples of one recording have different labels, so their answers cannot be averaged."
    return ""


def per_recording(labelled: LabelledRows, recordings: np.ndarray) -> LabelledRows:
    """The first labelled row of each recording stands for it."""
    first = {s: rows[np.unique(recordings[rows], return_index=True)[1]] for s, rows in labelled.rows.items()}
    return replace(labelled, rows=first)


@register("probe", "per_recording")
class PerRecordingProbe(_Answers):
    """Another probe, judged by recordings: its answers for all clips of a video (or all patches or slices
    of a volume) averaged into one.

    The customary test on several clips of a video (Simonyan and Zisserman, NeurIPS 2014; slow-only networks
    and VideoMAE take 5 to 10 clips): the probe is fitted on single samples, and the probabilities that it
    gives to the test samples of a recording are averaged. ``data.clips_per_video`` says how many clips.

    Args:
        probe: ``linear``, ``knn``, ``fine_tune`` and others, or ``{name: ..., options}``; for retrieval
            ``same_class``.
        average: ``probabilities`` (numbers in a regression), or ``embeddings``: one mean vector a recording,
            of training recordings too. ``embeddings`` is the default, and the only choice, for retrieval.
    """

    spread: ClassVar[str] = "resamples of the recordings"

    def __init__(
        self,
        probe: str | dict[str, Any] = "linear",
        average: Literal["probabilities", "embeddings"] | None = None,
    ) -> None:
        self._take(probe, ON_EMBEDDINGS)
        own = isinstance(self.inner, ProtocolProbe)
        self.average = average or ("embeddings" if own else "probabilities")
        if self.average not in ("probabilities", "embeddings"):
            raise ValueError(f"average must be probabilities or embeddings, got {average!r}")
        if own and self.average == "probabilities":
            raise ValueError(f"{self.inner.key} gives no probabilities; use average=embeddings")
        if self.tunes_encoder and self.average == "embeddings":
            raise ValueError(f"{self.inner.key} trains the encoder; use average=probabilities")
        self.main = ""

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if labelled is None:
            return "Answers for whole recordings need labels."
        if found := why_not_recordings(source, labelled):
            return found
        if isinstance(self.inner, ProtocolProbe):
            self.main = self.inner.main
            return self.inner.why_not(source, per_recording(labelled, source.recordings))  # type: ignore[attr-defined]
        self.main = metrics.MAIN[labelled.task]
        return ""

    def counts(self, source: Source) -> dict[str, int]:
        return {"test recordings": len(np.unique(source.recordings[source.splits["test"]]))}  # type: ignore[attr-defined]

    def measure(self, features: Features, seed: int) -> list[Score]:
        labelled, recordings = features.labelled, features.source.recordings  # type: ignore[attr-defined]
        assert labelled is not None
        few = per_recording(labelled, recordings)
        y = few.labels[few.rows["test"]]
        if self.average == "probabilities":
            _, single = self.answers(features, seed)
            said = averaged(single, recordings[labelled.rows["test"]], labelled.task)
        else:
            whole = self._whole(features, labelled, few, recordings)
            if isinstance(self.inner, ProtocolProbe):
                return self.inner.measure(whole, seed)
            said = self.inner.predict(few.data(whole.z, whole.index), seed)
        scores = metrics.score(y, said, labelled.task)
        error = {} if self.draws else metrics.bootstrap(y, said, labelled.task, RESAMPLES)
        return [Score(name, v, error.get(name, float("nan")), RESAMPLES) for name, v in scores.items()]

    @staticmethod
    def _whole(
        features: Features, labelled: LabelledRows, few: LabelledRows, recordings: np.ndarray
    ) -> Features:
        """Mean vectors, under the numbers of the rows that stand for the recordings."""
        rows = np.concatenate(list(few.rows.values()))
        z = np.concatenate(
            [means(features.at(found), recordings[found]) for found in labelled.rows.values()]
        ).astype(np.float32)
        order = np.argsort(rows)
        return replace(features, z=z[order], index=rows[order], labelled=few)


@register("probe", "roc_auc")
class ROCAUCProbe(_Answers):
    """Area under the ROC curve of each class against the rest, and their mean (scikit-learn's ``ovr`` and
    ``macro``); with several labels a sample, of each label.

    Args:
        probe: what gives the probabilities: ``linear``, ``knn``, ``fine_tune`` and others, or
            ``{name: ..., options}``.
        recordings: average the probabilities over the samples of a recording first: a study's patches or
            slices, a video's clips.
    """

    main = "roc_auc"

    def __init__(self, probe: str | dict[str, Any] = "linear", recordings: bool = False) -> None:
        self._take(probe)
        self.recordings = recordings

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if labelled is None or labelled.task == "regression":
            return "The area under the ROC curve needs class labels."
        return why_not_recordings(source, labelled) if self.recordings else ""

    def measure(self, features: Features, seed: int) -> list[Score]:
        y, said = self.answers(features, seed)
        labelled, source = features.labelled, features.source
        assert labelled is not None
        if self.recordings:
            groups = source.recordings[labelled.rows["test"]]  # type: ignore[attr-defined]
            said = averaged(said, groups, labelled.task)
            y = y[np.unique(groups, return_index=True)[1]]
        assert said.score is not None
        found = one_vs_rest(y, said.score)
        rng = np.random.default_rng(0)
        picks = [rng.integers(0, len(y), len(y)) for _ in range(0 if self.draws else RESAMPLES)]
        drawn = np.stack([one_vs_rest(y[p], said.score[p]) for p in picks]) if picks else found[None]
        names = source.class_names or [str(i) for i in range(len(found))]
        scores = [Score("roc_auc", _mean(found), metrics.deviation([_mean(d) for d in drawn]), RESAMPLES)]
        return scores + [
            Score("roc_auc", float(v), metrics.deviation(drawn[:, i].tolist()), RESAMPLES, str(names[i]))
            for i, v in enumerate(found)
        ]


def one_vs_rest(y: np.ndarray, score: np.ndarray) -> np.ndarray:
    """``[C]`` area under the ROC curve of each class; NaN for a class that no row or every row has.

    Args:
        y: ``[n]`` classes, or ``[n, C]`` labels.
        score: ``[n, C]``.
    """
    hit = y[:, None] == np.arange(score.shape[1]) if y.ndim == 1 else y.astype(bool)
    return np.array([metrics.roc_auc(hit[:, c], score[:, c]) for c in range(score.shape[1])])


def _mean(values: np.ndarray) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")
