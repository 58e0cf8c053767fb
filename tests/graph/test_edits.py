"""Copies of graphs at known edit distances."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import Data

from ssl_domains.core.random import Draw
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.edits import GraphEdits
from ssl_domains.graph.encoders import RGCN


def tree_source(n_graphs=10, n_nodes=16, directed=False, attr=False, **options):
    graphs = []
    for i in range(n_graphs):
        tree = nx.random_labeled_tree(n_nodes + i % 5, seed=i)
        edges = torch.tensor(list(tree.edges)).T
        if not directed:
            edges = torch.cat([edges, edges.flip(0)], dim=1)
        extra = {}
        if attr:
            kind = torch.randint(0, 3, (len(tree.edges),), generator=torch.Generator().manual_seed(i))
            one_hot = torch.eye(3)[kind]
            extra["edge_attr"] = one_hot if directed else torch.cat([one_hot, one_hot])
        graphs.append(Data(x=torch.rand(len(tree), 4) + 0.1, edge_index=edges, **extra))
    return GraphDomain().open(graphs, directed=directed, **options)


def edges_of(x, graph, directed=False):
    """Edges of one graph; fails on duplicates, and on a missing reverse."""
    mine = x.edge_index[:, x.batch[x.edge_index[0]] == graph].T.tolist()
    assert len({tuple(e) for e in mine}) == len(mine)
    loops = [e for e in mine if e[0] == e[1]]
    assert len(loops) == int((x.batch == graph).sum())  # one a node, as the source gives them
    stored = {tuple(e) for e in mine if e[0] != e[1]}
    if directed:
        return stored
    assert all((v, u) in stored for u, v in stored)
    return {tuple(sorted(e)) for e in stored}


def views_of(source, rows=range(10), step=0, **options):
    views = GraphEdits(source.spec, **options)
    views.prepare(source)
    batch = source.fetch(np.asarray(rows))
    return views(batch, Draw(0, step, batch.index)), batch


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("hops", [2, None])
def test_the_recorded_distance_is_the_number_of_edges_that_differ(directed, hops):
    source = tree_source(directed=directed)
    made, batch = views_of(source, hops=hops)
    assert [v.role for v in made] == ["original", "edited", "edited", "edited", "strong"]
    assert torch.equal(made[0].x.edge_index, batch.x.edge_index)
    for graph in range(10):
        base = edges_of(made[0].x, graph, directed)
        assert float(made[0].params["distance"][graph]) == 0
        for view in made[1:]:
            mine = edges_of(view.x, graph, directed)
            distance = float(view.params["distance"][graph])
            assert len(base ^ mine) == distance
            assert len(base) == len(mine)
            assert len(base - mine) == distance / 2


def test_strengths_are_those_of_the_paper():
    source = tree_source()
    made, _ = views_of(source, hops=None)
    n_edges = [len(edges_of(made[0].x, g)) for g in range(10)]
    for i, rate in ((1, 0.2), (2, 0.4), (3, 0.6), (4, 0.8)):
        wanted = [2 * max(1, int(n * rate + 1e-9)) for n in n_edges]
        assert made[i].params["distance"].tolist() == wanted
    distances = torch.stack([v.params["distance"] for v in made[1:4]])
    assert (distances.diff(dim=0) >= 0).all()


def test_edits_stay_in_one_region():
    source = tree_source(n_nodes=60)
    made, batch = views_of(source, hops=1, mask=0.9)
    for graph in range(10):
        base = edges_of(made[0].x, graph)
        touched = set()
        for view in made[1:4]:
            touched |= {node for edge in base ^ edges_of(view.x, graph) for node in edge}
            touched |= set(
                torch.nonzero(view.params["hidden_nodes"] & (batch.x.batch == graph)).flatten().tolist()
            )
        tree = nx.Graph(list(base))
        assert any(touched <= {c, *tree[c]} for c in tree)  # a star: one center for all copies


def test_hidden_nodes_are_as_many_in_every_view_and_others():
    source = tree_source(n_nodes=30)
    made, batch = views_of(source, hops=2)
    hidden = torch.stack([v.params["hidden_nodes"] for v in made])
    counts = torch.zeros(len(made), 10, dtype=torch.long).index_add(1, batch.x.batch, hidden.long())
    assert (counts == counts[0]).all()
    assert (counts > 0).all()
    assert all((hidden[i] != hidden[j]).any() for i in range(len(made)) for j in range(i))
    for view in made:
        assert (view.x.x[view.params["hidden_nodes"]] == 0).all()
        kept = ~view.params["hidden_nodes"]
        assert torch.equal(view.x.x[kept], batch.x.x[kept])


def test_copies_of_a_graph_do_not_depend_on_its_batch():
    source = tree_source(attr=True)
    together, batch = views_of(source)
    (alone, _) = views_of(source, rows=[6])
    first = int(batch.x.ptr[6])
    for a, b in zip(alone, together, strict=True):
        mine = b.x.batch[b.x.edge_index[0]] == 6
        ours, others = a.x.edge_index + first, b.x.edge_index[:, mine]
        order, other = (e[0].mul(10_000).add(e[1]).argsort() for e in (ours, others))
        assert torch.equal(ours[:, order], others[:, other])
        assert torch.equal(a.x.edge_attr[order], b.x.edge_attr[mine][other])
        assert float(a.params["distance"]) == float(b.params["distance"][6])


def test_steps_differ():
    source = tree_source()
    first, second = (views_of(source, step=s)[0][2].x.edge_index for s in (0, 1))
    assert not torch.equal(first, second)


def test_added_edges_have_features_of_the_data_and_directions_agree():
    source = tree_source(attr=True, self_loops=False)
    views = GraphEdits(source.spec, hops=None)
    views.prepare(source)
    views.banks["edge_attr"] = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])  # to tell new from old
    batch = source.fetch(np.arange(10))
    made = views(batch, Draw(0, 0, batch.index))
    for view in made[1:]:
        attr = {tuple(e): a.tolist() for e, a in zip(view.x.edge_index.T.tolist(), view.x.edge_attr)}
        assert all(attr[u, v] == attr[v, u] for u, v in attr)
        fresh = sum(max(a) == 9 for a in attr.values())
        assert fresh == float(view.params["distance"].sum())  # both directions of half the distance


def test_features_of_added_edges_follow_the_data():
    source = tree_source(n_graphs=120, attr=True, self_loops=False)
    views = GraphEdits(source.spec, hops=None)
    views.prepare(source)
    batch = source.fetch(np.arange(120))
    strong = views(batch, Draw(0, 0, batch.index))[-1]
    share = np.asarray(source.edges.edge_attr).mean(0)
    assert np.abs(strong.x.edge_attr.mean(0).numpy() - share).max() < 0.06


@pytest.mark.parametrize("prepared", [True, False])
def test_added_edges_have_a_relation_one_way_and_its_reverse_the_other(prepared, tmp_path):
    rng, nodes, edges = np.random.default_rng(0), [], []
    for g in range(8):
        tree = nx.random_labeled_tree(12, seed=g)
        nodes += [{"id": f"{g}-{n}", "graph": g, "size": rng.random()} for n in tree]
        edges += [
            {"source": f"{g}-{a}", "target": f"{g}-{b}", "how": "near" if (a + b) % 3 else "far"}
            for a, b in tree.edges
        ]
    pd.DataFrame(nodes).to_csv(tmp_path / "nodes.csv", index=False)
    pd.DataFrame(edges).to_csv(tmp_path / "edges.csv", index=False)
    source = GraphDomain().open(
        nodes=str(tmp_path / "nodes.csv"), edges=str(tmp_path / "edges.csv"), graph="graph", edge_type="how"
    )
    assert set(source.spec.relation_names) == {"far", "near"}
    views = GraphEdits(source.spec, hops=None, mask=0.0, strength=0.2)
    if prepared:
        views.prepare(source)
    batch = source.fetch(np.arange(8))
    encoder = RGCN(source.spec, width=8)
    for view in views(batch, Draw(0, 0, batch.index)):
        kind = {tuple(e): int(t) for e, t in zip(view.x.edge_index.T.tolist(), view.x.edge_type)}
        assert len(kind) == view.x.edge_index.shape[1] == len(view.x.edge_type)
        for (a, b), t in kind.items():
            assert t == 4 if a == b else (t < 4 and kind[b, a] == (t + 2) % 4)
        assert torch.isfinite(encoder(view.x).pooled).all()


def test_positional_encodings_are_refused():
    source = tree_source(random_walk=3)
    with pytest.raises(ValueError, match="positional encodings"):
        GraphEdits(source.spec)


def test_self_loops_have_the_mean_of_the_edges_of_each_copy():
    source = tree_source(attr=True)
    made, _ = views_of(source, hops=None)
    for view in made:
        ends, attr = view.x.edge_index, view.x.edge_attr
        loops = ends[0] == ends[1]
        for node in range(0, len(view.x.x), 7):
            mine = attr[~loops & (ends[1] == node)]
            wanted = mine.mean(0) if len(mine) else torch.zeros(3)
            assert torch.allclose(attr[loops & (ends[1] == node)][0], wanted, atol=1e-6)


def test_degrees_as_features_follow_the_edits():
    graphs = [Data(edge_index=torch.tensor(list(nx.cycle_graph(8).edges)).T, num_nodes=8) for _ in range(3)]
    source = GraphDomain().open(graphs)
    assert source.spec.degree_cap is not None
    made, _ = views_of(source, rows=range(3), hops=None, mask=0.0)
    for view in made:
        ends = view.x.edge_index
        degree = torch.bincount(ends[1][ends[0] != ends[1]], minlength=24).clamp_max(source.spec.degree_cap)
        assert torch.equal(view.x.x.argmax(1), degree)


def test_molecules(tmp_path):
    pytest.importorskip("rdkit")
    (tmp_path / "few.smi").write_text("CC(=O)Oc1ccccc1C(=O)O a\nCN1C=NC2=C1C(=O)N(C(=O)N2C)C b\nC c\nCCO d\n")
    source = GraphDomain().open(str(tmp_path / "few.smi"), atoms=["element"], bonds=["type"])
    made, _ = views_of(source, rows=range(4))
    for view in made[1:]:
        base, mine = (edges_of(v.x, 0) for v in (made[0], view))
        assert len(base ^ mine) == float(view.params["distance"][0]) > 0
        assert float(view.params["distance"][2]) == 0  # methane: one atom
        loops = view.x.edge_index[0] == view.x.edge_index[1]
        assert (view.x.edge_attr[~loops].sum(1) == 1).all()  # every bond has one type


def test_dense_and_empty_graphs_get_what_is_possible():
    def complete(n):
        return torch.tensor([[i, j] for i in range(n) for j in range(n) if i != j]).T

    empty = torch.empty(2, 0, dtype=torch.long)
    graphs = [
        Data(x=torch.rand(5, 2), edge_index=complete(5)),
        Data(x=torch.rand(2, 2), edge_index=complete(2)),
    ]
    graphs += [Data(x=torch.rand(3, 2), edge_index=empty), Data(x=torch.rand(1, 2), edge_index=empty)]
    lonely = Data(x=torch.rand(9, 2), edge_index=torch.tensor([[7, 8], [8, 7]]))
    source = GraphDomain().open([*graphs, lonely])
    made, _ = views_of(source, rows=range(5))
    for view in made[1:]:
        for graph in range(5):
            difference = edges_of(view.x, graph) ^ edges_of(made[0].x, graph)
            assert len(difference) == float(view.params["distance"][graph])
    assert [v.params["distance"].tolist() for v in made[1:4]] == [
        [2, 1, 0, 0, 1],
        [4, 1, 0, 0, 1],
        [6, 1, 0, 0, 1],
    ]
    for view in views_of(source, rows=[3])[0]:  # nothing but one node
        assert view.x.edge_index.tolist() == [[0], [0]]
    assert float(made[-1].params["distance"][4]) == 2  # all over the graph there is room for another edge


def test_networkx_never_needs_more_edits():
    source = tree_source(n_graphs=4, n_nodes=5)
    made, _ = views_of(source, rows=range(4), hops=None, strength=0.25, strong=False)
    for graph in range(2):
        base = nx.Graph(list(edges_of(made[0].x, graph)))
        for view in made[1:]:
            other = nx.Graph(list(edges_of(view.x, graph)))
            other.add_nodes_from(base)
            assert nx.graph_edit_distance(base, other) <= float(view.params["distance"][graph])


@pytest.mark.parametrize(
    "options",
    [{"strength": 0.0}, {"strength": 0.4}, {"copies": 0}, {"mask": 1.0}, {"hops": 0}, {"copies": 30}],
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match="views"):
        GraphEdits(tree_source(2).spec, **options)


def test_one_graph_is_refused(node_source):
    with pytest.raises(ValueError, match=r"data\.graph"):
        GraphEdits(node_source.spec)
