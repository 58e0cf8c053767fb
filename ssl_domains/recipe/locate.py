"""Where recipes are: the user's files, and those that ship with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

from ssl_domains.core.errors import RecipeError


def recipe_folder() -> Path | None:
    """The folder of the shipped recipes: ``ssl_domains/_recipes`` when installed from a wheel,
    ``recipes`` beside the package in a checkout; None when neither is there."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    return None


def shipped() -> list[str]:
    """Names of the shipped recipes, such as ``tabular/t_jepa``.

    A file whose name starts with an underscore or is called ``base`` is there to be extended and is no
    recipe by itself.
    """
    folder = recipe_folder()
    if folder is None:
        return []
    files = sorted(folder.glob("*/*.yaml"))
    return [f"{f.parent.name}/{f.stem}" for f in files if f.stem != "base" and not f.stem.startswith("_")]


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe.

    Args:
        name: a path, or the name of a shipped recipe in any of the forms
            ``recipes/tabular/t_jepa.yaml``, ``tabular/t_jepa.yaml``, ``tabular/t_jepa``. A file
            that exists wins over a shipped one.

    Raises:
        RecipeError: there is no such file and no such recipe; suggests the nearest names.
    """
    path = Path(name).expanduser()
    if path.is_dir() and (path / "recipe.yaml").is_file():  # a run directory stands for its recipe
        return path / "recipe.yaml"
    if path.is_file():
        return path
    folder = recipe_folder()
    if folder is not None and not path.is_absolute():
        tail = path.relative_to("recipes") if path.parts[:1] == ("recipes",) else path
        for candidate in (folder / tail, folder / f"{tail}.yaml"):
            if candidate.is_file():
                return candidate
    raise RecipeError(_not_found(str(name)))


def short(path: Path) -> str:
    """A path as people would write it: ``recipes/...`` for a shipped file, relative when below here."""
    folder, resolved = recipe_folder(), path.resolve()
    if folder is not None and folder.resolve() in resolved.parents:
        return f"recipes/{resolved.relative_to(folder.resolve()).as_posix()}"
    here = Path.cwd().resolve()
    return str(resolved.relative_to(here)) if here in resolved.parents else str(path)


def _not_found(name: str) -> str:
    known = shipped()
    wanted = name.removeprefix("recipes/").removesuffix(".yaml").removesuffix(".yml")
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    tails = {item.split("/")[1]: item for item in known}
    for tail in difflib.get_close_matches(wanted.split("/")[-1], tails, n=3, cutoff=0.6):
        if tails[tail] not in near:
            near.append(tails[tail])
    hint = (
        f"did you mean {' or '.join(near[:3])}?"
        if near
        else "`ssl-domains list recipes` names those that ship"
    )
    return f"{name}: no such file, and no shipped recipe of that name; {hint}"
