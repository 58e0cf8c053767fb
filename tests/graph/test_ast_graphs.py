"""Syntax trees of functions as small graphs."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.graph.ast_graphs import read_ast_graphs, tree_of
from ssl_domains.graph.domain import GraphDomain

CODE = """
def loop(values):
    total = 0
    for value in values:
        total = total + value * 2
    return total

class Thing:
    def method(self, a, b):
        if a and b:
            return a - b
        return [a, b]

def short():
    pass
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    for part in ("one", "two"):
        folder = tmp_path / "leafy_pkg" / part
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        (folder / "code.py").write_text(CODE)
        (folder / "broken.py").write_text("def (:\n")
    (tmp_path / "leafy_pkg" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "leafy_pkg"


def test_tree_by_hand():
    types, edges = tree_of(ast.parse("a + 1", mode="eval").body)
    assert types == ["BinOp", "Name", "Add", "Constant"]
    assert edges == [(0, 1), (0, 2), (0, 3)]


def test_functions_become_graphs(package):
    raw = read_ast_graphs(package, min_class=1)
    assert [name.split(".", 1)[1] for name in raw.graph_ids] == [
        "one.code.loop",
        "one.code.Thing.method",
        "two.code.loop",
        "two.code.Thing.method",
    ]
    assert raw.labels.tolist() == ["one", "one", "two", "two"]
    sizes = np.diff(raw.graph_ptr)
    assert sizes[0] == sizes[2]
    assert raw.edges.shape[1] == sizes.sum() - 4  # a tree has one edge fewer than nodes
    owner = np.repeat(np.arange(4), sizes)
    assert np.array_equal(owner[raw.edges[0]], owner[raw.edges[1]])


def test_opens_as_graphs(package):
    source = GraphDomain().open(f"ast-graph://{package}")
    assert source.spec.level == "graph"
    assert source.ids([0]) == ["leafy_pkg.one.code.loop"]
    assert source.fetch([1, 0]).x.num_graphs == 2


def test_a_package_without_functions(tmp_path, monkeypatch):
    (tmp_path / "bare_pkg").mkdir()
    (tmp_path / "bare_pkg" / "__init__.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match="found 0 functions"):
        read_ast_graphs("bare_pkg")
