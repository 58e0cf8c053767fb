"""PyG, NetworkX, GraphML, data sets by name; and what is wrong with them."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from ssl_domains.core.errors import DataError
from ssl_domains.graph.domain import GraphDomain


def open_(source, **options):
    return GraphDomain().open(source, **options)


def club():
    graph = nx.Graph()
    for i in range(8):
        graph.add_node(f"n{i}", age=20 + i, team="ab"[i % 2], club="xy"[i // 4])
    graph.add_edges_from([(f"n{i}", f"n{(i + 1) % 8}", {"weight": 1.0 + i}) for i in range(8)])
    return graph


def test_pyg_data(data):
    source = open_(data)
    assert (len(source), source.spec.features, source.task) == (30, 6, "classification")
    assert np.array_equal(source.features, data.x.numpy())
    assert source.labels.tolist() == data.y.tolist()
    loops = data.edge_index.shape[1] + 30
    assert source.fetch([0]).x.edge_index.shape[1] == loops


def test_pyg_masks_become_splits(data):
    for i, name in enumerate(("train_mask", "val_mask", "test_mask")):
        data[name] = torch.arange(30) % 5 == i
    source = open_(data)
    assert source.splits["valid"].tolist() == list(range(1, 30, 5))
    data.train_mask = data.train_mask[:, None].repeat(1, 10)
    assert open_(data).splits["train"].tolist() == list(range(0, 30, 5))


def test_pyg_list_and_dataset(data_of):
    graphs = [data_of(n=4 + i, degree=1) for i in range(5)]
    for i, graph in enumerate(graphs):
        graph.y = torch.tensor([float(i) + 0.5])
    source = open_(graphs)
    assert (source.spec.level, len(source), source.task) == ("graph", 5, "regression")
    assert source.labels.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    fake = open_("pyg://FakeDataset?num_graphs=6&avg_num_nodes=8")
    assert len(fake) == 6


def test_multilabel(data):
    data.y = torch.rand(30, 4) > 0.5
    source = open_(data)
    assert source.task == "multilabel"
    assert source.fetch([0, 1]).label.shape == (2, 4)


def test_several_graphs_at_node_level(data_of):
    source = open_([data_of(n=10), data_of(n=12)], level="node")
    assert (len(source), source.full_batch, source.card()["components"] >= 2) == (22, True, True)


def test_networkx_columns_label_and_weight():
    source = open_(club(), label="club")
    assert {c.name: c.kind for c in source.spec.columns} == {"age": "numeric", "team": "categorical"}
    assert source.class_names == ["x", "y"]
    assert source.spec.weighted
    assert source.ids([3]) == ["n3"]


def test_networkx_vectors_become_features():
    graph = club()
    for i, node in enumerate(graph):
        graph.nodes[node].clear()
        graph.nodes[node]["x"] = [float(i), float(i % 3)]
    source = open_(graph, valid=0.0, test=0.0)
    assert [c.name for c in source.spec.columns] == ["x_0", "x_1"]
    graph.nodes["n5"]["x"] = [1.0]
    with pytest.raises(DataError, match="'x' of node 'n5' does not hold 2 numbers"):
        open_(graph)


def test_networkx_without_attributes_gets_degrees():
    source = open_(nx.karate_club_graph(), label="club")
    assert (len(source), source.task, source.spec.degree_cap) == (34, "classification", 17)


def test_directed_networkx_stays_directed_when_asked():
    graph = nx.DiGraph([("a", "b"), ("b", "c")])
    assert open_(graph, directed=True).card()["edges"] == 2
    assert open_(graph).card()["edges"] == 4


@pytest.mark.parametrize("ending", ["graphml", "gml", "gexf"])
def test_files_equal_networkx(ending, tmp_path):
    path = tmp_path / f"club.{ending}"
    getattr(nx, f"write_{ending}")(club(), path)
    own = ["label"] if ending == "gexf" else []  # GEXF gives every node a label of its own
    a, b = open_(str(path), label="club", exclude=own), open_(club(), label="club")
    assert np.array_equal(a.features, b.features)
    assert np.array_equal(a.labels, b.labels)
    assert np.array_equal(a.edges.edge_index, b.edges.edge_index)


def broken(**changes):
    data = Data(x=torch.ones(4, 2), edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]))
    for key, value in changes.items():
        data[key] = value
    return data


NAN = torch.tensor([[1.0, 2.0], [3.0, float("nan")], [1.0, 1.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (broken(x=NAN), "feature 1 of node 1 is nan; 1 nodes"),
        (broken(x=NAN.nan_to_num(torch.inf)), "feature 1 of node 1 is inf"),
        (
            broken(edge_index=torch.tensor([[0, 7], [1, 2]])),
            "edge 1 joins nodes 7 and 2, but the nodes are 0 to 3",
        ),
        (
            broken(edge_index=torch.zeros(2, 0, dtype=torch.int64)),
            "needs edges between different nodes, found none",
        ),
        (broken(y=torch.zeros(3)), "y has 3 rows for 4 nodes"),
        (Data(x=torch.ones(4, 2)), "no edge_index"),
        (Data(), "has no nodes"),
        (nx.Graph(), "has no nodes"),
        (nx.empty_graph(3), "needs edges"),
        ([], "cannot read a graph from list"),
        (7, "cannot read a graph from int"),
        ([broken(), broken(x=torch.ones(4, 3))], r"\[1\]: x is missing or of another width"),
        ("graph.csv", "no graph that can be read.*data.nodes and data.edges"),
        ("missing.graphml", "no such file"),
        ("pyg://Planetoids", "no data set 'Planetoids'; the nearest is 'Planetoid'"),
        ("pyg://Planetoid?name=Cora", "cannot be made"),
        ("import-graph://no_such_package", "no package of this name"),
        ("import-graph://a/b", "name of one installed"),
        ("import-graph://ast", "single module"),
    ],
)
def test_bad_sources_end_in_one_sentence(source, message):
    with pytest.raises(DataError, match=message) as error:
        open_(source)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"<graphml", b"\0\1\2", b"hello"])
def test_a_file_that_is_no_graphml(content, tmp_path):
    path = tmp_path / "x.graphml"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a graphml file"):
        open_(str(path))


def test_missing_label_attribute_names_the_nearest():
    with pytest.raises(DataError, match="'clubs', which is not there; the nearest is 'club'"):
        open_(club(), label="clubs")


def test_no_data_at_all():
    with pytest.raises(DataError, match=r"no data; give data\.edges"):
        GraphDomain().open()


def test_wrong_level(data):
    with pytest.raises(DataError, match="must be node or graph"):
        open_(data, level="edge")
