"""Blocks against PyTorch's own layers; positions against the literal formula."""

import math

import pytest
import torch
from torch import nn

from ssl_domains.core.parts.transformer import (
    Attention,
    Transformer,
    TransformerBlock,
    init_truncated_normal,
    sincos,
)


def reference(block: TransformerBlock, norm: str, activation: str) -> nn.TransformerEncoderLayer:
    """PyTorch's layer with the same weights."""
    width, ffn = block.ffn[0].in_features, block.ffn[0].out_features
    layer = nn.TransformerEncoderLayer(
        width, block.attention.heads, ffn, 0.0, activation, batch_first=True, norm_first=norm == "pre"
    ).double()
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
        layer.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
        layer.self_attn.out_proj.load_state_dict(block.attention.out.state_dict())
        layer.linear1.load_state_dict(block.ffn[0].state_dict())
        layer.linear2.load_state_dict(block.ffn[3].state_dict())
        layer.norm1.load_state_dict(block.norm1.state_dict())
        layer.norm2.load_state_dict(block.norm2.state_dict())
    return layer


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("padded", [False, True])
def test_block_equals_pytorch(norm, activation, padded):
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 12, 0.0, norm, activation).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    if padded:
        padding[1, 3:] = True
    layer = reference(block, norm, activation)
    got = block(x, padding if padded else None)
    want = layer(x, src_key_padding_mask=padding if padded else None)
    torch.testing.assert_close(got[~padding], want[~padding], rtol=1e-9, atol=1e-9)


def test_stack_returns_every_state():
    torch.manual_seed(0)
    stack = Transformer(8, 3, 2, 8)
    x = torch.randn(2, 4, 8)
    states = stack(x)
    assert len(states) == 3
    torch.testing.assert_close(states[1], stack.blocks[1](states[0]))
    assert Transformer(8, 0, 2, 8)(x)[0] is x


def test_dropout_only_in_training():
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 8, dropout=0.5)
    x = torch.randn(2, 4, 8)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_sincos_by_formula():
    code = sincos(torch.tensor([[0.0], [3.0]]), 4, base=100.0)
    want = [[0, 1, 0, 1], [math.sin(3), math.cos(3), math.sin(0.3), math.cos(0.3)]]
    torch.testing.assert_close(code, torch.tensor(want, dtype=torch.float32))


def test_sincos_axes_are_independent():
    code = sincos(torch.tensor([[2, 5], [2, 7], [4, 5]]), 8)
    assert code.shape == (3, 8)
    assert torch.equal(code[0, :4], code[1, :4])
    assert not torch.equal(code[0, 4:], code[1, 4:])
    assert torch.equal(code[0, 4:], code[2, 4:])
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos(torch.zeros(1, 2), 6)


def test_width_must_fit_heads():
    with pytest.raises(ValueError, match="width 10 and 4 heads"):
        Attention(10, 4)


def test_truncated_init():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(200, 200), nn.Embedding(300, 50), nn.LayerNorm(50))
    init_truncated_normal(layer)
    for weight in (layer[0].weight, layer[1].weight):
        assert weight.abs().max() <= 0.04
        # a normal cut at two deviations has 0.8796 of its standard deviation
        assert abs(weight.std().item() - 0.02 * 0.8796) < 2e-4
    assert torch.equal(layer[0].bias, torch.zeros(200))
    assert torch.equal(layer[2].weight, torch.ones(50))
