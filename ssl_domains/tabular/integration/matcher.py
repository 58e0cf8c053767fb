"""The pair classifier's head: do two rows speak of the same thing?"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Row:
    """Rows, ready to be compared: all that does not depend on the partner.

    Attributes:
        cells: ``[R, m, D]``, zeros where missing.
        x: ``[R, m, D]`` cells with the code of their column.
        query, key, value: ``[R, m, D]`` of the attention.
        missing: ``[R, m]`` bool.
    """

    cells: Tensor
    x: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    missing: Tensor

    def take(self, index: Tensor) -> Row:
        """Some rows, or some more than once."""
        return Row(*(getattr(self, field.name)[index] for field in fields(self)))


class PairAttention(nn.Module):
    """Single-head self-attention over the 2m cells of two rows, scale ``1 / sqrt(D)`` (arXiv 2412.00324).

    A learned bias for each of four relations (same row or not, same column or not) tells a cell
    what it looks at, and is the same when the rows change places. Missing cells get no attention, and
    where nothing can be looked at the result is 0.

    Args:
        width: D.
        n_columns: m.
    """

    relation: Tensor

    def __init__(self, width: int, n_columns: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(4))
        row = torch.arange(2).repeat_interleave(n_columns)
        column = torch.arange(n_columns).repeat(2)
        same = (row[:, None] == row) * 2 + (column[:, None] == column)
        self.register_buffer("relation", same.long(), persistent=False)

    def weights(self, a: Row, b: Row) -> Tensor:
        """``[P, 2m, 2m]``: how much of each cell (last axis) another takes in; 0 for missing ones."""
        query, key = torch.cat([a.query, b.query], dim=1), torch.cat([a.key, b.key], dim=1)
        missing = torch.cat([a.missing, b.missing], dim=1)[:, None]
        score = (query @ key.transpose(1, 2)).float() * query.shape[-1] ** -0.5
        score = (score + self.bias.float()[self.relation]).masked_fill(
            missing, torch.finfo(torch.float32).min
        )
        return score.softmax(dim=-1).masked_fill(missing, 0.0)  # also where all are missing

    def forward(self, a: Row, b: Row) -> Tensor:
        """``[P, 2m, D]`` of the cells of both rows."""
        value = torch.cat([a.value, b.value], dim=1)
        return self.weights(a, b).to(value.dtype) @ value


class PairMatcher(nn.Module):
    """From the cells of two rows to one logit; the same when the rows change places.

    Cells (with a code of their column) pass :class:`PairAttention`; then each column is told by
    ``|a - b|``, ``a * b``, the cosine of the two cells, the best cosine of each with any cell of the
    other row, and which of them is there. A linear layer shared by the columns makes
    ``column_width`` numbers of that, and the columns joined go into an MLP (512, 256, 128, ReLU,
    dropout 0.2, as in the paper). The paper's text leaves open how 2m tokens become one vector; the
    comparison by columns is this package's answer.

    Args:
        width: D of the cells.
        n_columns: m.
        column_width: numbers a column that reach the MLP.
        hidden: widths of the MLP.
        dropout: in the MLP.
    """

    def __init__(
        self,
        width: int,
        n_columns: int,
        column_width: int = 64,
        hidden: tuple[int, ...] = (512, 256, 128),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.n_columns = n_columns
        self.columns = nn.Parameter(torch.empty(n_columns, width).normal_(std=width**-0.5))
        self.attention = PairAttention(width, n_columns)
        self.norm = nn.LayerNorm(width)
        self.compare = nn.Linear(2 * width + 6, column_width)
        self.column_bias = nn.Parameter(torch.zeros(n_columns, column_width))
        layers: list[nn.Module] = []
        size = n_columns * column_width
        for hidden_width in hidden:
            layers += [nn.Linear(size, hidden_width), nn.ReLU(), nn.Dropout(dropout)]
            size = hidden_width
        self.mlp = nn.Sequential(*layers, nn.Linear(size, 1))

    def rows(self, cells: Tensor, missing: Tensor) -> Row:
        """Rows ``[R, m, D]`` with ``[R, m]`` missing cells; what stands in those changes nothing."""
        cells = cells.masked_fill(missing[..., None], 0.0)
        x = cells + self.columns
        attention = self.attention
        return Row(cells, x, attention.query(x), attention.key(x), attention.value(x), missing)

    def forward(self, a: Row, b: Row) -> Tensor:
        """Logits ``[P]`` of the pairs of row p of ``a`` and of ``b``."""
        missing = torch.cat([a.missing, b.missing], dim=1)[..., None]
        x = torch.cat([a.x, b.x], dim=1) + self.attention(a, b)
        first, second = self.norm(x).masked_fill(missing, 0.0).split(self.n_columns, dim=1)
        neither = (a.missing | b.missing)[..., None]
        flags = torch.stack([~neither[..., 0], a.missing ^ b.missing, a.missing & b.missing], dim=-1)
        compared = torch.cat([(first - second).abs(), first * second], dim=-1).masked_fill(neither, 0.0)
        features = torch.cat([compared, _cosines(a.cells, b.cells), flags.to(x.dtype)], dim=-1)
        h = F.relu(self.compare(features) + self.column_bias)
        return self.mlp(h.flatten(1)).squeeze(1)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """``[P, m, 3]``: cosine of the two cells of a column; the larger and the smaller of their best cosines
    with any cell of the other row (values in another column). 0 where a side is missing."""
    cosine = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(
        1, 2
    )  # [P, m, m]; missing: zero vectors
    best_a, best_b = cosine.amax(dim=2), cosine.amax(dim=1)
    best = torch.stack([torch.maximum(best_a, best_b), torch.minimum(best_a, best_b)], dim=-1)
    return torch.cat([cosine.diagonal(dim1=1, dim2=2)[..., None], best], dim=-1)
