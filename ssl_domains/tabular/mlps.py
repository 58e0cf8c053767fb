"""MLP and ResNet over the whole row, with tokens for its columns."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Set
from ssl_domains.core.parts.heads import GlobalBatchNorm1d
from ssl_domains.core.registry import encoder
from ssl_domains.tabular.embeddings import ColumnTokens, NumericKind
from ssl_domains.tabular.encoders import TableEncoder
from ssl_domains.tabular.spec import TableSpec


class RowEncoder(TableEncoder):
    """Base of encoders that read the joined cells of a row through a first linear layer.

    Cells ``c_j [E]`` of the N columns are joined to ``[B, N * E]``; the first layer gives
    ``h_0 = b + sum_j W_j c_j``, the trunk turns it into the output ``h``, which is ``pooled``
    ``[B, H]``. **Token j is** ``layer_norm(h + W_j c_j)``: the row, and what column j put into
    it, without parameters of its own. So methods on tokens (masked reconstruction, latent
    prediction) work as on the transformer, and those on ``pooled`` leave nothing untrained.

    With a mask, hidden columns keep their place: their cells are replaced by a learned vector
    of the column, or by the cell that ``Mask.substitute`` names. All N tokens are returned.
    """

    drops_hidden: ClassVar[bool] = False

    def __init__(self, spec: TableSpec, width: int, cells: ColumnTokens) -> None:
        super().__init__()
        self.spec, self.width, self.tokens = spec, width, cells
        cell_width = cells.bias.shape[1]
        self.mask_token = nn.Parameter(torch.empty(spec.n_columns, cell_width))
        nn.init.uniform_(self.mask_token, -(cell_width**-0.5), cell_width**-0.5)
        self.first = nn.Linear(spec.n_columns * cell_width, width)

    def trunk(self, h: Tensor) -> list[Tensor]:
        """The states ``[B, H]`` after each block (and the head); the last is the output."""
        raise TypeError(f"{type(self).__name__} does not define trunk")

    def encode(self, cells: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """From cells ``[B, N, E]``; see :meth:`forward`."""
        if mask is not None:
            cells = self._hide(cells, mask)
        weight = self.first.weight.view(self.width, *cells.shape[1:])
        shares = torch.einsum("bne,hne->bnh", cells, weight)
        states = self.trunk(shares.sum(dim=1) + self.first.bias)
        pooled = states[-1]
        return Encoded(
            Tokens(self._tokens(pooled, shares), Set(self.spec.n_columns)),
            pooled,
            [self._tokens(state, shares) for state in states] if layers else None,
            {"registers": pooled.unsqueeze(1)},
        )

    def _tokens(self, h: Tensor, shares: Tensor) -> Tensor:
        """``[B, N, H]``."""
        return F.layer_norm(h.unsqueeze(1) + shares, (self.width,))

    def _hide(self, cells: Tensor, mask: Mask) -> Tensor:
        """Cells with those outside the context replaced."""
        hidden = mask.hidden
        if mask.context is not None:
            hidden = torch.ones_like(hidden).scatter(1, mask.context, False)
        content = self.mask_token.to(cells.dtype).expand_as(cells)
        if mask.substitute is not None:
            other = cells.flatten(0, 1)[mask.substitute.clamp_min(0).flatten()].view_as(cells)
            content = torch.where(mask.substitute.view_as(hidden).unsqueeze(-1) >= 0, other, content)
        return torch.where(hidden.unsqueeze(-1), content, cells)

    def input_parameters(self) -> list[nn.Parameter]:
        """The tokeniser's, and the vectors of hidden columns."""
        return [*super().input_parameters(), self.mask_token]


@encoder("mlp")
class MLP(RowEncoder):
    """An MLP over the joined cells of a row.

    Blocks ``dropout(relu(linear(x)))``, without the last linear layer (Gorishniy et al. 2021,
    Revisiting Deep Learning Models for Tabular Data, section 3.1). Tokens and masks as of
    :class:`RowEncoder`. Defaults of depth, width and dropout are those of the authors' package.

    Args:
        spec: the table.
        width: H of every layer, of ``pooled`` and of the tokens.
        depth: blocks.
        dropout: dropout rate.
        cell_width: E, width of the vector of a cell.
        numeric: how numbers become cells: ``linear``, ``periodic`` or ``piecewise`` (Gorishniy et
            al. 2022; see :class:`ColumnTokens`).
        n_frequencies: of ``periodic``; default that of the authors' package, as of ``cell_width``.
        sigma: of ``periodic``: deviation of the initial frequencies; tune it between 0.01 and 100.
        n_bins: of ``piecewise``: quantile bins a column, up to 64.
    """

    def __init__(
        self,
        spec: TableSpec,
        width: int = 384,
        depth: int = 2,
        dropout: float = 0.1,
        cell_width: int = 24,
        numeric: NumericKind = "linear",
        n_frequencies: int = 48,
        sigma: float = 0.01,
        n_bins: int = 64,
    ) -> None:
        if depth < 1:
            raise ValueError(f"encoder.depth must be at least 1, got {depth}")
        cells = ColumnTokens(spec, cell_width, numeric, n_frequencies, sigma, n_bins)
        super().__init__(spec, width, cells)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.dropout = nn.Dropout(dropout)
        self.predictor_options = {"dropout": dropout}

    def trunk(self, h: Tensor) -> list[Tensor]:
        """The states after each block."""
        states = [self.dropout(torch.relu(h))]
        for layer in self.layers:
            states.append(self.dropout(torch.relu(layer(states[-1]))))
        return states


class ResidualBlock(nn.Module):
    """``x + dropout2(linear(dropout1(relu(linear(norm(x))))))`` on ``[B, H]``."""

    def __init__(self, width: int, hidden: int, dropout: float, residual_dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            GlobalBatchNorm1d(width),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(residual_dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


@encoder("resnet")
class ResNet(RowEncoder):
    """Residual blocks with batch norm over the joined cells of a row.

    Linear layer, blocks of :class:`ResidualBlock`, then ``relu(norm(x))``, without the last
    linear layer (Gorishniy et al. 2021, section 3.2). Batch norm is over the global batch.
    Tokens and masks as of :class:`RowEncoder`. Defaults are those of the authors' package.

    Args:
        spec: the table.
        width: H of the residual stream, of ``pooled`` and of the tokens.
        depth: blocks.
        hidden_ratio: hidden width of a block over ``width``.
        dropout: dropout rate inside a block.
        residual_dropout: dropout rate at the end of a block.
        cell_width: E, width of the vector of a cell.
        numeric: how numbers become cells: ``linear``, ``periodic`` or ``piecewise`` (Gorishniy et
            al. 2022; see :class:`ColumnTokens`).
        n_frequencies: of ``periodic``; default that of the authors' package, as of ``cell_width``.
        sigma: of ``periodic``: deviation of the initial frequencies; tune it between 0.01 and 100.
        n_bins: of ``piecewise``: quantile bins a column, up to 64.
    """

    def __init__(
        self,
        spec: TableSpec,
        width: int = 192,
        depth: int = 2,
        hidden_ratio: float = 2.0,
        dropout: float = 0.3,
        residual_dropout: float = 0.0,
        cell_width: int = 24,
        numeric: NumericKind = "linear",
        n_frequencies: int = 48,
        sigma: float = 0.01,
        n_bins: int = 64,
    ) -> None:
        cells = ColumnTokens(spec, cell_width, numeric, n_frequencies, sigma, n_bins)
        super().__init__(spec, width, cells)
        hidden = max(int(hidden_ratio * width), 1)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, hidden, dropout, residual_dropout) for _ in range(depth)
        )
        self.norm = GlobalBatchNorm1d(width)
        self.predictor_options = {"dropout": dropout}

    def trunk(self, h: Tensor) -> list[Tensor]:
        """The states after each block and after the head."""
        states = []
        for block in self.blocks:
            h = block(h)
            states.append(h)
        return [*states, torch.relu(self.norm(h))]
