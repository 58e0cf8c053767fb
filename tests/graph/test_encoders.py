"""Encoders against torch_geometric and the literal formulas, pooling, masking, sampling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch_geometric.data import Data

from ssl_domains.core.batch import Mask
from ssl_domains.core.layout import Graph
from ssl_domains.core.registry import get
from ssl_domains.graph.domain import GraphDomain
from ssl_domains.graph.encoders import GAT, GCN, GIN, SAGE
from ssl_domains.graph.spec import GraphSpec

ALL = (GAT, GIN, GCN, SAGE)


def whole(source):
    return source.fetch(source.pretrain_index).x


@pytest.mark.parametrize("cls", ALL)
def test_registered(cls):
    assert get("encoder", cls.kind) is cls


def literal_gat_layer(x, edge_index, weight, a_src, a_dst, bias, heads):
    """Velickovic et al., equations 1-5, node by node."""
    n, d = len(x), weight.shape[0] // heads
    h = (x @ weight.T).view(n, heads, d)
    out = torch.zeros(n, heads, d, dtype=x.dtype)
    for i in range(n):
        into = edge_index[0][edge_index[1] == i]
        for k in range(heads):
            e = torch.stack([F.leaky_relu(a_src[k] @ h[j, k] + a_dst[k] @ h[i, k], 0.2) for j in into])
            alpha = torch.exp(e) / torch.exp(e).sum()
            out[i, k] = sum(a * h[j, k] for a, j in zip(alpha, into))
    return out.reshape(n, heads * d) + bias


def test_gat_is_the_literal_formula(node_source):
    x = whole(node_source)
    encoder = GAT(node_source.spec, width=8, layers=1, heads=2, activation="none").double().eval()
    conv = encoder.layers[0].conv.conv
    x.x = x.x.double()
    with torch.no_grad():
        conv.bias.uniform_(-1, 1)
        want = literal_gat_layer(
            x.x, x.edge_index, conv.lin.weight, conv.att_src[0], conv.att_dst[0], conv.bias, heads=2
        )
        torch.testing.assert_close(encoder(x).tokens.values, want)


def test_gin_is_the_literal_formula(node_source):
    """(1 + 0) h + sum of neighbours, then Linear-norm-act-Linear, then norm, act."""
    x = whole(node_source)
    encoder = GIN(node_source.spec, width=8, layers=1).double().eval()
    inner, outer = encoder.layers[0].conv.conv.nn, encoder.layers[0]
    x.x = x.x.double()
    total = x.x.clone()
    for a, b in x.edge_index.T.tolist():
        total[b] += x.x[a]
    want = outer.activation(outer.norm(inner[3](inner[2](inner[1](inner[0](total))))))
    torch.testing.assert_close(encoder(x).tokens.values, want)


@pytest.mark.parametrize("cls", ALL)
def test_two_layers_are_torch_geometrics_stacked(cls, node_source):
    x = whole(node_source)
    encoder = cls(node_source.spec, width=8, layers=2, norm="layer").eval()
    h = x.x
    for layer in encoder.layers:
        h = layer.activation(layer.norm(layer.conv.conv(h, x.edge_index)))
    torch.testing.assert_close(encoder(x).tokens.values, h)


def test_gcn_agrees_with_torch_geometrics_own_self_loops(node_source):
    """The source's one self-loop a node is the one that GCNConv would add itself."""
    from torch_geometric.nn import GCNConv

    x = whole(node_source)
    ours = GCN(node_source.spec, width=8, layers=1, norm="none", activation="none").eval()
    theirs = GCNConv(node_source.spec.features, 8)
    theirs.load_state_dict(ours.layers[0].conv.conv.state_dict())
    loops = x.edge_index[0] == x.edge_index[1]
    torch.testing.assert_close(ours(x).tokens.values, theirs(x.x, x.edge_index[:, ~loops]))


def test_layer_order_norm_then_activation_after_residual(node_source):
    x = whole(node_source)
    encoder = GAT(node_source.spec, width=6, layers=1, heads=1, norm="layer", residual=True).eval()
    layer = encoder.layers[0]
    assert isinstance(layer.skip, torch.nn.Identity)
    want = layer.activation(layer.norm(layer.conv.conv(x.x, x.edge_index) + x.x))
    torch.testing.assert_close(encoder(x).tokens.values, want)


def test_residual_across_widths_has_a_linear_map(node_source):
    encoder = GIN(node_source.spec, width=8, layers=2, residual=True)
    assert isinstance(encoder.layers[0].skip, torch.nn.Linear)
    assert isinstance(encoder.layers[1].skip, torch.nn.Identity)


def test_concat_layers_is_as_wide_as_all_layers(node_source):
    encoder = GAT(node_source.spec, width=8, layers=3, concat_layers=True).eval()
    encoded = encoder(whole(node_source), layers=True)
    assert encoder.width == 24
    torch.testing.assert_close(encoded.tokens.values, torch.cat(encoded.layers, dim=1))


@pytest.mark.parametrize("kind", ["mean", "sum", "max"])
def test_graph_pooling_is_per_graph(kind, graph_source):
    x = graph_source.fetch([3, 0, 7]).x
    encoder = GIN(graph_source.spec, width=8, pooling=kind).eval()
    encoded = encoder(x)
    for g in range(3):
        rows = encoded.tokens.values[x.batch == g]
        want = {"mean": rows.mean(0), "sum": rows.sum(0), "max": rows.max(0).values}[kind]
        torch.testing.assert_close(encoded.pooled[g], want)


@pytest.mark.parametrize("kind", ["mean", "sum", "max"])
def test_pooling_leaves_out_dropped_nodes(kind, graph_source):
    x = graph_source.fetch([0, 1]).x
    x.kept_nodes = torch.arange(len(x.x)) % 2 == 0
    encoder = GIN(graph_source.spec, width=8, pooling=kind).eval()
    encoded = encoder(x)
    rows = encoded.tokens.values[(x.batch == 1) & x.kept_nodes]
    want = {"mean": rows.mean(0), "sum": rows.sum(0), "max": rows.max(0).values}[kind]
    torch.testing.assert_close(encoded.pooled[1], want)


@pytest.mark.parametrize("cls", ALL)
def test_a_graph_alone_or_in_a_batch(cls, graph_source):
    encoder = cls(graph_source.spec, width=8).eval()
    together = encoder(graph_source.fetch([4, 2, 9]).x).pooled
    alone = encoder(graph_source.fetch([2]).x).pooled
    torch.testing.assert_close(together[1:2], alone)


def test_pooled_of_nodes_are_the_seeds_in_order(node_source):
    encoder = GAT(node_source.spec, width=8).eval()
    batch = node_source.fetch([7, 3, 21])
    encoded = encoder(batch.x)
    assert encoded.tokens.values.shape == (30, 8)
    torch.testing.assert_close(encoded.pooled, encoded.tokens.values[[7, 3, 21]])


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), cls=st.sampled_from(ALL))
def test_relabelling_nodes_relabels_the_output(seed, cls):
    torch.manual_seed(seed)
    n = 12
    x, edges = torch.randn(n, 4), torch.randint(0, n, (2, 40))
    edges = torch.cat([edges, torch.arange(n).repeat(2, 1)], dim=1)
    order = torch.randperm(n)
    new = torch.empty(n, dtype=torch.int64)
    new[order] = torch.arange(n)
    encoder = cls(GraphSpec(4), width=8).eval()
    plain = encoder(Data(x=x, edge_index=edges)).tokens.values
    moved = encoder(Data(x=x[order], edge_index=new[edges])).tokens.values
    torch.testing.assert_close(moved, plain[order], atol=1e-5, rtol=1e-4)


def mask_of(n, hidden, substitute=None):
    flags = torch.zeros(n, dtype=torch.bool)
    flags[hidden] = True
    return Mask(flags, substitute=substitute)


def test_masked_features_token_noise_and_untouched(node_source):
    x = whole(node_source)
    encoder = GAT(node_source.spec, width=8)
    assert encoder.mask_token.shape == (1, 6)
    assert bool((encoder.mask_token == 0).all())
    with torch.no_grad():
        encoder.mask_token.fill_(5.0)
    substitute = torch.full((30,), -1)
    substitute[4] = 11
    out = encoder.mask_features(x.x, mask_of(30, [2, 4, 8], substitute))
    assert torch.equal(out[[2, 8]], torch.full((2, 6), 5.0))
    assert torch.equal(out[4], x.x[11])
    rest = [i for i in range(30) if i not in (2, 4, 8)]
    assert torch.equal(out[rest], x.x[rest])


def test_substitute_takes_the_raw_features_of_a_hidden_donor(node_source):
    x = whole(node_source)
    encoder = GAT(node_source.spec, width=8)
    substitute = torch.full((30,), -1)
    substitute[4] = 2  # node 2 is hidden itself; its raw features are what counts
    out = encoder.mask_features(x.x, mask_of(30, [2, 4], substitute))
    assert torch.equal(out[4], x.x[2])


def test_mask_reaches_the_encoder(node_source):
    x = whole(node_source)
    encoder = GAT(node_source.spec, width=8).eval()
    with_mask = encoder(x, mask_of(30, [0, 1])).tokens.values
    changed = Data(x=x.x.clone(), edge_index=x.edge_index)
    changed.x[[0, 1]] = 0.0
    torch.testing.assert_close(with_mask, encoder(changed).tokens.values)
    assert len(with_mask) == 30


def test_edge_drop_only_with_mask_and_in_training(node_source, monkeypatch):
    x = whole(node_source)
    seen = []
    encoder = GAT(node_source.spec, width=8, layers=1, mask_edge_drop=0.5, dropout=0.0, attention_dropout=0.0)
    conv = encoder.layers[0].conv
    plain = conv.forward
    monkeypatch.setattr(conv, "forward", lambda h, e, *rest: (seen.append(e), plain(h, e, *rest))[1])
    mask = mask_of(30, [0])
    encoder.train()
    encoder(x, mask)
    encoder(x)
    encoder.eval()
    encoder(x, mask)
    n_edges = x.edge_index.shape[1]
    assert [e.shape[1] < n_edges for e in seen] == [True, False, False]
    kept = seen[0]
    loops = kept[:, kept[0] == kept[1]]
    assert torch.equal(loops[0].sort().values, torch.arange(30))  # each self-loop stays exactly once
    real = n_edges - 30
    assert 0.3 * real < kept.shape[1] - 30 < 0.7 * real


def test_layout_marks_seeds_of_a_sampled_batch(data):
    source = GraphDomain().open(data, neighbors=[3, 3])
    batch = source.fetch([5, 9])
    layout = GAT(source.spec, width=8).layout(batch.x)
    assert isinstance(layout, Graph)
    assert layout.seeds is not None
    assert layout.seeds.nonzero().flatten().tolist() == [0, 1]
    assert layout.index[:2].tolist() == [5, 9]


def test_layout_without_seeds_when_all_count(node_source):
    assert GAT(node_source.spec, width=8).layout(whole(node_source)).seeds is None


@pytest.mark.parametrize("cls", ALL)
def test_full_fan_out_equals_the_full_graph(cls, data_of):
    data = data_of(n=60, degree=2, seed=3)
    full = GraphDomain().open(data)
    hops = [-1, -1, -1] if cls is GCN else [-1, -1]  # GCN reads the degree of source nodes, too
    sampled = GraphDomain().open(data, neighbors=hops)
    encoder = cls(full.spec, width=8, layers=2).eval()
    seeds = [40, 3, 17]
    assert len(sampled.fetch(seeds).x.x) < 60
    torch.testing.assert_close(encoder(sampled.fetch(seeds).x).pooled, encoder(full.fetch(seeds).x).pooled)


@pytest.mark.parametrize("cls", [GAT, GIN, GCN])
def test_edge_values_matter_and_can_be_ignored(cls, data):
    key = "edge_weight" if cls is GCN else "edge_attr"
    data[key] = torch.rand(data.edge_index.shape[1])
    other = data.clone()
    other[key] = other[key].flip(0)
    sources = [GraphDomain().open(d, directed=True) for d in (data, other)]
    for use in (True, False):
        encoder = cls(sources[0].spec, width=8, edge_features=use).eval()
        a, b = (encoder(whole(s)).pooled for s in sources)
        assert torch.allclose(a, b) is not use


def test_targets_are_the_original_features(node_source):
    x = whole(node_source)
    encoder = GAT(node_source.spec, width=8)
    mask = mask_of(30, [3, 20])
    assert torch.equal(encoder.targets(x).select(mask), x.x[[3, 20]])
    assert encoder.target_width == 6


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"heads": 3}, "heads"),
        ({"norm": "group"}, "norm"),
        ({"activation": "swish"}, "activation"),
        ({"pooling": "median"}, "pooling"),
        ({"layers": 0}, "layers"),
        ({"mask_edge_drop": 1.0}, "mask_edge_drop"),
    ],
)
def test_wrong_options_are_named(options, word):
    with pytest.raises(ValueError, match=f"encoder.{word}"):
        GAT(GraphSpec(4), width=8, **options)


def test_without_torch_geometrics_warning_domain_import_is_light():
    """Importing the domain must not import torch_geometric."""
    import subprocess
    import sys

    code = "import ssl_domains.graph.domain, sys; sys.exit('torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
