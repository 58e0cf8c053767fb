"""Writes the tables of options and names in the Markdown pages from the code they speak of.

    python docs/tables.py           # rewrites them in README.md and docs/**/*.md
    python docs/tables.py --check   # says which are stale; exit code 1 when any is

A table stands between ``<!-- table: KIND ... -->`` and ``<!-- end table -->``.
Kinds: ``domains``, ``methods``, ``recipes [DOMAIN]``, ``names KIND``, ``options MODULE:NAME``.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ssl_domains.core import registry
from ssl_domains.recipe.listing import list_recipes, names_by_kind

ROOT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- table: (?P<what>[^>]+?) -->\n).*?(<!-- end table -->)", re.DOTALL)
FILLED = {"self", "spec", "encoder", "objective", "views", "masker", "width*", "n_samples", "total_steps"}


def pages() -> list[Path]:
    """README and all pages of docs."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def own_names(kind: str) -> list[str]:
    """Registered names of this package (not of plugins or tests)."""
    names_by_kind()  # imports every domain that works here
    return [n for n in registry.names(kind) if registry.get(kind, n).__module__.startswith("ssl_domains.")]


def headline(cls: type) -> str:
    """First sentence of a class's docstring, without what only readers of the code need."""
    text = " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())
    text = re.sub(r": which one is .*$", "", text).rstrip(". ")
    return text.replace("``", "`")


def domains() -> str:
    """Domains with their encoders, views and recipes."""
    rows = []
    for name in own_names("domain"):
        cls = registry.get("domain", name)
        of = {
            kind: [n for n in own_names(kind) if registry.get(kind, n).__module__.split(".")[1] == name]
            for kind in ("encoder", "views")
        }
        recipes = [r.name for r in list_recipes() if r.name.startswith(f"{name}/")]
        cells = [of["encoder"], of["views"], [r.split("/")[1] for r in recipes]]
        title = cls.title[:1].upper() + cls.title[1:]  # type: ignore[attr-defined]
        rows.append([f"`{name}`", title, *(", ".join(f"`{n}`" for n in cell) for cell in cells)])
    return markdown(["domain", "reads", "encoders", "views", "recipes"], rows)


def names(kind: str) -> str:
    """Registered names with the first sentence of their docstrings."""
    found = {name: registry.get(kind, name) for name in own_names(kind)}
    rows = [
        [f"`{name}`", headline(cls) + (only(cls) if kind == "method" else "")] for name, cls in found.items()
    ]
    return markdown(["name", "what it is"], rows)


def only(cls: type) -> str:
    """Which domain a class belongs to, unless it is the core's."""
    folder = cls.__module__.split(".")[1]
    return "" if folder == "core" else f" ({folder} only)"


def recipes(domain: str = "") -> str:
    """Shipped recipes, all or of one domain."""
    found = [r for r in list_recipes() if r.name.startswith(f"{domain}/" if domain else "")]
    return markdown(["recipe", "what it is"], [[f"`{r.name}`", whole(r.summary)] for r in found])


def whole(summary: str) -> str:
    """A first comment line that ends in mid-sentence, cut back to its last whole clause."""
    return summary if not summary.endswith(",") else re.split(r"[;,][^;]*$", summary)[0].rstrip(";, ")


def options(target: str) -> str:
    """Keys, defaults and meanings: of a pydantic model, or of a signature and its Google-style docstring."""
    module, _, path = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if inspect.isclass(found) and issubclass(found, BaseModel):
        rows = [[f"`{k}`", show(f.default), flat(f.description or "")] for k, f in found.model_fields.items()]
        return markdown(["key", "default", "meaning"], rows)
    said = described(found)
    callable_ = found.__init__ if inspect.isclass(found) else found
    parameters = inspect.signature(callable_).parameters.values()
    rows = [
        [f"`{p.name}`", show(p.default), said.get(p.name, "")]
        for p in parameters
        if p.name not in FILLED and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    return markdown(["key", "default", "meaning"], rows)


def described(found: Any) -> dict[str, str]:
    """Texts of ``Args:``, in the docstring or those of the bases."""
    docs = [c.__doc__ or "" for c in found.__mro__] if inspect.isclass(found) else [found.__doc__ or ""]
    said: dict[str, str] = {}
    for doc in docs:
        match = re.search(r"^Args:\n((?:[ ]+.*\n|\n)+)", inspect.cleandoc(doc) + "\n", re.MULTILINE)
        for entry in re.split(r"\n(?=    \w)", match[1].rstrip() if match else ""):
            names_, _, text = entry.strip().partition(":")
            for name in names_.split(","):
                said.setdefault(name.strip(), flat(text))
    return said


def flat(text: str) -> str:
    """One line of Markdown."""
    text = " ".join(text.split()).replace("``", "`")
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return text


def show(default: Any) -> str:
    """A default as it is written in a recipe."""
    if default is inspect.Parameter.empty or str(default) == "PydanticUndefined":
        return "required"
    if isinstance(default, bool) or default is None:
        return f"`{str(default).lower()}`" if default is not None else ""
    if isinstance(default, list | tuple):
        return f"`[{', '.join(str(item) for item in default)}]`"
    return f"`{default}`"


def table(what: str) -> str:
    """The table that a marker asks for."""
    kind, *rest = what.split()
    if kind == "methods":
        return names("method")
    makers = {"domains": domains, "recipes": recipes, "names": names, "options": options}
    return makers[kind](*rest)


def refreshed(text: str) -> str:
    """A page with all its tables written anew."""
    return MARKED.sub(lambda m: f"{m[1]}{table(m['what'])}{m[3]}", text)


def main(check: bool) -> int:
    """Rewrites stale tables, or with ``check`` only names the pages that have some."""
    stale = []
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = refreshed(old)
        if new != old:
            stale.append(page.relative_to(ROOT).as_posix())
            if not check:
                page.write_text(new, encoding="utf-8")
    if stale:
        print(("stale: " if check else "rewritten: ") + ", ".join(stale))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
