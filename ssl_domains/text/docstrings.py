"""What the modules of an installed package say of themselves: real texts that need no download."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import warnings
from pathlib import Path

from ssl_domains.core.errors import DataError

WORDS = 60
_ROLES = re.compile(r":\w+:`~?([^`]*)`")


def docstrings(package: str) -> tuple[list[str], list[str]]:
    """Names of modules, and of each the first sentences of its docstrings (its own, then its classes' and
    functions'), at most 60 words. Files are parsed, never run; test folders are left out, modules without a
    docstring have "".

    Raises:
        DataError: the package is not installed, or a single file.
    """
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"python://docstrings/{package}: no package with modules of this name is installed")
    folder = Path(next(iter(spec.submodule_search_locations)))
    names, texts = [], []
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        if {"test", "tests", "testing"} & set(parts[:-1]):
            continue
        names.append(".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)]))
        texts.append(_said(file))
    return names, texts


def _said(file: Path) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return ""
    kinds = (ast.ClassDef, ast.FunctionDef)
    found = [ast.get_docstring(tree)]
    found += [ast.get_docstring(node) for node in tree.body if isinstance(node, kinds)]
    first = [inspect.cleandoc(text).split("\n\n")[0] for text in found if text]
    words = _ROLES.sub(r"\1", " ".join(first)).replace("`", "").split()
    return " ".join(words[:WORDS])
