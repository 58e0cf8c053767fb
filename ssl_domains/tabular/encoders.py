"""FT-Transformer with T-JEPA's defaults, and the predictor from visible columns to hidden ones."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Set
from ssl_domains.core.parts.transformer import Transformer, init_truncated_normal, sincos
from ssl_domains.core.registry import encoder
from ssl_domains.tabular.spec import UNSEEN, TableSpec


def _gather(tokens: Tensor, index: Tensor) -> Tensor:
    """``[B, N, H]`` at ``[B, n]`` gives ``[B, n, H]``."""
    return torch.gather(tokens, 1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


class ColumnTokens(nn.Module):
    """A token for each column: ``x_j * w_j + b_j`` for numbers, embedding ``+ b_j`` for categories.

    A missing number takes a learned vector of its column in place of ``x_j * w_j``; a missing
    category has an embedding of its own (code 0). The embedding of unseen categories (code 1)
    starts at zero, so that one never met in training says nothing. (FT-Transformer, Gorishniy
    et al. 2021, section 3.3.)
    """

    offsets: Tensor

    def __init__(self, spec: TableSpec, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(spec.numeric), width))
        self.missing = nn.Parameter(torch.empty(len(spec.numeric), width))
        self.bias = nn.Parameter(torch.empty(spec.n_columns, width))
        bound = width**-0.5
        for parameter in (self.weight, self.missing, self.bias):
            nn.init.uniform_(parameter, -bound, bound)
        sizes = torch.tensor([0, *spec.cardinalities]).cumsum(0)
        self.register_buffer("offsets", sizes[:-1].clone(), persistent=False)
        self.embedding = nn.Embedding(max(int(sizes[-1]), 1), width)
        init_truncated_normal(self.embedding)
        if spec.categorical:
            with torch.no_grad():
                self.embedding.weight[sizes[:-1] + UNSEEN] = 0.0

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """``[B, N, H]``."""
        numeric = x["numeric"].unsqueeze(-1) * self.weight
        numeric = torch.where(x["missing"].unsqueeze(-1), self.missing, numeric)
        tokens = [numeric]
        if x["categorical"].shape[1]:
            tokens.append(self.embedding(x["categorical"] + self.offsets))
        return torch.cat(tokens, dim=1) + self.bias


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


@encoder("ft_transformer")
class FTTransformer(Encoder):
    """A transformer over the columns of a row.

    Input ``{"numeric": [B, Dn] float32, "categorical": [B, Dc] int64, "missing": [B, Dn] bool}``;
    tokens ``[B, N, H]`` in the order numeric, categorical, N = Dn + Dc. With a mask, the
    tokens outside its context are dropped before the first block.

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
        self.tokens = ColumnTokens(spec, width)
        self.register_tokens = nn.Parameter(torch.empty(registers, width))
        nn.init.uniform_(self.register_tokens, -(width**-0.5), width**-0.5)
        self.trunk = Trunk(width, depth, heads, ffn, dropout, norm, activation)
        self._trunk_options = {"ffn": ffn, "dropout": dropout, "norm": norm, "activation": activation}

    @property
    def pooled_width(self) -> int:
        """Width of ``pooled``."""
        n = self.n_registers + self.spec.n_columns
        return n * self.width if self.pooling == "flatten" else self.width

    def forward(self, x: dict[str, Tensor], mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Encodes rows; with a mask, from its context alone.

        Args:
            x: see the class.
            mask: over the N columns; its context has one length for all rows.
            layers: also return the states after each block and after the head.
        """
        axis = self._axis(x)
        keep = None if mask is None else self._kept(mask.context_index())
        states = self.trunk(axis if keep is None else _gather(axis, keep))
        first = 0 if self.maskable_register else self.n_registers
        final = states[-1]
        end = final.shape[1] if mask is not None else first + self.spec.n_columns
        return Encoded(
            Tokens(final[:, first:end], self.layout(x)),
            self._pool(final, keep),
            [state[:, first:end] for state in states] if layers else None,
            {"registers": final[:, :first]},
        )

    def _axis(self, x: dict[str, Tensor]) -> Tensor:
        """``[B, R + N, H]``: registers, then columns, with their positions."""
        columns = self.tokens(x)
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
        """A :class:`ColumnPredictor` with this encoder's feed-forward width, dropout, norm and
        activation, unless ``options`` say otherwise."""
        return ColumnPredictor(
            self.spec.n_columns, self.width, output_width, **{**self._trunk_options, **options}
        )

    def input_parameters(self) -> list[nn.Parameter]:
        """The tokeniser's."""
        return [*self.tokens.parameters(), self.register_tokens]


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
            encoded: the encoder's output for the same mask, tokens ``[B, n_c, H]``.
            mask: with equal numbers of targets in all rows.
            x: unused.
        """
        context = mask.context_index()
        targets = self._targets(mask, context.shape[1])
        k, b, n_t = targets.shape
        seen = self.embed(encoded.tokens.values) + self._codes(context)
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
