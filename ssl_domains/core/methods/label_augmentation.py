"""Self-supervised label augmentation: one softmax over class and transformation (SLA)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Encoded, Output, View
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.numerics import at_least_float32, full_precision, global_mean
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method

Inference = Literal["single", "aggregated", "distilled"]


@method("label_augmentation")
class LabelAugmentation(Method):
    """A classifier of (class, transformation) pairs, its aggregated inference, and its one-pass student.

    Uses LABELS: the supervised stage after pretraining, or with pseudo-labels in the label column;
    rows without one are left out. Every sample comes as M transformed copies that pass together
    (batch norm sees all of them); copy j of class y has the joint label ``y M + j``, and the loss
    is the mean cross-entropy over all copies. A model that need not give a rotated 6 and a 9 the
    same class loses nothing by seeing both. For prediction each copy's logits are read at its OWN
    transformation and averaged over the copies.

    Args:
        encoder: the domain's encoder.
        objective: ``cross_entropy``, on logits and class numbers.
        views: one view for each transformation, with the recorded number of it, 0 for none.
        spec: the data's spec, from which the views know M.
        n_classes: N, from the data.
        target: name of the recorded parameter.
        task: ``joint`` is the paper's. Its baselines: ``invariant`` gives all copies the plain class
            (data augmentation), ``multi_task`` predicts class and transformation by two heads.
        self_distillation: also train a head of N classes on the untransformed copy: cross-entropy
            plus ``temperature^2 KL(aggregated || head)``, the aggregated side without gradient.
        temperature: T of that term. Default 1.
        reduction: ``mean`` over copies, or ``sum`` (the authors' for ImageNet and iNaturalist).

    Parts: accuracies in the batch: ``accuracy`` of the task itself, and by kind of inference.

    Source: Lee et al., Self-supervised Label Augmentation via Input Transformations (ICML 2020,
    arXiv 1910.05872), sections 3.1 to 3.3.

    Raises:
        UserError: the data have no classes.
    """

    uses_labels: ClassVar[bool] = True

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        spec: Any,
        n_classes: int,
        target: str = "transformation",
        task: Literal["joint", "invariant", "multi_task"] = "joint",
        self_distillation: bool = False,
        temperature: float = 1.0,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        if n_classes < 2:
            raise UserError(
                "method 'label_augmentation' learns classes: name a column of classes in data.label"
            )
        if not temperature > 0:
            raise ValueError(f"method.temperature must be positive, got {temperature}")
        if self_distillation and task != "joint":
            raise ValueError("method.self_distillation goes with task: joint")
        self.encoder, self.objective, self.views, self.target = encoder, objective, views, target
        self.n_classes, self.n_copies = n_classes, views.target_width(target, spec)
        self.task, self.temperature, self.reduction = task, temperature, reduction
        width = encoder.pooled_width
        self.embedding_width = n_classes * (self.n_copies if task == "joint" else 1)
        self.head = nn.Linear(width, self.embedding_width)
        self.transformation_head = nn.Linear(width, self.n_copies) if task == "multi_task" else None
        self.student_head = nn.Linear(width, n_classes) if self_distillation else None

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        encoded, pooled, kinds = self._encode(views)
        label = batch.label
        if label is None:
            raise UserError("method 'label_augmentation' wants labels, and the batch has none")
        logits = self.head(pooled)  # [B, V, C]
        terms = self._task_loss(logits, pooled, label, kinds)
        total = terms.total * (len(views) if self.reduction == "sum" else 1)
        parts = dict(terms.parts)
        guesses = {"single": self._single(logits, kinds), "aggregated": self._aggregated(logits, kinds)}
        if self.student_head is not None:
            guesses["distilled"] = student = self.student_head(_untransformed(pooled, kinds))
            plain = self.objective(student, label)
            kl = distillation(guesses["aggregated"], student, self.temperature)
            total = total + plain.total + kl
            parts |= {"student_loss": plain.total.detach(), "distillation": kl.detach()}
        parts |= {f"accuracy_{name}": _accuracy(guess, label) for name, guess in guesses.items()}
        return Output(total, parts, stages(encoded), terms.trivial)

    def predict(self, views: Sequence[View], inference: Inference = "aggregated") -> Tensor:
        """Class scores ``[B, N]``.

        Args:
            views: copies of the samples, as the method's views make them without augmentation.
            inference: ``single``: the untransformed copy; ``aggregated``: all copies;
                ``distilled``: the one-pass head.

        Raises:
            ValueError: there is no such head.
        """
        _, pooled, kinds = self._encode(views)
        if inference == "distilled":
            if self.student_head is None:
                raise ValueError("predict: inference 'distilled' wants method.self_distillation")
            return self.student_head(_untransformed(pooled, kinds))  # type: ignore[no-any-return]
        logits = self.head(pooled)
        return self._single(logits, kinds) if inference == "single" else self._aggregated(logits, kinds)

    def class_scores(self, batch: Batch) -> dict[str, Tensor]:
        """``single`` and ``aggregated``, and ``distilled`` where there is a one-pass head."""
        views = self.views.unaugmented()(batch, Draw(0, 0, batch.index))
        kinds: list[Inference] = ["single", "aggregated"]
        kinds += ["distilled"] if self.student_head is not None else []
        return {kind: self.predict(views, kind) for kind in kinds}

    def _encode(self, views: Sequence[View]) -> tuple[Encoded, Tensor, Tensor]:
        """First pass, pooled vectors ``[B, V, D]``, and transformations ``[B, V]``.

        Copies that are tensors of one shape pass together, image by image; others (graphs,
        mappings) one view after another.
        """
        kinds = torch.stack([view.params[self.target] for view in views], dim=1)
        inputs = [view.x for view in views]
        if all(isinstance(x, Tensor) and x.shape == inputs[0].shape for x in inputs):
            encoded = self.encoder(torch.stack(inputs, dim=1).flatten(0, 1))
            return encoded, encoded.pooled.unflatten(0, kinds.shape), kinds
        passes = [self.encoder(x) for x in inputs]
        return passes[0], torch.stack([e.pooled for e in passes], dim=1), kinds

    def _task_loss(self, logits: Tensor, pooled: Tensor, label: Tensor, kinds: Tensor) -> Terms:
        """Mean over all copies."""
        labels = label[:, None].expand_as(kinds)
        if self.task == "joint":
            joint = torch.where(labels >= 0, labels * self.n_copies + kinds, labels)
            return self.objective(logits.flatten(0, 1), joint.flatten())  # type: ignore[no-any-return]
        terms: Terms = self.objective(logits.flatten(0, 1), labels.flatten())
        if self.transformation_head is None:
            return terms
        other: Terms = self.objective(self.transformation_head(pooled).flatten(0, 1), kinds.flatten())
        parts = terms.parts | {f"transformation_{name}": value for name, value in other.parts.items()}
        trivial = {name: terms.trivial[name] + other.trivial[name] for name in terms.trivial}
        return Terms(terms.total + other.total, parts, trivial)

    def _own(self, logits: Tensor, kinds: Tensor) -> Tensor:
        """``[B, V, N]``: each copy's logits at its own transformation."""
        if self.task != "joint":
            return logits
        table = logits.unflatten(2, (self.n_classes, self.n_copies))
        index = kinds[:, :, None, None].expand(-1, -1, self.n_classes, 1)
        return table.gather(3, index)[..., 0]

    def _aggregated(self, logits: Tensor, kinds: Tensor) -> Tensor:
        return self._own(logits, kinds).mean(dim=1)

    def _single(self, logits: Tensor, kinds: Tensor) -> Tensor:
        return _untransformed(self._own(logits, kinds), kinds)


def _untransformed(values: Tensor, kinds: Tensor) -> Tensor:
    """``[B, C]`` of ``[B, V, C]``: the copy whose transformation is number 0."""
    place = (kinds == 0).to(torch.int8).argmax(dim=1)
    return values.gather(1, place[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]


def distillation(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))``, the mean over the global batch.

    Args:
        teacher: logits ``[B, N]``; gets no gradient.
        student: logits ``[B, N]``.
        temperature: T.
    """
    with full_precision(student.device):
        target = F.log_softmax(at_least_float32(teacher.detach()) / temperature, dim=1)
        guess = F.log_softmax(at_least_float32(student) / temperature, dim=1)
        return temperature**2 * global_mean((target.exp() * (target - guess)).sum(dim=1))


@torch.no_grad()
def _accuracy(logits: Tensor, label: Tensor) -> Tensor:
    known = label >= 0
    return global_mean((logits.argmax(dim=1) == label).float(), known.float())
