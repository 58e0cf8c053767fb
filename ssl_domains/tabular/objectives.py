"""Reconstruction of table cells: squared error for numbers, cross-entropy for categories."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_domains.core.collectives import all_reduce_sum
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.registry import objective
from ssl_domains.tabular.spec import TableSpec


@objective("mixed_columns")
class MixedReconstruction(Objective):
    """Decodes latents of hidden cells with a head for each column.

    Numbers: ``(w_j . z + b_j - x)^2`` in the table's scaling. Categories: cross-entropy over
    the column's codes 1 .. C (code 1: rare). Cells that are missing do not count. Each kind is
    a mean over its cells of the GLOBAL batch; total
    ``numeric_weight * squared_error + categorical_weight * cross_entropy``.

    Args:
        spec: the table (given by the builder).
        width: H of the latents (given by the builder: the encoder's).
        numeric_weight, categorical_weight: weights of the two kinds.
    """

    cardinalities: list[int]

    def __init__(
        self, spec: TableSpec, width: int, numeric_weight: float = 1.0, categorical_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.n_numeric, self.width = len(spec.numeric), width
        self.numeric_weight, self.categorical_weight = numeric_weight, categorical_weight
        self.weight = nn.Parameter(torch.zeros(self.n_numeric, width))
        self.bias = nn.Parameter(torch.zeros(self.n_numeric))
        nn.init.trunc_normal_(self.weight, std=0.02, a=-0.04, b=0.04)
        self.classifiers = nn.ModuleList(nn.Linear(width, size - 1) for size in spec.cardinalities)
        self._trivial = self._constant_loss(spec)

    def _constant_loss(self, spec: TableSpec) -> float:
        """The loss of predicting each column's train mean or frequencies."""
        numeric = float(spec.variances().mean()) if spec.numeric else 0.0
        entropies = [column.entropy for column in spec.categorical]
        categorical = sum(entropies) / len(entropies) if entropies else 0.0
        return self.numeric_weight * numeric + self.categorical_weight * categorical

    def prediction_width(self, target_width: int, encoder_width: int) -> int:
        """The latents' width: the heads are here."""
        return self.width

    def forward(self, prediction: Tensor, target: Tensor) -> Terms:
        """Loss of M cells.

        Args:
            prediction: ``[M, H]`` latents.
            target: ``[M, 2]`` value (a number, NaN when missing, or a code, 0 when missing) and
                column number, as :meth:`TableEncoder.targets` gives them.
        """
        column = target[:, 1].to(torch.int64)
        numbers = self._numbers(prediction, target[:, 0], column)
        return self._terms(*numbers, *self._categories(prediction, target[:, 0], column))

    def rows(self, latent: Tensor, target: Tensor) -> Terms:
        """Loss of all cells of B rows, each decoded from one latent of its row.

        The same value as :meth:`forward` of the latents repeated for each column.

        Args:
            latent: ``[B, H]``.
            target: ``[B, N, 2]``, all columns in order, as :meth:`TableEncoder.targets` gives them.
        """
        value, n = target[..., 0], self.n_numeric
        known = ~value[:, :n].isnan()
        guess = latent @ self.weight.T + self.bias.to(latent.dtype)
        error = torch.where(known, guess.float() - value[:, :n].nan_to_num(), 0.0)
        codes = value[:, n:].nan_to_num().to(torch.int64)
        entropy = latent.float().sum() * 0.0
        for j, classifier in enumerate(self.classifiers):
            logits = classifier(latent).float()
            entropy = entropy + F.cross_entropy(logits, codes[:, j] - 1, ignore_index=-1, reduction="sum")
        return self._terms(error.square().sum(), known.sum().float(), entropy, (codes > 0).sum().float())

    def _terms(self, errors: Tensor, counted: Tensor, entropy: Tensor, classified: Tensor) -> Terms:
        """From sums and numbers of cells of this process to the loss of the global batch."""
        local = torch.stack([errors, entropy])
        with torch.no_grad():
            counts = all_reduce_sum(torch.stack([counted, classified])).clamp_min(1.0)
        squared, cross = (all_reduce_sum(local) / counts).unbind()
        total = self.numeric_weight * squared + self.categorical_weight * cross
        parts = {"squared_error": squared.detach(), "cross_entropy": cross.detach()}
        return Terms(total, parts, {"constant": self._trivial})

    def _numbers(self, latent: Tensor, value: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of squared errors and number of cells, without data-dependent shapes."""
        if self.n_numeric == 0:
            zero = latent.float().sum() * 0.0
            return zero, zero.detach()
        counts = (column < self.n_numeric) & ~value.isnan()
        head = column.clamp_max(self.n_numeric - 1)
        guess = (latent * self.weight[head]).float().sum(-1) + self.bias[head].float()
        error = torch.where(counts, guess - value.nan_to_num(), 0.0)
        return error.square().sum(), counts.sum().float()

    def _categories(self, latent: Tensor, value: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of cross-entropies and number of cells. The cells are sorted by column, so that all
        sizes come to the host in one transfer."""
        n_heads = len(self.classifiers)
        head = torch.where(value.nan_to_num() >= 1.0, column - self.n_numeric, -1).clamp(-1, n_heads - 1)
        sizes = torch.bincount(head + 1, minlength=n_heads + 1).tolist()
        groups = head.argsort(stable=True).split(sizes)[1:]
        total = latent.float().sum() * 0.0
        for rows, classifier in zip(groups, self.classifiers, strict=True):
            logits = classifier(latent[rows]).float()
            total = total + F.cross_entropy(logits, value[rows].to(torch.int64) - 1, reduction="sum")
        return total, (head >= 0).sum().float()
