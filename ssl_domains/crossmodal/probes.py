"""What is measured of towers: retrieval both ways, zero-shot classes, each tower by itself, the "
"modality gap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core import registry
from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import register
from ssl_domains.crossmodal.data import PairSource
from ssl_domains.crossmodal.encoders import Tower, Towers
from ssl_domains.crossmodal.retrieval import Score as Kind
from ssl_domains.crossmodal.retrieval import items_of, label_ranks, ranks
from ssl_domains.evaluation import metrics
from ssl_domains.evaluation.data import LabelledRows, subset
from ssl_domains.evaluation.embeddings import extract
from ssl_domains.evaluation.probes import build_probe
from ssl_domains.evaluation.protocols import Features, ProtocolProbe, Score


def joint(features: Features, part: str, rows: np.ndarray, projected: bool = True) -> Tensor:
    """``[n, W]`` vectors of some rows of a part's own source."""
    assert isinstance(features.encoder, Towers)
    assert isinstance(features.source, PairSource)
    tower = Tower(features.encoder, part, projected)
    return torch.from_numpy(extract(tower, features.source.parts[part], rows, **features.options))


class _PairProbe(ProtocolProbe):
    """Base of probes on towers and pairs."""

    tunes_encoder = True

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if not isinstance(source, PairSource):
            return f"The probe {self.registered_name} wants pairs (domain: crossmodal)."  # type: ignore[attr-defined]
        return ""


def held_out(source: PairSource, split: str) -> np.ndarray:
    """Rows of a split; of the next best one where it is empty."""
    for name in (split, "test", "valid", "train"):
        if len(source.splits.get(name, ())):
            return source.splits[name]
    return source.splits["train"]


@register("probe", "pair_retrieval")
class PairRetrieval(_PairProbe):
    """Which partner belongs to which: recall at k and the median rank over the whole gallery, both ways.

    The gallery holds every different item of the split once. Rows ``pair_retrieval_a_to_b`` and
    ``..._b_to_a`` (for more modalities every two of them); a query that has several right partners counts
    its best ranked one (as for pictures with five captions). Chance is k / N.

    Args:
        cutoffs: k of the recalls; tables show the first.
        split: ``test`` or ``valid``; or ``all``: the queries of the test split against the items of all
            pairs.
        max_queries: at most so many queries, a fixed random subset of them.
        score: ``cosine``, or ``key``: only the gallery is scaled to unit length (2208.12266).
        by_label: also ``label_recall@k``: probabilities of gallery items of one label (the word that is
            heard) are added up, and the label must be among the first k (2208.12266, word level).
        temperature: of the softmax that gives these probabilities; 1 (2208.12266, with ``score: key``).
    """

    spread: ClassVar[str] = "queries (standard error)"

    def __init__(
        self,
        cutoffs: Sequence[int] = (1, 5, 10),
        split: Literal["test", "valid", "all"] = "test",
        max_queries: int = 20_000,
        score: Kind = "cosine",
        by_label: bool = False,
        temperature: float = 1.0,
    ) -> None:
        if not cutoffs or min(cutoffs) < 1 or max_queries < 1 or not temperature > 0:
            raise ValueError("cutoffs and max_queries must be at least 1, and temperature positive")
        if split not in ("test", "valid", "all") or score not in ("cosine", "key"):
            raise ValueError("split is test, valid or all; score is cosine or key")
        self.cutoffs, self.split, self.max_queries = list(cutoffs), split, max_queries
        self.score: Kind = score
        self.by_label, self.temperature = by_label, temperature
        self.main = f"recall@{self.cutoffs[0]}"

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if found := super().why_not(source, labelled):
            return found
        if self.by_label and source.task != "classification":
            return "pair_retrieval with by_label wants labels (data.label), such as the word heard."
        return ""

    def counts(self, source: Source) -> dict[str, int]:
        assert isinstance(source, PairSource)
        return {f"{self.split} pairs": len(self._gallery(source))}

    def _gallery(self, source: PairSource) -> np.ndarray:
        if self.split == "all":
            return np.arange(len(source))
        return held_out(source, self.split)

    def measure(self, features: Features, seed: int) -> list[Score]:
        source = features.source
        assert isinstance(source, PairSource)
        scores: list[Score] = []
        asked = held_out(source, "test" if self.split == "all" else self.split)
        for a, b in combinations(source.parts, 2):
            rows = source.links.rows
            items = items_of(self._gallery(source), rows[a], rows[b])
            if not len(items.a):
                continue
            z = {a: joint(features, a, items.a), b: joint(features, b, items.b)}
            pair_of = {a: items.pair_of_a, b: items.pair_of_b}
            for query, key, right, of in ((a, b, items.a_to_b, items.a), (b, a, items.b_to_a, items.b)):
                wanted = np.flatnonzero(np.isin(of, rows[query][asked]))
                chosen = subset(wanted, self.max_queries)
                lists = type(right).group(*right.flat(chosen), len(chosen))
                found = ranks(z[query][chosen], z[key], lists, self.score)
                part, n = f"{query}_to_{key}", len(found)
                scores += self._recalls("recall", found, part)
                scores.append(Score("median_rank", float(np.median(found)), float("nan"), n, part))
                if self.by_label:
                    assert source.labels is not None
                    labels, own = source.labels[pair_of[key]], source.labels[pair_of[query][chosen]]
                    known = np.isin(own, labels) & (own >= 0)
                    if not known.any():
                        continue
                    asks = z[query][chosen[known]]
                    found = label_ranks(asks, z[key], labels, own[known], self.score, self.temperature)
                    scores += self._recalls("label_recall", found, part)
        return scores

    def _recalls(self, name: str, found: np.ndarray, part: str) -> list[Score]:
        out, n = [], len(found)
        for k in self.cutoffs:
            hit = found <= k
            out.append(Score(f"{name}@{k}", float(hit.mean()), float(hit.std() / np.sqrt(n)), n, part))
        return out


@register("probe", "zero_shot")
class ZeroShot(_PairProbe):
    """Classes from their names alone: a sample takes the class whose sentence lies nearest (CLIP, section
    3.1).

    Args:
        templates: sentences with ``{name}``; their vectors are averaged (CLIP, section 3.1.4).
        texts: the part of domain ``text``; None: the first one.
    """

    spread: ClassVar[str] = "test samples (standard error)"
    main = "accuracy"

    def __init__(self, templates: Sequence[str] = ("{name}",), texts: str | None = None) -> None:
        if not templates or any("{name}" not in t for t in templates):
            raise ValueError("each of templates must hold {name}")
        self.templates, self.texts = list(templates), texts

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if found := super().why_not(source, labelled):
            return found
        assert isinstance(source, PairSource)
        if self._part(source) is None:
            return "Zero-shot classification wants a part of domain text."
        if source.task != "classification" or not source.class_names:
            return "Zero-shot classification wants class labels with names (data.label)."
        return ""

    def _part(self, source: PairSource) -> str | None:
        parts = [n for n, p in source.spec.parts.items() if p.domain == "text" and self.texts in (None, n)]
        return parts[0] if parts else None

    def measure(self, features: Features, seed: int) -> list[Score]:
        source, towers = features.source, features.encoder
        assert isinstance(source, PairSource)
        assert isinstance(towers, Towers)
        text = self._part(source)
        assert text is not None
        assert source.labels is not None
        assert source.class_names is not None
        own = source.spec.parts[text]
        domain = registry.load_domain(own.domain)()
        names = [str(name).replace("_", " ") for name in source.class_names]
        sentences = [t.replace("{name}", n) for n in names for t in self.templates]
        opened = domain.embed_source(own.spec, source=sentences, strict=True)
        z = torch.from_numpy(extract(Tower(towers, text), opened, np.arange(len(opened)), **features.options))
        classes = F.normalize(z, dim=1).view(len(names), len(self.templates), -1).mean(1)
        scores = []
        test = held_out(source, "test")
        test = test[source.labels[test] >= 0]
        for part in source.parts:
            if part == text or not len(test):
                continue
            rows = test[source.links.rows[part][test] >= 0]
            vectors = joint(features, part, source.links.rows[part][rows])
            scores_ = F.normalize(vectors, dim=1) @ F.normalize(classes, dim=1).T
            order = scores_.argsort(1, descending=True).numpy()
            y = source.labels[rows]
            for k, metric in ((1, "accuracy"), (5, "top5")):
                if k < len(names):
                    hit = (order[:, :k] == y[:, None]).any(1)
                    error = float(hit.std() / np.sqrt(len(hit)))
                    scores.append(Score(metric, float(hit.mean()), error, len(hit), part))
        return scores


@register("probe", "tower")
class TowerProbe(_PairProbe):
    """Another probe on each tower by itself, before its projection (as CLIP's linear probes).

    Args:
        probe: its name, such as ``linear`` or ``knn``.
    """

    spread: ClassVar[str] = "resamples of the test rows"

    def __init__(self, probe: str = "linear") -> None:
        self.inner = build_probe(probe)
        if isinstance(self.inner, ProtocolProbe) or self.inner.tunes_encoder:
            raise ValueError(f"tower takes a probe on frozen vectors such as linear or knn, not {probe!r}")
        self.main = ""

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if found := super().why_not(source, labelled):
            return found
        if labelled is None:
            return "The probe of each tower needs labels."
        self.main = metrics.MAIN[labelled.task]
        return ""

    def measure(self, features: Features, seed: int) -> list[Score]:
        source, labelled = features.source, features.labelled
        assert isinstance(source, PairSource)
        assert labelled is not None
        scores = []
        for part in source.parts:
            rows = source.links.rows[part]
            kept = {split: r[rows[r] >= 0] for split, r in labelled.rows.items()}
            if min(len(r) for r in kept.values()) < 1:
                continue
            index = np.sort(np.concatenate(list(kept.values())))
            items, where = np.unique(rows[index], return_inverse=True)
            z = joint(features, part, items, projected=False).numpy()[where]
            own = LabelledRows(kept, labelled.labels, labelled.task, labelled.n_classes, [])
            prediction = self.inner.predict(own.data(z, index), seed)
            y = labelled.labels[kept["test"]]
            found = metrics.score(y, prediction, labelled.task)
            error = metrics.bootstrap(y, prediction, labelled.task, 100)
            scores += [Score(m, v, error.get(m, float("nan")), 100, part) for m, v in found.items()]
        return scores


@register("probe", "tower_clusters")
class TowerClusters(_PairProbe):
    """K-means on a tower's own vectors against the classes: normalised mutual information, and accuracy
    after the best matching of clusters to classes (Hungarian), over the test rows; k-means is fitted on the
    train rows.

    Args:
        parts: which; None: all.
        n_init: restarts of k-means.
    """

    draws = "starts of k-means"
    main = "nmi"

    def __init__(self, parts: Sequence[str] | None = None, n_init: int = 10) -> None:
        self.parts_, self.n_init = None if parts is None else list(parts), n_init

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if found := super().why_not(source, labelled):
            return found
        if labelled is None or labelled.task != "classification":
            return "The clusters of towers want class labels to compare with."
        return ""

    def measure(self, features: Features, seed: int) -> list[Score]:
        from scipy.optimize import linear_sum_assignment
        from sklearn.cluster import KMeans
        from sklearn.metrics import normalized_mutual_info_score

        source, labelled = features.source, features.labelled
        assert isinstance(source, PairSource)
        assert labelled is not None
        scores = []
        for part in self.parts_ or source.parts:
            rows = source.links.rows[part]
            kept = {s: r[rows[r] >= 0] for s, r in labelled.rows.items()}
            k = len(np.unique(labelled.labels[kept["train"]]))
            train, test = (
                joint(features, part, rows[kept[s]], projected=False).double().numpy()
                for s in ("train", "test")
            )
            found = KMeans(k, n_init=self.n_init, random_state=seed).fit(train).predict(test)
            y = labelled.labels[kept["test"]]
            both = np.zeros((k, labelled.n_classes))
            np.add.at(both, (found, y), 1)
            hit = both[linear_sum_assignment(-both)].sum() / len(y)
            scores.append(Score("nmi", float(normalized_mutual_info_score(y, found)), part=part))
            scores.append(Score("accuracy", float(hit), part=part))
        return scores


@register("probe", "modality_gap")
class ModalityGap(_PairProbe):
    """How far the modalities lie apart on the unit sphere.

    ``modality_gap``: distance of the two means (Liang et al., NeurIPS 2022, section 2.1); ``alignment``:
    mean squared
    distance of partners, ``uniformity`` of each side: log of the mean of exp(-2 d^2) (Wang & Isola, ICML
    2020).

    Args:
        max_rows: at most so many pairs of the test split.
    """

    main = "modality_gap"

    def __init__(self, max_rows: int = 2000) -> None:
        if max_rows < 2:
            raise ValueError("max_rows must be at least 2")
        self.max_rows = max_rows

    def measure(self, features: Features, seed: int) -> list[Score]:
        source = features.source
        assert isinstance(source, PairSource)
        scores = []
        for a, b in combinations(source.parts, 2):
            rows = source.links.rows
            pairs = held_out(source, "test")
            pairs = subset(pairs[(rows[a][pairs] >= 0) & (rows[b][pairs] >= 0)], self.max_rows)
            if len(pairs) < 2:
                continue
            x, y = (F.normalize(joint(features, p, rows[p][pairs]).double(), dim=1) for p in (a, b))
            part = f"{a}_{b}"
            scores += [
                Score("modality_gap", float((x.mean(0) - y.mean(0)).norm()), part=part),
                Score("alignment", float((x - y).square().sum(1).mean()), part=part),
                Score(f"uniformity_{a}", _uniformity(x), part=part),
                Score(f"uniformity_{b}", _uniformity(y), part=part),
            ]
        return scores


def _uniformity(x: Tensor) -> float:
    square = (2 - 2 * x @ x.T).clamp(min=0)
    off = ~torch.eye(len(x), dtype=torch.bool)
    return float((-2 * square[off]).exp().mean().log())
