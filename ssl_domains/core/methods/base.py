"""What a method is: a module from a batch to a loss, and a few hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.interfaces import Encoder, Source
from ssl_domains.core.random import Draw


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: optimizer steps taken so far (0 before the first).
        total_steps: the budget in steps.
        epoch: epochs begun, from 0.
        samples: samples seen so far over all processes.
    """

    step: int
    total_steps: int
    epoch: int = 0
    samples: int = 0

    @property
    def fraction(self) -> float:
        """Share of the budget used, in [0, 1]."""
        return min(self.step / max(self.total_steps, 1), 1.0)


class Method(nn.Module):
    """Base of all methods.

    ``forward(batch, draw) -> Output`` is all that a method must have, so that DDP and FSDP2
    can wrap it. A subclass takes by name, in its constructor, whichever of ``encoder``,
    ``objective``, ``views`` and ``masker`` it needs; all other arguments are keys of the
    recipe's ``method`` section.

    Attributes:
        uses_labels: False: the trainer removes labels before the batch gets here.
    """

    uses_labels: ClassVar[bool] = False
    encoder: Encoder

    def forward(self, batch: Batch, draw: Draw) -> Output:
        """Loss of one batch.

        Args:
            batch: on the method's device.
            draw: all randomness of the step but dropout.
        """
        raise TypeError(f"{type(self).__name__} does not define forward")

    def before_training(self, source: Source) -> None:
        """Once, before the first step and after a resume (must be deterministic).

        Default: lets the views see the data (:meth:`Views.prepare`).
        """
        views = getattr(self, "views", None)
        if views is not None:
            views.prepare(source)

    def before_epoch(self, source: Source, epoch: int) -> None:
        """Feature caches, clusters, samplers."""

    def restarts(self) -> Sequence[int]:
        """Epochs, without 0, at whose beginning ``before_epoch`` puts fresh weights in: the trainer then
        forgets the optimizer's state and begins the schedule anew. Default: none."""
        return ()

    def after_step(self, progress: Progress) -> None:
        """After the optimizer step: EMA, queue, ramps. Default: the objective's own (centers)."""
        objective = getattr(self, "objective", None)
        if objective is not None:
            objective.after_step(progress.fraction)

    def encoder_for_export(self) -> Encoder:
        """The encoder that probes and users get. Default: the student's."""
        return self.encoder

    def class_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Scores ``[B, N]`` by the method's own classifiers, by name, of a batch without augmentation.

        Only asked of a method that uses labels. Default: it has none.
        """
        return {}

    @classmethod
    def objective_width(cls, encoder: Encoder, options: Mapping[str, Any]) -> int:
        """The ``width`` that an objective with such a constructor argument is built with.

        Args:
            encoder: the encoder of the run.
            options: the recipe's ``method`` section.

        Returns:
            Default: the encoder's width (an objective that decodes latents itself).
        """
        return encoder.width

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups: trainable parameters, with ``no_decay`` for biases and 1-d tensors.

        Returns:
            Dicts with ``params`` and ``decay: bool``; a method that wants its own learning
            rates adds ``lr_scale``.
        """
        matrices = [p for p in self.parameters() if p.requires_grad and p.ndim > 1]
        vectors = [p for p in self.parameters() if p.requires_grad and p.ndim <= 1]
        return [{"params": matrices, "decay": True}, {"params": vectors, "decay": False}]

    def remedies(self) -> dict[str, str]:
        """Cause and remedy of a collapse by its kind, for the guard. Default: the objective's own."""
        objective = getattr(self, "objective", None)
        return {} if objective is None else objective.remedies()

    def check(self, *, batch_size: int, n_samples: int | None) -> list[str]:
        """Preconditions of the method and its objective; one sentence each, with the remedy."""
        objective = getattr(self, "objective", None)
        if objective is None:
            return []
        views = getattr(getattr(self, "views", None), "n_views", 1)
        width = getattr(self, "embedding_width", self.encoder.width)
        return objective.check(batch_size=batch_size, width=width, views=views, n_samples=n_samples)
