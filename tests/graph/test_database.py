"""Graphs inside SQLite and DuckDB files."""

from __future__ import annotations

import sqlite3

import pandas as pd
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.graph.domain import GraphDomain

NODES = pd.DataFrame({"id": [1, 2, 3, 4], "size": [0.5, 1.5, 2.5, 4.0], "y": ["a", "b", "a", "b"]})
EDGES = pd.DataFrame({"source": [1, 2, 3], "target": [2, 3, 4], "weight": [1.0, 2.0, 3.0]})


@pytest.fixture(params=["sqlite", "duckdb"])
def database(request, tmp_path):
    path = tmp_path / f"graph.{request.param}"
    if request.param == "sqlite":
        with sqlite3.connect(path) as connection:
            NODES.to_sql("nodes", connection, index=False)
            EDGES.to_sql("edges", connection, index=False)
    else:
        duckdb = pytest.importorskip("duckdb")
        with duckdb.connect(str(path)) as connection:
            for name, frame in (("nodes", NODES), ("edges", EDGES)):
                connection.register("frame", frame)
                connection.execute(f"create table {name} as select * from frame")
    return str(path)


def test_tables_and_queries(database):
    plain = GraphDomain().open(nodes=NODES, edges=EDGES, label="y")
    for options in (
        {},
        {"nodes": "nodes", "edges": "edges"},
        {"edges": "select * from edges where weight < 9"},
    ):
        source = GraphDomain().open(database, label="y", **options)
        assert source.edges.edge_index.tolist() == plain.edges.edge_index.tolist()
        assert source.edges.edge_weight.tolist() == plain.edges.edge_weight.tolist()
        assert source.features.tolist() == plain.features.tolist()
        assert source.ids(range(4)) == [1, 2, 3, 4]
    few = GraphDomain().open(database, edges="select source, target from edges where target < 4")
    assert few.card()["isolated"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edges": "edge"}, "has no table 'edge'; the nearest is 'edges'"),
        ({"edges": "select nothing from edges"}, "the query of data.edges fails"),
    ],
)
def test_bad_queries(database, options, message):
    with pytest.raises(DataError, match=message):
        GraphDomain().open(database, **options)


def test_no_database(tmp_path):
    (tmp_path / "x.db").write_text("hello, this is text")
    with pytest.raises(DataError, match="neither a DuckDB nor a SQLite file"):
        GraphDomain().open(str(tmp_path / "x.db"))
    with pytest.raises(DataError, match="no such file"):
        GraphDomain().open(str(tmp_path / "y.db"))
