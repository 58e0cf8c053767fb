"""Views: rates, what is kept, independence of batch composition, recorded parameters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.batch import Batch
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import get
from ssl_domains.graph.augment import Blocks, ball_arrival, rank_within
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.encoders import GIN
from ssl_domains.graph.views import GraphAugment, GraphCorrupt

OFF = {"edge_drop": 0.0, "feature_drop": 0.0}


def run(views, batch, step=0, seed=0):
    return views(batch, Draw(seed, step, batch.index))


def pairs(x, edge_index):
    return {tuple(e) for e in x.node_index[edge_index].T.tolist()}


def test_registered():
    assert get("views", "graph_augment") is GraphAugment
    assert get("views", "graph_corrupt") is GraphCorrupt


def test_defaults_are_graces_and_differ_between_views():
    views = GraphAugment()
    assert views.rates["edge"] == [0.2, 0.4]
    assert views.rates["feature"] == [0.3, 0.4]


def test_nothing_dropped_is_the_identity(graph_source):
    batch = graph_source.fetch([0, 1, 2])
    for view in run(GraphAugment(**OFF), batch):
        assert torch.equal(view.x.x, batch.x.x)
        assert torch.equal(view.x.edge_index, batch.x.edge_index)
        assert not view.params["corrupted"].any()


def test_the_batch_itself_is_left_alone(node_source):
    batch = node_source.fetch(node_source.pretrain_index)
    before = batch.x.x.clone(), batch.x.edge_index.clone()
    run(GraphAugment(node_drop=0.3, subgraph=0.3, feature_mode="cells"), batch)
    assert torch.equal(batch.x.x, before[0])
    assert torch.equal(batch.x.edge_index, before[1])
    assert "kept_nodes" not in batch.x


def test_edge_drop_rate_and_self_loops(data_of):
    source = GraphDomain().open(data_of(n=400, degree=10))
    batch = source.fetch(source.pretrain_index)
    x = batch.x
    n_real = x.edge_index.shape[1] - 400
    for view, rate in zip(run(GraphAugment(feature_drop=0.0), batch), (0.2, 0.4)):
        kept = view.x.edge_index
        assert int((kept[0] == kept[1]).sum()) == 400
        dropped = int(view.params["dropped_edges"].sum())
        assert dropped == x.edge_index.shape[1] - kept.shape[1]
        assert abs(dropped / n_real - rate) < 0.03
        assert pairs(x, kept) <= pairs(x, x.edge_index)


def test_symmetric_edge_drop(node_source):
    batch = node_source.fetch(node_source.pretrain_index)
    both = run(GraphAugment(edge_drop=0.4, feature_drop=0.0, symmetric=True), batch)[0].x
    one = run(GraphAugment(edge_drop=0.4, feature_drop=0.0), batch)[0].x
    assert {(b, a) for a, b in pairs(batch.x, both.edge_index)} == pairs(batch.x, both.edge_index)
    assert {(b, a) for a, b in pairs(batch.x, one.edge_index)} != pairs(batch.x, one.edge_index)


def test_edge_values_follow_their_edges(data):
    data.edge_attr = torch.rand(data.edge_index.shape[1], 2)
    data.edge_weight = torch.rand(data.edge_index.shape[1])
    source = GraphDomain().open(data, directed=True)
    batch = source.fetch(source.pretrain_index)
    view = run(GraphAugment(edge_drop=0.5), batch)[0]
    keep = ~view.params["dropped_edges"]
    assert torch.equal(view.x.edge_attr, batch.x.edge_attr[keep])
    assert torch.equal(view.x.edge_weight, batch.x.edge_weight[keep])


def test_feature_columns_are_shared_by_a_graphs_nodes(data_of):
    graphs = [data_of(n=6, features=300, seed=i, degree=2) for i in range(4)]
    for graph in graphs:
        graph.y = None
    source = GraphDomain().open(graphs)
    batch = source.fetch([0, 1, 2, 3])
    view = run(GraphAugment(edge_drop=0.0, feature_drop=0.4), batch)[0]
    zero = view.x.x == 0
    for g in range(4):
        rows = zero[batch.x.batch == g]
        assert torch.equal(rows, rows[:1].expand_as(rows))
        assert abs(rows[0].float().mean() - 0.4) < 0.12
    assert not torch.equal(zero[0], zero[6])
    kept = ~zero
    assert torch.equal(view.x.x[kept], batch.x.x[kept])


def test_feature_cells_and_rows(data_of):
    source = GraphDomain().open(data_of(n=200, features=50))
    batch = source.fetch(source.pretrain_index)
    cells = run(GraphAugment(edge_drop=0.0, feature_drop=0.3, feature_mode="cells"), batch)[0]
    assert abs((cells.x.x == 0).float().mean() - 0.3) < 0.02
    rows = run(GraphAugment(edge_drop=0.0, feature_drop=0.3, feature_mode="rows"), batch)[0]
    gone = (rows.x.x == 0).all(1)
    assert int(gone.sum()) == 60
    assert torch.equal(rows.params["corrupted"][:, 0], gone)
    assert not rows.params["dropped_nodes"].any()


def test_node_drop_is_exact_and_takes_edges_and_features(graph_source):
    batch = graph_source.fetch([2, 5, 11])
    view = run(GraphAugment(**OFF, node_drop=0.3), batch)[0]
    gone = view.params["dropped_nodes"]
    for g, n in enumerate((7, 10, 16)):
        assert int(gone[batch.x.batch == g].sum()) == int(0.3 * n)
    assert not view.x.x[gone].any()
    assert not gone[view.x.edge_index].any()
    assert torch.equal(view.x.kept_nodes, ~gone)
    assert len(view.x.x) == len(batch.x.x)
    inside = ~gone[batch.x.edge_index].any(0)
    assert torch.equal(view.x.edge_index, batch.x.edge_index[:, inside])


def test_dropped_nodes_do_not_reach_the_pooled_vector(graph_source):
    """The same as a graph from which the nodes were taken out by hand."""
    from torch_geometric.data import Data

    batch = graph_source.fetch([11])
    view = run(GraphAugment(**OFF, node_drop=0.4), batch)[0]
    keep = ~view.params["dropped_nodes"]
    new = keep.cumsum(0) - 1
    small = Data(x=batch.x.x[keep], edge_index=new[view.x.edge_index])
    encoder = GIN(graph_source.spec, width=8).eval()
    torch.testing.assert_close(encoder(view.x).pooled, encoder(small).pooled)


@pytest.mark.parametrize("kind", ["ball", "walk"])
def test_subgraph_is_connected_and_of_the_right_size(kind, graph_source):
    import networkx as nx

    batch = graph_source.fetch(list(range(12)))
    views = GraphAugment(**OFF, subgraph=0.4, subgraph_kind=kind, subgraph_steps=30)
    view = run(views, batch)[0]
    kept = ~view.params["dropped_nodes"]
    graph = nx.Graph(batch.x.edge_index.T.tolist())
    for g in range(12):
        nodes = ((batch.x.batch == g) & kept).nonzero().flatten().tolist()
        n = int((batch.x.batch == g).sum())
        whole = graph.subgraph((batch.x.batch == g).nonzero().flatten().tolist())
        size = len(nx.node_connected_component(whole, nodes[0]))
        assert len(nodes) <= min(n - int(0.4 * n), size)
        if kind == "ball":
            assert len(nodes) == min(n - int(0.4 * n), size)
        assert nx.is_connected(graph.subgraph(nodes))


def test_ball_arrival_is_the_distance(node_source):
    import networkx as nx

    x = node_source.fetch(node_source.pretrain_index).x
    start = torch.tensor([4])
    arrival = ball_arrival(Blocks(x, torch.arange(30)), start, hops=3)
    distance = nx.single_source_shortest_path_length(nx.Graph(x.edge_index.T.tolist()), 4)
    assert arrival.tolist() == [min(distance.get(i, 99), 4) for i in range(30)]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 99))
def test_rank_within_is_a_sort_of_each_graph(sizes, seed):
    keys = torch.randint(0, 5, (sum(sizes),), generator=torch.Generator().manual_seed(seed))
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    rank = rank_within(keys, owner, torch.tensor(sizes))
    for g, n in enumerate(sizes):
        mine = keys[owner == g].tolist()
        order = sorted(range(n), key=lambda i: (mine[i], i))
        assert rank[owner == g].tolist() == [order.index(i) for i in range(n)]


EVERYTHING = [
    {"feature_mode": "columns", "node_drop": 0.2},
    {"feature_mode": "cells", "subgraph": 0.3},
    {"feature_mode": "rows", "subgraph": 0.3, "subgraph_kind": "walk"},
    {"edge_drop": 0.2, "feature_drop": 0.2, "node_drop": 0.2, "subgraph": 0.2, "combine": "one"},
]


@pytest.mark.parametrize("options", EVERYTHING)
def test_a_graphs_view_does_not_depend_on_its_batch(options, graph_source):
    views = GraphAugment(**options)
    together, alone = graph_source.fetch([8, 3, 10]), graph_source.fetch([3])
    for a, b in zip(run(views, together, step=4), run(views, alone, step=4)):
        mine = together.x.batch == 1
        assert torch.equal(a.x.x[mine], b.x.x)
        edges = a.x.edge_index[:, mine[a.x.edge_index[0]]] - together.x.ptr[1]
        assert torch.equal(edges, b.x.edge_index)
        assert torch.equal(a.params["corrupted"][1:2], b.params["corrupted"])


def test_a_nodes_view_does_not_depend_on_its_sampled_batch(data):
    source = GraphDomain().open(data, neighbors=[-1])
    views = GraphAugment(node_drop=0.2)
    rows = {}
    for seeds in ([4, 5, 6], [6, 20]):
        batch = source.fetch(seeds)
        view = run(views, batch)[0]
        place = seeds.index(6)
        into = view.x.edge_index[:, view.x.edge_index[1] == place]
        rows[len(seeds)] = (view.x.x[place].tolist(), sorted(batch.x.node_index[into[0]].tolist()))
    assert rows[3] == rows[2]


def test_steps_and_views_differ(node_source):
    batch = node_source.fetch(node_source.pretrain_index)
    views = GraphAugment(edge_drop=0.3, feature_drop=0.3)
    first, second = run(views, batch)
    later = run(views, batch, step=1)[0]
    again = run(views, batch)[0]
    assert not torch.equal(first.x.x, second.x.x)
    assert not torch.equal(first.x.x, later.x.x) or first.x.edge_index.shape != later.x.edge_index.shape
    assert torch.equal(first.x.x, again.x.x)
    assert torch.equal(first.x.edge_index, again.x.edge_index)


def test_combine_one_applies_one_augmentation_a_graph(data_of):
    graphs = [data_of(n=10, seed=i, degree=2) for i in range(60)]
    for graph in graphs:
        graph.y = None
    source = GraphDomain().open(graphs)
    batch = source.fetch(list(range(60)))
    views = GraphAugment(edge_drop=0.4, feature_drop=0.4, node_drop=0.4, feature_mode="rows", combine="one")
    view = run(views, batch)[0]
    owner = batch.x.batch
    count = torch.zeros(3, 60)
    count[0].index_add_(0, owner, view.params["dropped_nodes"].float())
    count[1].index_add_(0, owner, view.params["dropped_features"].float())
    plain = view.params["dropped_edges"] & ~view.params["dropped_nodes"][batch.x.edge_index].any(0)
    count[2].index_add_(0, owner[batch.x.edge_index[0]], plain.float())
    kinds = (count > 0).int()
    assert bool((kinds.sum(0) == 1).all())
    assert bool((kinds.sum(1) >= 8).all())


def test_dropped_edge_share(node_source):
    batch = node_source.fetch([3, 9])
    view = run(GraphAugment(edge_drop=0.5), batch)[0]
    x = batch.x
    for row, node in enumerate((3, 9)):
        into = (x.edge_index[1] == node) & (x.edge_index[0] != node)
        want = view.params["dropped_edges"][into].float().mean()
        torch.testing.assert_close(view.params["dropped_edge_share"][row, 0], want)


def test_predictable_widths():
    assert GraphAugment().target_width("corrupted", None) == 1
    assert GraphCorrupt().target_width("corrupted", None) == 1
    for views in (GraphAugment(), GraphCorrupt()):
        with pytest.raises(KeyError, match="rotation"):
            views.target_width("rotation", None)


def test_corrupted_nodes_carry_other_nodes_features(node_source):
    views = GraphCorrupt(share=0.4)
    views.prepare(node_source)
    batch = node_source.fetch([0, 5, 7, 20])
    (view,) = run(views, batch)
    replaced = view.params["replaced_nodes"]
    assert 4 <= int(replaced.sum()) <= 20
    assert torch.equal(view.x.x[~replaced], batch.x.x[~replaced])
    for row in view.x.x[replaced]:
        assert bool((batch.x.x == row).all(1).any())
    assert torch.equal(view.params["corrupted"][:, 0], replaced[[0, 5, 7, 20]])


def test_corrupt_leaves_half_of_the_graphs_alone(graph_source):
    views = GraphCorrupt()
    views.prepare(graph_source)
    index = torch.arange(12)
    counts = 0
    for step in range(20):
        batch = graph_source.fetch(list(range(12)))
        (view,) = views(Batch(batch.x, index), Draw(0, step, index))
        assert view.params["corrupted"].shape == (12, 1)
        counts += int(view.params["corrupted"].sum())
    assert 60 < counts < 150


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"edge_drop": 1.0}, "edge_drop"),
        ({"feature_drop": (0.1, 0.2, 0.3)}, "feature_drop"),
        ({"node_drop": -0.1}, "node_drop"),
        ({"subgraph_kind": "tree"}, "subgraph_kind"),
        ({"combine": "two"}, "combine"),
        ({"feature_mode": "all"}, "feature_mode"),
    ],
)
def test_wrong_options_are_named(options, word):
    with pytest.raises(ValueError, match=f"views.{word}"):
        GraphAugment(**options)
