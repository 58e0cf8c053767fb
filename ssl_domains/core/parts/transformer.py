"""Transformer blocks and sine-cosine positions, for any number of position axes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


def sincos(positions: Tensor, width: int, base: float = 10000.0) -> Tensor:
    """Fixed sine-cosine codes (Vaswani et al. 2017, section 3.5), interleaved per axis.

    Args:
        positions: ``[..., A]`` coordinates on A axes (A = 1 for sequences and columns).
        width: width of the code; a multiple of ``2 * A``.
        base: longest wavelength over two pi.

    Returns:
        ``[..., width]`` float32: for each axis sines at even, cosines at odd places.

    Raises:
        ValueError: ``width`` is no multiple of ``2 * A``.
    """
    axes = positions.shape[-1]
    if width % (2 * axes):
        raise ValueError(
            f"sine-cosine positions on {axes} axes need a width divisible by {2 * axes}, got {width}"
        )
    half = width // (2 * axes)
    rates = base ** (-torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angles = positions.to(torch.float32).unsqueeze(-1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


class Attention(nn.Module):
    """Multi-head self-attention through ``scaled_dot_product_attention``.

    Args:
        width: token width D, a multiple of ``heads``.
        heads: number of heads.
        dropout: share of attention weights dropped in training.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be divisible by heads, got width {width} and {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """``[B, N, D] -> [B, N, D]``; ``padding [B, N]`` is True where there is no token."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        allowed = None if padding is None else ~padding[:, None, None, :]
        drop = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=drop)
        return self.out(mixed.transpose(1, 2).reshape(b, n, d))


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each with a residual and a layer norm.

    Args:
        width: token width D.
        heads: attention heads.
        ffn: hidden width of the feed-forward part.
        dropout: on attention weights, on both branches and inside the feed-forward part, as
            in ``torch.nn.TransformerEncoderLayer``.
        norm: ``post`` (original transformer) or ``pre`` (ViT).
        activation: ``relu``, ``gelu`` or ``silu``.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        ffn: int,
        dropout: float = 0.0,
        norm: Literal["pre", "post"] = "pre",
        activation: Literal["relu", "gelu", "silu"] = "gelu",
    ) -> None:
        super().__init__()
        self.pre = norm == "pre"
        self.attention = Attention(width, heads, dropout)
        self.ffn = nn.Sequential(
            nn.Linear(width, ffn), ACTIVATIONS[activation](), nn.Dropout(dropout), nn.Linear(ffn, width)
        )
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """``[B, N, D] -> [B, N, D]``."""
        if self.pre:
            x = x + self.drop(self.attention(self.norm1(x), padding))
            return x + self.drop(self.ffn(self.norm2(x)))
        x = self.norm1(x + self.drop(self.attention(x, padding)))
        return self.norm2(x + self.drop(self.ffn(x)))


class Transformer(nn.Module):
    """A stack of :class:`TransformerBlock`; arguments as there.

    Args:
        depth: number of blocks.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        ffn: int,
        dropout: float = 0.0,
        norm: Literal["pre", "post"] = "pre",
        activation: Literal["relu", "gelu", "silu"] = "gelu",
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, ffn, dropout, norm, activation) for _ in range(depth)
        )

    def forward(self, x: Tensor, padding: Tensor | None = None) -> list[Tensor]:
        """The states after each block, ``depth`` tensors ``[B, N, D]`` (``[x]`` when depth is 0)."""
        states = []
        for block in self.blocks:
            x = block(x, padding)
            states.append(x)
        return states or [x]


@torch.no_grad()
def init_truncated_normal(module: nn.Module, std: float = 0.02) -> None:
    """Linear and embedding weights from a truncated normal, their biases zero (BERT, ViT, T-JEPA).

    The cut lies at two standard deviations.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def init_xavier(module: nn.Module) -> None:
    """Linear weights by Glorot (uniform), biases zero (MAE, He et al., CVPR 2022, appendix A.1).

    Unlike a fixed deviation it keeps the size of what passes at any width, so that in narrow networks and
    for tokens of few numbers positions do not drown contents.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
