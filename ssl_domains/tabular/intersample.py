"""Attention between the rows of a batch: the encoder of SAINT."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_domains.core.collectives import all_gather_rows
from ssl_domains.core.parts.grid_predictor import gather_tokens
from ssl_domains.core.parts.transformer import TransformerBlock
from ssl_domains.core.registry import encoder
from ssl_domains.tabular.embeddings import NumericKind
from ssl_domains.tabular.encoders import FTTransformer
from ssl_domains.tabular.spec import TableSpec


class RowBlock(nn.Module):
    """Attention between the rows of a batch and a feed-forward part, each with a pre-norm residual.

    A row is the joined vector of its T tokens, ``[B, T * H]``. While training on several
    processes rows attend to those of all processes, so that the result is that of one process
    with the whole batch.

    Args:
        width: T * H.
        heads, head_width: of the attention.
        ffn: hidden width of the feed-forward part (a GEGLU, as in the authors' code).
        attention_dropout, dropout: on attention weights, and inside the feed-forward part.
    """

    def __init__(
        self, width: int, heads: int, head_width: int, ffn: int, attention_dropout: float, dropout: float
    ) -> None:
        super().__init__()
        self.heads, self.head_width, self.attention_dropout = heads, head_width, attention_dropout
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.gate, self.down, self.drop = (
            nn.Linear(width, 2 * ffn),
            nn.Linear(ffn, width),
            nn.Dropout(dropout),
        )

    def forward(self, rows: Tensor) -> Tensor:
        """``[B, T * H] -> [B, T * H]``."""
        rows = rows + self._attend(self.norm1(rows))
        value, gate = self.gate(self.norm2(rows)).chunk(2, dim=-1)
        out: Tensor = rows + self.down(self.drop(value * F.gelu(gate)))
        return out

    def _attend(self, rows: Tensor) -> Tensor:
        q, k, v = self.qkv(rows).view(len(rows), 3, self.heads, self.head_width).unbind(1)  # [B, h, d]
        if self.training:
            k, v = all_gather_rows(k), all_gather_rows(v)
        q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        drop = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        out: Tensor = self.out(mixed.transpose(0, 1).flatten(1))
        return out


@encoder("saint_transformer")
class SAINTTransformer(FTTransformer):
    """Blocks of attention between the columns of a row, then between the rows of the batch.

    Intersample attention (Somepalli et al. 2021, section 3): after each block over the columns
    the tokens of a row are joined to one vector, and these vectors attend to one another over
    the batch. Input, tokens, masks and registers as of :class:`FTTransformer`; places that a mask
    hides are zeros in the joined vector.

    **A row's embedding depends on the rows beside it**, in training and afterwards: give ``embed``
    batches like those of training, and do not expect a row to get the same vector in another
    file. Alone, a row attends to itself.

    Defaults are those of the authors' code when rows attend (one block, width 32, 4 heads, row
    heads of 64, feed-forward 4 times as wide, both dropouts 0.8), without positions as there.

    Args:
        spec: the table.
        width: H, token width.
        depth: pairs of a column block and a row block.
        heads: heads of both kinds of attention.
        ffn: hidden width of the feed-forward part over columns.
        row_head_width: width of a head of the attention between rows.
        row_ffn: hidden width of the feed-forward part over rows; None: 4 times the joined width.
        dropout: in the feed-forward parts, and on the residual branches over columns.
        row_dropout: on the attention weights between rows.
        registers: R, number of register tokens.
        pooled: ``mean``, ``cls`` or ``flatten``; see :class:`FTTransformer`.
        positions: ``sincos`` codes of the column number, or ``none``.
        numeric: how numbers become tokens: ``linear``, ``periodic`` or ``piecewise``.
        n_frequencies: of ``periodic``.
        sigma: of ``periodic``: deviation of the initial frequencies.
        n_bins: of ``piecewise``: quantile bins a column, up to 64.
    """

    def __init__(
        self,
        spec: TableSpec,
        width: int = 32,
        depth: int = 1,
        heads: int = 4,
        ffn: int = 128,
        row_head_width: int = 64,
        row_ffn: int | None = None,
        dropout: float = 0.8,
        row_dropout: float = 0.8,
        registers: int = 1,
        pooled: Literal["mean", "cls", "flatten"] = "cls",
        positions: Literal["sincos", "none"] = "none",
        numeric: NumericKind = "linear",
        n_frequencies: int = 48,
        sigma: float = 0.01,
        n_bins: int = 64,
    ) -> None:
        super().__init__(
            spec, width, 0, heads, ffn, dropout, "pre", "gelu", registers, positions, 100.0, pooled,
            numeric=numeric, n_frequencies=n_frequencies, sigma=sigma, n_bins=n_bins,
        )  # fmt: skip
        joined = (registers + spec.n_columns) * width
        hidden = row_ffn if row_ffn is not None else 4 * joined
        self.column_blocks = nn.ModuleList(
            TransformerBlock(width, heads, ffn, dropout, "pre", "gelu") for _ in range(depth)
        )
        self.row_blocks = nn.ModuleList(
            RowBlock(joined, heads, row_head_width, hidden, row_dropout, dropout) for _ in range(depth)
        )

    def states(self, axis: Tensor, keep: Tensor | None) -> list[Tensor]:
        """The states ``[B, n, H]`` after each pair of blocks and after the head."""
        shape = axis.shape
        x = axis if keep is None else gather_tokens(axis, keep)
        states = []
        for columns, rows in zip(self.column_blocks, self.row_blocks, strict=True):
            x = columns(x)
            full = x if keep is None else _spread(x, keep, shape[1])
            full = rows(full.flatten(1)).view(shape)
            x = full if keep is None else gather_tokens(full, keep)
            states.append(x)
        return [*states, self.trunk.head(x)]


def _spread(x: Tensor, keep: Tensor, n: int) -> Tensor:
    """``[B, n, H]`` with the tokens ``x [B, m, H]`` at the places ``keep [B, m]``, zeros elsewhere."""
    full = x.new_zeros(len(x), n, x.shape[-1])
    return full.scatter(1, keep.unsqueeze(-1).expand_as(x), x)
