"""Checks a whole recipe against the signatures of what it names; reports every problem at once."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ssl_domains.core import registry
from ssl_domains.core.errors import RecipeError, UserError
from ssl_domains.recipe.loading import NAMED, Document, Path_, load_document
from ssl_domains.recipe.schema import Recipe, Section
from ssl_domains.recipe.signatures import (
    Problem,
    hints_of,
    model_of,
    nearest,
    options_of,
    parameters,
    show,
    takes_any,
    validate,
)

FILLED: dict[str, frozenset[str]] = {
    "data": frozenset({"self"}),
    "encoder": frozenset({"spec"}),
    "views": frozenset({"spec"}),
    "mask": frozenset({"spec"}),
    "method": frozenset(
        {"encoder", "objective", "views", "masker", "spec", "total_steps", "n_classes", "part_views", "terms"}
    ),
    "objective": frozenset({"spec", "width", "total_steps", "n_samples"}),
    "sampler": frozenset({"spec"}),
    "optimizer": frozenset({"params", "groups", "method"}),
    "schedule": frozenset({"total_steps"}),
}
"""Arguments that the builder fills; they are no keys of a recipe."""

SECTIONS = ("domain", "data", *NAMED, "train", "evaluate", "init_from", "expect")
PART_SECTIONS = ("domain", "data", "encoder", "views", "mask", "method", "objective", "init_from")
_DEFAULT_NAMES = {"optimizer": "adamw", "schedule": "warmup_cosine"}


def read_recipe(
    recipe: str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    sections: Mapping[str, Any] | None = None,
    plugins: Iterable[str | Path] = (),
) -> Recipe:
    """Loads and checks a recipe.

    Args:
        recipe: path, name of a shipped recipe, or mapping.
        overrides: ``section.key=value`` texts.
        sections: overrides as Python values, see :func:`~ssl_domains.recipe.loading.load_document`.
        plugins: the user's own Python files; importing them runs their ``@register`` decorators.

    Raises:
        RecipeError: with every problem that was found.
    """
    document = load_document(recipe, overrides, sections)
    registry.scan_core()
    for plugin in plugins:
        load_plugin(plugin)
    return Checker(document).recipe()


def load_plugin(file: str | Path) -> None:
    """Imports the user's own file, so that its decorators register its classes.

    Raises:
        UserError: there is no such file, or it cannot be imported.
    """
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"--plugin {file}: there is no such file")
    name = f"ssl_domains_plugin_{path.stem}"
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {file}: this is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"--plugin {file}: cannot be imported: {type(error).__name__}: {error}") from error


class Checker:
    """One pass over a document; collects problems."""

    def __init__(self, document: Document, prefix: Path_ = ()) -> None:
        self.document, self.prefix = document, prefix
        self.values = document.values
        self.problems = list(document.problems)
        self.sections: dict[str, Section] = {}
        self.domain_class: Any = None

    def recipe(self) -> Recipe:
        """The checked recipe.

        Raises:
            RecipeError: with all problems.
        """
        domain = self._domain()
        self._unknown_sections((*SECTIONS, *getattr(self.domain_class, "parts", ())))
        data, data_defaults = self._data()
        parts = self._parts()
        method = self._named("method", required=True)
        takes = parameters(method.cls) if method else {}
        self._encoder()
        for key, argument in (("views", "views"), ("mask", "masker"), ("objective", "objective")):
            self._part(key, argument, takes, method)
        self._named("sampler")
        self._named("optimizer", default=_DEFAULT_NAMES["optimizer"])
        self._named("schedule", default=_DEFAULT_NAMES["schedule"])
        self._predictor()
        train, evaluate = self._train(), self._evaluate()
        expect, init_from = self._expect(), self._init_from()
        if self.problems:
            raise RecipeError(sorted(set(self.problems), key=self.problems.index))
        own = any(p[:1] == ("data",) and o.kind == "override" for p, o in self.document.origins.items())
        return Recipe(
            self.document.name, domain, data, self.sections, train, evaluate, expect, init_from, own,
            self.document.origins, data_defaults, parts,
        )  # fmt: skip

    def part(self) -> Recipe:
        """A checked part of a recipe; problems are collected, not raised."""
        self._unknown_sections(PART_SECTIONS)
        domain = self._domain()
        data, data_defaults = self._data()
        method = self._named("method")
        self._encoder()
        takes = parameters(method.cls) if method else {}
        for key, argument in (("views", "views"), ("mask", "masker"), ("objective", "objective")):
            if method is None and key != "views" and self.values.get(key) is not None:
                self.add(
                    (key,), "this part has no method that would use it; name one, or remove this section"
                )
            else:
                self._part(key, argument, takes, method)
        self._predictor()
        return Recipe(
            ".".join(self.prefix), domain, data, self.sections, None, None, {}, self._init_from(), False,
            self.document.origins, data_defaults,
        )  # fmt: skip

    def _parts(self) -> dict[str, Recipe]:
        """The sections that describe a domain of their own."""
        found: dict[str, Recipe] = {}
        for number, name in enumerate(getattr(self.domain_class, "parts", ())):
            if self.values.get(name) is None:
                if number < 2:
                    self.add(
                        (name,), f"missing; domain {self.values['domain']!r} needs it, as {name}.domain=NAME"
                    )
                continue
            origins = {p[1:]: o for p, o in self.document.origins.items() if p[0] == name}
            inner = Document(name, self._mapping(name), origins, self.document.file)
            checker = Checker(inner, (*self.prefix, name))
            found[name] = checker.part()
            self.problems += checker.problems
        return found

    def add(self, path: Path_, text: str) -> None:
        """Records a problem with its place."""
        where = self.document.origin(path).where
        key = ".".join((*self.prefix, *path))
        self.problems.append(f"{where + ': ' if where else ''}{key}: {text}")

    def _unknown_sections(self, sections: tuple[str, ...]) -> None:
        for key in self.values:
            if key not in sections:
                known = ", ".join(sections if self.prefix else ("extends", *sections))
                self.add((key,), f"unknown section{nearest(key, sections)} (sections are {known})")

    def _domain(self) -> str:
        name = self.values.get("domain")
        known = sorted({*registry.domain_folders(), *registry.names("domain")})
        if not isinstance(name, str):
            what = "missing" if name is None else f"got {show(name)}"
            self.add(("domain",), f"{what}; expected one of {', '.join(known)}")
            return ""
        if name not in known:
            self.add(
                ("domain",),
                f"no domain is called {name!r}{nearest(name, known)} (there are: {', '.join(known)})",
            )
            return name
        try:
            self.domain_class = registry.load_domain(name)
        except ImportError as error:
            self.add(("domain",), str(error))
        return name

    def _mapping(self, key: str) -> dict[str, Any]:
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.add((key,), f"got {show(value)}, expected a mapping of keys to values")
            return {}
        return value

    def _data(self) -> tuple[dict[str, Any], dict[str, Any]]:
        values = self._mapping("data")
        if self.domain_class is None:
            return values, {}
        filled = FILLED["data"] | frozenset(self.domain_class.parts)
        if self.prefix and "source" not in values:  # it may come from the table of pairs
            filled |= {"source"}
        model, _ = self._check(
            ("data",),
            model_of(self.domain_class.open, filled),
            values,
            f"domain {self.values['domain']!r}, data",
        )
        if model is None:
            return values, {}
        given = {key: self._beside(key, value) for key, value in options_of(model, defaults=False).items()}
        return given, options_of(model)

    def _beside(self, key: str, value: Any) -> Any:
        """A relative file that is not here but lies beside the recipe that names it is that one."""
        folder = self.document.file.parent if self.document.file else None
        if (
            folder is None
            or not isinstance(value, str)
            or self.document.origin(("data", key)).kind == "override"
        ):
            return value
        looks_like_file = "/" in value or Path(value).suffix != ""
        if looks_like_file and not Path(value).exists() and (folder / value).exists():
            return str(folder / value)
        return value

    def _named(self, key: str, *, required: bool = False, default: str | None = None) -> Section | None:
        """A section that names a class: ``{name: ..., options}``."""
        value = self.values.get(key)
        value = {"name": value} if isinstance(value, str) else value
        if value is None:
            value = {}
        if not isinstance(value, dict):
            self.add((key,), f"got {show(value)}, expected a name or {{name: ..., options}}")
            return None
        name = value.get("name", default)
        if name is None:
            if required or value:
                self.add((key,), f"missing name; one of {', '.join(self._names(key))}")
            return None
        if name not in self._names(key):
            self._no_such(key, name)
            return None
        cls = registry.get(key, name)
        options = {k: v for k, v in value.items() if k != "name"}
        model, _ = self._check((key,), model_of(cls, FILLED[key]), options, f"{key} {name!r}")
        section = Section(name, cls, options, options)
        if model is not None:
            section = Section(name, cls, options_of(model, defaults=False), options_of(model))
            self.sections[key] = section
        return section

    def _names(self, key: str) -> list[str]:
        """Registered names; of another domain's classes, only what this one can use is imported."""
        return registry.names(key)

    def _no_such(self, key: str, name: Any) -> None:
        known = self._names(key)
        if key == "encoder" and self.domain_class is None:
            return  # the domain's own problem is reported already
        foreign = isinstance(name, str) and any(sign in name for sign in ".:(/")
        advice = "; a recipe names registered classes only, a file of your own is loaded by --plugin FILE"
        near = nearest(name, known)
        self.add(
            (key, "name") if isinstance(self.values.get(key), dict) else (key,),
            f"no {key} is called {show(name)}{near}{advice if foreign else ''} "
            f"(there are: {', '.join(known)})",
        )

    def _encoder(self) -> None:
        self._named("encoder", required=self.domain_class is not None, default=self._default("encoder"))

    def _default(self, key: str) -> str | None:
        return self.domain_class.defaults.get(key) if self.domain_class is not None else None

    def _part(self, key: str, argument: str, takes: dict[str, bool], method: Section | None) -> None:
        """Views, masker, objective: wanted or refused by the method's constructor."""
        if method is None or argument in takes:
            needed = takes.get(argument, False)
            self._named(key, required=needed, default=self._default(key) if needed else None)
        elif self.values.get(key) is not None:
            using = ", ".join(
                k
                for k, a in (("views", "views"), ("mask", "masker"), ("objective", "objective"))
                if a in takes
            )
            self.add((key,), f"method {method.name!r} takes no {key} (it takes {using}); remove this section")

    def _predictor(self) -> None:
        """Options that a method hands on to the encoder's predictor."""
        method, encoder = self.sections.get("method"), self.sections.get("encoder")
        options = method.options.get("predictor") if method else None
        if encoder is None or not isinstance(options, Mapping):
            return
        target = predictor_options(encoder.cls)
        if target is not None:
            model = model_of(target, frozenset(k for k, needed in parameters(target).items() if needed))
            self._check(("method", "predictor"), model, options, f"the predictor of encoder {encoder.name!r}")

    def _check(
        self, path: Path_, model: Any, values: Mapping[str, Any], owner: str
    ) -> tuple[Any, list[Problem]]:
        checked, problems = validate(model, values, owner)
        for problem in problems:
            self.add((*path, *problem.path), problem.text)
        return checked, problems

    def _train(self) -> Any:
        from ssl_domains.trainer.config import TrainConfig

        return self._check(("train",), TrainConfig, self._mapping("train"), "train")[0]

    def _evaluate(self) -> Any:
        from ssl_domains.recipe.evaluation import EvaluateConfig, check_probes

        values = self._mapping("evaluate")
        config, _ = self._check(("evaluate",), EvaluateConfig, values, "evaluate")
        probes = values.get("probes", [])
        for index, problem in check_probes(probes if isinstance(probes, list) else []):
            self.add(("evaluate", "probes", str(index), *problem.path), problem.text)
        return config

    def _expect(self) -> dict[str, str]:
        from ssl_domains.evaluation import parse_expectation

        found: dict[str, str] = {}
        for key, value in self._mapping("expect").items():
            text = (
                f">= {value}"
                if isinstance(value, int | float) and not isinstance(value, bool)
                else str(value)
            )
            try:
                parse_expectation(text, "expect")
            except UserError as error:
                self.add(("expect", key), str(error).removeprefix("expect: "))
            found[key] = text
        return found

    def _init_from(self) -> str | None:
        value = self.values.get("init_from")
        if value is None or isinstance(value, str | Path):
            return str(value) if value is not None else None
        self.add(("init_from",), f"got {show(value)}, expected the path of a run or of its weights")
        return None


def predictor_options(encoder: type) -> Callable[..., Any] | None:
    """Whose arguments are the options of an encoder's predictor: of ``Encoder.predictor`` itself, or, where
    that hands ``**options`` on, of the class that it says it returns; None when that cannot be told."""
    call = encoder.predictor  # type: ignore[attr-defined]
    if not takes_any(call):
        return call
    returned = hints_of(call).get("return")
    own = isinstance(returned, type) and returned.__module__.startswith(encoder.__module__.split(".")[0])
    return returned if own else None
