"""What table encoders share, and the FT-Transformer with T-JEPA's defaults."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Set
from ssl_domains.core.parts.grid_predictor import gather_tokens
from ssl_domains.core.parts.mixup import mixup
from ssl_domains.core.parts.transformer import sincos
from ssl_domains.core.registry import encoder
from ssl_domains.tabular.embeddings import ColumnTokens, NumericKind
from ssl_domains.tabular.predictors import ColumnPredictor, Trunk
from ssl_domains.tabular.spec import TableSpec


class TableEncoder(Encoder):
    """Base of the encoders of rows.

    Input ``{"numeric": [B, Dn] float32, "categorical": [B, Dc] int64, "missing": [B, Dn] bool}``;
    N = Dn + Dc columns in the order numeric, categorical. A row passes in two steps, so that a
    method may change cells in between (SAINT's mixup): ``cells = tokens(x)``, ``[B, N, E]``, then
    ``encode(cells, mask)``.

    Attributes:
        spec: the table.
        tokens: :class:`ColumnTokens`.
    """

    spec: TableSpec
    tokens: ColumnTokens
    predictor_options: dict[str, Any]

    def forward(self, x: dict[str, Tensor], mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Encodes rows; with a mask, from its context alone.

        Args:
            x: see the class.
            mask: over the N columns; its context has one length for all rows.
            layers: also return the states after each block and after the head.
        """
        return self.encode(self.tokens(x), mask, layers=layers)

    def encode(self, cells: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """The part of :meth:`forward` after the embedding: from cells ``[B, N, E]``."""
        raise TypeError(f"{type(self).__name__} does not define encode")

    def encode_mixture(
        self, first: dict[str, Tensor], second: dict[str, Tensor], rows: Tensor, share: float
    ) -> Encoded:
        """Interpolates embedded cells, since categories and gaps have no value between two values."""
        return self.encode(mixup(self.tokens(first), self.tokens(second), rows, share))

    def layout(self, x: dict[str, Tensor]) -> Set:
        """A set of N columns."""
        return Set(self.spec.n_columns)

    def targets(self, x: dict[str, Tensor]) -> Tokens:
        """``[B, N, 2]`` float32: the value (a number after scaling, NaN when missing, or a
        category's code) and the column's number."""
        numeric = x["numeric"].to(torch.float32).masked_fill(x["missing"], float("nan"))
        values = torch.cat([numeric, x["categorical"].to(torch.float32)], dim=1)
        columns = torch.arange(values.shape[1], device=values.device, dtype=torch.float32)
        return Tokens(torch.stack([values, columns.expand_as(values)], dim=-1), self.layout(x))

    @property
    def target_width(self) -> int:
        """2: value and column number."""
        return 2

    def predictor(self, output_width: int, **options: Any) -> ColumnPredictor:
        """A :class:`ColumnPredictor` with what it can share with this encoder (dropout; the
        transformer's feed-forward width, norm and activation), unless ``options`` say otherwise."""
        return ColumnPredictor(
            self.spec.n_columns, self.width, output_width, **{**self.predictor_options, **options}
        )

    def input_parameters(self) -> list[nn.Parameter]:
        """The tokeniser's."""
        return list(self.tokens.parameters())


@encoder("ft_transformer")
class FTTransformer(TableEncoder):
    """A transformer over the columns of a row.

    Input as of :class:`TableEncoder`; tokens ``[B, N, H]``. With a mask, the tokens outside its
    context are dropped before the first block.

    Register tokens (T-JEPA's [REG]) are learned vectors before the columns. They belong to
    the encoder: no mask counts them, none hides them, :class:`Encoded` holds them apart in
    ``extra["registers"]``. The authors' released code differs: its masks index ``0..N-1`` of a
    token axis ``[REG, columns]`` of length ``R + N``, so that the register can be hidden or
    predicted and the last R columns never are. ``maskable_register=True`` does that:
    ``tokens`` is then the first N of that axis (only for latent prediction).

    Defaults are T-JEPA's released run on Jannis (ICLR 2025).

    Args:
        spec: the table.
        width: H, token width.
        depth: transformer blocks.
        heads: attention heads.
        ffn: hidden width of the feed-forward parts.
        dropout: dropout rate everywhere.
        norm: ``post`` (T-JEPA) or ``pre`` layer norms.
        activation: ``relu`` (T-JEPA), ``gelu`` or ``silu``.
        registers: R, number of register tokens.
        positions: ``sincos`` codes of the column number are added to the tokens, or ``none``.
        position_base: base of these codes.
        pooled: ``mean`` of the column tokens; ``cls``, the first register token; ``flatten``,
            all tokens with the registers, ``[B, (R + N) * H]``, which T-JEPA's probe reads
            (hidden columns are zeros there, so that its width never changes).
        maskable_register: see above.
        numeric: how numbers become tokens: ``linear``, ``periodic`` or ``piecewise`` (Gorishniy et
            al. 2022; see :class:`ColumnTokens`).
        n_frequencies: of ``periodic``; default that of the authors' package.
        sigma: of ``periodic``: deviation of the initial frequencies; tune it between 0.01 and 100.
        n_bins: of ``piecewise``: quantile bins a column, up to 64.

    Attributes:
        width: H. ``pooled`` is as wide, but for ``flatten``; see :attr:`pooled_width`.
    """

    def __init__(
        self,
        spec: TableSpec,
        width: int = 64,
        depth: int = 16,
        heads: int = 2,
        ffn: int = 64,
        dropout: float = 0.0019,
        norm: Literal["pre", "post"] = "post",
        activation: Literal["relu", "gelu", "silu"] = "relu",
        registers: int = 1,
        positions: Literal["sincos", "none"] = "sincos",
        position_base: float = 100.0,
        pooled: Literal["mean", "cls", "flatten"] = "mean",
        maskable_register: bool = False,
        numeric: NumericKind = "linear",
        n_frequencies: int = 48,
        sigma: float = 0.01,
        n_bins: int = 64,
    ) -> None:
        super().__init__()
        if pooled == "cls" and registers < 1:
            raise ValueError("encoder.pooled: cls needs encoder.registers of at least 1")
        if maskable_register and pooled == "cls":
            raise ValueError(
                "encoder.pooled: cls needs a register that no mask hides (maskable_register: false)"
            )
        self.spec, self.width, self.pooling = spec, width, pooled
        self.n_registers, self.maskable_register = registers, maskable_register
        self.position_base = position_base if positions == "sincos" else None
        self.tokens = ColumnTokens(spec, width, numeric, n_frequencies, sigma, n_bins)
        self.register_tokens = nn.Parameter(torch.empty(registers, width))
        nn.init.uniform_(self.register_tokens, -(width**-0.5), width**-0.5)
        self.trunk = Trunk(width, depth, heads, ffn, dropout, norm, activation)
        self.predictor_options = {"ffn": ffn, "dropout": dropout, "norm": norm, "activation": activation}

    @property
    def pooled_width(self) -> int:
        """Width of ``pooled``."""
        n = self.n_registers + self.spec.n_columns
        return n * self.width if self.pooling == "flatten" else self.width

    def encode(self, cells: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """From cells ``[B, N, H]``; see :meth:`forward`."""
        axis = self._axis(cells)
        keep = None if mask is None else self._kept(mask.context_index())
        states = self.states(axis, keep)
        first = 0 if self.maskable_register else self.n_registers
        final = states[-1]
        end = final.shape[1] if mask is not None else first + self.spec.n_columns
        return Encoded(
            Tokens(final[:, first:end], Set(self.spec.n_columns)),
            self._pool(final, keep),
            [state[:, first:end] for state in states] if layers else None,
            {"registers": final[:, :first]},
        )

    def states(self, axis: Tensor, keep: Tensor | None) -> list[Tensor]:
        """The states ``[B, n, H]`` after each block and after the head.

        Args:
            axis: ``[B, R + N, H]`` registers and columns.
            keep: ``[B, n]`` places on it that the blocks see; None: all.
        """
        return self.trunk(axis if keep is None else gather_tokens(axis, keep))

    def _axis(self, columns: Tensor) -> Tensor:
        """``[B, R + N, H]``: registers, then columns, with their positions."""
        axis = torch.cat([self.register_tokens.expand(len(columns), -1, -1), columns], dim=1)
        if self.position_base is None:
            return axis
        places = torch.arange(axis.shape[1], device=axis.device).unsqueeze(-1)
        return axis + sincos(places, self.width, self.position_base)

    def _kept(self, context: Tensor) -> Tensor:
        """``[B, n]`` places on the axis that the blocks see."""
        if self.maskable_register:
            return context
        registers = torch.arange(self.n_registers, device=context.device).expand(len(context), -1)
        return torch.cat([registers, context + self.n_registers], dim=1)

    def _pool(self, final: Tensor, keep: Tensor | None) -> Tensor:
        if self.pooling == "cls":
            return final[:, 0]
        if self.pooling == "mean":
            return final[:, 0 if self.maskable_register else self.n_registers :].mean(dim=1)
        if keep is not None:
            full = final.new_zeros(len(final), self.n_registers + self.spec.n_columns, self.width)
            final = full.scatter(1, keep.unsqueeze(-1).expand_as(final), final)
        return final.flatten(1)

    def input_parameters(self) -> list[nn.Parameter]:
        """The tokeniser's, and the registers."""
        return [*super().input_parameters(), self.register_tokens]
