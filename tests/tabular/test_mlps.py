"""MLP and ResNet: the papers' formulas, what masks hide, tokens without parameters of their own."""

import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.batch import Mask
from ssl_domains.core.layout import Set
from ssl_domains.core.masking import DisjointSubsets, RandomMask
from ssl_domains.core.random import Draw
from ssl_domains.tabular.mlps import MLP, ResNet
from ssl_domains.tabular.spec import ColumnSpec, TableSpec

B, N = 6, 7


@pytest.fixture
def spec():
    numeric = tuple(ColumnSpec(f"n{j}", "numeric", f"n{j}") for j in range(4))
    categorical = tuple(
        ColumnSpec(f"c{j}", "categorical", f"c{j}", categories=("a", "b"), counts=(0, 0, 5, 5))
        for j in range(3)
    )
    return TableSpec(numeric, categorical)


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    return {
        "numeric": torch.randn(B, 4, generator=generator),
        "categorical": torch.randint(0, 4, (B, 3), generator=generator),
        "missing": torch.zeros(B, 4, dtype=torch.bool),
    }


def small(cls, spec, **options):
    torch.manual_seed(0)
    return cls(spec, **{"width": 16, "depth": 2, "cell_width": 5, **options}).eval()


def changed(x, row, column):
    """A copy with another value in one cell; columns in token order."""
    x = {key: value.clone() for key, value in x.items()}
    if column < 4:
        x["numeric"][row, column] += 1.0
    else:
        x["categorical"][row, column - 4] = (x["categorical"][row, column - 4] + 1) % 4
    return x


def disjoint():
    return DisjointSubsets((0.3, 0.45), (0.2, 0.4), 3)(Set(N), Draw(0, 3, torch.arange(B)))


def test_mlp_by_formula(spec, x):
    net = small(MLP, spec, depth=3)
    h = net.tokens(x).flatten(1)
    for layer in (net.first, *net.layers):
        h = torch.relu(h @ layer.weight.T + layer.bias)
    torch.testing.assert_close(net(x).pooled, h)
    assert len(net(x, layers=True).layers) == 3


def test_resnet_by_formula(spec, x):
    net = small(ResNet, spec)
    with torch.no_grad():  # statistics that are not 0 and 1
        net.train()(x)
        net.eval()

    def norm(layer, h):
        return (h - layer.running_mean) / (layer.running_var + layer.eps).sqrt() * layer.weight + layer.bias

    h = net.first(net.tokens(x).flatten(1))
    for block in net.blocks:
        _norm, first, _, _, second, _ = block.body
        h = h + second(torch.relu(first(norm(_norm, h))))
    torch.testing.assert_close(net(x).pooled, torch.relu(norm(net.norm, h)))
    assert first.out_features == 32
    assert len(net(x, layers=True).layers) == 3


def test_defaults_are_the_authors_package(spec):
    mlp, resnet = MLP(spec), ResNet(spec)
    assert (mlp.width, 1 + len(mlp.layers), mlp.dropout.p) == (384, 2, 0.1)
    body = resnet.blocks[0].body
    assert (resnet.width, len(resnet.blocks), body[1].out_features) == (192, 2, 384)
    assert (body[3].p, body[5].p) == (0.3, 0.0)


@pytest.mark.parametrize("cls", [MLP, ResNet])
def test_token_is_the_row_and_the_columns_share(cls, spec, x):
    net = small(cls, spec)
    out, cells = net(x), net.tokens(x)
    for j in range(N):
        share = cells[:, j] @ net.first.weight[:, 5 * j : 5 * j + 5].T
        torch.testing.assert_close(out.tokens.values[:, j], F.layer_norm(out.pooled + share, (16,)))
    torch.testing.assert_close(out.extra["registers"][:, 0], out.pooled)
    assert out.tokens.values.shape == (B, N, net.width)
    assert net.pooled_width == net.width


@pytest.mark.parametrize("cls", [MLP, ResNet])
@pytest.mark.parametrize("make", [disjoint, lambda: RandomMask(0.5)(Set(N), Draw(0, 0, torch.arange(B)))])
def test_only_the_context_reaches_anything(cls, make, spec, x):
    net, mask = small(cls, spec), make()
    assert not net.drops_hidden
    before = net(x, mask)
    assert before.tokens.values.shape == (B, N, 16)
    for column in range(N):
        after = net(changed(x, 2, column), mask)
        same = torch.equal(after.tokens.values, before.tokens.values)
        assert same == (column not in mask.context[2].tolist())
        assert torch.equal(after.pooled, before.pooled) == same
        assert torch.equal(after.pooled[0], before.pooled[0])


def test_a_mask_may_leave_rows_of_different_length(spec, x):
    net = small(MLP, spec)
    hidden = torch.zeros(B, N, dtype=torch.bool)
    hidden[0, :3] = True
    cells = net.tokens(x)
    cells[0, :3] = net.mask_token[:3]
    torch.testing.assert_close(net(x, Mask(hidden)).pooled, net.encode(cells).pooled)


def test_substitutes_take_the_place_of_hidden_cells(spec, x):
    net = small(MLP, spec)
    hidden = torch.zeros(B, N, dtype=torch.bool)
    hidden[1, 2] = hidden[1, 3] = True
    substitute = torch.full((B, N), -1)
    substitute[1, 2] = 4 * N + 2  # column 2 of row 4
    cells = net.tokens(x)
    cells[1, 2], cells[1, 3] = net.tokens(x)[4, 2], net.mask_token[3]
    got = net(x, Mask(hidden, substitute=substitute)).pooled
    torch.testing.assert_close(got, net.encode(cells).pooled)


@pytest.mark.parametrize("cls", [MLP, ResNet])
def test_predictor_reads_the_context_alone_in_the_order_of_select(cls, spec, x):
    net, mask = small(cls, spec), disjoint()
    predictor = net.predictor(6, width=8, depth=1, heads=2).eval()
    for parameter in predictor.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    encoded = net(x, mask)
    out = predictor(encoded, mask, x)
    assert out.shape == (mask.targets.numel(), 6)
    encoded.tokens.values[mask.hidden] += 100.0  # tokens of hidden columns
    torch.testing.assert_close(predictor(encoded, mask, x), out)
    k, _, n = mask.targets.shape
    flipped = Mask(mask.hidden, mask.context, mask.targets.flip(2))
    torch.testing.assert_close(predictor(encoded, flipped, x).view(k, B, n, 6).flip(2), out.view(k, B, n, 6))


@pytest.mark.parametrize("cls", [MLP, ResNet])
def test_pooled_trains_all_but_the_mask_vectors(cls, spec, x):
    net = small(cls, spec).train()
    x["missing"][0] = True
    (net(x).pooled * torch.randn(B, 16)).sum().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == ["mask_token"]
    net.zero_grad()
    (net(x, disjoint()).tokens.values * torch.randn(B, N, 16)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_refused_options(spec):
    with pytest.raises(ValueError, match=r"encoder.depth"):
        MLP(spec, depth=0)
