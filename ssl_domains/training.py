"""From a checked recipe to a finished run: train, save the encoder, evaluate, report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ssl_domains.api import RecipeLike, Run, default_run
from ssl_domains.core import registry
from ssl_domains.core.errors import RunError
from ssl_domains.core.interfaces import Encoder, pretrain_source
from ssl_domains.core.methods.base import Method
from ssl_domains.curation.redundancy import parse_rule
from ssl_domains.evaluation import check_expectations, evaluate_encoder, write_model_card, write_report
from ssl_domains.evaluation.classifiers import classifier_rows
from ssl_domains.evaluation.pictures import data_uri
from ssl_domains.evaluation.results import FILE as EVALUATION
from ssl_domains.evaluation.results import Evaluation, Row
from ssl_domains.recipe.build import Experiment, as_exported, build
from ssl_domains.recipe.check import read_recipe
from ssl_domains.recipe.loading import parse_value
from ssl_domains.recipe.schema import Recipe, inline, to_plain
from ssl_domains.recipe.signatures import parameters
from ssl_domains.trainer import checkpoint
from ssl_domains.trainer.distributed import barrier, from_main, is_main
from ssl_domains.trainer.files import write_text
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.outcome import FitResult, Fork
from ssl_domains.trainer.profile import Profile, profile
from ssl_domains.trainer.run import RunDirectory, read_json
from ssl_domains.trainer.setup import device_for
from ssl_domains.trainer.signals import Interrupted

SUMMARY = "summary.json"
"""Beside the evaluation: what the report needs that no other file of a run holds."""


def train(
    recipe: RecipeLike,
    overrides: Iterable[str],
    sections: Mapping[str, Any],
    *,
    run: str | Path | None,
    resume: bool,
    plugin: Iterable[str | Path],
    progress: bool,
) -> Run:
    """See :func:`ssl_domains.api.pretrain`."""
    if resume:
        run = _run_to_resume(recipe, run)
        recipe = RunDirectory.open(run).recipe_path
    checked = read_recipe(recipe, overrides, sections, plugin)
    device_for(checked.train)  # joins the other processes, when there are some
    path = from_main(Path(run) if run is not None else default_run(checked.name))
    experiment = build(checked)
    if checked.init_from is not None and not resume:
        checkpoint.init_from(experiment.method, checked.init_from)
    directory = RunDirectory(path)
    trainer = make_trainer(experiment, directory, progress)
    if is_main() and not resume:
        _create(directory, experiment)
    barrier()
    result = _fit(trainer, path, resume)
    encoder = trainer.export_encoder()
    if not is_main():
        return Run(path, checked.name)
    experiment.save_encoder(directory.encoder_path, encoder)
    return _finish(experiment, encoder, directory, result, progress)


def fork_run(
    path: Path,
    overrides: Iterable[str],
    *,
    steps: int,
    anneal: bool,
    from_step: int | None,
    run: str | Path | None,
    plugin: Iterable[str | Path],
    progress: bool,
) -> Run:
    """See :func:`ssl_domains.api.fork`."""
    trunk = RunDirectory.open(path)
    start = _checkpoint(trunk, from_step)
    step = int(checkpoint.read_state(start)["progress"]["step"])
    budget = [f"train.steps={step + steps}", "train.epochs=null", "train.samples=null"]
    if anneal:
        budget.append(f"schedule.anneal_steps={steps}")
    overrides = list(overrides)
    carried = _carried(read_recipe(trunk.recipe_path, (), {}, plugin), overrides)
    checked = read_recipe(trunk.recipe_path, [*budget, *carried, *overrides], {}, plugin)
    directory = RunDirectory(Path(run) if run is not None else default_run(f"{path.name}-fork"))
    experiment = build(checked)
    trainer = make_trainer(experiment, directory, progress)
    _create(directory, experiment)
    result = _fit(trainer, directory.path, resume=False, fork=Fork(start, anneal))
    encoder = trainer.export_encoder()
    experiment.save_encoder(directory.encoder_path, encoder)
    return _finish(experiment, encoder, directory, result, progress)


def _carried(trunk: Recipe, overrides: Iterable[str]) -> list[str]:
    """A fork that names another method (MoCo goes on as HaLP) keeps the options that both take: the weights
    have to fit. Overrides that say so, for :func:`read_recipe`."""
    old = trunk.sections["method"]
    named = [text.partition("=")[2] for text in overrides if text.startswith(("method=", "method.name="))]
    given = parse_value(named[-1]) if named else old.name
    name = given.get("name") if isinstance(given, dict) else given
    if name == old.name or name not in registry.names("method"):
        return []
    takes = parameters(registry.get("method", name))
    kept = {key: value for key, value in old.resolved.items() if key in takes}
    return [f"method.{key}={inline(to_plain(value))}" for key, value in kept.items()]


def _checkpoint(run: RunDirectory, step: int | None) -> Path:
    """The newest intact checkpoint, or the one of a step."""
    if step is None:
        return run.latest()
    for found in run.checkpoints():
        if int(found.name.rsplit("-", 1)[1]) == step:
            return found
    kept = ", ".join(str(int(c.name.rsplit("-", 1)[1])) for c in run.checkpoints()) or "none"
    raise RunError(
        f"run {run.path} has no checkpoint of step {step}; it has: {kept} (train.keep says how many stay)"
    )


def _run_to_resume(recipe: RecipeLike, run: str | Path | None) -> Path:
    """The run directory that ``--resume`` means."""
    if run is not None:
        return Path(run)
    if isinstance(recipe, str | Path) and (Path(recipe) / "run.json").is_file():
        return Path(recipe)
    if isinstance(recipe, str | Path) and Path(recipe).is_dir():
        RunDirectory.open(recipe)  # says what is wrong with it
    raise RunError("resume: say which run, as run=DIR, or give the run directory in place of the recipe")


def _create(directory: RunDirectory, experiment: Experiment) -> None:
    """The run directory with its recipe; only after everything that can be wrong was looked at."""
    RunDirectory.create(directory.path)
    directory.write_recipe(_portable(experiment.recipe))
    directory.write_environment()
    begun = {"recipe": experiment.recipe.name, "own_data": experiment.recipe.own_data}
    write_text(directory.path / SUMMARY, json.dumps(begun) + "\n", "summary")


def _portable(recipe: Recipe) -> str:
    """The resolved recipe with absolute paths, so that the run resumes from any folder."""
    for data in (recipe.data, *(part.data for part in recipe.parts.values())):
        for key, value in data.items():
            if isinstance(value, str | Path) and "://" not in str(value) and Path(value).exists():
                data[key] = str(Path(value).resolve())
    if recipe.train.rows is not None and parse_rule(recipe.train.rows) is None:
        rows = str(Path(recipe.train.rows).resolve())
        recipe.train = recipe.train.model_copy(update={"rows": rows})
    return recipe.to_yaml()


def make_trainer(experiment: Experiment, directory: RunDirectory | None, progress: bool) -> Trainer:
    """The trainer of an experiment.

    Raises:
        UserError: method, objective, batch and data do not fit together; all reasons at once.
        RecipeError: the schedule does not fit the budget.
    """
    return Trainer(
        experiment.method,
        pretrain_source(experiment.source),
        experiment.recipe.train,
        optimizer=experiment.make_optimizer(),
        schedule=experiment.make_schedule,
        run=directory,
        sampler=experiment.sampler,
        probe=online_probe(experiment),
        progress=None if progress else False,
    )


def online_probe(experiment: Experiment) -> Callable[[Encoder, int], dict[str, float]]:
    """Scores while training: the recipe's probes on few rows, and RankMe."""

    def probe(encoder: Encoder, step: int) -> dict[str, float]:
        config = experiment.recipe.evaluate
        found = evaluate_encoder(
            encoder, experiment.source, probes=config.entries(), seeds=1, max_rows=2000, diagnostic_rows=1000,
            map_rows=2, batch_size=config.batch_size, device=str(next(encoder.parameters()).device.type),
        )  # fmt: skip
        scores = {row.probe: row.mean for row in found.rows if row.main and row.features == "pretrained"}
        rank = found.diagnostics.get("pretrained", {}).get("rankme")
        return scores | ({"rankme": rank} if rank is not None else {})

    return probe


def _fit(trainer: Trainer, path: Path, resume: bool, fork: Fork | None = None) -> FitResult:
    command = f"ssl-domains pretrain {shlex.quote(str(path))} --resume"
    try:
        return trainer.fit(resume=resume, fork=fork)
    except Interrupted as stop:
        text = f"interrupted after step {stop.step} and saved; go on with: {command}"
        raise KeyboardInterrupt(text) from None
    except KeyboardInterrupt:
        saved = RunDirectory(path).checkpoints()
        text = f"go on from the last checkpoint with: {command}" if saved else "no checkpoint was written"
        raise KeyboardInterrupt(f"interrupted at once; {text}") from None


def _finish(
    experiment: Experiment, encoder: Encoder, directory: RunDirectory, result: FitResult, progress: bool
) -> Run:
    """Evaluation, expectations, report."""
    budget = {"steps": result.steps, "samples": result.samples, "seconds": round(result.seconds, 2)}
    begun = read_json(directory.path / SUMMARY)  # a resumed run keeps its name
    summary = {**_identity(experiment), **begun, "training": budget, "findings": result.findings}
    method = None if experiment.recipe.train.fsdp else experiment.method  # shards of one process draw nothing
    try:
        return _measure(experiment, encoder, directory, summary, progress, method)
    except KeyboardInterrupt:
        again = f"ssl-domains evaluate {shlex.quote(str(directory.path))}"
        text = f"interrupted while evaluating; the encoder is saved; go on with: {again}"
        raise KeyboardInterrupt(text) from None


def _identity(experiment: Experiment) -> dict[str, Any]:
    recipe = experiment.recipe
    return {
        "recipe": recipe.name,
        "domain": recipe.domain,
        "method": recipe.sections["method"].name,
        "data": _data_name(recipe),
        "label": recipe.data.get("label") if isinstance(recipe.data.get("label"), str) else None,
        "card": to_plain(experiment.source.card()),
    }


def _data_name(recipe: Recipe) -> str:
    """A short name for titles: the last part of the path."""
    for key in ("source", "nodes", "edges"):
        value = recipe.data.get(key)
        if isinstance(value, str | Path):
            return str(value).rstrip("/").split("/")[-1]
    return ""


def _measure(
    experiment: Experiment,
    encoder: Encoder,
    directory: RunDirectory,
    summary: dict[str, Any],
    progress: bool,
    method: Method | None = None,
) -> Run:
    recipe = experiment.recipe
    evaluation = run_evaluation(experiment, encoder, progress)
    evaluation.rows += _classifiers(experiment, method, directory)
    drawn = experiment.domain.figures(encoder, experiment.source, method)
    evaluation.figures = [
        {"title": f.title, "caption": f.caption, "picture": data_uri(f.pixels, None)} for f in drawn
    ]
    run = Run(directory.path, summary["recipe"], evaluation, notes=list(summary.get("findings", [])))
    judge(run, recipe, own_data=bool(summary.get("own_data")))
    summary["expect"] = {} if summary.get("own_data") else recipe.expect
    evaluation.save(directory.path)
    write_text(directory.path / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "summary")
    write_reports(directory.path)
    return run


def _classifiers(experiment: Experiment, method: Method | None, directory: RunDirectory) -> list[Row]:
    """Scores of the method's own classifiers; those of before, when an encoder alone is evaluated again."""
    config = experiment.recipe.evaluate
    if method is not None:
        return classifier_rows(method, experiment.source, config.max_rows, config.batch_size)
    old = Evaluation.load(directory.path).rows if (directory.path / EVALUATION).is_file() else []
    return [row for row in old if row.probe.startswith("classifier(")]


def run_evaluation(experiment: Experiment, encoder: Encoder, progress: bool) -> Evaluation:
    """The recipe's ``evaluate`` section on an encoder."""
    config = experiment.recipe.evaluate
    return evaluate_encoder(
        encoder,
        experiment.source,
        make_encoder=experiment.make_encoder,
        probes=config.entries(),
        seeds=config.seeds,
        tree=experiment.domain.tree_baseline() if config.tree is None else config.tree,
        views=experiment.views,
        max_rows=config.max_rows,
        diagnostic_rows=config.diagnostic_rows,
        map_rows=config.map_rows,
        batch_size=config.batch_size,
        device=experiment.recipe.train.device,
        progress=_say if progress else None,
    )


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


def judge(run: Run, recipe: Recipe, own_data: bool) -> None:
    """Compares the evaluation with ``expect``; other data than the recipe's are not held to it."""
    if not recipe.expect or run.evaluation is None:
        return
    if own_data:
        run.notes.append("expect was not checked: it belongs to the recipe's own data.")
        return
    failures = {failure.key: failure.message for failure in check_expectations(recipe.expect, run.evaluation)}
    run.missed += failures.values()
    run.met += [f"{key} {text}" for key, text in recipe.expect.items() if key not in failures]


def evaluate_run(
    path: Path,
    overrides: Iterable[str],
    sections: Mapping[str, Any],
    *,
    plugin: Iterable[str | Path],
    progress: bool,
) -> Run:
    """See :func:`ssl_domains.api.evaluate`."""
    from ssl_domains.encoders import load

    directory = RunDirectory.open(path)
    recipe = read_recipe(directory.recipe_path, overrides, sections, plugin)
    loaded = load(path)
    own = as_exported(recipe, loaded.config)
    if own:
        recipe = read_recipe(directory.recipe_path, overrides, {**sections, **own}, plugin)
    experiment = build(recipe)
    _, spec = experiment.as_saved(experiment.method.encoder_for_export())
    if _as_json(spec.to_dict()) != loaded.config["spec"]:
        raise RunError(
            f"run {path}: its data are no longer those it was trained on (columns, categories or scales "
            "differ); restore them, or pretrain again"
        )
    old: dict[str, Any] = read_json(path / SUMMARY) if (path / SUMMARY).is_file() else {}
    kept: dict[str, Any] = {
        key: old[key] for key in ("recipe", "training", "findings", "own_data") if key in old
    }
    summary = {**_identity(experiment), **kept}
    if experiment.views is not None:
        experiment.views.prepare(experiment.source)
    return _measure(experiment, loaded.encoder, directory, summary, progress)


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def write_reports(path: Path) -> Path:
    """``report.html`` and ``card.md`` from what the run holds.

    Raises:
        RunError: no such run, or it was never evaluated.
    """
    directory = RunDirectory.open(path)
    evaluation = Evaluation.load(path)
    summary = read_json(path / SUMMARY)
    environment = read_json(path / "environment.json") if (path / "environment.json").is_file() else None
    title = summary["recipe"] + (f" on {summary['data']}" if summary.get("data") else "")
    shared: dict[str, Any] = {
        "title": title,
        "card": summary["card"],
        "recipe_yaml": directory.recipe_path.read_text(encoding="utf-8"),
        "environment": environment,
    }
    report = write_report(
        path,
        evaluation,
        subtitle=[summary["domain"], summary["method"]],
        metrics_rows=directory.metrics(),
        findings=summary.get("findings", []),
        expect=summary.get("expect"),
        label_name=summary.get("label") or "label",
        seconds=summary.get("training", {}).get("seconds"),
        **shared,
    )
    write_model_card(path, evaluation, domain=summary["domain"], method=summary["method"], **shared)
    return report


def profile_recipe(
    recipe: RecipeLike,
    overrides: Iterable[str],
    sections: Mapping[str, Any],
    *,
    plugin: Iterable[str | Path],
    steps: int,
) -> Profile:
    """See :func:`ssl_domains.api.profile`."""
    checked = read_recipe(recipe, overrides, sections, plugin)
    experiment = build(checked)
    return profile(
        experiment.method,
        pretrain_source(experiment.source),
        checked.train,
        optimizer=experiment.make_optimizer(),
        schedule=experiment.make_schedule,
        sampler=experiment.sampler,
        steps=steps,
    )
