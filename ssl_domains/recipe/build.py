"""Objects from a checked recipe: what data decide is linked from the source's spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssl_domains.core import registry
from ssl_domains.core.errors import DataError, RecipeError, UserError
from ssl_domains.core.interfaces import Domain, Encoder, Masker, Source, Views, pretrain_rows
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.samplers import Sampler
from ssl_domains.core.schedules import Schedule
from ssl_domains.curation.filter import kept_rows
from ssl_domains.curation.redundancy import parse_rule, reduce_rows
from ssl_domains.recipe.schema import Recipe, Section, to_plain
from ssl_domains.recipe.signatures import parameters
from ssl_domains.trainer.optimizers import OptimizerConfig


@dataclass
class Experiment:
    """Everything that a run needs.

    Attributes:
        recipe: the checked recipe.
        domain: the domain's object.
        source: the opened data.
        method: built from ``train.seed``, not yet on a device.
        views: the views or None; also given to the evaluation (alignment needs two views).
        sampler: how rows become batches, or None: shuffled.
    """

    recipe: Recipe
    domain: Domain
    source: Source
    method: Method
    views: Views | None
    sampler: Sampler | None = None

    def make_encoder(self, seed: int) -> Encoder:
        """The same encoder at random initialisation, for the baseline: also where training started from
        weights of a file."""
        options, spec = self.as_saved(self.method.encoder_for_export())
        set_seed(seed)
        made: Encoder = self.recipe.sections["encoder"].cls(spec, **options)
        return made

    def make_optimizer(self) -> OptimizerConfig:
        """The optimizer's options; the trainer makes the optimizer from the method's parameters.

        Raises:
            RecipeError: an option is out of range.
        """
        optimizer = _construct(self.recipe, "optimizer")
        assert isinstance(optimizer, OptimizerConfig)
        return optimizer

    def make_schedule(self, total_steps: int) -> Schedule:
        """The schedule of a run with this budget.

        Raises:
            RecipeError: its options do not fit the budget.
        """
        schedule = _construct(self.recipe, "schedule", total_steps=total_steps)
        assert isinstance(schedule, Schedule)
        return schedule

    def as_saved(self, encoder: nn.Module) -> tuple[dict[str, Any], Any]:
        """Options and spec that go with an encoder's own weights."""
        assert isinstance(encoder, Encoder)
        return encoder.as_saved(self.recipe.sections["encoder"].resolved, self.source.spec)

    def save_encoder(self, path: Path, encoder: nn.Module) -> Path:
        """Writes weights, config and the fitted preprocessing into ``path``."""
        from ssl_domains.trainer.checkpoint import save_encoder

        section = self.recipe.sections["encoder"]
        options, spec = self.as_saved(encoder)
        return save_encoder(
            path,
            encoder,
            domain=self.recipe.domain,
            encoder_name=section.name,
            encoder_options=to_plain(options),
            spec=spec,
        )


def set_seed(seed: int) -> None:
    """Seeds torch and numpy, for initialisation."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def open_source(recipe: Recipe) -> tuple[Domain, Source]:
    """Opens the recipe's data.

    Raises:
        DataError: the data cannot be used.
    """
    domain = registry.load_domain(recipe.domain)()
    return domain, domain.open(**recipe.data, **recipe.parts)


def build(recipe: Recipe, source: Source | None = None) -> Experiment:
    """Opens the data and builds every object of a recipe.

    Args:
        recipe: from :func:`~ssl_domains.recipe.check.read_recipe`.
        source: data that are open already.

    Raises:
        DataError: the data cannot be used.
        RecipeError: options that each have a right type do not fit together or the data; all at once.
    """
    if source is None:
        domain, source = open_source(recipe)
    else:
        domain = registry.load_domain(recipe.domain)()
    if recipe.train.rows is not None:
        source.pretrain_index = _chosen(source, recipe.train.rows)  # type: ignore[attr-defined]
        if hasattr(source, "refit"):  # means and scales of what is left
            source.refit(source.pretrain_index)  # type: ignore[attr-defined]
    set_seed(recipe.train.seed)
    problems: list[str] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except RecipeError as error:
            problems.extend(error.problems)
            return None

    views = attempt(lambda: _construct(recipe, "views", spec=source.spec))
    masker = attempt(lambda: _construct(recipe, "mask", spec=source.spec))
    sampler = attempt(lambda: _construct(recipe, "sampler", spec=source.spec))
    attempt(lambda: _construct(recipe, "optimizer"))
    attempt(lambda: _construct(recipe, "schedule", total_steps=_any_budget(recipe)))
    encoder = attempt(lambda: _encoder(recipe, source))
    objective = attempt(lambda: _objective(recipe, source, encoder)) if encoder is not None else None
    parts = attempt(lambda: _parts(recipe, source, encoder)) if encoder is not None else {}
    if problems:
        raise RecipeError(problems)
    method = _method(recipe, source, encoder, objective, views, masker, **parts)
    return Experiment(recipe, domain, source, method, views, sampler)


def _chosen(source: Source, rows: str) -> np.ndarray:
    """What ``train.rows`` keeps: a file, or a rule that is applied now."""
    rule = parse_rule(rows)
    if rule is None:
        return kept_rows(source, rows)
    try:
        found = reduce_rows(source, pretrain_rows(source), *rule)
    except ValueError as error:
        raise RecipeError(f"train.rows: {error}") from None
    return found.rows[found.kept]


def build_encoder(config: Mapping[str, Any]) -> tuple[Domain, Any, Encoder]:
    """Domain, spec and an encoder with random weights from the config of a saved encoder.

    Args:
        config: as :func:`ssl_domains.trainer.checkpoint.read_encoder_config` gives it.

    Raises:
        UserError: the domain or encoder is not known here, or takes other options; names which.
    """
    registry.scan_core()
    try:
        domain = registry.load_domain(config["domain"])()
        cls = registry.get("encoder", config["encoder"])
        spec = domain.spec_from_dict(config["spec"])
        return domain, spec, cls(spec, **config["encoder_options"])
    except (KeyError, ImportError, TypeError, ValueError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise UserError(
            f"the saved encoder cannot be built (written by version {config.get('version')}): {text}"
        ) from error


def as_exported(recipe: Recipe, config: Mapping[str, Any]) -> dict[str, Any]:
    """Sections that build the encoders of a run as its export does, without the files of weights that
    training started from; empty where it started from none.

    Args:
        recipe: of the run.
        config: of its export, as for :func:`build_encoder`.
    """
    exported = {"": config["encoder_options"]}
    exported |= {name: part["options"] for name, part in config["spec"].get("parts", {}).items()}
    empty = {"weights": None, "pretrained": False}
    found: dict[str, Any] = {}
    for name, of in {"": recipe, **recipe.parts}.items():
        given = of.sections["encoder"].resolved
        files = {key: value for key, value in empty.items() if given.get(key)}
        if files and name in exported:
            section = {"encoder": {**exported[name], **files}}
            found |= {name: section} if name else section
    return found


def _any_budget(recipe: Recipe) -> int:
    """Steps for a first check of the schedule's options; the real number comes from the data."""
    return recipe.train.steps or 1_000_000


def _encoder(recipe: Recipe, source: Source) -> Encoder:
    encoder = _construct(recipe, "encoder", spec=source.spec)
    assert isinstance(encoder, Encoder)
    return encoder


def _objective(recipe: Recipe, source: Source, encoder: Encoder) -> Objective | None:
    n_train = len(pretrain_rows(source))
    return _construct(
        recipe, "objective", spec=source.spec, width=_objective_width(recipe, encoder), n_samples=n_train
    )


def _objective_width(recipe: Recipe, encoder: Encoder) -> int:
    """What the method says its objective's ``width`` is."""
    method = recipe.sections["method"]
    assert issubclass(method.cls, Method)
    return method.cls.objective_width(encoder, method.resolved)


def _method(
    recipe: Recipe,
    source: Source,
    encoder: Encoder,
    objective: Objective | None,
    views: Views | None,
    masker: Masker | None,
    **more: Any,
) -> Method:
    parts = {"encoder": encoder, "objective": objective, "views": views, "masker": masker, **more}
    linked = {k: v for k, v in parts.items() if v is not None}
    n_classes = len(source.class_names or ()) if source.task == "classification" else 0
    method = _construct(recipe, "method", spec=source.spec, n_classes=n_classes, **linked)
    assert isinstance(method, Method)
    return method


def _parts(recipe: Recipe, source: Any, encoder: Any) -> dict[str, dict[str, Any]]:
    """Of a domain with several modalities: ``part_views``, by part, and ``terms``, a method on one tower,
    where a part names one."""
    views: dict[str, Views] = {}
    terms: dict[str, Method] = {}
    for name, part in recipe.parts.items():
        own, tower = source.part(name), encoder.part(name)
        if part.init_from is not None:
            from ssl_domains.trainer.checkpoint import init_from

            init_from(tower, part.init_from)
        seen = _construct(part, "views", spec=own.spec)
        if "method" not in part.sections:
            views |= {} if seen is None else {name: seen}
            continue
        objective, masker = _objective(part, own, tower), _construct(part, "mask", spec=own.spec)
        terms[name] = _method(part, own, tower, objective, seen, masker)
    return {"part_views": views, "terms": terms} if recipe.parts else {}


def _construct(recipe: Recipe, key: str, **filled: Any) -> Any:
    """Calls a section's class with its options and what the builder fills; None for no section.

    A ``ValueError`` or ``UserError`` of a constructor speaks about the section's options: it becomes a
    problem of the recipe, with its place.
    """
    section: Section | None = recipe.sections.get(key)
    if section is None:
        return None
    takes = parameters(section.cls)
    linked = {name: value for name, value in filled.items() if name in takes}
    try:
        return section.cls(**linked, **section.options)
    except DataError:
        raise
    except (ValueError, KeyError, UserError) as error:
        where = recipe.origin((key,)).where
        text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        prefix = (
            "" if str(text).startswith((f"{key}.", f"{key}:", f"{key} ")) else f"{key} {section.name!r}: "
        )
        raise RecipeError(f"{where + ': ' if where else ''}{prefix}{text}") from error
