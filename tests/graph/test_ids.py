"""Node ids of any type, and graphs at the edge of what is one."""

from __future__ import annotations

import datetime
import uuid

import networkx as nx
import numpy as np
import pandas as pd
import pytest

import ssl_domains
from ssl_domains.core.errors import DataError
from ssl_domains.graph.domain import GraphDomain


@pytest.mark.parametrize(
    "ids",
    [
        [10, 20, 30, 40],
        ["x", "y", "z", "w"],
        ["007", "008", "7", "8"],
        [uuid.UUID(int=i) for i in range(4)],
        [datetime.date(2020, 1, i + 1) for i in range(4)],
        [True, False, "maybe", "no"],
    ],
    ids=["int", "text", "leading zeros", "uuid", "date", "mixed"],
)
def test_any_type_of_id_comes_back_as_it_was(ids):
    nodes = pd.DataFrame(
        {"id": pd.Series(ids, dtype=object if isinstance(ids[0], bool) else None), "a": [1.0, 2, 3, 5]}
    )
    edges = pd.DataFrame({"u": nodes["id"].iloc[:3].to_list(), "v": nodes["id"].iloc[1:].to_list()})
    source = GraphDomain().open(nodes=nodes, edges=edges, directed=True)
    assert source.edges.edge_index.tolist() == [[0, 1, 2], [1, 2, 3]]
    back = source.ids(range(4))
    assert [str(i) for i in back] == [str(i) for i in ids]
    if isinstance(ids[0], int) and not isinstance(ids[0], bool):
        assert back == ids


def test_numbers_in_csv_come_back_as_numbers_and_007_as_text(tmp_path):
    (tmp_path / "edges.csv").write_text("source,target\n10,9\n9,100\n")
    assert GraphDomain().open(edges=str(tmp_path / "edges.csv")).ids(range(3)) == [10, 100, 9]
    (tmp_path / "edges.csv").write_text("source,target\n010,9\n9,100\n")
    assert GraphDomain().open(edges=str(tmp_path / "edges.csv")).ids(range(3)) == ["010", "100", "9"]


def test_ids_that_mix_types_are_told_apart_or_refused():
    nodes = pd.DataFrame({"id": pd.Series([1, "1", "b"], dtype=object), "a": [1.0, 2, 3]})
    edges = pd.DataFrame({"u": ["b"], "v": ["1"]})
    with pytest.raises(DataError, match="mixes types: the number 1 and the text '1' would be one node"):
        GraphDomain().open(nodes=nodes, edges=edges)
    fine = nodes.assign(id=pd.Series([1.0, "2", "b"], dtype=object))
    assert GraphDomain().open(nodes=fine, edges=pd.DataFrame({"u": ["b"], "v": [1]})).ids([0]) == ["1"]


def test_a_graph_with_one_node_is_refused_in_one_sentence():
    single = nx.Graph()
    single.add_node("only", a=1.0)
    with pytest.raises(DataError, match="a graph needs edges between different nodes, found none"):
        GraphDomain().open(single)
    loop = pd.DataFrame({"u": ["a"], "v": ["a"]})
    with pytest.raises(DataError, match="found only 1 self-loops"):
        GraphDomain().open(edges=loop)


def test_disconnected_graphs_isolated_nodes_and_few_labels(tmp_path):
    """Components, isolated nodes and unlabelled nodes are counted, and training runs."""
    graph = nx.disjoint_union_all(
        [nx.cycle_graph(12), nx.complete_graph(8), nx.path_graph(10), nx.empty_graph(3)]
    )
    nodes = pd.DataFrame({"id": [f"n{i}" for i in graph], "a": np.arange(33) % 5, "label": None})
    nodes.loc[::4, "label"] = ["x", "y", "x", "y", "x", "y", "x", "y", "x"]
    edges = pd.DataFrame([(f"n{u}", f"n{v}") for u, v in graph.edges], columns=["u", "v"])
    source = GraphDomain().open(nodes=nodes, edges=edges, label="label", valid=0.2, test=0.2)
    card = source.card()
    assert (card["components"], card["isolated"], card["unlabelled"]) == (6, 3, 24)
    assert sum(card["splits"].values()) == 9
    assert source.pretrain_index.tolist() == list(range(33))
    data = {"nodes": nodes, "edges": edges, "label": "label", "valid": 0.2, "test": 0.2}
    run = ssl_domains.pretrain(
        "graph/graphmae", "train.epochs=2", "train.device=cpu", "encoder.width=8", data=data,
        evaluate={"probes": ["linear"], "seeds": 1}, run=tmp_path / "run", progress=False,
    )  # fmt: skip
    out = ssl_domains.api.embed(run.path, out=tmp_path / "e.parquet", nodes=nodes, edges=edges)
    table = pd.read_parquet(out)
    assert table["id"].tolist() == nodes["id"].tolist()
    assert np.isfinite(table.drop(columns="id").to_numpy()).all()
