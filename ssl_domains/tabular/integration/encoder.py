"""The encoder of rows of texts, with the head that compares two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Set
from ssl_domains.core.registry import encoder
from ssl_domains.tabular.integration.embedding import HashedNgrams, MiniLM, PretrainedText, WordLlama
from ssl_domains.tabular.integration.matcher import PairMatcher, Row
from ssl_domains.tabular.integration.spec import TextTableSpec

TextModel = Literal["ngrams", "wordllama", "minilm"]


@encoder("text_cells")
class TextCells(Encoder):
    """A token for each cell of a row of texts, and :meth:`match` for pairs of rows (arXiv 2412.00324).

    A frozen text embedding of the cell, a learned linear map, and length 1: ``tokens [B, m, D]``;
    ``pooled [B, D]`` is the mean of the present cells (zeros for a row without any). Input
    ``{"chars": [B, m, L], "missing": [B, m]}``. With a mask, hidden cells count as missing.

    Args:
        spec: a table of texts (``data.cells: text``).
        text: ``ngrams``: hashed character n-grams, nothing to install; ``wordllama`` or ``minilm``: a
            pretrained model that comes as a package. The paper's is DeBERTa-v3 base.
        width: D. Default 64 (the paper: 768, that of its language model).
        column_width: numbers a column that reach the classifier's MLP.
        hidden: widths of that MLP. Default that of the paper.
        dropout: in that MLP. Default 0.2 (the paper's).
    """

    drops_hidden = False

    def __init__(
        self,
        spec: TextTableSpec,
        text: TextModel = "ngrams",
        width: int = 64,
        column_width: int = 64,
        hidden: Sequence[int] = (512, 256, 128),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if not isinstance(spec, TextTableSpec):
            raise ValueError("encoder 'text_cells' reads texts; set data.cells: text")
        self.spec, self.width = spec, width
        self.text = _text_model(text, spec)
        self.text_width = self.text.width
        self.project = nn.Linear(self.text_width, width, bias=False)
        # Columns of variance 1 / D: at the start, cosines of tokens are those of the embeddings.
        nn.init.normal_(self.project.weight, std=width**-0.5)
        self.matcher = PairMatcher(width, spec.n_columns, column_width, tuple(hidden), dropout)

    def forward(self, x: dict[str, Tensor], mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Encodes rows; with a mask, without the hidden cells."""
        missing = x["missing"] if mask is None else x["missing"] | mask.hidden
        raw = self.text(x["chars"])
        tokens = F.normalize(self.project(raw).float(), dim=-1).masked_fill(missing[..., None], 0.0)
        count = (~missing).sum(dim=1, keepdim=True).clamp_min(1)
        pooled = tokens.sum(dim=1) / count
        states = [raw, tokens] if layers else None
        return Encoded(Tokens(tokens, Set(self.spec.n_columns), missing), pooled, states)

    def rows(self, tokens: Tensor, missing: Tensor) -> Row:
        """Rows that can be compared, from tokens ``[R, m, D]`` and ``[R, m]`` missing cells."""
        return self.matcher.rows(tokens, missing)

    def match(self, a: Row, b: Row) -> Tensor:
        """``[P]`` logits that row p of ``a`` and of ``b`` speak of the same thing."""
        return self.matcher(a, b)

    def layout(self, x: dict[str, Tensor]) -> Set:
        """A set of m columns."""
        return Set(self.spec.n_columns)

    def targets(self, x: dict[str, Tensor]) -> Tokens:
        """``[B, m, F]``: the frozen text embedding of each cell."""
        return Tokens(self.text(x["chars"]), self.layout(x), x["missing"])

    @property
    def target_width(self) -> int:
        """F of the text embedding."""
        return self.text_width

    def predictor(self, output_width: int, **options: Any) -> CellPredictor:
        """A :class:`CellPredictor`."""
        return CellPredictor(self.spec.n_columns, self.width, output_width, **options)

    def input_parameters(self) -> list[nn.Parameter]:
        """The linear map after the text embedding."""
        return list(self.project.parameters())


def _text_model(name: str, spec: TextTableSpec) -> HashedNgrams | PretrainedText:
    if name == "ngrams":
        return HashedNgrams(spec.idf)
    return WordLlama() if name == "wordllama" else MiniLM()


class CellPredictor(nn.Module):
    """From the visible cells to the hidden ones: two layers on their mean and a code of the hidden column.

    Args:
        n_columns: m.
        encoder_width: D.
        output_width: width of a prediction.
        width: of the hidden layer.
    """

    def __init__(self, n_columns: int, encoder_width: int, output_width: int, width: int = 128) -> None:
        super().__init__()
        self.row = nn.Linear(encoder_width, width)
        self.columns = nn.Parameter(torch.zeros(n_columns, width))
        self.out = nn.Linear(width, output_width)

    def forward(self, encoded: Encoded, mask: Mask, x: Any = None) -> Tensor:
        """Rows ``[M, output_width]`` in the order of ``Tokens.select(mask)``."""
        grid = F.relu(self.row(encoded.pooled)[:, None] + self.columns)
        padding = None if x is None else x["missing"]
        return Tokens(self.out(grid), padding=padding).select(mask)
