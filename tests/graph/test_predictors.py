"""GraphMAE's decoder: re-masking, locality of gradients, edgeless graphs, disjoint graphs."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch_geometric.data import Data

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.masking import RandomMask
from ssl_domains.core.random import Draw
from ssl_domains.graph.encoders import GAT, GIN
from ssl_domains.graph.spec import GraphSpec

GNN = ("gat", "gin", "gcn", "sage")


def sce(prediction, target, gamma=3):
    """Scaled cosine error, GraphMAE equation 2, literally."""
    return ((1 - F.cosine_similarity(prediction, target, dim=1)) ** gamma).mean()


def ring(n=12, features=5, seed=0):
    torch.manual_seed(seed)
    a = torch.arange(n)
    b = (a + 1) % n
    edges = torch.cat([torch.stack([a, b]), torch.stack([b, a]), torch.stack([a, a])], dim=1)
    return Data(x=torch.randn(n, features), edge_index=edges)


def hide(n, nodes):
    hidden = torch.zeros(n, dtype=torch.bool)
    hidden[nodes] = True
    return Mask(hidden)


def with_noise(encoded, rows):
    values = encoded.tokens.values.clone()
    values[rows] += torch.randn_like(values[rows])
    return Encoded(Tokens(values, segment=encoded.tokens.segment), encoded.pooled)


def predict(kind, x, mask, remask=True, noise=False, cls=GAT):
    torch.manual_seed(1)
    encoder = cls(GraphSpec(x.x.shape[1]), width=8).eval()
    predictor = encoder.predictor(encoder.target_width, kind=kind, remask=remask).eval()
    encoded = encoder(x, mask)
    if noise:
        encoded = with_noise(encoded, mask.hidden)
    return predictor(encoded, mask, x)


@pytest.mark.parametrize("kind", GNN)
def test_remask_makes_the_prediction_independent_of_hidden_rows(kind):
    x, mask = ring(), hide(12, [0, 1, 5])
    assert torch.equal(predict(kind, x, mask), predict(kind, x, mask, noise=True))


@pytest.mark.parametrize("kind", GNN)
def test_without_remask_it_depends_on_them(kind):
    x, mask = ring(), hide(12, [0, 1, 5])
    clean, noisy = predict(kind, x, mask, remask=False), predict(kind, x, mask, remask=False, noise=True)
    assert not torch.allclose(clean, noisy)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_linear_and_mlp_are_never_remasked(kind):
    x, mask = ring(), hide(12, [0, 1, 5])
    assert not torch.allclose(predict(kind, x, mask), predict(kind, x, mask, noise=True))


@pytest.mark.parametrize("kind", GNN)
def test_edgeless_graph_predicts_one_row_for_all(kind):
    """Only self-loops: after re-masking nothing but biases survives, so nothing can leak."""
    x = ring()
    x.edge_index = torch.arange(12).repeat(2, 1)
    out = predict(kind, x, hide(12, [1, 4, 9]))
    torch.testing.assert_close(out, out[:1].expand_as(out))


def test_neighbours_are_seen():
    x = ring()
    out = predict("gat", x, hide(12, [1, 4, 9]))
    assert not torch.allclose(out, out[:1].expand_as(out))


def test_projection_has_no_bias_and_decoder_no_norm_activation_residual():
    predictor = GAT(GraphSpec(5), width=8).predictor(5)
    assert predictor.project.bias is None
    conv = predictor.decode.conv
    assert conv.heads == 1
    assert conv.res is None
    assert [type(m).__name__ for m in predictor.children()] == ["Linear", "Dropout", "MessagePassing"]


def test_prediction_is_project_remask_conv_select():
    x, mask = ring(), hide(12, [0, 3])
    encoder = GAT(GraphSpec(5), width=8).eval()
    predictor = encoder.predictor(5).eval()
    encoded = encoder(x, mask)
    h = encoded.tokens.values @ predictor.project.weight.T
    h[[0, 3]] = 0
    want = predictor.decode.conv(h, x.edge_index)[[0, 3]]
    torch.testing.assert_close(predictor(encoded, mask, x), want)


@pytest.mark.parametrize("cls", [GAT, GIN])
def test_gradient_is_local(cls):
    """No gradient at a visible node further than L_enc + 1 hops from each hidden node; some nearer,
    none at hidden nodes' own features, some at the mask token."""
    x, mask = ring(n=20), hide(20, [0])
    x.x.requires_grad_()
    encoder = cls(GraphSpec(5), width=8, layers=2).eval()
    predictor = encoder.predictor(5).eval()
    sce(predictor(encoder(x, mask), mask, x), x.x.detach()[mask.hidden]).backward()
    reach = x.x.grad.abs().sum(1)
    far = [i for i in range(20) if min(i, 20 - i) > 3]
    assert bool((reach[far] == 0).all())
    assert bool((reach[[1, 2, 3, 17, 18, 19]] > 0).all())
    assert reach[0] == 0
    assert encoder.mask_token.grad.abs().sum() > 0


@pytest.mark.parametrize("remask", [True, False])
def test_which_parameters_learn(remask, data_of):
    """All; but the decoder's attention to the target multiplies that target's own row, which
    re-masking has set to zero wherever the loss looks."""
    x, mask = data_of(n=60, features=5), hide(60, list(range(20)))
    encoder = GAT(GraphSpec(5), width=8)
    predictor = encoder.predictor(5, remask=remask)
    sce(predictor(encoder(x, mask), mask, x), x.x[mask.hidden]).backward()
    named = [*encoder.named_parameters(), *predictor.named_parameters()]
    still = [name for name, p in named if p.grad is None or p.grad.abs().sum() == 0]
    assert still == (["decode.conv.att_dst"] if remask else [])


def test_relabelling_leaves_the_loss():
    x, mask = ring(), hide(12, [0, 1, 5])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    new = torch.empty(12, dtype=torch.int64)
    new[order] = torch.arange(12)
    moved = Data(x=x.x[order], edge_index=new[x.edge_index])
    moved_mask = Mask(mask.hidden[order])
    a = sce(predict("gat", x, mask), x.x[mask.hidden])
    b = sce(predict("gat", moved, moved_mask), moved.x[moved_mask.hidden])
    torch.testing.assert_close(a, b)


def test_two_disjoint_graphs_give_the_weighted_mean():
    one, two = ring(12, seed=1), ring(8, seed=2)
    first, second = hide(12, [0, 4, 5]), hide(8, [2])
    both = Data(
        x=torch.cat([one.x, two.x]), edge_index=torch.cat([one.edge_index, two.edge_index + 12], dim=1)
    )
    mask = Mask(torch.cat([first.hidden, second.hidden]))
    joined = sce(predict("gat", both, mask), both.x[mask.hidden])
    parts = [sce(predict("gat", g, m), g.x[m.hidden]) for g, m in ((one, first), (two, second))]
    torch.testing.assert_close(joined, (3 * parts[0] + 1 * parts[1]) / 4)


def test_exact_count_token_rows_and_untouched_rows(data_of):
    """int(p n) hidden; int((1 - r) n) rows equal the token; the others are the input bit for bit."""
    from ssl_domains.graph.domain import GraphDomain

    source = GraphDomain().open(data_of(n=101))
    x = source.fetch(source.pretrain_index).x
    encoder = GAT(source.spec, width=8)
    with torch.no_grad():
        encoder.mask_token.fill_(7.0)
    mask = RandomMask(ratio=0.5, noise=0.1)(encoder.layout(x), Draw(3, 5, torch.arange(101)))
    out = encoder.mask_features(x.x, mask)
    assert int(mask.hidden.sum()) == 50
    assert int((out == 7.0).all(1).sum()) == 45
    assert torch.equal(out[~mask.hidden], x.x[~mask.hidden])


def test_hidden_nodes_are_seeds_in_a_sampled_batch(data):
    from ssl_domains.graph.domain import GraphDomain

    source = GraphDomain().open(data, neighbors=[4, 4])
    batch = source.fetch([3, 4, 5, 6])
    encoder = GAT(source.spec, width=8)
    mask = RandomMask(ratio=0.5)(encoder.layout(batch.x), Draw(0, 0, batch.index))
    assert mask.hidden.nonzero().flatten().max() < 4
    assert int(mask.hidden.sum()) == 2
    assert encoder.predictor(6)(encoder(batch.x, mask), mask, batch.x).shape == (2, 6)


def test_unknown_kind_is_named():
    with pytest.raises(ValueError, match=r"predictor\.kind"):
        GAT(GraphSpec(5), width=8).predictor(5, kind="rnn")
