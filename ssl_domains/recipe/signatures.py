"""Schemas from signatures: a class's constructor says which keys its section has, of which type.

The class is the one place where an option is declared; this module turns the signature into a
pydantic model and pydantic's errors into sentences for people.
"""

from __future__ import annotations

import difflib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

_CONFIG = ConfigDict(
    extra="forbid", arbitrary_types_allowed=True, coerce_numbers_to_str=True, protected_namespaces=()
)
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    Any: "any value",
}


class Given(BaseModel):
    """Base of the derived models: unknown keys are errors, numbers pass where text is wanted."""

    model_config = _CONFIG


@lru_cache(maxsize=512)
def model_of(fn: Callable[..., Any], filled: frozenset[str] = frozenset()) -> type[BaseModel]:
    """A pydantic model of the arguments that a recipe may set.

    Args:
        fn: a class (its constructor counts) or a function.
        filled: argument names that the builder fills; they are no keys.
    """
    hints = hints_of(fn)
    fields: dict[str, Any] = {}
    for name, parameter in _parameters(fn).items():
        if name in filled:
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        # An alias, as names such as "copy" or "schema" belong to pydantic itself.
        fields[f"arg_{name}"] = (hints.get(name, Any), Field(default, alias=name))
    return create_model(f"{fn.__name__}Options", __base__=Given, **fields)


def _parameters(fn: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Named parameters without ``self``; ``**options`` of a subclass are those of its bases."""
    if not isinstance(fn, type):
        items = list(inspect.signature(fn).parameters.values())
        return {
            p.name: p for p in items if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        }
    found: dict[str, inspect.Parameter] = {}
    for cls in fn.__mro__:
        init = cls.__dict__.get("__init__")
        if init is None or cls is object:
            continue
        signature = list(inspect.signature(init).parameters.values())[1:]
        for p in signature:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                found.setdefault(p.name, p)
        if not any(p.kind is p.VAR_KEYWORD for p in signature):
            break
    return found


def parameters(fn: Callable[..., Any]) -> dict[str, bool]:
    """Names of the parameters, and whether each must be given."""
    return {name: p.default is p.empty for name, p in _parameters(fn).items()}


def takes_any(fn: Callable[..., Any]) -> bool:
    """True for a function with ``**options``."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(fn).parameters.values())


def hints_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the named parameters, those of the nearest class first."""
    if not isinstance(fn, type):
        return _resolve(fn)
    hints: dict[str, Any] = {}
    for cls in fn.__mro__[:-1]:
        if "__init__" in cls.__dict__:
            hints = {**_resolve(cls.__dict__["__init__"]), **hints}
    return hints


def _resolve(call: Callable[..., Any]) -> dict[str, Any]:
    """Resolved annotations; one that cannot be resolved allows any value."""
    try:
        return typing.get_type_hints(call)
    except Exception:  # an annotation names a type that is imported for type checking only
        module = sys.modules.get(getattr(call, "__module__", ""), None)
        hints: dict[str, Any] = {}
        for name, text in getattr(call, "__annotations__", {}).items():
            try:
                hints[name] = (
                    eval(text, vars(module)) if isinstance(text, str) else text
                )  # the package's own text
            except Exception:
                hints[name] = Any
        return hints


def options_of(model: BaseModel, *, defaults: bool = True) -> dict[str, Any]:
    """Validated arguments by name; without ``defaults``, only those that were given."""
    values: dict[str, Any] = {}
    for field_name, info in type(model).model_fields.items():
        if defaults or field_name in model.model_fields_set:
            values[info.alias or field_name] = getattr(model, field_name)
    return values


def validate(
    model: type[BaseModel], values: Mapping[str, Any], owner: str
) -> tuple[BaseModel | None, list[Problem]]:
    """Checks values against a model.

    Args:
        model: from :func:`model_of`, or any pydantic model.
        values: what the recipe says.
        owner: what the keys belong to, for messages, such as ``mask 'random'``.

    Returns:
        The validated model (None when there are problems) and all problems.
    """
    try:
        return model.model_validate(dict(values)), []
    except ValidationError as error:
        found: dict[tuple[str, ...], Problem] = {}
        for item in error.errors():
            problem = _problem(model, values, owner, item)
            found.setdefault(problem.path, problem)
        return None, list(found.values())


class Problem(typing.NamedTuple):
    """What is wrong with one key.

    Attributes:
        path: the key below its section.
        text: the sentence without its place.
    """

    path: tuple[str, ...]
    text: str


def _problem(
    model: type[BaseModel], values: Mapping[str, Any], owner: str, item: Mapping[str, Any]
) -> Problem:
    loc = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        path = _existing(values, loc)
        inner = _model_at(model, path[:-1])
        known = [info.alias or name for name, info in inner.model_fields.items()] if inner else []
        whose = owner if len(path) == 1 else f"{owner}, {'.'.join(path[:-1])}"
        return Problem(path, unknown_key(path[-1], known, whose))
    if item["type"] == "missing":
        return Problem(tuple(loc), f"missing; {owner} needs it ({_wanted(model, loc)})")
    path = _existing(values, loc)
    given = _get(values, path)
    if item["type"] in ("value_error", "assertion_error"):  # a validator of the class spoke
        return Problem(path, str(item["ctx"]["error"]) if "ctx" in item else item["msg"])
    wanted = _wanted(model, path[:1])
    if len(path) > 1 and (inner := _model_at(model, path[:-1])) is not None:
        wanted = _wanted(inner, path[-1:])
    if "ctx" in item and any(k in item["ctx"] for k in ("ge", "gt", "le", "lt", "multiple_of")):
        wanted = f"{wanted.split(' or null')[0]} {item['msg'].removeprefix('Input should be ')}"
    near = nearest(given, choices_of(_annotation(model, path[:1])))
    return Problem(path, f"got {show(given)}, expected {wanted}{near}")


def _existing(values: Any, loc: Sequence[str]) -> tuple[str, ...]:
    """The part of pydantic's location that names keys: labels of union branches are left out."""
    path: list[str] = []
    for part in loc:
        if isinstance(values, Mapping) and part in values:
            values = values[part]
            path.append(part)
        elif isinstance(values, list | tuple) and part.isdigit() and int(part) < len(values) and path:
            values = values[int(part)]
    return tuple(path) or tuple(loc[:1])


def _get(values: Any, path: Sequence[str]) -> Any:
    for part in path:
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _annotation(model: type[BaseModel], path: Sequence[str]) -> Any:
    for name, info in model.model_fields.items():
        if path and path[0] in (name, info.alias):
            return info.annotation
    return Any


def _model_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """The pydantic model nested under a key."""
    for part in path:
        options = [_annotation(model, [part]), *get_args(_annotation(model, [part]))]
        inner = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not inner:
            return None
        model = inner[0]
    return model


def _wanted(model: type[BaseModel], path: Sequence[str]) -> str:
    return describe(_annotation(model, path))


def describe(annotation: Any) -> str:
    """A type in words: ``a whole number``, ``one of mean, sum``, ``a list of 2 numbers`` ..."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    if annotation in (None, type(None)):
        return "null"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return describe(args[0])
    if origin is Literal:
        return "one of " + ", ".join(show(a) if not isinstance(a, str) else a for a in args)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(a) for a in args))
    if origin is tuple and args and Ellipsis not in args:
        return "[" + ", ".join(describe(a) for a in args) + "]"
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return "a mapping of keys to values"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Iterable):
        return f"a list, each {describe(args[0])}" if args else "a list"
    if isinstance(annotation, type):
        return (
            "a mapping of keys to values" if issubclass(annotation, BaseModel) else f"a {annotation.__name__}"
        )
    return str(annotation)


def choices_of(annotation: Any) -> list[str]:
    """Names that a Literal (or a union with one) allows."""
    args = get_args(annotation)
    if get_origin(annotation) is Literal:
        return [a for a in args if isinstance(a, str)]
    return [name for a in args for name in choices_of(a)] if args else []


def nearest(given: Any, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` or nothing."""
    if not isinstance(given, str):
        return ""
    names = list(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    lower = [name for name in names if name.lower() == given.lower()]
    best = (lower or near)[:1]
    return f"; did you mean {best[0]!r}?" if best else ""


def unknown_key(key: str, known: Iterable[str], owner: str) -> str:
    """Sentence for a key that does not exist."""
    names = sorted(known)
    listed = f"{owner} has the keys {', '.join(names)}" if names else f"{owner} has no keys"
    return f"unknown key{nearest(key, names)} ({listed})"


def show(value: Any) -> str:
    """A value as the user wrote it, shortened, with its type where that is the point."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float | list | dict):
        text = repr(value)
        return text if len(text) <= 60 else text[:57] + "..."
    return f"a {type(value).__name__}"
