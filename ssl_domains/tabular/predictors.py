"""The predictor from visible columns to hidden ones: T-JEPA's narrow transformer."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask
from ssl_domains.core.parts.grid_predictor import gather_tokens
from ssl_domains.core.parts.transformer import Transformer, init_truncated_normal, sincos


class Trunk(nn.Module):
    """Transformer, dropout, layer norm, linear, dropout, layer norm: the trunk of T-JEPA's
    encoder and predictor. Arguments as of :class:`Transformer`."""

    def __init__(
        self, width: int, depth: int, heads: int, ffn: int, dropout: float, norm: Any, activation: Any
    ) -> None:
        super().__init__()
        self.transformer = Transformer(width, depth, heads, ffn, dropout, norm, activation)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.Dropout(dropout),
            nn.LayerNorm(width),
        )
        init_truncated_normal(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The states after each block and after the head; the last is the output ``[B, N, H]``."""
        states = self.transformer(x)
        return [*states, self.head(states[-1])]


class ColumnPredictor(nn.Module):
    """From the visible columns' tokens to the hidden ones': T-JEPA's narrow transformer.

    Linear H -> P, plus sine-cosine codes of the columns; each of the K target sets is one more
    copy of the batch, with a mask token at the position of every target; trunk; layer norm;
    linear to the output at the targets alone.

    Args:
        n_columns: N.
        encoder_width: H.
        output_width: width of a prediction.
        width: P.
        depth: transformer blocks.
        heads: attention heads.
        ffn, dropout, norm, activation: as in the encoder.
        positions: ``sincos``, or ``none``: then the targets of a row cannot be told apart.
        position_base: base of the codes.
        registers: True lets it see the encoder's register tokens, too (without a position).
    """

    def __init__(
        self,
        n_columns: int,
        encoder_width: int,
        output_width: int,
        width: int = 16,
        depth: int = 16,
        heads: int = 4,
        ffn: int = 64,
        dropout: float = 0.0019,
        norm: Literal["pre", "post"] = "post",
        activation: Literal["relu", "gelu", "silu"] = "relu",
        positions: Literal["sincos", "none"] = "sincos",
        position_base: float = 10000.0,
        registers: bool = False,
    ) -> None:
        super().__init__()
        self.n_columns, self.width, self.see_registers = n_columns, width, registers
        self.position_base = position_base if positions == "sincos" else None
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.trunk = Trunk(width, depth, heads, ffn, dropout, norm, activation)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, output_width)
        init_truncated_normal(self)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.04, b=0.04)

    def forward(self, encoded: Encoded, mask: Mask, x: Any = None) -> Tensor:
        """``[M, output_width]`` in the order of :meth:`Tokens.select`: row
        ``((k * B) + b) * n_t + i`` is target i of set k of sample b.

        Args:
            encoded: the encoder's output for the same mask, tokens ``[B, n_c, H]``, or ``[B, N, H]``
                of an encoder that replaces hidden columns; of these the context alone is read.
            mask: with equal numbers of targets in all rows.
            x: unused.
        """
        context = mask.context_index()
        targets = self._targets(mask, context.shape[1])
        k, b, n_t = targets.shape
        visible = encoded.tokens.values
        if visible.shape[1] != context.shape[1]:
            visible = gather_tokens(visible, context)
        seen = self.embed(visible) + self._codes(context)
        if self.see_registers:
            seen = torch.cat([self.embed(encoded.extra["registers"]), seen], dim=1)
        queries = self.mask_token + self._codes(targets.reshape(k * b, n_t))
        tokens = torch.cat([seen.repeat(k, 1, 1), queries.expand(k * b, n_t, -1).to(seen.dtype)], dim=1)
        hidden = self.trunk(tokens)[-1][:, -n_t:]
        return self.out(self.norm(hidden)).flatten(0, 1)

    def _targets(self, mask: Mask, n_context: int) -> Tensor:
        """``[K, B, n_t]``: the target sets, or the hidden columns of each row in order."""
        if mask.targets is not None:
            return mask.targets
        n_hidden = self.n_columns - n_context
        return mask.visible.to(torch.int8).argsort(dim=1, stable=True)[None, :, :n_hidden]

    def _codes(self, index: Tensor) -> Tensor:
        """``[..., n, P]`` codes of column numbers ``[..., n]``."""
        if self.position_base is None:
            return self.mask_token.new_zeros(*index.shape, self.width)
        return sincos(index.unsqueeze(-1), self.width, self.position_base)
