"""From visible tokens of a grid to hidden ones: MAE's decoder and I-JEPA's predictor in one module."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.parts.transformer import Transformer, init_xavier, sincos


def grid_positions(shape: tuple[int, ...], device: torch.device | str | None = None) -> Tensor:
    """``[N, A]`` float32 coordinates of a grid's tokens in row-major order, one column an axis."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """``[B, N, D]`` at ``[B, n]`` gives ``[B, n, D]``."""
    return torch.gather(tokens, 1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


class GridPredictor(nn.Module):
    """``p(encoded, mask, x) -> [M, output_width]`` for encoders of a ``Grid``, rows in the order of
    :meth:`Tokens.select`.

    A mask without target sets (MAE, He et al., CVPR 2022, section 3): the visible tokens are put
    back to their places, a learned token stands in for each hidden one, and the transformer reads
    the whole grid. A mask with K target sets (I-JEPA, Assran et al., CVPR 2023, section 3): each set
    is one more copy of the batch, which holds the context and one learned token for every target.
    Both add fixed sine-cosine codes of the grid's coordinates, and look at the visible tokens
    alone, whether the encoder dropped the hidden ones or replaced them.

    Args:
        shape: of the grid.
        encoder_width: D of the encoder's tokens.
        output_width: P of a prediction.
        width: of the predictor; a multiple of ``heads``.
            Default 512, and ``depth`` 8, ``heads`` 16: MAE's decoder (section 4.1). I-JEPA has 384, 12, 12.
        depth: transformer blocks.
        heads: attention heads.
        ffn: hidden width of the feed-forward parts; None: four times ``width``.
        dropout: as in :class:`Transformer`.
        activation: as in :class:`Transformer`.

    Raises:
        ValueError: ``width`` is no multiple of ``heads``.
    """

    codes: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        encoder_width: int,
        output_width: int,
        *,
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
        ffn: int | None = None,
        dropout: float = 0.0,
        activation: Literal["relu", "gelu", "silu"] = "gelu",
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.blocks = Transformer(width, depth, heads, ffn or 4 * width, dropout, "pre", activation)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, output_width)
        self.register_buffer("codes", grid_codes(shape, width), persistent=False)
        init_xavier(self)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.04, b=0.04)

    def forward(self, encoded: Encoded, mask: Mask, x: Any = None) -> Tensor:
        """``[M, output_width]``.

        Args:
            encoded: tokens ``[B, n_c, D]`` of the context, or ``[B, N, D]`` of an encoder that
                replaces hidden tokens.
            mask: with equal numbers of context tokens in all rows.
            x: unused.
        """
        context = mask.context_index()
        visible = encoded.tokens.values
        if visible.shape[1] != context.shape[1]:
            visible = gather_tokens(visible, context)
        seen = self.embed(visible)
        if mask.targets is None:
            return self._whole(seen, context, mask)
        return self._sets(seen + self.codes[context], mask.targets)

    def _whole(self, seen: Tensor, context: Tensor, mask: Mask) -> Tensor:
        grid = self.mask_token.to(seen.dtype).expand(len(seen), len(self.codes), -1)
        grid = grid.scatter(1, context[..., None].expand_as(seen), seen) + self.codes
        hidden = Tokens(self.norm(self.blocks(grid)[-1])).select(mask)
        return self.out(hidden)

    def _sets(self, seen: Tensor, targets: Tensor) -> Tensor:
        k, b, n = targets.shape
        queries = self.mask_token + self.codes[targets.reshape(k * b, n)]
        tokens = torch.cat([seen.repeat(k, 1, 1), queries.to(seen.dtype)], dim=1)
        return self.out(self.norm(self.blocks(tokens)[-1][:, -n:])).flatten(0, 1)


def grid_codes(shape: tuple[int, ...], width: int) -> Tensor:
    """``[N, width]`` sine-cosine codes of a grid; a width that the axes do not divide evenly is filled
    up with zeros."""
    per_axis = 2 * len(shape)
    codes = sincos(grid_positions(shape), width - width % per_axis)
    return torch.nn.functional.pad(codes, (0, width % per_axis))
