"""Each objective driven into its known collapse through trainer and guard, and healthy runs beside them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ssl_domains.cli import main
from ssl_domains.core.batch import Batch, Encoded, Mask, Tokens, View
from ssl_domains.core.errors import CollapseError
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.layout import Set
from ssl_domains.core.masking import DisjointSubsets, RandomMask
from ssl_domains.core.methods.base import Method
from ssl_domains.core.methods.cluster_prediction import ClusterPrediction
from ssl_domains.core.methods.joint_embedding import JointEmbedding
from ssl_domains.core.methods.latent_prediction import LatentPrediction
from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction
from ssl_domains.core.methods.momentum_contrast import MomentumContrast
from ssl_domains.core.methods.self_distillation import SelfDistillation
from ssl_domains.core.objectives.clustering import SwAV
from ssl_domains.core.objectives.contrastive import CLIP, InfoNCE, MoCo, NTXent
from ssl_domains.core.objectives.distillation import TeacherCrossEntropy
from ssl_domains.core.objectives.redundancy import BarlowTwins, VICReg
from ssl_domains.core.objectives.regression import (
    CosineRegression,
    MaskedL1,
    MaskedMSE,
    MaskedSmoothL1,
    ScaledCosineError,
)
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.guard import GuardWarning
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.optimizers import AdamW

PATCHES, PIXELS, WIDTH, K = 16, 4, 24, 32


@dataclass(frozen=True)
class Spec:
    width: int = PATCHES * PIXELS

    def to_dict(self) -> dict[str, Any]:
        return {"width": self.width}


@lru_cache
def digits() -> Tensor:
    """Handwritten digits as ``[N, 64]``: 16 patches of 2 x 2 pixels, roughly standardised."""
    images = load_digits().images.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 64)
    return torch.tensor((images - images.mean(0)) / (images.std(0) + 2), dtype=torch.float32)


class Digits:
    labels = task = class_names = None
    full_batch = False
    spec = Spec()

    def __init__(self, n: int) -> None:
        self.x = digits()[:n]
        self.splits = {"train": np.arange(n)}

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, indices: Any) -> Batch:
        rows = torch.as_tensor(np.asarray(indices))
        return Batch(self.x[rows], rows)


class Noise(Views):
    n_views = 2

    def __init__(self, std: float = 0.3) -> None:
        self.std = std

    def __call__(self, batch: Batch, draw: Any) -> list[View]:
        return [View(batch.x + self.std * draw.normal(batch.x.shape[1])) for _ in range(2)]


class Predictor(nn.Module):
    """From the mean of what was seen and the position of what is hidden."""

    def __init__(self, output_width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(PATCHES, WIDTH))
        self.net = nn.Sequential(nn.Linear(2 * WIDTH, 32), nn.GELU(), nn.Linear(32, output_width))

    def forward(self, encoded: Encoded, mask: Mask, x: Any) -> Tensor:
        seen = encoded.pooled[:, None].expand(-1, PATCHES, -1)
        return self.net(Tokens(torch.cat([seen, self.place.expand_as(seen)], 2)).select(mask))


class Patches(Encoder):
    """Every patch by itself, then with the mean of all; what a mask hides is dropped."""

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(0.5 * torch.randn(PATCHES, PIXELS, WIDTH))
        self.token = nn.Sequential(nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.mix = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)
        )
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        t = torch.einsum("bnp,npw->bnw", self.targets(x).values, self.place)
        if mask is not None:
            t = t.gather(1, mask.context_index()[..., None].expand(-1, -1, WIDTH))
        t = self.token(t)
        t = self.norm(t + self.mix(t.mean(1, keepdim=True)))
        return Encoded(Tokens(t, self.layout(x)), t.mean(1))

    def layout(self, x: Tensor) -> Set:
        return Set(PATCHES)

    def targets(self, x: Tensor) -> Tokens:
        return Tokens(x.unflatten(1, (PATCHES, PIXELS)))

    @property
    def target_width(self) -> int:
        return PIXELS

    def predictor(self, output_width: int, **options: Any) -> Predictor:
        return Predictor(output_width)


def joint(objective: Any, **options: Any) -> Method:
    settings = {"projector": (32, 32), "projector_norm": "none"} | options
    return JointEmbedding(Patches(), objective, Noise(), **settings)


def simsiam(objective: Any, **options: Any) -> Method:
    return joint(objective, predictor=(16,), **options)


def moco(objective: Any) -> Method:
    return MomentumContrast(Patches(), objective, Noise(), projector=(32, 32), queue_size=256, momentum=0.9)


def byol(objective: Any, **options: Any) -> Method:
    settings = {"projector": (32, 32), "predictor": (32,), "momentum": 0.9} | options
    return SelfDistillation(Patches(), objective, Noise(), **settings)


def dino(objective: Any, std: float = 0.3) -> Method:
    return SelfDistillation(
        Patches(), objective, Noise(std), projector=(32, 16), predictor=(), prototypes=K, momentum=0.9,
        projector_norm="batch", freeze_prototypes_epochs=0,
    )  # fmt: skip


def swav(objective: Any) -> Method:
    return ClusterPrediction(Patches(), objective, Noise(), projector=(32, 16), prototypes=K)


def jepa(objective: Any, **options: Any) -> Method:
    return LatentPrediction(Patches(), objective, DisjointSubsets(), **options)


def mae(objective: Any) -> Method:
    return MaskedReconstruction(Patches(), objective, RandomMask(0.5))


def findings(
    make: Callable[..., Method], *args: Any, lr: float = 3e-3, rows: int = 512, batch: int = 64,
    steps: int = 150, on_collapse: str = "warn", **options: Any,
) -> list[str]:  # fmt: skip
    """What the guard says about a run of ``steps`` steps; it looks every five."""
    torch.manual_seed(0)
    method = make(*args, **options)
    config = TrainConfig(
        batch_size=batch, steps=steps, guard_every=5, log_every=50, device="cpu", on_collapse=on_collapse
    )
    trainer = Trainer(method, Digits(rows), config, optimizer=AdamW(lr=lr), progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GuardWarning)
        return trainer.fit().findings


ALIKE = "candidates look alike at temperature 1e+04; lower objective.temperature"
COLLAPSES: dict[str, tuple[Callable[[], list[str]], tuple[str, ...]]] = {
    "info_nce, temperature": (
        lambda: findings(joint, InfoNCE(1e4), steps=60), ("equals its uniform value ln(64) = 4.159", ALIKE)
    ),
    "nt_xent, temperature": (
        lambda: findings(joint, NTXent(1e4), steps=60), ("equals its uniform value ln(127) = 4.844", ALIKE)
    ),
    "clip, temperature": (
        lambda: findings(joint, CLIP(1e4, learn_temperature=False), steps=60), ("ln(64) = 4.159", ALIKE)
    ),
    "moco, temperature": (
        lambda: findings(moco, MoCo(1e4), steps=60), ("loss equals its uniform value ln(257) = 5.549", ALIKE)
    ),
    "barlow_twins, weight zero": (
        lambda: findings(joint, BarlowTwins(0.0), steps=250),
        ("projector: vectors lie on one line", "dimensional collapse", "objective.lambda_ 0); raise it"),
    ),
    "vicreg, variance weight zero": (
        lambda: findings(joint, VICReg(variance_weight=0.0, covariance_weight=0.0)),
        ("projector: all vectors are nearly the same", "objective.variance_weight 0); raise it"),
    ),
    "vicreg, covariance weight zero": (
        lambda: findings(joint, VICReg(covariance_weight=0.0)),
        ("projector: vectors lie on one line", "objective.covariance_weight 0); raise it"),
    ),
    "cosine_regression, no stop-gradient": (
        lambda: findings(simsiam, CosineRegression("simsiam", stop_gradient=False)),
        ("predictor: ", "collapse, both sides move towards each other", "objective.stop_gradient: true"),
    ),
    "cosine_regression, neither predictor nor momentum": (
        lambda: findings(byol, CosineRegression(), predictor=(), momentum=0.0),
        ("projector: ", "a constant solves the loss", "(method.predictor), raise method.momentum"),
    ),
    "teacher_cross_entropy, no centering": (
        lambda: findings(dino, TeacherCrossEntropy(K, centering="none"), std=1.5),
        ("teacher: the same output for nearly all samples", "(objective.centering none); set it to mean"),
    ),
    "teacher_cross_entropy, temperature": (
        lambda: findings(dino, TeacherCrossEntropy(K, teacher_temperature=10.0)),
        ("collapse, the teacher is nearly uniform at temperature 10; lower objective.teacher_temperature",),
    ),
    "swav, epsilon": (
        lambda: findings(swav, SwAV(epsilon=1e3)),
        ("loss equals its uniform value ln(32) = 3.466", "(epsilon 1000,", "lower objective.epsilon"),
    ),
    "latent_prediction, momentum zero": (
        lambda: findings(jepa, MaskedMSE(), momentum=0.0),
        ("teacher: all vectors are nearly the same", "raise method.momentum (it starts at 0)"),
    ),
    "masked_mse, nothing learned": (
        lambda: findings(mae, MaskedMSE(), lr=1e-12, steps=100),
        ("loss is not below 0.3", "the error of predicting the mean target", "raise the learning rate"),
    ),
    "masked_l1, nothing learned": (
        lambda: findings(mae, MaskedL1(), lr=1e-12, steps=100),
        ("loss is not below 0.4", "the error of predicting the mean target", "raise the learning rate"),
    ),
    "scaled_cosine, nothing learned": (
        lambda: findings(mae, ScaledCosineError(), lr=1e-12, steps=100),
        ("loss is not below 1,", "the error of predicting the mean target", "raise the learning rate"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COLLAPSES)
def test_a_known_collapse_gives_one_sentence_with_its_cause_and_remedy(name: str) -> None:
    run, expected = COLLAPSES[name]
    found = run()
    assert len(found) == 1, found
    for part in expected:
        assert part in found[0]
    assert " steps: " in found[0]
    assert ";" in found[0].split(" steps: ")[1]


HEALTHY: dict[str, Callable[[], list[str]]] = {
    "info_nce": lambda: findings(joint, InfoNCE()),
    "nt_xent": lambda: findings(joint, NTXent()),
    "clip": lambda: findings(joint, CLIP()),
    "moco": lambda: findings(moco, MoCo()),
    "barlow_twins": lambda: findings(joint, BarlowTwins(0.08)),
    "vicreg": lambda: findings(joint, VICReg()),
    "simsiam": lambda: findings(
        simsiam, CosineRegression("simsiam"), projector_norm="batch", projector_last_norm=True
    ),
    "byol": lambda: findings(byol, CosineRegression()),
    "teacher_cross_entropy, mean": lambda: findings(dino, TeacherCrossEntropy(K)),
    "teacher_cross_entropy, sinkhorn": lambda: findings(dino, TeacherCrossEntropy(K, centering="sinkhorn")),
    "swav": lambda: findings(swav, SwAV()),
    "latent_prediction": lambda: findings(jepa, MaskedMSE(), lr=1e-3),
    "latent_prediction, normalized": lambda: findings(
        jepa, MaskedSmoothL1(), normalize_targets=True, lr=1e-3
    ),
    "masked_mse": lambda: findings(mae, MaskedMSE()),
    "masked_l1": lambda: findings(mae, MaskedL1()),
    "masked_smooth_l1": lambda: findings(mae, MaskedSmoothL1()),
    "scaled_cosine": lambda: findings(mae, ScaledCosineError()),
    "nt_xent, tiny": lambda: findings(joint, NTXent(), rows=20, batch=8, steps=100),
    "vicreg, tiny": lambda: findings(joint, VICReg(), rows=20, batch=8, steps=100),
    "barlow_twins, tiny": lambda: findings(joint, BarlowTwins(0.08), rows=20, batch=8, steps=100),
    "byol, tiny": lambda: findings(byol, CosineRegression(), rows=20, batch=8, steps=100),
    "latent_prediction, tiny": lambda: findings(jepa, MaskedMSE(), rows=20, batch=8, steps=100, lr=1e-3),
    "masked_mse, tiny": lambda: findings(mae, MaskedMSE(), rows=20, batch=8, steps=100),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_hears_nothing(name: str) -> None:
    assert HEALTHY[name]() == []


def test_stop_ends_the_run_at_the_finding() -> None:
    with pytest.raises(CollapseError, match=r"^loss equals its uniform value ln\(127\) .* lower objective"):
        findings(joint, NTXent(1e4), steps=60, on_collapse="stop")


RECIPE = """
domain: tabular
data: {source: %s, label: price}
encoder: {name: ft_transformer, width: 8, depth: 1, heads: 2, ffn: 8}
views: {name: column_noise, std: 0.2}
method: {name: joint_embedding, projector: [16, 16]}
objective: {name: nt_xent, temperature: 1e4}
train: {batch_size: 16, steps: 30, guard_every: 2, device: cpu, on_collapse: stop}
"""


def test_the_command_line_ends_with_2(table, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flat.yaml").write_text(RECIPE % table)
    assert main(["pretrain", "flat.yaml", "run=flat", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "error: loss equals its uniform value ln(31)" in error
    assert "lower objective.temperature" in error
    assert "Traceback" not in error
    assert json.loads(Path("flat/findings.json").read_text())["findings"]
