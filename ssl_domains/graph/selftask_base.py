"""What a pretext task of SelfTask is: targets once, a head, a loss each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core.objectives.base import Terms
from ssl_domains.core.objectives.numerics import at_least_float32, global_mean
from ssl_domains.core.random import Draw
from ssl_domains.graph.selftask_targets import Known


@dataclass(frozen=True)
class Step:
    """What a task sees of a training step.

    Attributes:
        h: ``[n, D]`` embeddings of the batch's nodes, before dropout.
        dropped: ``[n, D]`` after dropout.
        seeds: ``[B]`` where the samples stand among the n nodes.
        index: ``[B]`` their global numbers.
        draw: randomness of this task and step.
    """

    h: Tensor
    dropped: Tensor
    seeds: Tensor
    index: Tensor
    draw: Draw


class Task(nn.Module):
    """Base of the pretext tasks: graph-wide targets once, a head, and a loss each step.

    A subclass is registered with ``@register("task", name)``. Its constructor takes ``spec`` and
    ``width`` (D of the embeddings), which the method fills, and options of its own.

    Attributes:
        weight: lambda when the recipe gives none. Targets differ in scale (1 / hops, cosines,
            probabilities), so each task has its own: the paper's for Cora.
        needs_labels: its targets are made from the labels of the train split.
        whole_graph: its pairs may lie anywhere, so every batch must hold the whole graph.
    """

    weight: float = 1.0
    needs_labels: ClassVar[bool] = False
    whole_graph: ClassVar[bool] = False

    def prepare(self, known: Known) -> None:
        """Computes the targets, once; must be deterministic."""
        raise TypeError(f"{type(self).__name__} does not define prepare")

    def transform(self, x: Any, draw: Draw) -> Any:
        """The graph that the encoder sees: a copy of the batch ``x`` without what the task hides."""
        return x

    def loss(self, step: Step) -> Terms:
        """The task's loss on the batch, over all processes."""
        raise TypeError(f"{type(self).__name__} does not define loss")

    def keep(self, name: str, value: np.ndarray | Tensor) -> None:
        """Holds a target on the device of the head; it is computed anew after a resume, so not saved."""
        tensor = torch.as_tensor(value).to(next(self.parameters()).device)
        self.register_buffer(name, tensor, persistent=False)


def differences(step: Step, pairs: Tensor) -> Tensor:
    """``[M, D]``: ``|z_u - z_v|`` of pairs ``[2, M]``, the same for (u, v) and (v, u)."""
    return (step.dropped[pairs[0]] - step.dropped[pairs[1]]).abs()


def renamed(prefix: str, terms: Terms) -> Terms:
    """Terms whose parts are only the accuracy, under the task's name."""
    parts = {f"{prefix}_accuracy": terms.parts["accuracy"]} if "accuracy" in terms.parts else {}
    return Terms(terms.total, parts, terms.trivial)


def mean_square(out: Tensor, target: Tensor, counts: Tensor) -> Terms:
    """Mean squared error over the cells of ``[B, K]`` where ``counts`` is 1, over all processes."""
    error = (at_least_float32(out) - target).square()
    return Terms(global_mean(error.flatten(), counts.expand_as(error).flatten()), {})
