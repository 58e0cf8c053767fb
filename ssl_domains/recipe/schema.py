"""A recipe whose every key has been checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ssl_domains.recipe.loading import Origin, Path_


@dataclass
class Section:
    """A validated section that names a class.

    Attributes:
        name: registered name.
        cls: the class.
        options: arguments that the recipe gives.
        resolved: all arguments that a recipe can give, with the defaults of the signature.
    """

    name: str
    cls: type
    options: dict[str, Any]
    resolved: dict[str, Any]


@dataclass
class Recipe:
    """A recipe whose every key has been checked.

    Attributes:
        name: ``tabular/t_jepa`` for a shipped recipe, else the stem of its file.
        domain: name of the domain.
        data: arguments of the domain's ``open``.
        sections: by key: encoder, views, mask, method, objective, sampler, optimizer, schedule; without
            those that the method does not take.
        train: the trainer's settings (``ssl_domains.trainer.config.TrainConfig``).
        evaluate: what is measured at the end.
        expect: conditions on the result, by metric.
        init_from: run or weights to start from, or None.
        own_data: True when an override changed ``data``: then ``expect`` does not apply.
        origins: origin of each value, by key path.
        data_defaults: all arguments of ``open`` that a recipe can give, with their defaults.
        parts: of a domain with several modalities: a recipe for each, without ``train`` and ``evaluate``
            (both are None).
    """

    name: str
    domain: str
    data: dict[str, Any]
    sections: dict[str, Section]
    train: Any
    evaluate: Any
    expect: dict[str, str]
    init_from: str | None
    own_data: bool
    origins: dict[Path_, Origin] = field(default_factory=dict)
    data_defaults: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Recipe] = field(default_factory=dict)

    def resolved(self) -> dict[str, Any]:
        """Every value that the run uses, defaults included, as plain YAML data."""
        tree: dict[str, Any] = {"domain": self.domain, "data": {**self.data_defaults, **self.data}}
        tree |= {name: part.resolved() for name, part in self.parts.items()}
        for key, section in self.sections.items():
            tree[key] = {"name": section.name, **section.resolved}
        if self.train is not None:
            tree["train"] = self.train.model_dump()
            tree["evaluate"] = self.evaluate.model_dump()
        tree |= {"init_from": self.init_from} if self.init_from else {}
        tree |= {"expect": self.expect} if self.expect else {}
        plain = {key: to_plain(value) for key, value in tree.items()}
        return plain

    def to_yaml(self) -> str:
        """The resolved recipe, defaults and overrides marked: running it again gives the same run."""
        lines: list[str] = []
        for key, value in self.resolved().items():
            if not isinstance(value, dict):
                lines.append(f"{key}: {inline(value)}")
                continue
            lines.append(f"{key}:")
            for name, item in value.items():
                kind = self.origin((key, name)).kind
                mark = f"  # {kind}" if kind in ("default", "override") else ""
                lines.append(f"  {inline(name)}: {inline(item)}{mark}")
        return "\n".join(lines) + "\n"

    def origin(self, path: Path_) -> Origin:
        """Where a resolved value comes from."""
        if path in self.origins:
            return self.origins[path]
        if len(path) > 2:  # inside a value, such as a predictor's options
            return self.origin(path[:-1])
        if len(path) == 2 and path[1] == "name" and path[:1] in self.origins:  # written as a bare string
            return self.origins[path[:1]]
        return Origin("default", "default")


def inline(value: Any) -> str:
    """A value on one line of YAML."""
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf")
    )
    return text.removesuffix("\n").removesuffix("\n...")


def to_plain(value: Any) -> Any:
    """Plain data for YAML; what has no such form (a DataFrame) becomes a description."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "model_dump"):
        return to_plain(value.model_dump())
    shape = getattr(value, "shape", None)
    return f"<{type(value).__name__}{f' {tuple(shape)}' if isinstance(shape, tuple) else ''}>"
