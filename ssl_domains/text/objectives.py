"""Which word stood there: the loss of a masked language model."""

from __future__ import annotations

from torch import Tensor

from ssl_domains.core.objectives.base import Terms
from ssl_domains.core.objectives.classification import CrossEntropy
from ssl_domains.core.registry import objective
from ssl_domains.text.spec import TextSpec


@objective("masked_tokens")
class MaskedTokens(CrossEntropy):
    """Cross-entropy over the vocabulary at hidden tokens (BERT, Devlin et al., NAACL 2019, section 3.1).

    Args:
        spec: the data; the vocabulary is the number of classes.
        label_smoothing: in [0, 1). Default 0.

    Trivial value "uniform": the log of the vocabulary.
    """

    def __init__(self, spec: TextSpec, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        self.size = spec.size

    def prediction_width(self, target_width: int, encoder_width: int) -> int:
        """One score a word."""
        return self.size

    def forward(self, logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Terms:
        """Args: ``logits [M, V]``; ``target [M, 1]`` or ``[M]`` int64 words; ``weights [M]`` or None."""
        return super().forward(logits, target[:, 0] if target.ndim == 2 else target, weights)
