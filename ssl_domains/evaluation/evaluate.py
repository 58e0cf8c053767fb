"""One encoder beside its baselines: the same probes on pretrained, random and raw features."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Encoder, Source, Views, evaluation_source
from ssl_domains.evaluation import baselines, metrics
from ssl_domains.evaluation.baselines import MakeEncoder
from ssl_domains.evaluation.data import LabelledRows, ProbeData, labelled_rows, subset
from ssl_domains.evaluation.embeddings import extract
from ssl_domains.evaluation.probes import Probe, build_probe
from ssl_domains.evaluation.protocols import Features, ProtocolProbe, Score
from ssl_domains.evaluation.results import Evaluation, MapSample, Row
from ssl_domains.evaluation.unlabelled import diagnose, neighbour_table, view_measures

Scores = dict[str, float]
RESAMPLES = 100
"""Bootstrap resamples of the test rows behind the spread of a deterministic probe."""


def evaluate_encoder(
    encoder: Encoder,
    source: Source,
    *,
    make_encoder: MakeEncoder | None = None,
    probes: Sequence[str | Mapping[str, Any] | Probe] = ("linear", "knn"),
    seeds: int | Sequence[int] = 3,
    tree: bool = False,
    views: Views | None = None,
    max_rows: int = 50_000,
    diagnostic_rows: int = 10_000,
    map_rows: int = 1_500,
    batch_size: int = 1024,
    device: str = "auto",
    describe: Callable[[int], str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Evaluates a frozen encoder.

    What a spread is over is written in each row. A probe that draws nothing (linear, kNN) is
    fitted once; its spread is that of the score over 100 resamples of the test rows. A probe that
    draws (few-shot, label fraction, fine-tune) is fitted once a seed. The random encoder is
    initialised once a seed, and its spread is over these initialisations.

    Args:
        encoder: the pretrained encoder; left as it was.
        source: data with splits; labels are optional. Unlabelled rows are used by no probe. Its
            ``evaluation_source`` counts where it has one.
        make_encoder: builds the same architecture freshly for a seed; None: no random baseline.
        probes: names, ``{name: options}``, or :class:`~ssl_domains.evaluation.probes.Probe` objects.
        seeds: number of seeds (0, 1, ...), or the seeds.
        tree: also gradient-boosted trees on the raw features.
        views: the run's views, for alignment and view consistency.
        max_rows: labelled rows a split.
        diagnostic_rows: rows for RankMe, uniformity and so on, from all splits.
        map_rows: rows of the map, from the test split where there is one.
        batch_size: rows a forward pass.
        device: see :func:`~ssl_domains.evaluation.embeddings.extract`.
        describe: text of a row for the neighbour table.
        progress: called with one line before each part.

    Raises:
        RecipeError: a probe or one of its options does not exist.
        DataError: the encoder's embeddings are not finite.
    """
    built = [part for probe in probes for part in build_probe(probe).parts()]
    run = _Evaluator(
        evaluation_source(source), built, list(range(seeds)) if isinstance(seeds, int) else list(seeds),
        max_rows, diagnostic_rows, map_rows, batch_size, device, progress or (lambda _: None),
    )  # fmt: skip
    run.pretrained(encoder, views)
    if make_encoder is not None and run.seeds:
        run.random(make_encoder, views)
    run.raw(tree)
    run.neighbours(describe)
    return run.result


class _Evaluator:
    """Holds what the parts of one evaluation share."""

    def __init__(
        self,
        source: Source,
        probes: list[Probe],
        seeds: list[int],
        max_rows: int,
        diagnostic_rows: int,
        map_rows: int,
        batch_size: int,
        device: str,
        say: Callable[[str], None],
    ) -> None:
        self.source, self.seeds, self.say = source, seeds, say
        self.options: dict[str, Any] = {"batch_size": batch_size, "device": device}
        found = labelled_rows(source, max_rows)
        self.labelled: LabelledRows | None = None if isinstance(found, str) else found
        self.result = Evaluation(task=source.task, class_names=source.class_names, width=0)
        if not probes or not all(isinstance(probe, ProtocolProbe) for probe in probes):
            self.result.notes += [found] if isinstance(found, str) else found.notes
        self.probes = [p for p in probes if self.labelled is not None and not isinstance(p, ProtocolProbe)]
        self.protocols = self._possible([p for p in probes if isinstance(p, ProtocolProbe)])
        self.diagnosed = subset(np.arange(len(source)), diagnostic_rows)
        self.mapped = self._map_rows(map_rows)
        wanted = [self.diagnosed, self.mapped]
        if self.labelled is not None:
            wanted += list(self.labelled.rows.values())
            self.result.n_rows = {name: len(rows) for name, rows in self.labelled.rows.items()}
        for own in self.protocols:
            wanted.append(own.rows(source))
            self.result.n_rows |= own.counts(source)
        self.index = np.unique(np.concatenate(wanted))
        labels = None if source.labels is None else np.asarray(source.labels)[self.mapped]
        self.result.sample = MapSample(self.mapped, {}, labels)

    def _possible(self, probes: list[ProtocolProbe]) -> list[ProtocolProbe]:
        """The protocols that these data allow; a note says why another does not run."""
        reasons = [probe.why_not(self.source, self.labelled) for probe in probes]
        self.result.notes += [why for why in reasons if why]
        return [probe for probe, why in zip(probes, reasons) if not why]

    @cached_property
    def raw_features(self) -> dict[str, np.ndarray]:
        """The domain's plain features of the rows in use, by name."""
        return baselines.raw_baselines(self.source, self.index)

    @cached_property
    def plain(self) -> np.ndarray | None:
        """``[m, F]``: the one called ``raw``, without missing values; None when there is none."""
        x = self.raw_features.get("raw")
        if x is None or self.labelled is None:
            return x
        return baselines.filled(x, self._at(self.labelled.rows["train"]))

    def _map_rows(self, n: int) -> np.ndarray:
        if self.labelled is not None and len(self.labelled.rows["test"]) >= min(n, 200):
            return subset(self.labelled.rows["test"], n)
        return subset(np.arange(len(self.source)), n)

    def _at(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.index, rows)

    @contextmanager
    def _part(self, name: str, text: str) -> Iterator[None]:
        self.say(text)
        begin = time.perf_counter()
        yield
        self.result.seconds[name] = self.result.seconds.get(name, 0.0) + time.perf_counter() - begin

    def pretrained(self, encoder: Encoder, views: Views | None) -> None:
        """Rows and diagnostics of the encoder under test."""
        with self._part("extract", "embedding the data with the pretrained encoder"):
            z = extract(encoder, self.source, self.index, **self.options)
        self._check(z)
        self.result.width = z.shape[1]
        self.z = z
        self._describe("pretrained", encoder, z, views)
        for probe in self.probes:
            with self._part(f"probe {probe.key}", f"{probe.key} on the pretrained encoder"):
                seeds = self.seeds if probe.draws else [0]
                found = [self._fit(probe, z, encoder, seed, views) for seed in seeds]
                self._add("pretrained", probe, found, probe.draws)
        for own in self.protocols:
            with self._part(f"probe {own.key}", f"{own.key} on the pretrained encoder"):
                seeds = self.seeds if own.draws else [0]
                self._measured("pretrained", own, [self._measure(own, z, encoder, seed) for seed in seeds])

    def random(self, make_encoder: MakeEncoder, views: Views | None) -> None:
        """The same architecture, freshly initialised once a seed."""
        found: dict[str, list[tuple[Scores, Scores]]] = {probe.key: [] for probe in self.probes}
        measured: dict[str, list[list[Score]]] = {probe.key: [] for probe in self.protocols}
        for number, seed in enumerate(self.seeds, 1):
            with self._part("random encoder", f"random encoder {number} of {len(self.seeds)}"):
                encoder = baselines.seeded(make_encoder, seed)
                z = extract(encoder, self.source, self.index, **self.options)
                if number == 1:
                    self._describe("random", encoder, z, views)
                for probe in self.probes:
                    found[probe.key].append(self._fit(probe, z, encoder, seed, views))
                for own in self.protocols:
                    measured[own.key].append(self._measure(own, z, encoder, seed))
        for own in self.protocols:
            self._measured("random", own, measured[own.key], "encoder initialisations")
        for probe in self.probes:
            drawn = f", each with its own {probe.draws}" if probe.draws else ""
            self._add("random", probe, found[probe.key], f"encoder initialisations{drawn}")

    def raw(self, tree: bool) -> None:
        """The domain's plain features, trees on them, and what a protocol is compared with."""
        for own in self.protocols:
            for name, scores in own.baselines(self.source).items():
                self._measured(name, own, [scores])
        fitted = [probe for probe in self.probes if not probe.tunes_encoder]
        measured = [own for own in self.protocols if not own.tunes_encoder]
        for name, x in self.raw_features.items() if fitted or measured else []:
            known = np.arange(len(x)) if self.labelled is None else self._at(self.labelled.rows["train"])
            full = baselines.filled(x, known)
            for probe in fitted:
                with self._part("raw features", f"{probe.key} on {name} features"):
                    seeds = self.seeds if probe.draws else [0]
                    self._add(
                        name, probe, [self._fit(probe, full, None, seed) for seed in seeds], probe.draws
                    )
            for own in measured:
                with self._part("raw features", f"{own.key} on {name} features"):
                    seeds = self.seeds if own.draws else [0]
                    self._measured(name, own, [self._measure(own, full, None, seed) for seed in seeds])
        if tree and self.labelled is not None and "raw" in self.raw_features:
            with self._part("trees", "gradient-boosted trees on raw features"):
                self._trees(self.labelled.data(self.raw_features["raw"], self.index))

    def neighbours(self, describe: Callable[[int], str] | None) -> None:
        """Nearest neighbours of a few samples."""
        at = self._at(self.diagnosed)
        self.result.neighbours = neighbour_table(self.z[at], self.diagnosed, self.source, describe=describe)

    def _trees(self, data: ProbeData) -> None:
        scores, spread = baselines.tree_scores(data, RESAMPLES)
        self._rows("trees", "trees", scores, spread, RESAMPLES, "resamples of the test rows")

    def _describe(self, name: str, encoder: Encoder, z: np.ndarray, views: Views | None) -> None:
        with self._part("diagnostics", f"rank and variance of the {name} encoder"):
            found = diagnose(z[self._at(self.diagnosed)])
            if views is not None:
                rows = subset(self.diagnosed, 512)
                found.update(view_measures(encoder, self.source, views, rows, device=self.options["device"]))
        self.result.diagnostics[name] = found
        if self.result.sample is not None:
            self.result.sample.embeddings[name] = z[self._at(self.mapped)]

    def _fit(
        self, probe: Probe, z: np.ndarray, encoder: Encoder | None, seed: int, views: Views | None = None
    ) -> tuple[Scores, Scores]:
        """Scores, and (for a probe that draws nothing) their bootstrap deviations. Without an
        encoder ``z`` are raw features."""
        assert self.labelled is not None
        if probe.tunes_encoder:
            prediction = probe.predict_encoder(encoder, self.source, self.labelled, seed, views)  # type: ignore[attr-defined]
        else:
            raw = self.plain if probe.joins_raw and encoder is not None else None
            prediction = probe.predict(self.labelled.data(z, self.index, raw), seed)
        y, task = self.labelled.labels[self.labelled.rows["test"]], self.labelled.task
        spread = {} if probe.draws else metrics.bootstrap(y, prediction, task, RESAMPLES)
        return metrics.score(y, prediction, task), spread

    def _add(self, features: str, probe: Probe, found: list[tuple[Scores, Scores]], drawn: str) -> None:
        scores = {name: float(np.mean([s[name] for s, _ in found])) for name in found[0][0]}
        if not drawn:
            self._rows(features, probe.key, scores, found[0][1], RESAMPLES, "resamples of the test rows")
            return
        spread = {name: metrics.deviation([s[name] for s, _ in found]) for name in scores}
        self._rows(features, probe.key, scores, spread, len(found), drawn)

    def _rows(self, features: str, probe: str, scores: Scores, spread: Scores, n: int, drawn: str) -> None:
        main = metrics.MAIN[self.labelled.task] if self.labelled is not None else ""
        self.result.rows += [
            Row(features, probe, name, value, spread.get(name, float("nan")), n, drawn, name == main)
            for name, value in scores.items()
        ]

    def _measure(
        self, probe: ProtocolProbe, z: np.ndarray, encoder: Encoder | None, seed: int
    ) -> list[Score]:
        """A protocol's own scores of ``z``; without an encoder these are plain features."""
        found = Features(z, self.index, self.source, self.labelled, encoder, self.options)
        return probe.measure(found, seed)

    def _measured(
        self, features: str, probe: ProtocolProbe, found: list[list[Score]], varied: str = ""
    ) -> None:
        """Rows of a protocol; the spread is over the repeats, or is the score's own error."""
        drawn = ", each with its own ".join(filter(None, (varied, probe.draws)))
        for same in zip(*found):
            first, values = same[0], [score.value for score in same]
            repeated = len(values) > 1
            self.result.rows.append(
                Row(
                    features, probe.part_key(first.part), first.metric, float(np.mean(values)),
                    metrics.deviation(values) if repeated else first.error,
                    len(values) if repeated else first.n,
                    drawn if repeated else probe.spread, first.metric == probe.main,
                )
            )  # fmt: skip

    def _check(self, z: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(z).all(axis=1))
        if len(bad):
            first = self.source.ids(self.index[bad[:1]])[0]
            raise DataError(
                f"the encoder's embeddings are not finite for {len(bad)} of {len(z)} rows (first: {first!r});"
                " look for NaN in the run's log, or lower the learning rate"
            )
