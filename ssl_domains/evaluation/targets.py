"""How labels become the targets of a trained head, and its outputs predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.evaluation.data import Prediction


@dataclass
class Targets:
    """Labels of one task; real ones are standardised by the training rows.

    Attributes:
        task: ``classification``, ``regression`` or ``multilabel``.
        width: number of outputs of the head.
        mean, scale: ``[L]`` of the training rows (regression), else 0 and 1.
    """

    task: str
    width: int
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, task: str, n_classes: int) -> Targets:
        """From the training rows' labels ``[n]`` or ``[n, L]``."""
        if task == "classification":
            return cls(task, n_classes, np.zeros(1), np.ones(1))
        y = y.reshape(len(y), -1).astype(np.float64)
        if task == "multilabel":
            return cls(task, y.shape[1], np.zeros(1), np.ones(1))
        scale = y.std(0)
        return cls(task, y.shape[1], y.mean(0), np.where(scale > 0, scale, 1.0))

    def loss(self, out: Tensor, y: np.ndarray) -> Tensor:
        """Of outputs ``[B, width]`` against labels: cross-entropy, or squared error."""
        if self.task == "classification":
            return F.cross_entropy(out, torch.as_tensor(y, device=out.device))
        scaled = (y.reshape(len(y), -1).astype(np.float64) - self.mean) / self.scale
        target = torch.as_tensor(scaled, dtype=torch.float32, device=out.device)
        if self.task == "multilabel":
            return F.binary_cross_entropy_with_logits(out, target)
        return F.mse_loss(out, target)

    def prediction(self, out: Tensor, like: np.ndarray) -> Prediction:
        """From outputs ``[n, width]`` on the CPU, in the shape of the labels ``like``."""
        if self.task == "classification":
            proba = out.softmax(1).numpy()
            return Prediction(proba.argmax(1), proba)
        if self.task == "multilabel":
            scores = out.sigmoid().numpy()
            return Prediction(scores >= 0.5, scores)
        return Prediction((out.numpy() * self.scale + self.mean).reshape(-1, *like.shape[1:]))
