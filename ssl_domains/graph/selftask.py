"""SelfTask: pretext tasks on the nodes of one graph, joined with a few labels or before them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core import registry
from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Encoder, Source
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.classification import CrossEntropy
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.graph import selftask_labels, selftask_tasks  # noqa: F401  they register the tasks
from ssl_domains.graph.layers import MessagePassing
from ssl_domains.graph.selftask_base import Step, Task
from ssl_domains.graph.selftask_targets import Known
from ssl_domains.graph.spec import GraphSpec


@method("selftask")
class SelfTask(Method):
    """Pretext tasks with targets from the whole graph, beside a classifier or alone (SelfTask, 2020).

    ``loss = label_weight * CE(classifier, train labels) + sum over tasks of weight * task``. With
    ``label_weight`` 0 it pretrains without labels, for a ``fine_tune`` probe or ``init_from``;
    otherwise classifier and tasks share the encoder from the first step (the paper's better scheme).
    Only labels of the train split are read, also by the tasks that guess labels; labels of the
    validation split choose the weights that users get (``select``).

    The paper's network is a GCN of two layers: ``encoder: {name: gcn, layers: 1, width: 128}`` is its
    first layer, whose output the tasks see, and the classifier its second one.

    Args:
        encoder: of graphs.
        spec: of the data; samples must be nodes.
        tasks: names of tasks, or ``{name: ..., weight: ..., further options}``; without a weight, the
            task's own. Weight 0 leaves a task out. ``ssl-domains list tasks`` names them.
        label_weight: of the supervised loss. Default 1; 0: no labels are needed.
        classifier: ``graph``, a message-passing layer of the encoder's kind, or ``linear``.
        dropout: between encoder and heads. Default 0.5.
        select: users get the encoder of the step with the best validation accuracy (measured after
            each step, without dropout); False: of the last step.
    """

    labels: Tensor
    best_accuracy: Tensor
    accuracy: Tensor

    def __init__(
        self,
        encoder: Encoder,
        spec: GraphSpec,
        tasks: Sequence[str | Mapping[str, Any]] = ("pairwise_distance",),
        label_weight: float = 1.0,
        classifier: str = "graph",
        dropout: float = 0.5,
        select: bool = True,
    ) -> None:
        super().__init__()
        _check(spec, label_weight, classifier, dropout)
        self.encoder, self.spec, self.label_weight, self.dropout = encoder, spec, label_weight, dropout
        self.classifier: nn.Module | None = None
        if spec.classes:  # before the tasks: without them it starts with the same weights
            self.classifier = _classifier(classifier, encoder, len(spec.classes), spec)
        self.supervised = CrossEntropy()
        self.tasks = nn.ModuleDict()
        self.weights: dict[str, float] = {}
        for entry in tasks:
            name, weight, task = build_task(entry, spec, encoder.width)
            if name in self.tasks:
                raise ValueError(f"method.tasks names {name!r} twice")
            self.tasks[name], self.weights[name] = task, weight
        if not label_weight and not any(self.weights.values()):
            raise ValueError(
                "method.label_weight and the weights of all method.tasks are 0: nothing to learn"
            )
        self.best: nn.ModuleDict | None = None
        if select and label_weight and self.classifier is not None:
            kept = {"encoder": copy.deepcopy(encoder), "classifier": copy.deepcopy(self.classifier)}
            self.best = nn.ModuleDict(kept).requires_grad_(False)
        self.register_buffer("best_accuracy", torch.tensor(-1.0))
        self.register_buffer("accuracy", torch.tensor(-1.0))
        self._whole: Any = None

    def before_training(self, source: Source) -> None:
        """Targets of all tasks, from the graph and the labels of the train split.

        Raises:
            DataError: a task wants the whole graph in each batch, and neighbours are sampled; or no
                node of the train split has a label.
        """
        active = self.active()
        wide = [name for name, task in active if task.whole_graph]
        if wide and not source.full_batch:
            raise DataError(
                f"method.tasks: {', '.join(wide)} compare nodes all over the graph, but neighbours are "
                "sampled; set data.neighbors: null and data.full_batch_limit above the number of nodes, "
                "or choose other tasks"
            )
        known = Known.of(source)
        labels = self.label_weight or any(task.needs_labels for _, task in active)
        if labels and not (known.labels >= 0).any():
            raise DataError("method 'selftask': no node of the train split has a label to learn from")
        device = next(self.parameters()).device
        self.register_buffer("labels", torch.from_numpy(known.labels).to(device), persistent=False)
        for _, task in active:
            task.prepare(known)
        if self.best is not None and source.full_batch and len(source.splits["valid"]):
            assert source.labels is not None
            self._whole = source.fetch(source.splits["valid"]).to(device)
            self._whole.label = self._whole.label.to(torch.int64)

    def forward(self, batch: Batch, draw: Draw) -> Output:
        active = [(name, task, draw.fork(name)) for name, task in self.active()]
        x = batch.x
        for _, task, own in active:
            x = task.transform(x, own)
        encoded = self.encoder(x)
        h = encoded.tokens.values
        dropped = F.dropout(h, self.dropout, self.training)
        total, parts = h.new_zeros(()), dict[str, Tensor]()
        if self.label_weight:
            logits = self._classify(dropped, x)[x.seed_index]
            terms = self.supervised(logits, self.labels[batch.index])
            total = self.label_weight * terms.total
            parts = {"supervised": terms.total.detach(), "train_accuracy": terms.parts["accuracy"]}
        for name, task, own in active:
            terms = task.loss(Step(h, dropped, x.seed_index, batch.index, own))
            total = total + self.weights[name] * terms.total
            parts |= {name: terms.total.detach(), **terms.parts}
        if self._whole is not None:
            parts["valid_accuracy"] = self.accuracy.clone()
        return Output(total, parts, stages(encoded))

    def active(self) -> list[tuple[str, Task]]:
        """Tasks whose weight is above 0."""
        return [(name, self.tasks[name]) for name, weight in self.weights.items() if weight]  # type: ignore[misc]

    def _classify(self, h: Tensor, x: Any) -> Tensor:
        """``[n, C]``."""
        return apply_classifier(self.classifier, h, x)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Keeps the weights when the validation accuracy is the best so far, without looking at it."""
        if self.best is None or self._whole is None:
            return
        mode = self.training
        self.eval()
        x = self._whole.x
        logits = self._classify(self.encoder(x).tokens.values, x)[x.seed_index]
        self.train(mode)
        known = self._whole.label >= 0
        hits = ((logits.argmax(dim=1) == self._whole.label) & known).sum()
        self.accuracy.copy_(hits / known.sum().clamp_min(1))
        better = self.accuracy > self.best_accuracy
        self.best_accuracy.copy_(torch.maximum(self.accuracy, self.best_accuracy))
        for name, now in (("encoder", self.encoder), ("classifier", self.classifier)):
            assert now is not None
            kept = self.best[name].state_dict()
            for key, value in now.state_dict().items():
                kept[key].copy_(torch.where(better, value, kept[key]))

    def encoder_for_export(self) -> Encoder:
        """The encoder with the best validation accuracy where one is selected, else the last."""
        return self.encoder if self._whole is None or self.best is None else self.best["encoder"]  # type: ignore[return-value]

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """``[B, C]`` logits of the jointly trained classifier, with the weights that users get.

        Raises:
            DataError: it was trained without labels.
        """
        if self.classifier is None or not self.label_weight:
            raise DataError("method 'selftask' was trained without labels: there is no classifier")
        chosen = self._whole is not None and self.best is not None
        encoder = self.encoder_for_export()
        classifier = self.best["classifier"] if chosen and self.best is not None else self.classifier
        modes = [(part, part.training) for part in (encoder, classifier)]
        for part, _ in modes:
            part.eval()
        out = apply_classifier(classifier, encoder(batch.x).tokens.values, batch.x)[batch.x.seed_index]
        for part, mode in modes:
            part.train(mode)
        return out

    def class_scores(self, batch: Batch) -> dict[str, Tensor]:
        """``joint``, where it was trained with labels."""
        return {"joint": self.predict(batch)} if self.classifier is not None and self.label_weight else {}

    def check(self, *, batch_size: int, n_samples: int | None) -> list[str]:
        return []


def _check(spec: GraphSpec, label_weight: float, classifier: str, dropout: float) -> None:
    """Raises ValueError for options that do not fit the data."""
    if spec.level != "node":
        raise ValueError("method 'selftask' works on the nodes of one graph, but the data are many graphs")
    if label_weight < 0 or not 0.0 <= dropout < 1.0:
        raise ValueError("method.label_weight must not be negative, and method.dropout lie in [0, 1)")
    if classifier not in ("graph", "linear"):
        raise ValueError(f"method.classifier must be graph or linear, got {classifier!r}")
    if label_weight and not spec.classes:
        raise ValueError(
            "method.label_weight is above 0, but there are no class labels; give data.label, or set "
            "method.label_weight to 0 to pretrain without labels"
        )


def _classifier(kind: str, encoder: Encoder, n_classes: int, spec: GraphSpec) -> nn.Module:
    if kind == "linear":
        return nn.Linear(encoder.width, n_classes)
    of = getattr(encoder, "kind", "gcn")
    width, weighted = getattr(encoder, "edge_width", 0), getattr(encoder, "weighted", False)
    return MessagePassing(
        of, encoder.width, n_classes, edge_width=width, weighted=weighted, inner_norm="none"
    )


def apply_classifier(classifier: nn.Module | None, h: Tensor, x: Any) -> Tensor:
    """``[n, C]`` from embeddings ``[n, D]`` of all nodes of a batch."""
    assert classifier is not None
    if isinstance(classifier, MessagePassing):
        return classifier(h, x.edge_index, x.get("edge_attr"), x.get("edge_weight"))
    return classifier(h)


def build_task(entry: str | Mapping[str, Any], spec: GraphSpec, width: int) -> tuple[str, float, Task]:
    """(name, weight, task) from an entry of ``method.tasks``.

    Raises:
        ValueError: there is no such task, or it has no such option.
    """
    options = {"name": entry} if isinstance(entry, str) else dict(entry)
    name = options.pop("name", None)
    weight = options.pop("weight", None)
    if not isinstance(name, str):
        raise ValueError(f"method.tasks: an entry is a name or {{name: ..., options}}, got {entry!r}")
    try:
        cls = registry.get("task", name)
    except KeyError as error:
        raise ValueError(f"method.tasks: {error.args[0]}") from None
    known = [key for key in inspect.signature(cls).parameters if key not in ("spec", "width")]
    unknown = [key for key in options if key not in known]
    if unknown:
        raise ValueError(
            f"method.tasks: task {name!r} has no option {unknown[0]!r} (it has: weight, {', '.join(known)})"
        )
    try:
        task: Task = cls(spec, width, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"method.tasks: task {name!r}: {error}") from None
    chosen = task.weight if weight is None else float(weight)
    if chosen < 0:
        raise ValueError(f"method.tasks: the weight of {name!r} must not be negative, got {weight}")
    return name, chosen, task
