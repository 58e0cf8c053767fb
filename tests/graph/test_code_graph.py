"""The typed graph of a package written for the test."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.graph.code_graph import RELATIONS, TYPES, read_code_graph
from ssl_domains.graph.domain import GraphDomain

FILES = {
    "__init__.py": "from typed_pkg.shapes import round\n",
    "shapes/__init__.py": "",
    "shapes/round.py": """
import math
from ..base import Shape as Parent

RADIUS = 1

class Circle(Parent[float]):
    sides = RADIUS

    def area(self, scale):
        return math.pi * helper(scale) + self.area(scale)

    def area(self, other):
        pass
""",
    "base.py": """
class Shape:
    def describe(self):
        def inner():
            return Circle()
        return print(self.area(1), inner())

def helper(value):
    return value

async def twice(x):
    return [helper(x) for _ in (0, 1)]
""",
    "broken.py": "def (:\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / "typed_pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "typed_pkg"


def test_nodes_and_typed_edges(package):
    raw = read_code_graph(package, min_class=1)
    names = [name.removeprefix("typed_pkg").lstrip(".") for name in raw.ids]
    assert package not in sys.modules  # parsed, not run
    kinds = {name: TYPES[kind] for name, kind in zip(names, raw.node_type, strict=True)}
    assert kinds == {
        **dict.fromkeys(["", "base", "shapes.round"], "module"),
        **dict.fromkeys(["base.Shape", "shapes.round.Circle"], "class"),
        **dict.fromkeys(
            ["base.Shape.describe", "base.helper", "base.twice", "shapes.round.Circle.area"], "function"
        ),
    }
    edges = {(names[a], RELATIONS[r], names[b]) for (a, b), r in zip(raw.edges.T, raw.edge_type, strict=True)}
    assert edges == {
        ("", "imports", "shapes.round"),
        ("shapes.round", "imports", "base"),
        ("base", "contains", "base.Shape"),
        ("base", "contains", "base.helper"),
        ("base", "contains", "base.twice"),
        ("base.Shape", "contains", "base.Shape.describe"),
        ("shapes.round", "contains", "shapes.round.Circle"),
        ("shapes.round.Circle", "contains", "shapes.round.Circle.area"),
        ("base.Shape.describe", "calls", "shapes.round.Circle"),
        ("base.Shape.describe", "calls", "shapes.round.Circle.area"),
        ("shapes.round.Circle.area", "calls", "base.helper"),
        ("base.twice", "calls", "base.helper"),
        ("shapes.round.Circle", "inherits", "base.Shape"),
    }
    assert len(edges) == raw.edges.shape[1]


def test_features_and_labels(package):
    raw = read_code_graph(package, min_class=1)
    words = {
        str(name).removeprefix("typed_pkg."): bag for name, bag in zip(raw.ids, raw.table["identifiers"])
    }
    assert sorted(set(words["shapes.round"])) == ["radius"]  # its class speaks for itself
    assert sorted(set(words["shapes.round.Circle"])) == ["circle", "radius", "sides"]
    assert "math" not in words["shapes.round.Circle.area"]  # bound by an import
    assert "scale" in words["shapes.round.Circle.area"]
    assert raw.labels is None  # one subpackage
    source = GraphDomain().open(f"code-graph://{package}")
    assert source.spec.node_types == TYPES
    assert source.spec.relation_names == RELATIONS
    batch = source.fetch(np.arange(len(source)))
    assert batch.x.edge_type.max() < len(source.spec.relations)


def test_a_package_that_is_not_there():
    with pytest.raises(DataError, match="no package of this name is installed"):
        read_code_graph("no_such_package_at_all")
