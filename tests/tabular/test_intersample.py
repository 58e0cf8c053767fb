"""SAINT's encoder: what rows may say to one another, and that processes do not change it."""

import pytest
import torch

from ssl_domains.core.layout import Set
from ssl_domains.core.masking import RandomMask
from ssl_domains.core.random import Draw
from ssl_domains.core.testing import run_processes
from ssl_domains.tabular.intersample import RowBlock, SAINTTransformer
from ssl_domains.tabular.spec import ColumnSpec, TableSpec

B, N = 6, 5


def make_spec():
    numeric = tuple(ColumnSpec(f"n{j}", "numeric", f"n{j}") for j in range(3))
    two = {"categories": ("a", "b"), "counts": (0, 0, 5, 5)}
    return TableSpec(numeric, tuple(ColumnSpec(f"c{j}", "categorical", f"c{j}", **two) for j in range(2)))


def rows(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        "numeric": torch.randn(B, 3, generator=generator),
        "categorical": torch.randint(2, 4, (B, 2), generator=generator),
        "missing": torch.zeros(B, 3, dtype=torch.bool),
    }


def small(**options):
    torch.manual_seed(0)
    defaults = {"width": 8, "depth": 2, "heads": 2, "ffn": 16, "row_head_width": 4, "pooled": "flatten"}
    net = SAINTTransformer(make_spec(), **{**defaults, **options}).eval()
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return net


def test_row_block_by_formula():
    torch.manual_seed(0)
    block = RowBlock(6, 2, 3, 8, 0.0, 0.0).double().eval()
    x = torch.randn(5, 6, dtype=torch.float64)
    n = torch.nn.functional.layer_norm(x, (6,))
    weights = block.qkv.weight.view(3, 2, 3, 6)
    heads = []
    for h in range(2):
        q, k, v = (n @ weights[i, h].T for i in range(3))
        heads.append(torch.softmax(q @ k.T / 3**0.5, dim=1) @ v)
    y = x + torch.cat(heads, 1) @ block.out.weight.T + block.out.bias
    a, b = block.gate(torch.nn.functional.layer_norm(y, (6,))).chunk(2, 1)
    want = y + block.down(a * torch.nn.functional.gelu(b))
    torch.testing.assert_close(block(x), want)


def test_rows_see_one_another_but_have_no_order():
    net, x = small(), rows()
    out = net(x).pooled
    other = {key: value.clone() for key, value in x.items()}
    other["numeric"][2, 1] += 3.0
    moved = net(other).pooled
    assert (moved[0] - out[0]).abs().max() > 1e-4, "another row changed"
    order = torch.randperm(B, generator=torch.Generator().manual_seed(3))
    shuffled = net({key: value[order] for key, value in x.items()}).pooled
    torch.testing.assert_close(shuffled, out[order])


def test_a_row_alone_attends_to_itself():
    net, x = small(), rows()
    alone = net({key: value[:1] for key, value in x.items()}).pooled
    assert alone.shape == (1, net.pooled_width)
    twice = net({key: value[:1].repeat(2, *[1] * (value.ndim - 1)) for key, value in x.items()}).pooled
    torch.testing.assert_close(twice, alone.repeat(2, 1))


def test_hidden_cells_of_all_rows_reach_nothing():
    net, x = small(), rows()
    mask = RandomMask(0.5)(Set(N), Draw(0, 1, torch.arange(B)))
    out = net(x, mask)
    assert out.tokens.values.shape == (B, mask.context.shape[1], 8)
    other = {key: value.clone() for key, value in x.items()}
    for b in range(B):
        for j in mask.hidden[b].nonzero().flatten().tolist():
            if j < 3:
                other["numeric"][b, j] += 5.0
            else:
                other["categorical"][b, j - 3] = 5 - other["categorical"][b, j - 3]
    torch.testing.assert_close(net(other, mask).pooled, out.pooled)
    other["numeric"] = other["numeric"] + 1.0  # now visible ones as well
    assert (net(other, mask).pooled - out.pooled).abs().max() > 1e-3


def test_every_parameter_gets_gradient():
    net = small(dropout=0.0, row_dropout=0.0).train()
    net(rows()).pooled.square().sum().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # The sum over a layer-normed vector of squares hardly moves; the embeddings of codes 0 and 1 are not met.
    assert without == ["tokens.missing"]


def half(rank, values):
    net = small(dropout=0.0, row_dropout=0.0).double().train()
    share = {key: value.chunk(2)[rank] for key, value in values.items()}
    net(share).pooled.square().mul(torch.arange(net.pooled_width)).mean().backward()
    out = net(share).pooled.detach()
    return out, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("seed", [1])
def test_two_processes_are_one(seed):
    x = {key: value.double() if value.is_floating_point() else value for key, value in rows(seed).items()}
    (first, a), (second, b) = run_processes(half, 2, x)
    net = small(dropout=0.0, row_dropout=0.0).double().train()
    out = net(x).pooled
    torch.testing.assert_close(torch.cat([first, second]), out.detach(), atol=1e-9, rtol=1e-9)
    out.square().mul(torch.arange(net.pooled_width)).mean().backward()
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close((a[name] + b[name]) / 2, parameter.grad, atol=1e-9, rtol=1e-7)
