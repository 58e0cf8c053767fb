"""FT-Transformer and its predictor: what may reach what, and in which order rows come."""

import pytest
import torch

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Set
from ssl_domains.core.masking import DisjointSubsets, RandomMask
from ssl_domains.core.random import Draw
from ssl_domains.tabular.encoders import FTTransformer
from ssl_domains.tabular.predictors import ColumnPredictor
from ssl_domains.tabular.spec import ColumnSpec, TableSpec

B = 5


@pytest.fixture
def spec():
    numeric = tuple(ColumnSpec(f"n{j}", "numeric", f"n{j}") for j in range(4))
    categorical = tuple(
        ColumnSpec(
            f"c{j}", "categorical", f"c{j}", categories=("a", "b", "c")[: j + 1], counts=(0, 0, 5, 5, 5)
        )
        for j in range(3)
    )
    return TableSpec(numeric, categorical)


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    return {
        "numeric": torch.randn(B, 4, generator=generator),
        "categorical": torch.randint(0, 3, (B, 3), generator=generator),
        "missing": torch.zeros(B, 4, dtype=torch.bool),
    }


def small(spec, **options):
    torch.manual_seed(0)
    options = {"width": 16, "depth": 2, "heads": 2, "ffn": 16, **options}
    net = FTTransformer(spec, **options)
    # Weights of std .02 leave the trunk nearly linear; larger ones make leaks visible.
    for parameter in net.trunk.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def changed(x, row, column):
    """A copy with another value in one cell; columns in token order."""
    x = {key: value.clone() for key, value in x.items()}
    if column < 4:
        x["numeric"][row, column] += 1.0
    else:
        x["categorical"][row, column - 4] = (x["categorical"][row, column - 4] + 1) % 3
    return x


def disjoint(n=7, sets=4):
    return DisjointSubsets((0.3, 0.45), (0.2, 0.4), sets)(Set(n), Draw(0, 3, torch.arange(B)))


def test_tokeniser_by_formula(spec, x):
    net = small(spec)
    x["missing"][1, 2] = True
    tokens = net.tokens(x)
    table, offsets = net.tokens.embedding.weight, [0, 3, 7]
    for b in range(B):
        for j in range(4):
            value = net.tokens.missing[j] if (b, j) == (1, 2) else x["numeric"][b, j] * net.tokens.weight[j]
            torch.testing.assert_close(tokens[b, j], value + net.tokens.bias[j])
        for j in range(3):
            value = table[offsets[j] + x["categorical"][b, j]]
            torch.testing.assert_close(tokens[b, 4 + j], value + net.tokens.bias[4 + j])


def test_missing_number_hides_its_value(spec, x):
    net = small(spec)
    x["missing"][0, 1] = True
    torch.testing.assert_close(net(x).pooled, net(changed(x, 0, 1)).pooled)


def test_unseen_category_starts_neutral(spec):
    embedding = small(spec).tokens.embedding.weight
    assert all(not embedding[offset + 1].any() for offset in (0, 3, 7))
    assert embedding[2].any()


@pytest.mark.parametrize("pooled", ["mean", "cls", "flatten"])
@pytest.mark.parametrize("registers", [1, 2])
def test_shapes_and_order(spec, x, pooled, registers):
    net = small(spec, pooled=pooled, registers=registers)
    out = net(x, layers=True)
    assert out.tokens.values.shape == (B, 7, 16)
    assert out.pooled.shape == (B, net.pooled_width)
    assert out.extra["registers"].shape == (B, registers, 16)
    assert [tuple(state.shape) for state in out.layers] == [(B, 7, 16)] * 3
    torch.testing.assert_close(out.layers[-1], out.tokens.values)
    want = {
        "mean": out.tokens.values.mean(1),
        "cls": out.extra["registers"][:, 0],
        "flatten": torch.cat([out.extra["registers"], out.tokens.values], 1).flatten(1),
    }[pooled]
    torch.testing.assert_close(out.pooled, want)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_only_the_context_reaches_the_tokens(spec, x, norm):
    net, mask = small(spec, norm=norm), disjoint()
    before = net(x, mask).tokens.values
    for column in range(7):
        other = changed(x, 2, column)
        same = torch.equal(net(other, mask).tokens.values, before)
        assert same == (column not in mask.context[2].tolist())
        assert not torch.allclose(net(other).tokens.values[2], net(x).tokens.values[2], atol=1e-6)
        torch.testing.assert_close(net(other).tokens.values[0], net(x).tokens.values[0])


def test_context_equals_encoding_the_subset(spec, x):
    """Dropping tokens before the blocks, by hand for one row."""
    net, mask = small(spec), disjoint()
    row, context = 3, mask.context[3]
    axis = net._axis(net.tokens(x))[row : row + 1, torch.cat([torch.tensor([0]), context + 1])]
    want = net.trunk(axis)[-1][0, 1:]
    torch.testing.assert_close(net(x, mask).tokens.values[row], want)
    flat = small(spec, pooled="flatten")(x, mask).pooled.view(B, 8, 16)
    hidden = [j for j in range(7) if j not in context.tolist()]
    assert not flat[row, [j + 1 for j in hidden]].any()
    torch.testing.assert_close(flat[row, context + 1], want)


def test_maskable_register_is_the_released_index_behaviour(spec, x):
    net = small(spec, maskable_register=True)
    axis_out = net.trunk(net._axis(net.tokens(x)))[-1]
    torch.testing.assert_close(net(x).tokens.values, axis_out[:, :7])  # [REG], columns 0..5
    mask = disjoint()
    seen = net(x, mask).tokens.values
    for column in range(7):
        same = torch.equal(net(changed(x, 2, column), mask).tokens.values, seen)
        assert same == (column + 1 not in mask.context[2].tolist())


def test_targets(spec, x):
    net = small(spec)
    x["missing"][0, 1] = True
    values = net.targets(x).values
    assert values.shape == (B, 7, 2)
    assert values.dtype == torch.float32
    assert torch.isnan(values[0, 1, 0])
    torch.testing.assert_close(values[1:, :4, 0], x["numeric"][1:])
    torch.testing.assert_close(values[:, 4:, 0], x["categorical"].float())
    torch.testing.assert_close(values[..., 1], torch.arange(7.0).expand(B, -1))


def predictor_of(net, **options):
    torch.manual_seed(2)
    predictor = net.predictor(6, width=8, depth=2, heads=2, **options).eval()
    for parameter in predictor.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return predictor


def test_predictor_rows_are_stacked_by_set(spec, x):
    net, mask = small(spec), disjoint()
    predictor = predictor_of(net)
    encoded = net(x, mask)
    k, _, n = mask.targets.shape
    out = predictor(encoded, mask, x).view(k, B, n, 6)
    alone = Mask(mask.hidden[2:3], mask.context[2:3], mask.targets[1:2, 2:3])
    one = predictor(Encoded(Tokens(encoded.tokens.values[2:3]), encoded.pooled[2:3]), alone, None)
    torch.testing.assert_close(one, out[1, 2])
    # the same order as the teacher's tokens
    teacher = Tokens(torch.arange(B * 7.0).view(B, 7, 1))
    rows = teacher.select(mask).view(k, B, n)
    assert rows[1, 2].tolist() == [2 * 7 + j for j in mask.targets[1, 2].tolist()]


def test_predictor_follows_the_order_of_targets_and_their_positions(spec, x):
    net, mask = small(spec), disjoint()
    predictor = predictor_of(net)
    encoded = net(x, mask)
    k, _, n = mask.targets.shape
    out = predictor(encoded, mask, x).view(k, B, n, 6)
    flipped = Mask(mask.hidden, mask.context, mask.targets.flip(2))
    torch.testing.assert_close(predictor(encoded, flipped, x).view(k, B, n, 6).flip(2), out)
    assert not torch.allclose(out[:, :, 0], out[:, :, 1], atol=1e-4)


def test_without_positions_targets_are_alike(spec, x):
    net, mask = small(spec), disjoint()
    predictor = predictor_of(net, positions="none")
    out = predictor(net(x, mask), mask, x).view(4, B, -1, 6)
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out))


def test_context_position_matters(spec, x):
    net, mask = small(spec), disjoint()
    predictor = predictor_of(net)
    encoded = net(x, mask)
    moved = Mask(mask.hidden, mask.context.flip(1), mask.targets)
    assert not torch.allclose(predictor(encoded, mask, x), predictor(encoded, moved, x), atol=1e-4)


def test_registers_can_be_shown_to_the_predictor(spec, x):
    net, mask = small(spec), disjoint()
    encoded = net(x, mask)
    other = Encoded(encoded.tokens, encoded.pooled, extra={"registers": encoded.extra["registers"] + 1.0})
    hidden, shown = predictor_of(net), predictor_of(net, registers=True)
    assert torch.equal(hidden(encoded, mask, x), hidden(other, mask, x))
    assert not torch.allclose(shown(encoded, mask, x), shown(other, mask, x))


def test_predictor_with_a_plain_mask(spec, x):
    net = small(spec)
    mask = RandomMask(0.5)(Set(7), Draw(0, 0, torch.arange(B)))
    predictor = predictor_of(net)
    out = predictor(net(x, mask), mask, x)
    chosen = Tokens(torch.arange(7.0).expand(B, 7).unsqueeze(-1)).select(mask).view(1, B, -1).long()
    explicit = Mask(mask.hidden, mask.context, chosen)
    torch.testing.assert_close(out, predictor(net(x, mask), explicit, x))


def test_gradient_reaches_every_parameter(spec, x):
    net, mask = small(spec), disjoint()
    x["missing"][0] = True
    predictor = predictor_of(net)
    # a squared loss: the sum after a layer norm is constant and would give no gradient
    (predictor(net(x, mask), mask, x).square().sum() + net(x).tokens.values[..., 0].sum()).backward()
    for name, parameter in [*net.named_parameters(), *predictor.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_tables_of_one_kind_only(spec, x):
    for part in (TableSpec(spec.numeric, ()), TableSpec((), spec.categorical)):
        n_num, n_cat = len(part.numeric), len(part.categorical)
        net = small(part)
        some = {
            "numeric": x["numeric"][:, :n_num],
            "missing": x["missing"][:, :n_num],
            "categorical": x["categorical"][:, :n_cat],
        }
        assert net(some).tokens.values.shape == (B, n_num + n_cat, 16)


def test_defaults_are_the_released_run(spec):
    net = FTTransformer(spec)
    assert (net.width, len(net.trunk.transformer.blocks), net.n_registers) == (64, 16, 1)
    block = net.trunk.transformer.blocks[0]
    assert (block.attention.heads, block.ffn[0].out_features, block.pre) == (2, 64, False)
    assert block.drop.p == 0.0019
    predictor = net.predictor(64)
    assert isinstance(predictor, ColumnPredictor)
    assert (predictor.width, len(predictor.trunk.transformer.blocks)) == (16, 16)


def test_refused_options(spec):
    with pytest.raises(ValueError, match="registers"):
        FTTransformer(spec, registers=0, pooled="cls")
    with pytest.raises(ValueError, match="maskable_register"):
        FTTransformer(spec, pooled="cls", maskable_register=True)
