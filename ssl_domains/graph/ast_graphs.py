"""Functions of an installed package as many small graphs: a real graph-level data set that
needs no download.

A graph is the syntax tree of one function, a node is a syntax node (its feature: the type,
one-hot), an edge joins parent and child, the label is the top-level subpackage. No names or
strings are used, so structure and node types are all there is. Files are parsed, never run.
"""

from __future__ import annotations

import ast

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.graph.import_graph import MIN_CLASS, labels_of, module_files, package_folder, parse
from ssl_domains.graph.raw import RawGraph

MIN_NODES, MAX_NODES = 10, 200


def tree_of(function: ast.AST) -> tuple[list[str], list[tuple[int, int]]]:
    """(node types, edges parent - child) of a syntax tree, in depth-first order.

    Load and Store marks are left out; operators are kept as types of their own.
    """
    types: list[str] = []
    edges: list[tuple[int, int]] = []
    stack: list[tuple[ast.AST, int]] = [(function, -1)]
    while stack:
        node, parent = stack.pop()
        here = len(types)
        types.append(type(node).__name__)
        if parent >= 0:
            edges.append((parent, here))
        children = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr_context)]
        stack.extend((child, here) for child in reversed(children))
    return types, edges


def _functions(tree: ast.Module) -> list[tuple[str, ast.AST]]:
    """Functions and methods at the top of a module and of its classes, with their names."""
    found: list[tuple[str, ast.AST]] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((node.name, node))
        elif isinstance(node, ast.ClassDef):
            inner = [
                child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            found += [(f"{node.name}.{child.name}", child) for child in inner]
    return found


def read_ast_graphs(package: str, min_class: int = MIN_CLASS) -> RawGraph:
    """Syntax trees of 10 to 200 nodes of all functions in an installed package.

    Args:
        package: top-level name, as in ``import``.
        min_class: subpackages with fewer functions become unlabelled.

    Raises:
        DataError: the package is not installed, or has fewer than 3 such functions.
    """
    import pandas as pd

    names: list[str] = []
    modules: list[str] = []
    types: list[str] = []
    edges, sizes = [], []
    for module, path in module_files(package_folder(package), package).items():
        tree = parse(path)
        for name, function in _functions(tree) if tree is not None else []:
            kinds, pairs = tree_of(function)
            if MIN_NODES <= len(kinds) <= MAX_NODES:
                edges.append(np.array(pairs, dtype=np.int64).T + len(types))
                names.append(f"{module}.{name}")
                modules.append(module)
                types += kinds
                sizes.append(len(kinds))
    origin = f"ast-graph://{package}"
    if len(names) < 3:
        raise DataError(
            f"{origin}: found {len(names)} functions of {MIN_NODES} to {MAX_NODES} syntax nodes; "
            f"a data set needs at least 3"
        )
    labels = labels_of(modules, min_class)
    n_short = sum(label is None for label in labels)
    n_classes = len({label for label in labels if label is not None})
    return RawGraph(
        origin,
        np.concatenate(edges, axis=1),
        range(len(types)),
        table=pd.DataFrame({"type": types}),
        kinds={"type": "categorical"},
        labels=labels if n_classes > 1 else None,
        level="graph",
        graph_ptr=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        graph_ids=names,
        notes=[f"{n_short} functions lie on top or in small subpackages: unlabelled"],
    )
