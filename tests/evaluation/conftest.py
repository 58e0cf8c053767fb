"""A small labelled source and a small encoder, for the tests of this folder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Batch, Encoded, Tokens, View
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.random import Draw


class ArraySource:
    """Rows of an array."""

    spec = None

    def __init__(self, x: np.ndarray, labels: np.ndarray | None = None, task: str | None = None) -> None:
        self.x, self.labels, self.task = x.astype(np.float32), labels, task
        n = len(x)
        order = np.random.default_rng(9).permutation(n)
        cut = [n * 6 // 10, n * 8 // 10]
        self.splits = {k: np.sort(v) for k, v in zip(("train", "valid", "test"), np.split(order, cut))}
        self.class_names: list[str] | None = None
        self.full_batch = False
        self.fetched: list[int] = []

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, indices: Any) -> Batch:
        rows = np.asarray(indices)
        self.fetched.append(len(rows))
        return Batch(torch.from_numpy(self.x[rows]), torch.from_numpy(rows.astype(np.int64)))

    def raw_features(self, indices: np.ndarray) -> np.ndarray | None:
        return self.x[indices]

    def ids(self, indices: np.ndarray) -> list[str]:
        return [f"row-{i}" for i in indices]

    def card(self) -> dict[str, Any]:
        return {"rows": len(self.x)}


class TinyEncoder(Encoder):
    """Linear, batch norm, dropout: all that differs between train and eval mode."""

    def __init__(self, inputs: int = 6, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.net = nn.Sequential(nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Tanh())

    def forward(self, x: Tensor, mask: Any = None, *, layers: bool = False) -> Encoded:
        pooled = self.net(x)
        return Encoded(Tokens(pooled[:, None]), pooled)


class NoiseViews(Views):
    """Two views with added noise."""

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        return [View(batch.x + 0.1 * draw.normal(batch.x.shape[1])) for _ in range(2)]


@pytest.fixture
def toy() -> SimpleNamespace:
    """The classes above, and ``blobs()``: three Gaussian classes in six columns."""

    def blobs(n: int = 300, gap: float = 6.0, seed: int = 0) -> ArraySource:
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 3, n)
        centres = np.eye(6)[:3] * gap
        return ArraySource(centres[y] + rng.normal(size=(n, 6)), y.astype(np.int64), "classification")

    torch.manual_seed(0)
    return SimpleNamespace(Source=ArraySource, Encoder=TinyEncoder, Views=NoiseViews, blobs=blobs)
