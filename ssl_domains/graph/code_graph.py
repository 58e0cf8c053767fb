"""Modules, classes and functions of an installed package as one graph with typed edges: a real
heterogeneous graph that needs no download.

A module contains classes and functions, a class contains methods; modules import modules, classes
inherit from classes, functions call functions and classes. Features are the identifiers in a node's
own code and its type; the label is the top-level subpackage, of modules alone. Files are parsed, never
run. What never becomes a word is as in :mod:`ssl_domains.graph.import_graph`.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.columns import words_of
from ssl_domains.graph.import_graph import (
    MIN_CLASS,
    identifiers,
    labels_of,
    module_files,
    package_folder,
    parse,
    resolve,
)
from ssl_domains.graph.raw import RawGraph

TYPES = ("module", "class", "function")
RELATIONS = ("imports", "contains", "inherits", "calls")
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, str, Definition]]:
    """(name, name of what contains it, node) of the classes, functions and methods of a module's body."""
    for node in body:
        if isinstance(node, Definition):
            name = f"{prefix}.{node.name}"
            yield name, prefix, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, name)


def _own_code(node: ast.Module | Definition) -> ast.Module:
    """The node's code without the definitions that are nodes of their own."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ast.Module([node], [])
    return ast.Module([part for part in node.body if not isinstance(part, Definition)], [])


def _last(node: ast.expr, aliases: dict[str, str]) -> str:
    """``name`` of ``name``, ``a.name`` and ``name[...]``, as it is called at home; otherwise ""."""
    if isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    return node.attr if isinstance(node, ast.Attribute) else ""


def _aliases(tree: ast.Module) -> dict[str, str]:
    """What ``from a import b as c`` renames: ``{c: b}``."""
    parts = [part for part in ast.walk(tree) if isinstance(part, ast.ImportFrom)]
    return {name.asname: name.name for part in parts for name in part.names if name.asname}


@dataclass
class Code:
    """What the files of a package hold.

    Attributes:
        files: module -> file.
        nodes: name -> module, class or function; modules first.
        inside: name of a class or function -> what contains it.
        module_of: name -> module.
        aliases: module -> what its imports rename.
        bound: module -> names bound by its imports.
    """

    files: dict[str, Path]
    nodes: dict[str, ast.Module | Definition]
    inside: dict[str, str]
    module_of: dict[str, str]
    aliases: dict[str, dict[str, str]]
    bound: dict[str, set[str]]

    @classmethod
    def read(cls, package: str) -> Code:
        """Parses all files; those that do not parse are left out."""
        files = module_files(package_folder(package), package)
        trees = {name: tree for name, path in files.items() if (tree := parse(path)) and tree.body}
        aliases = {name: _aliases(tree) for name, tree in trees.items()}
        bound = {name: identifiers(tree)[1] for name, tree in trees.items()}
        code = cls(files, dict(trees), {}, {name: name for name in trees}, aliases, bound)
        for module, tree in trees.items():
            for name, parent, node in definitions(tree.body, module):
                if name not in code.nodes:  # the second of two (overloads, branches) adds nothing
                    code.nodes[name], code.inside[name], code.module_of[name] = node, parent, module
        return code

    def edges(self) -> list[tuple[int, int, str]]:
        """(source, target, relation)."""
        place = {name: i for i, name in enumerate(self.nodes)}
        named = [(n.name, i) for i, n in enumerate(self.nodes.values()) if isinstance(n, Definition)]
        bearers = Counter(name for name, _ in named)
        unique = {name: i for name, i in named if bearers[name] == 1}
        classes = {n.name for n in self.nodes.values() if isinstance(n, ast.ClassDef)}
        edges = [(place[parent], place[name], "contains") for name, parent in self.inside.items()]
        for name, node in self.nodes.items():
            here, aliases = place[name], self.aliases[self.module_of[name]]
            if isinstance(node, ast.Module):
                imports = [part for part in ast.walk(node) if isinstance(part, ast.Import | ast.ImportFrom)]
                inits = self.files[name].name == "__init__.py"
                found = set().union(*(resolve(part, name, inits, self.files) for part in imports))
                edges += [(here, place[other], "imports") for other in sorted(found) if other in place]
            elif isinstance(node, ast.ClassDef):
                bases = {_last(base, aliases) for base in node.bases} & classes & unique.keys()
                edges += [(here, unique[base], "inherits") for base in sorted(bases)]
            else:
                calls = (part.func for part in ast.walk(node) if isinstance(part, ast.Call))
                called = {_last(part, aliases) for part in calls} & unique.keys()
                edges += [(here, unique[o], "calls") for o in sorted(called) if unique[o] != here]
        return edges

    def words(self) -> list[list[str]]:
        """Identifiers' words of each node's own code."""
        hidden = {word for name in self.files for word in words_of(name)}
        bags = []
        for name, node in self.nodes.items():
            used, _ = identifiers(_own_code(node))
            if isinstance(node, ast.ClassDef):
                used[node.name] += 1
            own = ((key, n) for key, n in used.items() if key not in self.bound[self.module_of[name]])
            words = ((word, n) for key, n in own for word in words_of(key) if word not in hidden)
            bags.append([word for word, n in words for _ in range(n)])
        return bags


def read_code_graph(package: str, min_class: int = MIN_CLASS) -> RawGraph:
    """Reads the code of an installed package.

    What is called or inherited from is found by name, where one class or function alone bears it; types
    of variables are not inferred, so ``x.run()`` is an edge only if the package has a single ``run``.

    Args:
        package: top-level name, as in ``import``.
        min_class: subpackages with fewer modules become unlabelled.

    Raises:
        DataError: the package is not installed, or has fewer than 3 modules, classes and functions.
    """
    import pandas as pd

    code = Code.read(package)
    origin = f"code-graph://{package}"
    if len(code.nodes) < 3:
        raise DataError(f"{origin}: found {len(code.nodes)} modules, classes and functions; a graph needs 3")
    edges = code.edges()
    kind = np.array(
        [
            0 if isinstance(node, ast.Module) else 1 if isinstance(node, ast.ClassDef) else 2
            for node in code.nodes.values()
        ]
    )
    modules = [name for name in code.nodes if name not in code.inside]
    labels = np.full(len(code.nodes), None, dtype=object)
    labels[: len(modules)] = labels_of(modules, min_class)
    counts = ", ".join(f"{(kind == i).sum()} of type {name}" for i, name in enumerate(TYPES))
    return RawGraph(
        origin,
        np.array([edge[:2] for edge in edges], dtype=np.int64).reshape(-1, 2).T,
        list(code.nodes),
        table=pd.DataFrame({"type": np.array(TYPES)[kind], "identifiers": code.words()}),
        kinds={"type": "categorical", "identifiers": "text"},
        edge_type=np.array([RELATIONS.index(edge[2]) for edge in edges], dtype=np.int64),
        relations=RELATIONS,
        node_type=kind,
        node_types=TYPES,
        labels=labels if len({label for label in labels if label is not None}) > 1 else None,
        notes=[f"nodes: {counts}; only modules are labelled"],
    )
