"""The source: batches, splits, baselines, card, spec, new data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source
from ssl_domains.graph.card import homophily
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.sampling import Incoming
from ssl_domains.graph.splits import random_splits


def test_is_a_source(node_source, graph_source):
    assert isinstance(node_source, Source)
    assert isinstance(graph_source, Source)


def test_full_batch_holds_the_whole_graph(node_source):
    batch = node_source.fetch([4, 2])
    assert node_source.full_batch
    assert batch.index.tolist() == [4, 2]
    assert batch.label.tolist() == [1, 2]
    assert batch.x.seed_index.tolist() == [4, 2]
    assert batch.x.node_index.tolist() == list(range(30))
    assert len(batch) == 2


def test_self_loops_exactly_once(node_source):
    edges = node_source.fetch([0]).x.edge_index
    assert edges[0][edges[0] == edges[1]].tolist() == list(range(30))


def test_graphs_side_by_side(graph_source):
    from torch_geometric.data import Batch

    batch = graph_source.fetch([3, 1])
    x = batch.x
    assert isinstance(x, Batch)
    assert x.num_graphs == 2
    assert x.ptr.tolist() == [0, 8, 14]
    assert x.batch.tolist() == [0] * 8 + [1] * 6
    assert torch.equal(x.batch[x.edge_index[0]], x.batch[x.edge_index[1]])
    alone = graph_source.fetch([1]).x
    assert torch.equal(x.x[8:], alone.x)
    assert torch.equal(x.node_index[8:], alone.node_index)
    one = x.edge_index[:, x.batch[x.edge_index[0]] == 1] - 8
    assert {tuple(e) for e in one.T.tolist()} == {tuple(e) for e in alone.edge_index.T.tolist()}
    assert batch.label.tolist() == [1, 1]


def test_node_numbers_are_unique_over_graphs(graph_source):
    numbers = graph_source.fetch(list(range(12))).x.node_index
    assert len(numbers.unique()) == len(numbers)


def test_batches_move_between_devices(graph_source):
    moved = graph_source.fetch([0, 1]).to("cpu")
    assert moved.x.num_graphs == 2


def test_out_of_range(node_source):
    with pytest.raises(DataError, match="0 to 29"):
        node_source.fetch([30])


def test_splits_are_disjoint_stratified_shares():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    splits = random_splits(labels, "classification", 100, 0.2, 0.3, seed=1)
    assert [len(splits[k]) for k in ("train", "valid", "test")] == [50, 20, 30]
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(100))
    assert np.bincount(labels[splits["valid"]]).tolist() == [12, 6, 2]
    assert np.bincount(labels[splits["test"]]).tolist() == [18, 9, 3]
    again = random_splits(labels, "classification", 100, 0.2, 0.3, seed=1)
    other = random_splits(labels, "classification", 100, 0.2, 0.3, seed=2)
    assert np.array_equal(splits["test"], again["test"])
    assert not np.array_equal(splits["test"], other["test"])


def test_unlabelled_nodes_are_in_no_split_but_in_pretraining(data):
    data.y[:10] = -1
    source = GraphDomain().open(data)
    assert min(np.concatenate(list(source.splits.values()))) == 10
    assert source.pretrain_index.tolist() == list(range(30))
    assert source.labels[:10].tolist() == [-1] * 10


def test_graphs_pretrain_on_train_and_unlabelled(graph_source):
    held_out = {*graph_source.splits["valid"], *graph_source.splits["test"]}
    assert {*graph_source.pretrain_index} == {*range(12)} - held_out


def test_smoothed_is_the_normalised_adjacency_twice(node_source):
    n = 30
    a = np.eye(n)
    for s, t in node_source.edges.edge_index.T:
        a[t, s] = 1
    d = np.diag(1 / np.sqrt(a.sum(1)))
    want = d @ a @ d @ d @ a @ d @ node_source.features
    got = node_source.raw_baselines(np.array([3, 5]))
    assert list(got) == ["smoothed"]
    np.testing.assert_allclose(got["smoothed"], want[[3, 5]], rtol=1e-5, atol=1e-6)
    assert np.array_equal(node_source.raw_features(np.array([3])), node_source.features[[3]])


def test_graph_features_are_means_and_degree_shares(graph_source):
    x = graph_source.fetch([4]).x
    got = graph_source.raw_features(np.array([4]))[0]
    np.testing.assert_allclose(got[:6], x.x.mean(0), rtol=1e-5, atol=1e-6)
    degree = np.bincount(x.edge_index[1], minlength=9) - 1  # without the self-loop
    bins = [0 if d == 0 else min(int(np.floor(np.log2(d))) + 1, 8) for d in degree]
    np.testing.assert_allclose(got[6:], np.bincount(bins, minlength=9) / 9, rtol=1e-6)


def test_card(node_source):
    import networkx as nx

    card = node_source.card()
    graph = nx.Graph(node_source.edges.edge_index.T.tolist())
    graph.add_nodes_from(range(30))
    assert card["nodes"] == 30
    assert card["edges"] == 2 * graph.number_of_edges()
    assert card["components"] == nx.number_connected_components(graph)
    assert card["degree_quantiles"]["max"] == max(d for _, d in graph.degree)
    assert card["classes"] == {"0": 10, "1": 10, "2": 10}
    assert json.dumps(card)


def test_homophily_by_hand():
    edges = np.array([[0, 1, 2, 3], [1, 2, 3, 0]])
    edges = Incoming.of(edges[:, np.argsort(edges[1], kind="stable")], 4)
    assert homophily(edges, np.array([0, 0, 1, 1])) == 0.5
    assert homophily(edges, np.array([0, 0, 1, -1])) == 0.5
    assert homophily(edges, np.array([-1, -1, -1, 0])) is None


def test_spec_round_trip_and_new_data(tmp_path):
    import pandas as pd

    nodes = pd.DataFrame({"id": list("abcdef"), "size": [1.0, 2, 3, 4, 5, 9], "colour": list("rgrgrb")})
    nodes["words"] = ["p q r", "q r s", "p q", "r s t", "p t", "q p"]
    edges = pd.DataFrame({"source": list("abcde"), "target": list("bcdef")})
    domain = GraphDomain()
    source = domain.open(nodes=nodes.assign(y=list("uvuvuv")), edges=edges, text=["words"], label="y")
    spec = domain.spec_from_dict(json.loads(json.dumps(source.spec.to_dict())))
    assert spec == source.spec
    new = domain.embed_source(spec, nodes=nodes.iloc[::-1], edges=edges, valid=0.1, text=["words"])
    assert np.array_equal(new.features, source.features[::-1])
    assert new.labels is None
    labelled = domain.embed_source(spec, nodes=nodes.assign(y="v"), edges=edges, label="y", exclude=[])
    assert labelled.labels.tolist() == [1] * 6


def test_new_data_that_do_not_fit(data, data_of):
    import pandas as pd

    domain = GraphDomain()
    spec = domain.open(data).spec
    with pytest.raises(DataError, match="nodes have 5 features, the encoder was trained with 6"):
        domain.embed_source(spec, data_of(features=5))
    with_edges = data_of()
    with_edges.edge_attr = torch.ones(with_edges.edge_index.shape[1], 2)
    with pytest.raises(DataError, match="edges have 2 features, the encoder was trained with 0"):
        domain.embed_source(spec, with_edges)
    nodes = pd.DataFrame({"id": list("abc"), "size": [1.0, 2, 3], "other": [3.0, 2, 9]})
    edges = pd.DataFrame({"source": ["a", "b"], "target": ["b", "c"]})
    spec = domain.open(nodes=nodes, edges=edges, valid=0.0, test=0.0).spec
    with pytest.raises(
        DataError, match="trained with column 'size', which is missing; the nearest is 'sizes'"
    ):
        domain.embed_source(spec, nodes=nodes.rename(columns={"size": "sizes"}), edges=edges)


def test_degrees_of_new_data_use_the_old_cap():
    import networkx as nx

    domain = GraphDomain()
    spec = domain.open(nx.path_graph(6)).spec
    new = domain.embed_source(spec, nx.star_graph(9))
    assert new.features.shape == (10, 3)
    assert new.features[0].tolist() == [0.0, 0.0, 1.0]


def test_inspect(data):
    card, yaml_text = GraphDomain().inspect(source=data, valid=0.2)
    assert card["nodes"] == 30
    assert "domain: graph" in yaml_text
    assert "valid: 0.2" in yaml_text
