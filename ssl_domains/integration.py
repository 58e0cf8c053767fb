"""Integrating a table: a pretrained pair classifier (or one trained on the table itself), sets, one file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_domains.core.errors import UserError

if TYPE_CHECKING:
    from ssl_domains.tabular.integration.pipeline import Integrated
    from ssl_domains.tabular.integration.source import TextTableSource

RECIPE = "tabular/table_integration"


@dataclass
class Integration:
    """What :func:`integrate` gives back.

    Attributes:
        path: the integrated table.
        run: the run whose classifier was used.
        rows: number of rows of the table.
        tuples: number of rows of the integrated table.
        conflicts: number of cells in which rows of one tuple held different values.
        result: pairs, probabilities, sets, and the row that each cell comes from.
        scores: with a truth column: ``precision``, ``recall``, ``f1`` of pairs, ``set_similarity``.
        notes: what the reader should know, one sentence each.
    """

    path: Path
    run: Path
    rows: int
    tuples: int
    conflicts: int
    result: Integrated
    scores: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def integrate(
    table: Any,
    out: str | Path,
    *overrides: str,
    run: str | Path | None = None,
    save_run: str | Path | None = None,
    sets: str | None = None,
    threshold: float = 0.5,
    resolve: Any = "vote",
    neighbours: int = 10,
    max_block: int = 1000,
    truth: str | None = None,
    pairs: str | Path | None = None,
    conflicts: str | Path | None = None,
    batch_size: int = 1024,
    device: str = "auto",
    seed: int = 0,
    plugin: Iterable[str | Path] = (),
    progress: bool = True,
    **data: Any,
) -> Integration:
    """Joins the rows of a table that speak of the same thing (arXiv 2412.00324).

    Args:
        table: a path, a glob or folder of files with one header, or a DataFrame; as ``data.source``.
        out: ``.csv``, ``.tsv``, ``.parquet``, ``.arrow`` or ``.feather``: one row a tuple, cells as they
            were,
            and a column ``integrated_from`` that says which rows went into it.
        overrides: ``"section.key=value"`` of the recipe ``tabular/table_integration``, such as
            ``"train.steps=2000"``.
        run: a run of that recipe, whose classifier is used; default: one is pretrained on this table.
        save_run: where that run goes; default ``runs/tabular-table_integration-<time>``.
        sets: how sets form; a name of ``ssl_domains.tabular.integration.sets.ALGORITHMS``.
        threshold: pairs with a higher probability belong together.
        resolve: which of several values is right: ``vote``, ``neighbours``, ``longest``, ``first``,
            ``lm:FOLDER``, or
            a function from a ``Conflict`` to the place of the right value in ``conflict.values``.
        neighbours: rows that each row is compared with, at most.
        max_block: pairs are not looked for by n-grams that more rows share.
        truth: a column that says which thing a row is: never an input, used to score the result.
        pairs: also write the compared pairs with their probabilities.
        conflicts: also write every value that was not chosen, with its row.
        batch_size: rows at a time.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: of pretraining, and of set algorithms that draw.
        plugin: your own Python files.
        progress: say what is being done.
        data: other keys of the ``data`` section: ``id``, ``exclude``, ``include``, ``max_chars``,
            ``query``, ``table`` ...

    Raises:
        DataError: the table cannot be used: empty, one row, no value to compare ...
        UserError: an option is wrong, or a file cannot be written.
        RunError: ``run`` holds no pair classifier.
        KeyboardInterrupt: interrupted; nothing was written, the message says how to go on.
    """
    from ssl_domains.tabular.integration import pipeline, writer
    from ssl_domains.tabular.integration.candidates import CandidateOptions
    from ssl_domains.tabular.integration.sets import DEFAULT

    target = writer.check_target(Path(out), table)
    extra = {
        name: writer.check_target(Path(p), table)
        for name, p in (("pairs", pairs), ("conflicts", conflicts))
        if p
    }
    if len({target, *extra.values()}) < 1 + len(extra):
        raise UserError("out, pairs and conflicts must be different files")
    options = pipeline.IntegrateOptions(
        threshold, sets or DEFAULT, resolve, CandidateOptions(neighbours, max_block=max_block),
        batch_size, device, seed,
    )  # fmt: skip
    options.checked()
    given = _data(table, data, truth)
    place, source, encoder = _classifier(given, overrides, run, save_run, seed, plugin, progress)
    if truth is not None and (truth not in source.table.column_names or truth in source.spec.names):
        problem = (
            "the table has no such column"
            if truth not in source.table.column_names
            else "it is an input of the run"
        )
        raise UserError(f"--truth {truth}: {problem}; name a column that says which thing a row is")
    try:
        with Lines(progress) as lines:
            result = pipeline.integrate_source(encoder, source, options, lines)
            tables = {target: writer.integrated_table(result)}
            if "pairs" in extra:
                tables[extra["pairs"]] = writer.pair_table(result)
            if "conflicts" in extra:
                tables[extra["conflicts"]] = writer.conflict_table(result)
            writer.write_tables(tables)
    except KeyboardInterrupt:
        text = f"interrupted; nothing was written; the classifier is there: go on with --run {place}"
        raise KeyboardInterrupt(text) from None
    scores = _scores(result, source, truth) if truth is not None else {}
    return Integration(
        target, place, len(source), result.n_tuples, len(result.choices), result, scores, result.notes
    )


def _data(table: Any, data: Mapping[str, Any], truth: str | None) -> dict[str, Any]:
    """The ``data`` section; keys that cannot be meant are refused."""
    for key in ("source", "label", "task", "split", "cells"):
        if key in data:
            raise UserError(
                f"data.{key} has no meaning for integrate; remove it (a column of true things is --truth)"
            )
    given = {"source": table, **data, "cells": "text"}
    if truth is not None:
        excluded = data.get("exclude", ())
        given["exclude"] = [*([excluded] if isinstance(excluded, str) else excluded), truth]
    return given


def _classifier(
    data: dict[str, Any],
    overrides: Iterable[str],
    run: str | Path | None,
    save_run: str | Path | None,
    seed: int,
    plugin: Iterable[str | Path],
    progress: bool,
) -> tuple[Path, TextTableSource, Any]:
    """Run directory, the table opened with its spec, and the encoder."""
    from ssl_domains.core.errors import RunError
    from ssl_domains.encoders import load

    overrides, plugin = list(overrides), list(plugin)
    if run is not None and (overrides or save_run is not None):
        raise UserError(
            "--run uses a classifier that is trained; remove the overrides of training and --save-run"
        )
    if run is None:
        run = _pretrain(data, overrides, save_run, seed, plugin, progress)
    loaded = load(run)
    if not hasattr(loaded.encoder, "match"):
        raise RunError(f"run {run} holds no pair classifier; use one that `pretrain {RECIPE}` made")
    fitted = {"include", "exclude", "max_chars", "cells"}
    source = loaded.source(**{key: value for key, value in data.items() if key not in fitted})
    return Path(run), source, loaded.encoder  # type: ignore[return-value]


def _pretrain(
    data: dict[str, Any],
    overrides: list[str],
    save_run: str | Path | None,
    seed: int,
    plugin: list[str | Path],
    progress: bool,
) -> Path:
    """Trains the recipe on all rows of the table; no probes, since no label is an input."""
    from ssl_domains import api

    sections: dict[str, Any] = {"data": {"valid": 0.0, "test": 0.0, **data}, "train": {}}
    if not any(text.startswith("train.seed=") for text in overrides):
        sections["train"]["seed"] = seed
    if not any(text.startswith("train.batch_size=") for text in overrides):
        sections["train"]["batch_size"] = _batch_size(sections["data"])
    if not any(text.startswith("evaluate.") for text in overrides):
        sections["evaluate"] = {"probes": [], "seeds": 1, "map_rows": 300, "diagnostic_rows": 2000}
    where = Path(save_run) if save_run is not None else api.default_run(RECIPE)
    try:
        return api.pretrain(RECIPE, *overrides, run=where, plugin=plugin, progress=progress, **sections).path
    except KeyboardInterrupt as stop:
        then = f"then integrate with --run {where}"
        raise KeyboardInterrupt(f"{stop}; {then}" if str(stop) else f"interrupted; {then}") from None


def _batch_size(data: Mapping[str, Any]) -> int:
    """That of the recipe, or all rows of a smaller table. Opens the table, so that what is wrong with it is
    said before anything is trained."""
    from ssl_domains.recipe.build import open_source
    from ssl_domains.recipe.check import read_recipe

    recipe = read_recipe(RECIPE, sections={"data": data})
    rows = len(open_source(recipe)[1])
    wanted = recipe.train.batch_size
    return rows if wanted == "full" else min(int(wanted), rows)


def _scores(result: Integrated, source: TextTableSource, truth: str) -> dict[str, float]:
    """Pair scores and set similarity against a column of the table; rows in which it is missing are left
    out."""
    from ssl_domains.tabular.integration.facts import TableFacts
    from ssl_domains.tabular.integration.scores import pair_scores, set_similarity

    labels = TableFacts(source.table.select([truth])).codes[:, 0].astype("int64")
    return {**pair_scores(result.sets, labels), "set_similarity": set_similarity(result.sets, labels)}


class Lines:
    """Progress of the stages: a bar on a terminal, a line at the end of each stage elsewhere."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._began = time.monotonic()

    def __enter__(self) -> Lines:
        if self.wanted and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description:<16}"),
                BarColumn(24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Takes the state of a stage."""
        if self._bar is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bar.add_task(stage, total=total)
            self._bar.update(self._tasks[stage], completed=done, total=total)
        elif self.wanted and done >= total:
            seconds = time.monotonic() - self._began
            sys.stderr.write(f"{stage}: {total:,} ({seconds:.0f} s)\n")
