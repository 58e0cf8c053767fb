"""Looking at recipes: what ships, every value with its origin, differences, copies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ssl_domains.core import registry
from ssl_domains.core.errors import UserError
from ssl_domains.recipe.check import load_plugin
from ssl_domains.recipe.evaluation import register_probes
from ssl_domains.recipe.loading import Path_, load_document, read_yaml
from ssl_domains.recipe.locate import find_recipe, shipped
from ssl_domains.recipe.schema import Recipe
from ssl_domains.recipe.signatures import nearest


class RecipeSummary(NamedTuple):
    """A shipped recipe: its name and the first comment line of its file."""

    name: str
    summary: str


class ResolvedValue(NamedTuple):
    """One value that a run uses, and where it was set (``file:line``, an override, or ``default``)."""

    key: str
    value: Any
    origin: str


class Difference(NamedTuple):
    """A key whose value differs between two recipes; ``None`` where it is not set."""

    key: str
    a: Any
    b: Any


def list_recipes() -> list[RecipeSummary]:
    """The recipes that ship with the package."""
    return [RecipeSummary(name, _summary(find_recipe(name))) for name in shipped()]


def _summary(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and line.strip("# "):
            return line.strip("# ").strip()
        if line.strip() and not line.startswith("#"):
            break
    return ""


def resolved_values(recipe: Recipe) -> list[ResolvedValue]:
    """Every value of a recipe, defaults included, in the order of the sections."""
    rows: list[ResolvedValue] = []

    def walk(value: Any, path: Path_) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                walk(item, (*path, str(key)))
        else:
            rows.append(ResolvedValue(".".join(path), value, str(recipe.origin(path))))

    walk(recipe.resolved(), ())
    return rows


def differences(a: Recipe, b: Recipe) -> list[Difference]:
    """Keys whose resolved values differ."""
    left = {row.key: row.value for row in resolved_values(a)}
    right = {row.key: row.value for row in resolved_values(b)}
    keys = [*left, *(key for key in right if key not in left)]
    return [Difference(k, left.get(k), right.get(k)) for k in keys if left.get(k) != right.get(k)]


def copy_recipe(name: str, target: str | Path | None = None) -> Path:
    """Copies a recipe to edit it; what it extends is merged in, so that the copy stands alone.

    Args:
        name: as for ``pretrain``.
        target: file or folder; default: the recipe's own file name, here.

    Raises:
        UserError: there is a file already.
        RecipeError: no such recipe.
    """
    source = find_recipe(name)
    path = Path(target) if target is not None else Path(source.name)
    path = path / source.name if path.is_dir() else path
    if path.exists():
        raise UserError(
            f"{path}: there is a file already; give another name: ssl-domains copy {name} OTHER.yaml"
        )
    values, _, _ = read_yaml(source)
    text = source.read_text(encoding="utf-8")
    if "extends" in values:
        merged = yaml.safe_dump(load_document(source).values, sort_keys=False, allow_unicode=True, width=100)
        text = f"# Copied from {name} with what it extends.\n{merged}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


KINDS = {
    "domains": "domain",
    "methods": "method",
    "objectives": "objective",
    "recipes": "",
    "encoders": "encoder",
    "views": "views",
    "masks": "mask",
    "samplers": "sampler",
    "optimizers": "optimizer",
    "schedules": "schedule",
    "probes": "probe",
    "tasks": "task",
}


def names_by_kind(
    kind: str | None = None, plugins: Iterable[str | Path] = ()
) -> dict[str, list[tuple[str, str]]]:
    """See :func:`ssl_domains.api.list_names`."""
    if kind is not None and kind not in KINDS:
        raise UserError(
            f"list {kind}: there is no such list{nearest(kind, KINDS)} (there are: {', '.join(KINDS)})"
        )
    registry.scan_core()
    register_probes()
    working = [name for name in registry.domain_folders() if _works(name)]
    for file in plugins:
        load_plugin(file)
    wanted = [kind] if kind else list(KINDS)[:4]
    return {name: _recipes(working) if name == "recipes" else _registered(KINDS[name]) for name in wanted}


def _works(domain: str) -> bool:
    try:
        registry.load_domain(domain)
    except ImportError:
        return False
    return True


def _registered(kind: str) -> list[tuple[str, str]]:
    return [(name, _headline(registry.get(kind, name))) for name in registry.names(kind)]


def _headline(cls: type) -> str:
    title = getattr(cls, "title", "")
    return title or " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())


def _recipes(domains: list[str]) -> list[tuple[str, str]]:
    """Shipped recipes whose domain works here."""
    known = {*domains, *registry.names("domain")}
    return [
        (name, summary)
        for name, summary in list_recipes()
        if load_document(name).values.get("domain") in known
    ]
