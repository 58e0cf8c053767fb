"""From YAML files and overrides to one tree of values, each with its origin. Knows no schema."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ssl_domains.core.errors import RecipeError
from ssl_domains.recipe.locate import find_recipe, recipe_folder, short

Path_ = tuple[str, ...]

NAMED = ("encoder", "views", "mask", "method", "objective", "sampler", "optimizer", "schedule")
"""Sections that name a registered class; a bare string in one of them is its name."""

PARTS = ("a", "b", "c", "d")
"""Sections that hold sections: a domain of several modalities has one for each (``Domain.parts``)."""

_ALTERNATIVES = {"train": ("steps", "epochs", "samples"), "schedule": ("warmup_steps", "warmup")}
"""Keys of which a section has one: setting one of them takes away the others that were set before."""

_DATA = ("source", "nodes", "edges")
"""Keys of ``data`` that say which data: where one of them changes, the section's other keys go, too."""

_HOW = ("scaling", "max_categories", "cells")
"""Keys of ``data`` that belong to the method (T-JEPA scales to [0, 1], table integration reads texts) and
stay with other data."""

_MAX_NODES = 10_000


class _Loader(yaml.SafeLoader):
    """Plain data only, read by the rules of YAML 1.2: ``1e-3`` is a number; ``no``, ``on`` and
    ``2020-01-01`` are text, as column names want it."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", list("-+0123456789")),
    (
        "float",
        r"^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?|\.inf|\.Inf|\.INF)$"
        r"|^\.(?:nan|NaN|NAN)$",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


@dataclass(frozen=True)
class Origin:
    """Where a value was set.

    Attributes:
        kind: ``recipe``, ``base`` (a file that the recipe extends), ``override``, or ``default``.
        where: ``file:line`` for files, the override as it was written, or what set the default.
    """

    kind: str
    where: str = ""

    def __str__(self) -> str:
        return self.where or self.kind


@dataclass
class Document:
    """A recipe before validation.

    Attributes:
        name: ``tabular/t_jepa`` for a shipped recipe, else the stem of the file.
        values: nested mappings as written, bases and overrides merged.
        origins: origin of every leaf and of every section, by key path.
        file: the recipe's own file, or None for a recipe given as a mapping.
        problems: what was wrong so far, one sentence each.
    """

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path_, Origin] = field(default_factory=dict)
    file: Path | None = None
    problems: list[str] = field(default_factory=list)

    def origin(self, path: Path_) -> Origin:
        """Origin of a key, or of the nearest one above it."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, Origin("recipe", str(self.file) if self.file else ""))


def parse_value(text: str) -> Any:
    """The value of an override, read as YAML; text that is no YAML stays text."""
    try:
        return yaml.load(text, Loader=_Loader)  # safe: a subclass of SafeLoader
    except yaml.YAMLError:
        return text


def load_document(
    recipe: str | Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    sections: Mapping[str, Any] | None = None,
) -> Document:
    """Reads a recipe, what it extends, and the overrides.

    Args:
        recipe: path or name of a recipe, or a mapping of the same form.
        overrides: ``section.key=value`` or ``section=value``; the value is read as YAML.
        sections: overrides as Python values: ``{"train": {"epochs": 5}}`` or
            ``{"train.epochs": 5}``. They win over ``overrides``.

    Raises:
        RecipeError: the recipe is not found or is no YAML.
    """
    if isinstance(recipe, Mapping):
        document = Document("recipe")
        _merge(document, _plain(recipe), Origin("recipe", "given in Python"))
    else:
        document = _load_file(find_recipe(recipe))
    given: dict[str, Any] = {}
    origins: dict[Path_, Origin] = {}
    for text in overrides:
        _add_override(document, given, origins, text)
    for key, value in (sections or {}).items():
        _set(given, key.split("."), _plain(value))
        origins[tuple(key.split("."))] = Origin("override", "given in Python")
    _merge(document, given, origins)
    return document


def _load_file(path: Path, above: tuple[Path, ...] = ()) -> Document:
    """One file and what it extends."""
    values, origins, problems = read_yaml(path, kind="base" if above else "recipe")
    document = Document(_recipe_name(path), file=path)
    base = values.pop("extends", None)
    if isinstance(base, str):
        document = _load_base(document, path, base, above, origins)
    elif base is not None:
        problems.append(f"{origins[('extends',)]}: extends: got {base!r}, expected the path of one recipe")
    document.problems += problems
    _merge(document, values, origins)
    return document


def _load_base(
    document: Document, path: Path, base: str, above: tuple[Path, ...], origins: dict[Path_, Origin]
) -> Document:
    where = origins[("extends",)]
    target = path.parent / base
    chain = (*above, path.resolve())
    if not target.is_file():
        document.problems.append(
            f"{where}: extends: there is no file {short(target)}; the path is relative to this recipe"
        )
    elif target.resolve() in chain:
        document.problems.append(f"{where}: extends: {base} extends this recipe in turn; break the circle")
    else:
        loaded = _load_file(target, chain)
        document.values, document.origins = loaded.values, loaded.origins
        document.problems += loaded.problems
    return document


def _recipe_name(path: Path) -> str:
    """Folder and stem for a shipped recipe, the stem for any other."""
    folder = recipe_folder()
    resolved = path.resolve()
    if folder is not None and folder.resolve() in resolved.parents:
        return resolved.relative_to(folder.resolve()).with_suffix("").as_posix()
    return resolved.parent.name if path.name == "recipe.yaml" else path.stem


def read_yaml(path: Path, kind: str = "recipe") -> tuple[dict[str, Any], dict[Path_, Origin], list[str]]:
    """Values, the line of each key, and problems (duplicate keys, keys that are no text).

    Raises:
        RecipeError: the file is no YAML, no text, or not a mapping of sections.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=_Loader)
    except UnicodeDecodeError:
        raise RecipeError(f"{short(path)}: this is not a text file; a recipe is YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(
            f"{short(path)}{line}: this is no valid YAML: {error.problem or error.context}"
        ) from None
    except (yaml.YAMLError, OSError) as error:
        raise RecipeError(f"{short(path)}: cannot be read: {error}".replace("\n", " ")) from None
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(
            f"{short(path)}: a recipe is a mapping of sections (domain, data, method ...), this is not"
        )
    reader = _Reader(path, kind)
    values = reader.mapping(node, ())
    return values, reader.origins, reader.problems


class _Reader:
    """Walks the nodes of one file; keeps the line of every key."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = short(path), kind
        self.origins: dict[Path_, Origin] = {}
        self.problems: list[str] = []
        self._constructor = _Loader("")
        self._nodes = 0

    def mapping(self, node: yaml.MappingNode, prefix: Path_) -> dict[str, Any]:
        """Values of a mapping; its keys' lines go to ``origins``."""
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            where = f"{self.path}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(f"{where}: a key must be plain text")
                continue
            path = (*prefix, key_node.value)
            if key_node.value in values:
                first = self.origins[path].where.rsplit(":", 1)[1]
                self.problems.append(
                    f"{where}: {'.'.join(path)}: this key is there twice (first in line {first})"
                )
                continue
            self.origins[path] = Origin(self.kind, where)
            values[key_node.value] = self.value(value_node, path)
        return values

    def value(self, node: yaml.Node, path: Path_) -> Any:
        """Any value; aliases are followed, up to a limit on their number."""
        self._nodes += 1
        if self._nodes > _MAX_NODES or len(path) > 50:
            raise RecipeError(f"{self.path}: more than {_MAX_NODES} values; a recipe is 15 to 40 lines")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, str(i))) for i, item in enumerate(node.value)]
        try:
            return self._constructor.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError):
            line = node.start_mark.line + 1
            self.problems.append(
                f"{self.path}:{line}: {'.'.join(path)}: {node.tag} is not plain data; a recipe holds text, "
                "numbers, true, false, null, lists and mappings"
            )
            return None


def _add_override(document: Document, given: dict[str, Any], origins: dict[Path_, Origin], text: str) -> None:
    key, sign, value = text.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        document.problems.append(f"override {text!r}: expected section.key=value, for example train.epochs=5")
        return
    _set(given, parts, parse_value(value))
    origins[tuple(parts)] = Origin("override", f"override {text}")


def _set(tree: dict[str, Any], parts: list[str], value: Any) -> None:
    """Sets a value in a tree of overrides; a bare class name under which an option goes becomes its name."""
    for i, part in enumerate(parts[:-1]):
        below = tree.get(part)
        if isinstance(below, str) and part in NAMED and _holds_sections(parts[:i]):
            below = {"name": below}
        if isinstance(below, str) and i == 0 and part in PARTS:
            below = {"domain": below}
        tree[part] = below if isinstance(below, dict) else {}
        tree = tree[part]
    last = parts[-1]
    named = last in NAMED and _holds_sections(parts[:-1])
    if named and isinstance(value, str) and isinstance(tree.get(last), dict):
        tree[last]["name"] = value
    elif isinstance(value, dict) and isinstance(tree.get(last), dict):
        tree[last] = {**tree[last], **value}
    else:
        tree[last] = value


def _merge(document: Document, over: dict[str, Any], origins: dict[Path_, Origin] | Origin) -> None:
    """Merges ``over`` into the document, mappings key by key, everything else by replacement.

    Where a section changes the name of its class, the options of the old class go: they belong to
    another signature. Likewise other data take away the old data's label, columns and so on.
    """

    def origin(path: Path_) -> Origin:
        if isinstance(origins, Origin):
            return origins
        while path and path not in origins:
            path = path[:-1]
        return origins.get(path, Origin("override"))

    def walk(base: dict[str, Any], top: dict[str, Any], prefix: Path_) -> None:
        for key, value in top.items():
            path = (*prefix, key)
            if not prefix and key in PARTS:
                value = {"domain": value} if isinstance(value, str) else value
                if isinstance(value, dict) and isinstance(base.get(key), dict) and _moved(base[key], value):
                    base[key] = None
            if _holds_sections(prefix) and key in NAMED:
                value = _named(value)
                base[key] = _named(base.get(key))
                if isinstance(value, dict) and isinstance(base[key], dict) and _renamed(base[key], value):
                    base[key] = None
            if (
                not prefix
                and key in _ALTERNATIVES
                and isinstance(value, dict)
                and isinstance(base.get(key), dict)
            ):
                _drop_alternatives(base[key], value, _ALTERNATIVES[key])
            if _holds_sections(prefix) and key == "data" and _other_data(base.get(key), value):
                base[key] = {name: old for name, old in base[key].items() if name in _HOW}
                for part in PARTS if not prefix else ():  # what was said of the old data's columns
                    if isinstance(base.get(part), dict):
                        base[part].pop("data", None)
            if isinstance(value, dict) and isinstance(base.get(key), dict):
                walk(base[key], value, path)
                continue
            for old in [p for p in document.origins if p[: len(path)] == path]:
                del document.origins[old]
            base[key] = value
            record(value, path)

    def record(value: Any, path: Path_) -> None:
        document.origins[path] = origin(path)
        if isinstance(value, dict):
            for key, item in value.items():
                record(item, (*path, str(key)))

    walk(document.values, over, ())


def _holds_sections(path: list[str] | Path_) -> bool:
    """True for the recipe itself, and for a part of it."""
    return not path or (len(path) == 1 and path[0] in PARTS)


def _moved(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """A part that becomes another domain: encoder, views and data of the old one go."""
    return "domain" in new and "domain" in old and new["domain"] != old["domain"]


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _other_data(old: Any, new: Any) -> bool:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return False
    if str(old.get("source", "")).startswith("<"):  # a run on objects in memory is given them again
        return False
    return any(key in new and not _same(new[key], old.get(key)) for key in _DATA)


def _same(a: Any, b: Any) -> bool:
    """Equality of plain values; objects in memory are compared by identity."""
    return a is b or (isinstance(a, str | int | float | list) and type(a) is type(b) and a == b)


def _drop_alternatives(old: dict[str, Any], new: dict[str, Any], keys: tuple[str, ...]) -> None:
    if any(new.get(key) is not None for key in keys):
        for key in keys:
            old.pop(key, None)


def _renamed(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return "name" in new and "name" in old and new["name"] != old["name"]


def _plain(value: Any) -> Any:
    """A copy of a mapping with text keys; other values as they are (a DataFrame stays one)."""
    return {str(k): _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value
