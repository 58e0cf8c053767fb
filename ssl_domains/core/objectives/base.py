"""What every objective returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Terms(NamedTuple):
    """The value of an objective.

    Attributes:
        total: scalar with gradient, the weighted sum that is minimised.
        parts: named scalars without gradient (unweighted terms, accuracies), for the log.
        trivial: the values that ``total`` takes when nothing is learned, by name
            (for example ``{"uniform": ln K, "constant": 0.0}``). The guard compares the
            loss with them. Plain floats: they must not cost a device synchronisation.
    """

    total: Tensor
    parts: dict[str, Tensor]
    trivial: dict[str, float] = {}


def mean_terms(terms: Iterable[Terms]) -> Terms:
    """Averages the totals and each named part; trivial values are those of the first."""
    terms = list(terms)
    if len(terms) == 1:
        return terms[0]
    total = torch.stack([t.total for t in terms]).mean()
    parts = {name: torch.stack([t.parts[name] for t in terms]).mean() for name in terms[0].parts}
    return Terms(total, parts, terms[0].trivial)


class Objective(nn.Module):
    """Base of all objectives: plain modules on tensors ``[N, D]``.

    An objective knows no domain, no recipe and no trainer. It keeps state only where its
    paper has it (centers, prototypes); that state is registered as buffers, so that
    checkpoints carry it.

    A masked objective receives ``prediction [M, P]`` and ``target [M, T]``; by default
    ``P == T``. One that decodes by itself (per-column heads of a table) says so in
    :meth:`prediction_width`.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Terms:
        raise TypeError(f"{type(self).__name__} does not define forward(...) -> Terms")

    def over_views(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Terms:
        """The objective over all pairs of a student view and ANOTHER teacher view, averaged.

        Args:
            students: ``[B, D]`` by view.
            teachers: ``[B, D]`` by view; ``teachers[j]`` belongs to the same view as
                ``students[j]``, there may be fewer of them (no local views).
        """
        pairs = [(i, j) for i in range(len(students)) for j in range(len(teachers)) if i != j]
        return mean_terms(self(students[i], teachers[j]) for i, j in pairs)

    def over_peers(self, views: Sequence[Tensor], n_global: int) -> Terms:
        """The objective among views of ONE network, which all play the same role.

        Default: averaged over unordered pairs.

        Args:
            views: ``[B, D]`` by view.
            n_global: the first so many are global views, the others local ones.
        """
        return mean_terms(self(a, b) for a, b in combinations(views, 2))

    def after_step(self, fraction: float) -> None:
        """After the optimizer step, at this share of the run: centers, temperature ramps."""

    def prediction_width(self, target_width: int, encoder_width: int) -> int:
        """Width P of the predictions this objective wants for targets of ``target_width``."""
        return target_width

    def remedies(self) -> dict[str, str]:
        """Cause and remedy of a collapse, with this objective's own settings: ``"cause; remedy"``.

        The guard ends its sentence with them; what is missing gets its general words.

        Returns:
            By kind: ``point`` (all vectors the same), ``line`` (features are copies of one
            another), ``dead`` (columns stand still), ``constant_prediction`` (no better than the
            mean target), or the name of a trivial value.
        """
        return {}

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        """Preconditions, checked before the first step.

        Args:
            batch_size: global batch size.
            width: width of the vectors that reach the objective.
            views: number of views a sample.
            n_samples: rows in the training split; None for a stream.

        Returns:
            One sentence per violated precondition, with the remedy; empty when all is well.
        """
        return []
