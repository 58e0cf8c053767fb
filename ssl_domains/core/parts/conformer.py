"""Conformer blocks (Gulati et al., Interspeech 2020) on padded sequences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotate(x: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary positions (Su et al., 2021) of ``x [B, H, N, D]``: products of two such depend on distances
    alone."""
    n, d = x.shape[-2:]
    rates = base ** (-torch.arange(0, d, 2, device=x.device, dtype=torch.float32) / d)
    angle = torch.arange(n, device=x.device, dtype=torch.float32)[:, None] * rates
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class RotaryAttention(nn.Module):
    """Multi-head self-attention whose scores depend on distances.

    Args:
        width: D, a multiple of twice ``heads``.
        heads: number of heads.
        dropout: share of attention weights dropped in training.

    Raises:
        ValueError: ``width`` is no multiple of twice ``heads``.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width must be divisible by twice the heads, got {width} and {heads}")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """``[B, N, D]``; ``padding [B, N]`` is True where there is no token."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        drop = self.dropout if self.training else 0.0
        allowed = ~padding[:, None, None, :]
        mixed = F.scaled_dot_product_attention(rotate(q), rotate(k), v, attn_mask=allowed, dropout_p=drop)
        return self.out(mixed.transpose(1, 2).reshape(b, n, d))


class Convolution(nn.Module):
    """The convolution module: pointwise and gate, depthwise over time, norm, swish, pointwise.

    Padding is set to 0 before the depthwise convolution, and the norm is over channels instead of the paper's
    batch norm, so that neither padding nor the rest of a batch changes a token.

    Args:
        width: D.
        kernel: of the depthwise convolution, odd.
        dropout: at the end.

    Raises:
        ValueError: an even kernel.
    """

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"the kernel must be odd, got {kernel}")
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.middle = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """``[B, N, D]``."""
        gated = F.glu(self.gate(self.norm(x)), dim=-1).masked_fill(padding[..., None], 0.0)
        mixed = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        return self.drop(self.out(F.silu(self.middle(mixed))))


class ConformerBlock(nn.Module):
    """Half a feed-forward part, attention, convolution, half a feed-forward part, norm.

    Args:
        width: D.
        heads: attention heads.
        ffn: hidden width of the feed-forward parts.
        kernel: of the convolution.
        dropout: on all branches and attention weights.
    """

    def __init__(self, width: int, heads: int, ffn: int, kernel: int = 31, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = _feed_forward(width, ffn, dropout), _feed_forward(width, ffn, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = RotaryAttention(width, heads, dropout)
        self.convolution = Convolution(width, kernel, dropout)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """``[B, N, D]``; ``padding [B, N]`` is True where there is no token."""
        x = x + 0.5 * self.first(x)
        x = x + self.drop(self.attention(self.norm1(x), padding))
        x = x + self.convolution(x, padding)
        return self.norm2(x + 0.5 * self.second(x))


def _feed_forward(width: int, ffn: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, ffn), nn.SiLU(), nn.Dropout(dropout), nn.Linear(ffn, width),
        nn.Dropout(dropout),
    )  # fmt: skip
