"""One encoder beside its baselines: the same probes on pretrained, random and raw features."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Encoder, Source, Views, evaluation_source
from ssl_domains.evaluation import baselines, metrics
from ssl_domains.evaluation.baselines import MakeEncoder
from ssl_domains.evaluation.data import LabelledRows, ProbeData, labelled_rows, subset
from ssl_domains.evaluation.embeddings import extract
from ssl_domains.evaluation.probes import Probe, Score, SourceProbe, build_probe
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
    built = [build_probe(probe) for probe in probes]
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
        self.probes = [probe for probe in probes if not isinstance(probe, SourceProbe)]
        self.source_probes = [probe for probe in probes if isinstance(probe, SourceProbe)]
        self.options: dict[str, Any] = {"batch_size": batch_size, "device": device}
        found = labelled_rows(source, max_rows)
        self.labelled: LabelledRows | None = None if isinstance(found, str) else found
        self.result = Evaluation(task=source.task, class_names=source.class_names, width=0)
        if self.probes or not self.source_probes:
            self.result.notes += [found] if isinstance(found, str) else found.notes
        self.diagnosed = subset(np.arange(len(source)), diagnostic_rows)
        self.mapped = self._map_rows(map_rows)
        wanted = [self.diagnosed, self.mapped]
        if self.labelled is not None:
            wanted += list(self.labelled.rows.values())
            self.result.n_rows = {name: len(rows) for name, rows in self.labelled.rows.items()}
        self.index = np.unique(np.concatenate(wanted))
        labels = None if source.labels is None else np.asarray(source.labels)[self.mapped]
        self.result.sample = MapSample(self.mapped, {}, labels)

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
        for own in self.source_probes:
            with self._part(f"probe {own.key}", f"{own.key} on the pretrained encoder"):
                found, n_rows = own.scores(encoder, self.source, **self.options)
                self._source_rows("pretrained", own, [found])
                self.result.n_rows |= n_rows
        for probe in self.probes if self.labelled is not None else []:
            with self._part(f"probe {probe.key}", f"{probe.key} on the pretrained encoder"):
                seeds = self.seeds if probe.draws else [0]
                self._add(
                    "pretrained", probe, [self._fit(probe, z, encoder, seed) for seed in seeds], probe.draws
                )

    def random(self, make_encoder: MakeEncoder, views: Views | None) -> None:
        """The same architecture, freshly initialised once a seed."""
        found: dict[str, list[tuple[Scores, Scores]]] = {probe.key: [] for probe in self.probes}
        own: dict[str, list[list[Score]]] = {probe.key: [] for probe in self.source_probes}
        for number, seed in enumerate(self.seeds, 1):
            with self._part("random encoder", f"random encoder {number} of {len(self.seeds)}"):
                encoder = baselines.seeded(make_encoder, seed)
                z = extract(encoder, self.source, self.index, **self.options)
                if number == 1:
                    self._describe("random", encoder, z, views)
                for probe in self.probes if self.labelled is not None else []:
                    found[probe.key].append(self._fit(probe, z, encoder, seed))
                for each in self.source_probes:
                    own[each.key].append(each.scores(encoder, self.source, **self.options)[0])
        for each in self.source_probes:
            self._source_rows("random", each, own[each.key], "encoder initialisations")
        for probe in self.probes if self.labelled is not None else []:
            drawn = f", each with its own {probe.draws}" if probe.draws else ""
            self._add("random", probe, found[probe.key], f"encoder initialisations{drawn}")

    def raw(self, tree: bool) -> None:
        """The domain's plain features, and trees on them; the baselines that a source probe brings."""
        for own in self.source_probes:
            with self._part("baselines", f"{own.key} on its baselines"):
                for name, scores in own.baselines(self.source).items():
                    self._source_rows(name, own, [scores])
        if self.labelled is None:
            return
        for name, x in baselines.raw_baselines(self.source, self.index).items():
            full = baselines.filled(x, self._at(self.labelled.rows["train"]))
            for probe in self.probes:
                if probe.tunes_encoder:
                    continue
                with self._part("raw features", f"{probe.key} on {name} features"):
                    seeds = self.seeds if probe.draws else [0]
                    self._add(
                        name, probe, [self._fit(probe, full, None, seed) for seed in seeds], probe.draws
                    )
            if tree and name == "raw":
                with self._part("trees", "gradient-boosted trees on raw features"):
                    self._trees(self.labelled.data(x, self.index))

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

    def _fit(self, probe: Probe, z: np.ndarray, encoder: Encoder | None, seed: int) -> tuple[Scores, Scores]:
        """Scores, and (for a probe that draws nothing) their bootstrap deviations."""
        assert self.labelled is not None
        if probe.tunes_encoder:
            prediction = probe.predict_encoder(encoder, self.source, self.labelled, seed)  # type: ignore[attr-defined]
        else:
            prediction = probe.predict(self.labelled.data(z, self.index), seed)
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

    def _source_rows(
        self, features: str, probe: SourceProbe, found: list[list[Score]], spread: str = ""
    ) -> None:
        """Rows of one kind of encoder; with several repeats the spread is over these."""
        for same in zip(*found):
            values = [score.value for score in same]
            one = len(same) == 1
            self.result.rows.append(
                Row(
                    features, same[0].key, same[0].metric, float(np.mean(values)),
                    same[0].error if one else metrics.deviation(values),
                    same[0].n if one else len(values), spread if not one else probe.spread,
                    same[0].metric == probe.main,
                )
            )  # fmt: skip

    def _rows(self, features: str, probe: str, scores: Scores, spread: Scores, n: int, drawn: str) -> None:
        main = metrics.MAIN[self.labelled.task] if self.labelled is not None else ""
        self.result.rows += [
            Row(features, probe, name, value, spread.get(name, float("nan")), n, drawn, name == main)
            for name, value in scores.items()
        ]

    def _check(self, z: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(z).all(axis=1))
        if len(bad):
            first = self.source.ids(self.index[bad[:1]])[0]
            raise DataError(
                f"the encoder's embeddings are not finite for {len(bad)} of {len(z)} rows (first: {first!r});"
                " look for NaN in the run's log, or lower the learning rate"
            )
