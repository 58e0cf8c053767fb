"""Two processes with different data train as one process with all of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_domains.core.batch import Batch, Output, View
from ssl_domains.core.interfaces import Views
from ssl_domains.core.methods.base import Method
from ssl_domains.core.methods.cluster_prediction import ClusterPrediction
from ssl_domains.core.methods.joint_embedding import JointEmbedding
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
from ssl_domains.core.random import Draw
from ssl_domains.core.testing import run_processes
from ssl_domains.trainer import files
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.distributed import agree, cut_share, is_main, mean_over_processes
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.optimizers import LARS, SGD, AdamW
from ssl_domains.trainer.run import RunDirectory
from ssl_domains.trainer.setup import shard


def load_toy(path: str) -> Any:
    if "trainer_toy" not in sys.modules:
        spec = importlib.util.spec_from_file_location("trainer_toy", path)
        assert spec
        assert spec.loader
        sys.modules["trainer_toy"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["trainer_toy"])
    return sys.modules["trainer_toy"]


class Noise(Views):
    """Two noisy copies, in float64."""

    def prepare(self, source: Any) -> None:
        self.scale = 0.3

    def __call__(self, batch: Any, draw: Any) -> list[View]:
        return [View(batch.x + self.scale * draw.normal(batch.x.shape[1]).double()) for _ in range(2)]


class Unequal(Method):
    """Predicts hidden columns; a sample hides 0 to 5 of them, so processes hold other numbers of rows."""

    def __init__(self, encoder: Any, objective: Any) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective
        self.place = torch.nn.Parameter(torch.randn(6, encoder.width))
        self.head = torch.nn.Linear(encoder.width, 3)
        self.rows: list[int] = []

    def forward(self, batch: Batch, draw: Draw) -> Output:
        hidden = torch.arange(6)[None] < (batch.index % 6)[:, None]
        self.rows.append(int(hidden.sum()))
        z = self.encoder(torch.where(hidden, 0.0, batch.x)).pooled[:, None] + self.place
        target = torch.stack([batch.x, batch.x.square(), batch.x.roll(1, 1)], 2)
        terms = self.objective(self.head(torch.tanh(z))[hidden], target[hidden])
        return Output(terms.total, terms.parts, {"encoder": z[:, 0].detach()}, terms.trivial)


def joint(encoder: Any, objective: Any, **options: Any) -> Method:
    return JointEmbedding(encoder, objective, Noise(), **({"projector": (8, 4)} | options))


def distil(encoder: Any, centering: str) -> Method:
    objective = TeacherCrossEntropy(12, centering=centering, teacher_temperature_end=0.07)
    return SelfDistillation(
        encoder, objective, Noise(), projector=(8, 4), predictor=(), prototypes=12, momentum=0.9
    )


MAKE: dict[str, Any] = {
    "barlow": lambda e: joint(e, BarlowTwins(), projector=(8, 8)),
    "infonce": lambda e: joint(e, InfoNCE()),
    "moco": lambda e: MomentumContrast(e, MoCo(), Noise(), projector=(8, 4), queue_size=48),
    "nt_xent": lambda e: joint(e, NTXent()),
    "clip": lambda e: joint(e, CLIP()),
    "vicreg": lambda e: joint(e, VICReg()),
    "simsiam": lambda e: joint(e, CosineRegression("simsiam"), predictor=(4,), projector_last_norm=True),
    "center": lambda e: distil(e, "mean"),
    "sinkhorn": lambda e: distil(e, "sinkhorn"),
    "swav": lambda e: ClusterPrediction(
        e, SwAV(), Noise(), projector=(8, 4), prototypes=12, freeze_prototypes_epochs=0, queue_size=32,
        queue_from_epoch=0,
    ),
    "masked_mse": lambda e: Unequal(e, MaskedMSE()),
    "masked_l1": lambda e: Unequal(e, MaskedL1()),
    "masked_smooth_l1": lambda e: Unequal(e, MaskedSmoothL1()),
    "scaled_cosine": lambda e: Unequal(e, ScaledCosineError(gamma=2.0)),
}  # fmt: skip
SAVED = ("barlow", "infonce", "moco")
"""Those that also write a run directory."""


def build(toy: Any, name: str) -> Any:
    torch.manual_seed(1)
    return MAKE[name](toy.Net(toy.Spec(6))).double()


def whole(value: torch.Tensor) -> torch.Tensor:
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()


class Watched(Trainer):
    """Keeps the gradients of every step, as the optimizer sees them."""

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        super().prepare(*args, **kwargs)
        self.gradients: list[dict[str, torch.Tensor]] = []

    def update(self, name: str | None = None) -> None:
        named = self.method.named_parameters()
        self.gradients.append({k: whole(p.grad) for k, p in named if p.grad is not None})
        super().update(name)


def run_one(toy: Any, name: str, fsdp: bool, folder: str | None = None, **train: Any) -> dict[str, Any]:
    """Four steps with plain SGD, so that the weights tell the gradients."""
    settings = {
        "batch_size": 16,
        "steps": 4,
        "log_every": 1,
        "seed": 2,
        "guard_every": 2,
        "fsdp": fsdp,
        "device": "cpu",
    }
    config = TrainConfig(**(settings | train))
    make = RunDirectory.create if is_main() else RunDirectory
    run = make(folder) if folder else None
    source = toy.Rows(dtype=torch.float64)
    optimizer = SGD(lr=0.1, momentum=0.9)
    trainer = Watched(build(toy, name), source, config, optimizer=optimizer, run=run, progress=False)
    result = trainer.fit()
    encoder = {k: v.clone() for k, v in trainer.export_encoder().state_dict().items()}
    return {
        "losses": [row["loss"] for row in result.rows if "loss" in row],
        "weights": {k: whole(v) for k, v in trainer.method.state_dict().items()},
        "gradients": trainer.gradients,
        "rows": getattr(trainer.method, "rows", []),
        "encoder": encoder,
        "fetched": [i for rows in source.fetched for i in rows],
        "sharded": any(hasattr(p, "full_tensor") for p in trainer.method.parameters()),
    }


def both_ways(rank: int, path: str, folder: str) -> dict[str, Any]:
    toy = load_toy(path)
    out: dict[str, Any] = {}
    for name in MAKE:
        for fsdp in (False, True):
            saved = f"{folder}/{name}-{fsdp}" if name in SAVED else None
            out[name, fsdp] = run_one(toy, name, fsdp, saved)
    out["accumulate"] = run_one(toy, "infonce", False, accumulate=2)
    out["mean"] = mean_over_processes(torch.tensor(float(rank)))
    out["agree"] = agree([rank == 1, False], torch.device("cpu"))
    out["optimizers"] = {kind.__name__: one_step(toy, kind, True) for kind in (AdamW, LARS, SGD)}
    # resume: what one process saved, two sharded ones continue
    config = TrainConfig(batch_size=16, steps=6, log_every=1, seed=2, guard_every=2, fsdp=True, device="cpu")
    method, source = build(toy, "moco"), toy.Rows(dtype=torch.float64)
    run = RunDirectory(f"{folder}/single")
    trainer = Trainer(method, source, config, optimizer=SGD(lr=0.1, momentum=0.9), run=run, progress=False)
    trainer.fit(resume=True)
    out["resumed"] = {
        k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in method.state_dict().items()
    }
    return out


def one_step(toy: Any, kind: Any, sharded: bool) -> dict[str, torch.Tensor]:
    """One clipped step; sharded processes hold the same rows, so the means stay the same."""
    method = build(toy, "moco")
    if sharded:
        shard(method, block_size=1)
    optimizer = kind().build(method.parameter_groups())
    x = toy.Rows(dtype=torch.float64).x[:16]
    from ssl_domains.core.batch import Batch
    from ssl_domains.core.random import Draw

    method.before_training(None)
    index = torch.arange(16)
    method(Batch(x, index), Draw(0, 0, index)).loss.backward()
    torch.nn.utils.clip_grad_norm_(method.parameters(), 0.1)
    optimizer.step()
    return {
        k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in method.encoder.state_dict().items()
    }


@pytest.fixture(scope="module")
def results(toy, tmp_path_factory) -> tuple[list[dict], dict[str, dict], Path]:
    folder = tmp_path_factory.mktemp("runs")
    single = {name: run_one(toy, name, False) for name in MAKE}
    run_one(toy, "moco", False, str(folder / "single"))
    return run_processes(both_ways, 2, toy.__file__, str(folder)), single, folder


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("name", MAKE)
def test_losses_and_weights_are_those_of_one_process(results, name: str, fsdp: bool) -> None:
    found, single, _ = results
    one = single[name]
    for rank in (0, 1):
        two = found[rank][name, fsdp]
        assert two["sharded"] is fsdp
        np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-6)
        for key, value in one["weights"].items():
            torch.testing.assert_close(two["weights"][key], value, rtol=1e-6, atol=1e-8, msg=key)
        for key, value in one["encoder"].items():
            torch.testing.assert_close(two["encoder"][key], value, rtol=1e-6, atol=1e-8, msg=key)
    assert one["losses"][0] != one["losses"][-1]


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("name", MAKE)
def test_gradients_are_those_of_the_joined_batch(results, name: str, fsdp: bool) -> None:
    found, single, _ = results
    for rank in (0, 1):
        two = found[rank][name, fsdp]["gradients"]
        assert len(two) == len(single[name]["gradients"]) == 4
        for mine, wanted in zip(two, single[name]["gradients"], strict=True):
            # DDP fills in zeros where one process has no gradient at all.
            assert wanted.keys() <= mine.keys()
            for key, value in mine.items():
                expected = wanted.get(key, torch.zeros_like(value))
                torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9, msg=key)
    last = single[name]["gradients"][-1]
    assert any(float(value.abs().max()) > 1e-6 for value in last.values())


def test_state_beside_the_weights_moves(results) -> None:
    """Centers, queues and the learned temperature are compared above; here: they are not what they were."""
    _, single, _ = results
    assert float(single["center"]["weights"]["objective.center"].abs().max()) > 0
    assert float(single["clip"]["weights"]["objective.log_scale"]) != pytest.approx(np.log(1 / 0.07))
    assert single["moco"]["weights"]["queue.index"].max() >= 0
    assert single["swav"]["weights"]["queues.0.index"].max() >= 0


def test_masked_processes_hold_different_numbers_of_rows(results) -> None:
    found, single, _ = results
    a, b = (found[rank]["masked_mse", False]["rows"] for rank in (0, 1))
    assert a != b
    assert [x + y for x, y in zip(a, b, strict=True)] == single["masked_mse"]["rows"]


def test_processes_see_different_halves_of_the_batch(results) -> None:
    found, single, _ = results
    a, b = (found[rank]["barlow", False]["fetched"] for rank in (0, 1))
    assert not set(a) & set(b)
    assert sorted(a + b) == sorted(single["barlow"]["fetched"])


def test_checkpoints_do_not_depend_on_the_processes(results) -> None:
    _, _, folder = results
    single = files.load_tensors(folder / "single/checkpoints/step-00000004/method.safetensors")
    for kind in ("moco-False", "moco-True"):
        found = files.load_tensors(folder / kind / "checkpoints/step-00000004/method.safetensors")
        assert found.keys() == single.keys()
        for key, value in single.items():
            torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-8)


def test_sharded_processes_resume_the_run_of_one(results, toy) -> None:
    longer = run_one(toy, "moco", False, steps=6)
    for rank in (0, 1):
        for key, value in longer["weights"].items():
            torch.testing.assert_close(results[0][rank]["resumed"][key], value, rtol=1e-6, atol=1e-8, msg=key)


@pytest.mark.parametrize("kind", [AdamW, LARS, SGD], ids=lambda k: k.__name__)
def test_optimizers_and_clipping_work_on_sharded_weights(results, toy, kind) -> None:
    before, expected = build(toy, "moco").encoder.state_dict(), one_step(toy, kind, False)
    for found in results[0]:
        for key, value in expected.items():
            torch.testing.assert_close(found["optimizers"][kind.__name__][key], value, rtol=1e-6, atol=1e-9)
    assert not torch.equal(expected["net.0.weight"], before["net.0.weight"])


def test_small_helpers(results, toy) -> None:
    for found in results[0]:
        assert found["agree"] == [True, False]
        assert float(found["mean"]) == 0.5
    assert cut_share(np.arange(7), 1, 3).tolist() == [2, 3]
    one = run_one(toy, "infonce", False, accumulate=2)
    np.testing.assert_allclose(results[0][0]["accumulate"]["losses"], one["losses"], rtol=1e-6)
