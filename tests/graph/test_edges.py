"""Edge columns: categories, scales, times, relations; typed edges through views, sampling and encoders."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from ssl_domains.core.errors import DataError
from ssl_domains.core.random import Draw
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.encoders import GAT, RGCN
from ssl_domains.graph.views import GraphAugment

EDGES = pd.DataFrame(
    {
        "source": ["a", "b", "c", "a", "d", "a"],
        "target": ["b", "c", "a", "b", "a", "c"],
        "kind": ["knows", "knows", "pays", "pays", "pays", "knows"],
        "km": [1.0, 2.0, 3.0, 4.0, 5.0, 3.0],
    }
)


def test_categories_are_one_hot_and_numbers_scaled_and_new_data_follow():
    domain = GraphDomain()
    source = domain.open(edges=EDGES)
    assert source.spec.edge_columns == ("km", "kind=knows", "kind=pays")
    assert source.spec.edge_slices() == {"km": slice(0, 1), "kind": slice(1, 3)}
    assert source.spec.edge_scales[0] == pytest.approx((3.0, np.std([1, 2, 3, 4, 5, 3])))
    spec = domain.spec_from_dict(source.spec.to_dict())
    assert spec == source.spec
    new = EDGES.assign(kind="owes", km=3.0)
    again = domain.embed_source(spec, edges=new)
    assert np.allclose(again.edges.edge_attr, 0.0)  # an unknown category, the mean distance
    with pytest.raises(DataError, match="trained with edge column 'kind', which is missing"):
        domain.embed_source(spec, edges=EDGES.drop(columns="kind"))


def test_relations_of_one_pair_are_no_duplicates():
    source = GraphDomain().open(edges=EDGES, edge_type="kind")
    assert source.spec.relations == ("knows", "pays", "knows (reverse)", "pays (reverse)", "self-loop")
    assert source.edges.n_duplicates == 0
    x = source.fetch([0]).x
    names = [source.spec.relations[k] for k in x.edge_type]
    ids = source.ids(range(4))
    found = {(ids[a], ids[b], name) for (a, b), name in zip(x.edge_index.T.tolist(), names)}
    true = set(zip(EDGES.source, EDGES.target, EDGES.kind))
    assert {f for f in found if "(" not in f[2] and f[2] != "self-loop"} == true
    assert {(b, a, f"{k} (reverse)") for a, b, k in true} <= found
    assert sum(f[2] == "self-loop" for f in found) == 4
    directed = GraphDomain().open(edges=EDGES, edge_type="kind", directed=True, self_loops=False)
    assert directed.spec.relations == ("knows", "pays")
    assert len(directed.fetch([0]).x.edge_type) == len(EDGES)


def test_new_data_number_relations_as_in_training():
    domain = GraphDomain()
    spec = domain.open(edges=EDGES, edge_type="kind").spec
    new = domain.embed_source(spec, edges=EDGES[EDGES.kind == "pays"], edge_type="kind")
    assert set(new.edges.edge_type.tolist()) == {1, 3}
    with pytest.raises(DataError, match="without the relation 'pay'; the nearest is 'pays'"):
        domain.embed_source(spec, edges=EDGES.replace("pays", "pay"), edge_type="kind")
    with pytest.raises(DataError, match=r"trained with relations; name them with data\.edge_type"):
        domain.embed_source(spec, edges=EDGES)


def test_rgcn_tells_relations_apart_and_gat_reads_edge_features():
    source = GraphDomain().open(edges=EDGES, edge_type="kind")
    torch.manual_seed(0)
    encoder = RGCN(source.spec, 8, norm="none", dropout=0.0).eval()
    batch = source.fetch(np.arange(4))
    before = encoder(batch.x).pooled
    swapped = batch.x.clone()
    swapped.edge_type = torch.tensor([1, 0, 3, 2, 4])[batch.x.edge_type]
    assert not torch.allclose(before, encoder(swapped).pooled)
    order = torch.randperm(len(batch.x.edge_type))
    shuffled = batch.x.clone()
    shuffled.edge_index, shuffled.edge_type = batch.x.edge_index[:, order], batch.x.edge_type[order]
    torch.testing.assert_close(before, encoder(shuffled).pooled)
    gat = GAT(source.spec, 8, heads=2).eval()
    other = batch.x.clone()
    other.edge_attr = batch.x.edge_attr + torch.rand_like(batch.x.edge_attr)
    assert not torch.allclose(gat(batch.x).pooled, gat(other).pooled)


def test_rgcn_layer_by_hand():
    """sum over relations of the mean over neighbours of W_r h, plus the root's own weight and a bias."""
    source = GraphDomain().open(edges=EDGES, edge_type="kind", directed=True)
    encoder = RGCN(source.spec, 3, layers=1, norm="none", activation="none", dropout=0.0).eval()
    x = source.fetch(np.arange(4)).x
    conv = encoder.layers[0].conv.conv
    want = x.x @ conv.root + conv.bias
    for relation in range(len(source.spec.relations)):
        for node in range(4):
            into = x.edge_index[0][(x.edge_type == relation) & (x.edge_index[1] == node)]
            if len(into):
                want[node] += x.x[into].mean(0) @ conv.weight[relation]
    torch.testing.assert_close(encoder(x).pooled, want)


def test_views_and_sampling_carry_relations():
    rng = np.random.default_rng(0)
    edges = pd.DataFrame({"u": rng.integers(0, 60, 300), "v": rng.integers(0, 60, 300)})
    edges["kind"] = rng.choice(["a", "b", "c"], 300)
    whole = GraphDomain().open(edges=edges, edge_type="kind")
    true = set(zip(*whole.edges.edge_index.tolist(), whole.edges.edge_type.tolist()))
    sampled = GraphDomain().open(edges=edges, edge_type="kind", neighbors=[3, 3])
    x = sampled.fetch(np.arange(10)).x
    last = len(whole.spec.relations) - 1
    ends = x.node_index[x.edge_index]
    seen = {t for t in zip(*ends.tolist(), x.edge_type.tolist()) if t[2] != last}
    assert seen <= true
    batch = whole.fetch(np.arange(60))
    view = GraphAugment(edge_drop=0.5)(batch, Draw(0, 0, batch.index))[0].x
    assert {t for t in zip(*view.edge_index.tolist(), view.edge_type.tolist()) if t[2] != last} < true


def test_rgcn_without_relations_says_what_to_do(node_source):
    with pytest.raises(ValueError, match=r"data\.edge_type"):
        RGCN(node_source.spec)


def test_times_order_edges_and_are_no_features():
    when = pd.to_datetime(
        ["2020-01-01", "2020-01-03", "2020-01-02", "2021-01-01", "2019-01-01", "2022-01-01"]
    )
    table = EDGES.assign(when=when)
    source = GraphDomain().open(edges=table, edge_time="when")
    assert source.raw.edge_time.tolist() == [18262.0, 18264.0, 18263.0, 18628.0, 17897.0, 18993.0]
    assert "when" not in source.spec.edge_columns
    noted = GraphDomain().open(edges=table)
    assert any("edge column 'when' holds times" in note for note in noted.notes)
    text = GraphDomain().open(edges=EDGES.assign(when=[str(w) for w in when]), edge_time="when")
    assert text.raw.edge_time.tolist() == source.raw.edge_time.tolist()


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (
            EDGES.assign(when="soon"),
            {"edge_time": "when"},
            "row 1 has 'soon', which is no time, in edge column",
        ),
        (EDGES, {"edge_time": "wen"}, "data.edge_time names column 'wen', which is not there"),
        (EDGES, {"edge_type": "kin"}, "data.edge_type names column 'kin', which is not there; the nearest"),
        (EDGES.replace("pays", None), {"edge_type": "kind"}, "row 3 has no relation in edge column 'kind'"),
        (EDGES.assign(km=[1, 2, None, 4, 5, 6]), {}, "row 3 has no number in edge column 'km'"),
        (EDGES.assign(source=["a", None, "c", "a", "d", "a"]), {}, "row 2 has no value in the id column"),
    ],
)
def test_bad_edge_columns(table, options, message):
    with pytest.raises(DataError, match=message):
        GraphDomain().open(edges=table, **options)


def test_an_identifier_is_left_out():
    source = GraphDomain().open(edges=EDGES.assign(ticket=[f"t{i}" for i in range(6)]))
    assert not any(c.startswith("ticket") for c in source.spec.edge_columns)
    assert any("edge column 'ticket' looks like an identifier" in note for note in source.notes)
