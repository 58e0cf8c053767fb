"""The import graph of a package written for the test."""

from __future__ import annotations

import sys

import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.import_graph import labels_of, read_import_graph

FIRST = """
import os
import tiny_pkg.beta.second as other

def make_thing(size):
    '''Docstring secret.'''
    return other.shape + os.sep + "alphabet" + size.alpha
"""
THIRD = """
from ...beta import second
from .. import first
from tiny_pkg.beta.second import helper
class BigThing:
    total_count = helper
"""
FILES = {
    "__init__.py": "from tiny_pkg.alpha import first\n",
    "alpha/__init__.py": "from .first import make_thing\n",
    "alpha/first.py": FIRST,
    "alpha/deep/__init__.py": "",
    "alpha/deep/third.py": THIRD,
    "beta/__init__.py": "x = 1\n",
    "beta/second.py": "def helper(value):\n    return value\n",
    "beta/broken.py": "def (:\n",
    "tests/test_x.py": "import tiny_pkg\n",
    "top.py": "from tiny_pkg import beta, alpha\nrun = beta\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / "tiny_pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "tiny_pkg"


def test_nodes_edges_and_labels(package):
    raw = read_import_graph(package, min_class=1)
    names = [name.removeprefix("tiny_pkg") for name in raw.ids]
    assert names == ["", ".alpha", ".alpha.deep.third", ".alpha.first", ".beta", ".beta.second", ".top"]
    assert package not in sys.modules  # parsed, not imported
    edges = {(names[a], names[b]) for a, b in raw.edges.T}
    assert edges == {
        ("", ".alpha.first"),
        (".alpha", ".alpha.first"),
        (".alpha.first", ".beta.second"),
        (".alpha.deep.third", ".beta.second"),
        (".alpha.deep.third", ".alpha.first"),
        (".top", ".alpha"),
        (".top", ".beta"),
    }
    assert raw.labels.tolist() == [None, None, "alpha", "alpha", None, "beta", None]
    assert any("tiny_pkg.beta.broken" in note for note in raw.notes)


def test_packages_below_the_top_keep_their_own_label(package):
    """`pkg.alpha` itself lies on top; small classes are unlabelled."""
    assert labels_of(["p", "p.a", "p.a.x", "p.a.y", "p.b.x"], 2).tolist() == [None, None, "a", "a", None]
    assert read_import_graph(package, min_class=2).labels is None  # one class is nothing to tell apart


def test_words_do_not_give_the_label_away(package):
    raw = read_import_graph(package, min_class=1)
    bags = dict(zip(raw.ids, raw.table["identifiers"]))
    # `other` is bound by an import, `alpha` is part of a module path, strings and docstrings never count
    assert sorted(bags["tiny_pkg.alpha.first"]) == ["make", "sep", "shape", "size", "size", "thing"]
    assert sorted(bags["tiny_pkg.alpha.deep.third"]) == ["big", "count", "thing", "total"]
    assert sorted(bags["tiny_pkg.beta.second"]) == ["helper", "value", "value"]


def test_opens_as_a_source(package):
    source = GraphDomain().open("import-graph://tiny_pkg", valid=0.0, test=0.0)
    assert source.labels is None
    assert any("no label to probe" in note for note in source.notes)
    assert source.ids([3]) == ["tiny_pkg.alpha.first"]


def test_too_small_a_package(tmp_path, monkeypatch):
    (tmp_path / "wee_pkg").mkdir()
    (tmp_path / "wee_pkg" / "__init__.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match="at least 3"):
        read_import_graph("wee_pkg")
