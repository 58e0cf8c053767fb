"""Heterogeneous graphs: HeteroData and typed tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import HeteroData

import ssl_domains
from ssl_domains.core.errors import DataError
from ssl_domains.graph.domain import GraphDomain


def shop(n=30, seed=0):
    rng = np.random.default_rng(seed)
    data = HeteroData()
    data["user"].x = torch.from_numpy(rng.random((n, 3), dtype=np.float32))
    data["user"].y = torch.arange(n) % 2
    data["item"].x = torch.from_numpy(rng.random((n // 2, 2), dtype=np.float32))
    data["tag"].num_nodes = 4
    buys = np.stack([rng.integers(0, n, 80), rng.integers(0, n // 2, 80)])
    data["user", "buys", "item"].edge_index = torch.from_numpy(buys)
    has = np.stack([rng.integers(0, n // 2, 30), rng.integers(0, 4, 30)])
    data["item", "has", "tag"].edge_index = torch.from_numpy(has)
    return data


def test_hetero_data_is_one_typed_graph():
    data = shop()
    source = GraphDomain().open(data, directed=True)
    assert len(source) == 49
    assert source.spec.node_types == ("user", "item", "tag")
    assert source.spec.relation_names == ("user__buys__item", "item__has__tag")
    assert source.ids([0, 30, 48]) == ["user/0", "item/0", "tag/3"]
    assert source.features.shape == (49, 3 + 2 + 3)
    np.testing.assert_allclose(source.features[30:45, 3:5], data["item"].x.numpy())
    assert not source.features[30:, :3].any()
    assert source.features[:, 5:].argmax(1).tolist() == [0] * 30 + [1] * 15 + [2] * 4
    assert (source.labels[30:] == -1).all()
    assert sum(len(rows) for rows in source.splits.values()) == 30
    for kind, relation, shift in (
        (0, ("user", "buys", "item"), (0, 30)),
        (1, ("item", "has", "tag"), (30, 45)),
    ):
        true = {(a + shift[0], b + shift[1]) for a, b in data[relation].edge_index.T.tolist()}
        mine = source.edges.edge_index[:, source.edges.edge_type == kind]
        assert {tuple(e) for e in mine.T.tolist()} == true


def test_typed_tables_may_lack_columns_by_type():
    nodes = pd.DataFrame(
        {
            "id": list("abcdef"),
            "kind": ["user"] * 3 + ["item"] * 3,
            "age": [20.0, 30, 40, None, None, None],
            "price": [None, None, None, 1.0, 2.0, 3.0],
        }
    )
    edges = pd.DataFrame({"u": list("abc"), "v": list("def"), "how": ["buys", "sees", "buys"]})
    source = GraphDomain().open(nodes=nodes, edges=edges, node_type="kind", edge_type="how", valid=0, test=0)
    where = source.spec.slices()
    age = source.features[:, where["age"]][:, 0]
    np.testing.assert_allclose(age, [-1.2247449, 0, 1.2247449, 0, 0, 0], rtol=1e-6)
    again = GraphDomain().embed_source(
        source.spec, nodes=nodes, edges=edges, node_type="kind", edge_type="how"
    )
    assert np.array_equal(again.features, source.features)
    broken = nodes.copy()
    broken.loc[1, "age"] = None
    with pytest.raises(DataError, match="column 'age' is missing at node 'b'"):
        GraphDomain().open(nodes=broken, edges=edges, node_type="kind")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda d: d["item"].update({"y": torch.zeros(15)}), {}, "user, item have labels; choose one"),
        (lambda d: None, {"label": "usr"}, "got 'usr'; the nearest is 'user'"),
        (lambda d: d["user", "buys", "item"].edge_index.add_(50), {}, "which has"),
    ],
)
def test_bad_hetero_data(change, options, message):
    data = shop()
    change(data)
    with pytest.raises(DataError, match=message):
        GraphDomain().open(data, **options)


def test_graphmae_with_typed_edges_trains(tmp_path):
    run = ssl_domains.pretrain(
        "graph/graphmae", "train.epochs=2", "train.device=cpu", "encoder.name=rgcn", "encoder.width=16",
        "method.predictor.kind=rgcn", "encoder.bases=3",
        data={"source": shop(), "link_test": 0.2, "link_valid": 0.1},
        evaluate={"probes": ["linear", "link_prediction"], "seeds": 1}, run=tmp_path / "run", progress=False,
    )  # fmt: skip
    assert np.isfinite(run.evaluation.value("link_prediction"))
