"""Two towers: features of a user or an item to one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Set
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.parts.transformer import init_truncated_normal
from ssl_domains.core.registry import encoder
from ssl_domains.tabular.embeddings import ColumnTokens, NumericKind
from ssl_domains.tabular.recommendation.spec import EMPTY, EntitySpec, ListSpec, RecommendationSpec
from ssl_domains.tabular.spec import UNSEEN


class ListTokens(nn.Module):
    """Mean embedding of a list's values, ``[B, L] -> [B, E]``; an empty list has a vector of its own."""

    def __init__(self, spec: ListSpec, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec.n_codes, width)
        init_truncated_normal(self.embedding)
        with torch.no_grad():
            self.embedding.weight[UNSEEN] = 0.0

    def forward(self, codes: Tensor) -> Tensor:
        there = codes != EMPTY
        count = there.sum(dim=1, keepdim=True)
        share = there / count.clamp_min(1)
        share[:, 0] = torch.where(count[:, 0] == 0, 1.0, share[:, 0])  # then the first cell is the empty code
        weight = self.embedding.weight
        return F.embedding_bag(codes, weight, per_sample_weights=share.to(weight.dtype), mode="sum")


class Tower(nn.Module):
    """Features of one side to cells ``[B, k, E]``, and these, joined, through an MLP to ``[B, D]``.

    Args:
        spec: the side.
        width: D.
        hidden: widths of the hidden layers.
        cell_width: E.
        numeric: how numbers become cells, see :class:`ColumnTokens`.
        norm: between the layers.
        dropout: of the joined cells, in training.
    """

    def __init__(
        self,
        spec: EntitySpec,
        width: int,
        hidden: Sequence[int],
        cell_width: int,
        numeric: NumericKind,
        norm: Literal["batch", "layer", "none"],
        dropout: float,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.columns = ColumnTokens(spec.table, cell_width, numeric)
        self.lists = nn.ModuleList(ListTokens(column, cell_width) for column in spec.lists)
        self.default = nn.Parameter(torch.zeros(len(spec.features), cell_width))
        self.dropout = nn.Dropout(dropout)
        self.sizes = [*hidden, width]
        self.norm = norm
        self.mlp = self.head()

    def head(self) -> nn.Sequential:
        """A fresh MLP of the tower's kind."""
        return mlp(self.default.numel(), self.sizes, norm=self.norm)

    def cells(self, x: dict[str, Any], hidden: Tensor | None = None) -> Tensor:
        """``[B, k, E]``; hidden features, and ids that training did not know, have their slot's default."""
        lists = [part(x["lists"][column.name]) for part, column in zip(self.lists, self.spec.lists)]
        cells: Tensor = self.columns(x)
        if lists:
            cells = torch.cat([cells, torch.stack(lists, dim=1).to(cells.dtype)], dim=1)
        place = self.spec.id_place
        new = F.one_hot(torch.tensor(place, device=cells.device), cells.shape[1]).bool()
        gone = (x["categorical"][:, :1] == UNSEEN) & new
        for more in (hidden, x.get("hidden")):
            gone = gone if more is None else gone | more
        return torch.where(gone.unsqueeze(-1), self.default.to(cells.dtype), cells)

    def forward(self, cells: Tensor) -> Tensor:
        """``[B, D]``."""
        out: Tensor = self.mlp(self.dropout(cells.flatten(1)))
        return out


@encoder("two_tower")
class TwoTower(Encoder):
    """A tower for users and one for items, whose vectors are compared by cosine.

    Input ``{"user": features}`` or ``{"item": features}`` (see :class:`EntitySource`); with both,
    the item counts. A token is a feature; hidden ones (of a mask, or of the features' own key
    ``hidden [B, k]``) are replaced by a learned default of their slot. An id that training did
    not know is hidden, too, so a new item is known by its other features.

    Args:
        spec: of the interactions.
        width: D of the vectors. Default 64, ours.
        hidden: widths of each tower's hidden layers. Default one of 128, ours.
        cell_width: E, width of the vector of a feature. Default 32, ours.
        numeric: how numbers become cells: ``linear``, ``periodic`` or ``piecewise``.
        norm: norm between the layers: ``batch``, ``layer`` or ``none``.
        dropout: of the joined cells.
    """

    drops_hidden: ClassVar[bool] = False

    def __init__(
        self,
        spec: RecommendationSpec,
        width: int = 64,
        hidden: Sequence[int] = (128,),
        cell_width: int = 32,
        numeric: NumericKind = "piecewise",
        norm: Literal["batch", "layer", "none"] = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(spec, RecommendationSpec):
            raise ValueError("encoder 'two_tower' needs interactions: give data.user and data.item")
        self.spec, self.width, self.cell_width = spec, width, cell_width
        self.towers = nn.ModuleDict(
            {
                name: Tower(spec.side(name), width, hidden, cell_width, numeric, norm, dropout)
                for name in ("user", "item")
            }
        )

    def tower(self, x: dict[str, Any]) -> tuple[Tower, dict[str, Any]]:
        """The tower that ``x`` is for, and its features."""
        name = "item" if "item" in x else "user"
        found = self.towers[name]
        assert isinstance(found, Tower)
        return found, x[name]

    def forward(self, x: dict[str, Any], mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """One side's vectors; tokens are the cells of its features, ``[B, k, E]``."""
        tower, features = self.tower(x)
        cells = tower.cells(features, None if mask is None else mask.hidden)
        tokens = Tokens(cells, self.layout(x))
        return Encoded(tokens, tower(cells), [cells] if layers else None)

    def layout(self, x: dict[str, Any]) -> Set:
        """A set of k features."""
        return Set(len(self.tower(x)[0].spec.features))

    @property
    def target_width(self) -> int:
        """A tower has no tokens after its cells, so there is nothing to predict hidden features from.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "encoder 'two_tower' has no predictor of hidden features; use method item_recommendation, or one "
            "that compares views"
        )

    def predictor(self, output_width: int, **options: Any) -> nn.Module:
        """See :attr:`target_width`."""
        return nn.Linear(self.width, self.target_width)

    def input_parameters(self) -> list[nn.Parameter]:
        """The embeddings."""
        return [p for name, p in self.named_parameters() if ".mlp." not in name]
