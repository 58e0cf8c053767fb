"""The pair classifier's head: do two rows speak of the same thing?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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

    def weights(self, x: Tensor, missing: Tensor) -> Tensor:
        """``[P, 2m, 2m]``: how much of each cell (last axis) another takes in; 0 for missing ones."""
        score = self.query(x) @ self.key(x).transpose(1, 2) * x.shape[-1] ** -0.5
        score = score.float() + self.bias.float()[self.relation]
        score = score.masked_fill(missing[:, None], torch.finfo(torch.float32).min)
        return score.softmax(dim=-1).masked_fill(missing[:, None], 0.0)  # also where all are missing

    def forward(self, x: Tensor, missing: Tensor) -> Tensor:
        """Cells ``[P, 2m, D]`` and ``[P, 2m]`` to ``[P, 2m, D]``."""
        value = self.value(x)
        return self.weights(x, missing).to(value.dtype) @ value


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

    def forward(self, a: Tensor, b: Tensor, missing_a: Tensor, missing_b: Tensor) -> Tensor:
        """Logits ``[P]``.

        Args:
            a, b: ``[P, m, D]`` cells of the first and second rows.
            missing_a, missing_b: ``[P, m]`` bool; what stands in missing cells changes nothing.
        """
        missing = torch.cat([missing_a, missing_b], dim=1)
        cells = torch.cat([a, b], dim=1).masked_fill(missing[..., None], 0.0)
        x = cells + self.columns.repeat(2, 1)
        x = self.norm(x + self.attention(x, missing)).masked_fill(missing[..., None], 0.0)
        first, second = x.split(self.n_columns, dim=1)
        both = (~missing_a & ~missing_b)[..., None]
        flags = torch.stack([both[..., 0], missing_a ^ missing_b, missing_a & missing_b], dim=-1)
        features = [
            (first - second).abs().masked_fill(~both, 0.0),
            (first * second).masked_fill(~both, 0.0),
            _cosines(cells, self.n_columns, missing),
            flags.to(x.dtype),
        ]
        h = F.relu(self.compare(torch.cat(features, dim=-1)) + self.column_bias)
        return self.mlp(h.flatten(1)).squeeze(1)


def _cosines(cells: Tensor, m: int, missing: Tensor) -> Tensor:
    """``[P, m, 3]``: cosine of the two cells of a column; the larger and the smaller of their best cosines
    with any cell of the other row (values in another column). 0 where a side is missing."""
    unit = F.normalize(cells, dim=-1)
    a, b = unit.split(m, dim=1)
    cosine = a @ b.transpose(1, 2)  # [P, m, m]; missing cells are zero vectors
    best_a, best_b = cosine.amax(dim=2), cosine.amax(dim=1)
    best = torch.stack([torch.maximum(best_a, best_b), torch.minimum(best_a, best_b)], dim=-1)
    return torch.cat([cosine.diagonal(dim1=1, dim2=2)[..., None], best], dim=-1)
