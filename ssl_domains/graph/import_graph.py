"""The import graph of an installed package: a real attributed graph that needs no download.

Nodes are modules, edges go from a module to the modules of the same package that it imports,
features are the identifiers in its code (bag of words), the label is the top-level
subpackage. Files are parsed, never run.

So that the label cannot be read off the features, these never become words: names and
aliases bound by imports, the words of any module path of the package (hence every label),
strings, comments and docstrings. What remains are names of functions, classes, arguments,
variables and attributes.
"""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.columns import words_of
from ssl_domains.graph.raw import RawGraph

MIN_CLASS = 20
_TEST_FOLDERS = {"tests", "test", "testing"}


def package_folder(package: str) -> Path:
    """Folder of an installed package, found without importing it.

    Raises:
        DataError: not installed, or a single file.
    """
    if not package.isidentifier():
        raise DataError(f"{package!r}: give the name of one installed top-level package")
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise DataError(f"{package}: no package of this name is installed")
    if not spec.submodule_search_locations:
        raise DataError(f"{package}: this is a single module, not a package with modules")
    return Path(next(iter(spec.submodule_search_locations)))


def module_files(folder: Path, package: str) -> dict[str, Path]:
    """Module name -> file, without test folders, sorted by name."""
    files = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        if _TEST_FOLDERS & set(parts[:-1]) or not all(part.isidentifier() for part in parts):
            continue
        names = parts[:-1] if parts[-1] == "__init__" else parts
        files[".".join([package, *names])] = path
    return dict(sorted(files.items()))


def resolve(
    node: ast.Import | ast.ImportFrom, module: str, is_package: bool, known: dict[str, Path]
) -> set[str]:
    """Modules of the package that an import statement names."""
    if isinstance(node, ast.Import):
        names = {alias.name for alias in node.names}
    else:
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
            base = ".".join([*parts, base] if base else parts)
        # `from a.b import c`: c may be a module of its own or a name inside a.b
        names = {f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names}
    return {name for name in names if name in known and name != module}


def identifiers(tree: ast.Module) -> tuple[Counter[str], set[str]]:
    """(identifiers with counts, names bound by imports)."""
    used: Counter[str] = Counter()
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                imported |= {alias.name.split(".")[0], alias.name, alias.asname or alias.name}
        elif isinstance(node, ast.Name):
            used[node.id] += 1
        elif isinstance(node, ast.Attribute):
            used[node.attr] += 1
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            used[node.name] += 1
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            used[node.arg] += 1
    return used, imported


def parse(path: Path) -> ast.Module | None:
    """Syntax tree of a file, or None when it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return None


def labels_of(modules: Sequence[str], min_class: int = MIN_CLASS) -> np.ndarray:
    """``[N]`` top-level subpackage, or None for modules on top and for classes under ``min_class``."""
    tops = [name.split(".")[1] if name.count(".") >= 2 else None for name in modules]
    counts = Counter(top for top in tops if top)
    return np.array([top if top and counts[top] >= min_class else None for top in tops], dtype=object)


@dataclass(frozen=True)
class Extract:
    """What the code of a package says.

    Attributes:
        modules: names of the modules that parse and are not empty.
        edges: (importing, imported) places in ``modules``, sorted.
        bags: identifiers' words of each module.
        skipped: modules that do not parse.
    """

    modules: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    bags: tuple[tuple[str, ...], ...]
    skipped: tuple[str, ...]


@lru_cache(maxsize=4)
def extract(folder: Path, package: str) -> Extract:
    """Parses a package; kept, since an evaluation opens the same source again."""
    files = module_files(folder, package)
    trees = {name: parse(path) for name, path in files.items()}
    full = {name: tree for name, tree in trees.items() if tree is not None and tree.body}
    place = {name: i for i, name in enumerate(full)}
    hidden = {word for name in files for word in words_of(name)}
    edges: set[tuple[int, int]] = set()
    bags = []
    for name, tree in full.items():
        used, imported = identifiers(tree)
        kept = [(word, n) for key, n in used.items() if key not in imported for word in words_of(key)]
        bags.append(tuple(word for word, n in kept for _ in range(n) if word not in hidden))
        is_package = files[name].name == "__init__.py"
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                edges |= {
                    (place[name], place[o]) for o in resolve(node, name, is_package, files) if o in place
                }
    skipped = tuple(name for name, tree in trees.items() if tree is None)
    return Extract(tuple(full), tuple(sorted(edges)), tuple(bags), skipped)


def read_import_graph(package: str, min_class: int = MIN_CLASS) -> RawGraph:
    """Reads the import graph of an installed package.

    Args:
        package: top-level name, as in ``import``.
        min_class: subpackages with fewer modules become unlabelled.

    Raises:
        DataError: the package is not installed, or has fewer than 3 modules.
    """
    import pandas as pd

    found = extract(package_folder(package), package)
    origin = f"import-graph://{package}"
    if len(found.modules) < 3:
        raise DataError(f"{origin}: found {len(found.modules)} modules; a graph needs at least 3")
    notes = []
    if found.skipped:
        names = ", ".join(found.skipped[:5])
        notes.append(f"{len(found.skipped)} files could not be parsed and were skipped: {names}")
    labels = labels_of(found.modules, min_class)
    n_short = sum(label is None for label in labels)
    notes.append(f"{n_short} modules lie on top or in subpackages of under {min_class} modules: unlabelled")
    n_classes = len({label for label in labels if label is not None})
    if n_classes < 2:
        notes.append(f"{n_classes} subpackages have {min_class} modules, so there is no label to probe")
    return RawGraph(
        origin,
        np.array(found.edges, dtype=np.int64).reshape(-1, 2).T,
        found.modules,
        table=pd.DataFrame({"identifiers": list(found.bags)}),
        kinds={"identifiers": "text"},
        labels=labels if n_classes > 1 else None,
        notes=notes,
    )
