"""The verbs as Python functions: pretrain, evaluate, embed, inspect, profile, report, show.

Each is what the command of the same name does. Bad input ends in a subclass of
:class:`ssl_domains.UserError` whose message is one sentence for each error.
"""

from __future__ import annotations

import inspect as inspect_module
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_domains.core.errors import RunError, UserError
from ssl_domains.encoders import LoadedEncoder, load

if TYPE_CHECKING:
    from ssl_domains.evaluation.results import Evaluation
    from ssl_domains.recipe.listing import Difference, RecipeSummary, ResolvedValue
    from ssl_domains.recipe.schema import Recipe
    from ssl_domains.trainer.profile import Profile

RecipeLike = str | Path | Mapping[str, Any]


@dataclass
class Run:
    """What :func:`pretrain` and :func:`evaluate` give back.

    Attributes:
        path: the run directory.
        recipe_name: ``tabular/t_jepa`` for a shipped recipe, else the stem of the file.
        evaluation: scores of the pretrained encoder and its baselines, and measures without labels.
        met: conditions of the recipe's ``expect`` that hold.
        missed: those that do not, one sentence each.
        notes: what the reader should know, one sentence each.
    """

    path: Path
    recipe_name: str
    evaluation: Evaluation | None = None
    met: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def encoder(self) -> LoadedEncoder:
        """The pretrained encoder with its fitted preprocessing, loaded from the run."""
        return load(self.path)

    def files(self) -> dict[str, Path]:
        """The files to look at, by what they are; only those that are there."""
        named = {"report": "report.html", "card": "card.md", "encoder": "encoder", "run": "."}
        return {name: self.path / file for name, file in named.items() if (self.path / file).exists()}


def pretrain(
    recipe: RecipeLike,
    *overrides: str,
    run: str | Path | None = None,
    resume: bool = False,
    plugin: Iterable[str | Path] = (),
    progress: bool = True,
    **sections: Any,
) -> Run:
    """Pretrains by a recipe, saves the encoder, evaluates it beside its baselines, writes the report.

    Args:
        recipe: path or name of a recipe (``tabular/t_jepa``), or a mapping of the same form.
        overrides: ``"section.key=value"``, such as ``"train.epochs=5"``.
        run: the run directory to make; default ``runs/<recipe>-<time>``.
        resume: continue ``run`` (or ``recipe``, when that is a run directory) from its newest
            checkpoint, by its own recipe.
        plugin: your own Python files, imported so that their registered classes can be named.
        progress: show a progress bar.
        sections: overrides as Python values, ``train={"epochs": 5}``, ``data={"source": frame}``.

    Returns:
        The finished run.

    Raises:
        RecipeError: every problem of the recipe at once.
        DataError: the data cannot be used.
        RunError: the run directory is taken, or cannot be resumed.
        CollapseError: the guard stopped the run (``train.on_collapse: stop``).
        KeyboardInterrupt: interrupted; the run is saved, the message has the command that resumes it.
    """
    from ssl_domains.training import train

    return train(recipe, overrides, sections, run=run, resume=resume, plugin=plugin, progress=progress)


def fork(
    run: str | Path,
    *overrides: str,
    steps: int,
    anneal: bool = False,
    from_step: int | None = None,
    out: str | Path | None = None,
    plugin: Iterable[str | Path] = (),
    progress: bool = True,
) -> Run:
    """Begins a new run with the whole state of a run's checkpoint; the old run is only read.

    With ``anneal`` this is the infinite learning rate's way to a usable model at any time: the fork
    is annealed and evaluated, the trunk goes on from its un-annealed state (arXiv 2503.02844). Without
    it, the fork goes on at the same rate, for longer or, through ``data.*`` overrides, on other rows
    with the same columns.

    Args:
        run: the trunk's run directory.
        overrides: ``"section.key=value"``.
        steps: steps to train beyond the checkpoint.
        anneal: anneal over these steps; the trunk's schedule must be ``infinite``.
        from_step: the checkpoint of this step; default the newest.
        out: the new run directory; default ``runs/<run>-fork-<time>``.
        plugin: your own Python files.
        progress: show a progress bar.

    Raises:
        RunError: no such run or checkpoint, weights that do not fit, or a schedule that cannot anneal.
    """
    from ssl_domains.training import fork_run

    return fork_run(
        Path(run), overrides, steps=steps, anneal=anneal, from_step=from_step, run=out, plugin=plugin,
        progress=progress,
    )  # fmt: skip


def evaluate(
    run: str | Path,
    *overrides: str,
    plugin: Iterable[str | Path] = (),
    progress: bool = False,
    **sections: Any,
) -> Run:
    """Measures a run's encoder again, on the data of its recipe, and writes the report anew.

    Args:
        run: run directory.
        overrides: ``"evaluate.key=value"``, such as ``"evaluate.seeds=5"``.
        plugin: your own Python files.
        progress: say what is being done.
        sections: overrides as Python values; ``data={"source": frame}`` when the run's data was in memory.

    Raises:
        RunError: no such run, it has no encoder, or its data are no longer those it was trained on.
        RecipeError: an override is wrong.
    """
    from ssl_domains.training import evaluate_run

    return evaluate_run(Path(run), overrides, sections, plugin=plugin, progress=progress)


def embed(
    run: str | Path,
    data: Any = None,
    out: str | Path | None = None,
    *,
    plugin: Iterable[str | Path] = (),
    per: str = "row",
    batch_size: int = 1024,
    device: str = "auto",
    **options: Any,
) -> Path:
    """Embeds new raw data with a run's encoder into a file; larger data than memory are fine.

    Args:
        run: run directory, or a folder that ``export`` wrote.
        data: what to embed, as the recipe's ``data.source``; no label is needed. Categories that
            training has not seen are handled as unknown.
        out: ``.parquet``, ``.csv`` or ``.npy``; default ``embeddings.parquet``.
        plugin: your own Python files.
        per: ``row``, or ``recording``: one mean vector a video (of its clips) or volume (of its patches or
            slices).
        batch_size: rows at a time.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        options: other keys of the domain's ``data`` section, such as ``nodes`` and ``edges``.

    Returns:
        The file: an id column and one row a sample.

    Raises:
        DataError: the data cannot be read or lack what the encoder needs.
        RunError: the run has no encoder.
    """
    from ssl_domains.evaluation import embed_to_file
    from ssl_domains.recipe.check import load_plugin

    if data is None and not options:
        raise UserError("embed: say what to embed, for example --data new.csv")
    for file in plugin:
        load_plugin(file)
    loaded = load(run)
    source = _call_with_keys(loaded.domain.open, loaded.source, data, options)
    target = Path(out) if out is not None else Path("embeddings.parquet")
    return embed_to_file(loaded.encoder, source, target, per=per, batch_size=batch_size, device=device)


def inspect(
    source: Any = None, domain: str | None = None, schema_out: str | Path | None = None, **data: Any
) -> tuple[dict[str, Any], str]:
    """What is in a source, and the recipe lines that use it.

    Args:
        source: a path, or an object such as a DataFrame.
        domain: ``tabular`` or ``graph``; default: told from the source.
        schema_out: also writes the fitted columns of a table to this file, for ``data.schema``.
        data: other keys of the domain's ``data`` section, such as ``label``, ``nodes``, ``edges``.

    Returns:
        Findings by name (counts, types, missing values ...), and YAML text.

    Raises:
        DataError: the source cannot be used, or its domain cannot be told.
        UserError: the domain's packages are missing.
    """
    from ssl_domains.guess import guess_domain

    opened = _domain(domain or guess_domain(source, **data))
    given = data if source is None else {"source": source, **data}
    more = {} if schema_out is None else {"schema_out": schema_out}
    if more and "schema_out" not in inspect_module.signature(opened.inspect).parameters:
        raise UserError("inspect: only tables have a schema that can be written")
    return _call_with_keys(opened.open, lambda _, **keys: opened.inspect(**keys, **more), None, given)


def profile(
    recipe: RecipeLike, *overrides: str, plugin: Iterable[str | Path] = (), steps: int = 20, **sections: Any
) -> Profile:
    """Where a step's time goes: load, transfer, forward, backward, optimizer; and which setting to change.

    Args:
        recipe: as for :func:`pretrain`; nothing is written.
        overrides: as for :func:`pretrain`.
        plugin: your own Python files.
        steps: steps that are timed.
        sections: overrides as Python values.

    Raises:
        RecipeError, DataError: as :func:`pretrain`.
    """
    from ssl_domains.training import profile_recipe

    return profile_recipe(recipe, overrides, sections, plugin=plugin, steps=steps)


def report(run: str | Path) -> Path:
    """Writes a run's ``report.html`` and ``card.md`` again from what it holds; nothing is computed anew.

    Returns:
        The report.

    Raises:
        RunError: no such run, or it was never evaluated.
    """
    from ssl_domains.training import write_reports

    return write_reports(Path(run))


def show(
    recipe: RecipeLike, *overrides: str, plugin: Iterable[str | Path] = (), **sections: Any
) -> list[ResolvedValue]:
    """Every value that a run by this recipe would use, and where each was set.

    Args:
        recipe: as for :func:`pretrain`, or a run directory.
        overrides: as for :func:`pretrain`.
        plugin: your own Python files.
        sections: overrides as Python values.

    Raises:
        RecipeError: every problem at once.
    """
    from ssl_domains.recipe.listing import resolved_values

    return resolved_values(_read(recipe, overrides, sections, plugin))


def diff(a: RecipeLike, b: RecipeLike, *, plugin: Iterable[str | Path] = ()) -> list[Difference]:
    """The values in which two recipes or runs differ, defaults included."""
    from ssl_domains.recipe.listing import differences

    plugin = list(plugin)
    return differences(_read(a, (), {}, plugin), _read(b, (), {}, plugin))


def list_recipes() -> list[RecipeSummary]:
    """The recipes that ship with the package: name and one line each."""
    from ssl_domains.recipe import listing

    return listing.list_recipes()


def list_names(
    kind: str | None = None, plugin: Iterable[str | Path] = ()
) -> dict[str, list[tuple[str, str]]]:
    """Names that a recipe may use, by kind, each with one line; only what works here.

    Args:
        kind: ``domains``, ``methods``, ``objectives``, ``recipes``, ``encoders``, ``views``,
            ``masks``, ``samplers``, ``optimizers``, ``schedules`` or ``probes``; default: the first four.
        plugin: your own Python files.

    Raises:
        UserError: no such kind.
    """
    from ssl_domains.recipe.listing import names_by_kind

    return names_by_kind(kind, plugin)


def default_run(recipe_name: str) -> Path:
    """``runs/<recipe>-<time>``, not taken yet."""
    base = Path("runs") / f"{recipe_name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = base, 2
    while path.exists():
        path, number = base.with_name(f"{base.name}-{number}"), number + 1
    return path


def _read(
    recipe: RecipeLike, overrides: Iterable[str], sections: Mapping[str, Any], plugin: Iterable[str | Path]
) -> Recipe:
    from ssl_domains.recipe.check import read_recipe

    return read_recipe(recipe, overrides, sections, plugin)


def _domain(name: str) -> Any:
    from ssl_domains.core.registry import load_domain

    try:
        return load_domain(name)()
    except KeyError as error:
        raise UserError(error.args[0]) from None
    except ImportError as error:
        raise UserError(str(error)) from None


def _call_with_keys(signature: Any, call: Any, data: Any, options: Mapping[str, Any]) -> Any:
    """Calls with arguments that were checked against a signature: a sentence instead of a TypeError."""
    from ssl_domains.recipe.signatures import model_of, parameters, validate

    if parameters(signature):
        filled = frozenset({"self", "spec"})
        given = dict(options) if data is None else {"source": data, **options}
        _, problems = validate(model_of(signature, filled), given, "data")
        if problems:
            raise UserError("; ".join(f"data.{'.'.join(p.path)}: {p.text}" for p in problems))
    return call(data, **options)


__all__ = [
    "Run",
    "RunError",
    "default_run",
    "diff",
    "embed",
    "evaluate",
    "inspect",
    "list_names",
    "list_recipes",
    "pretrain",
    "profile",
    "report",
    "show",
]
