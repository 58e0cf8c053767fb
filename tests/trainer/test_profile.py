"""The profile: parts are told apart, and the advice follows the largest avoidable one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.profile import PARTS, advise, profile


def test_slow_parts_are_found(toy) -> None:
    class Slow(toy.Rows):
        def fetch(self, indices: Any) -> Any:
            time.sleep(0.02)
            return super().fetch(indices)

    class Hooked(toy.Regress):
        def after_step(self, progress: Any) -> None:
            time.sleep(0.01)

    found = profile(
        Hooked(toy.Net(toy.Spec(6))), Slow(), TrainConfig(batch_size=8, epochs=1), steps=4, warmup=2
    )
    assert tuple(found.ms) == PARTS
    assert found.ms["fetch"] >= 20
    assert found.ms["hooks"] >= 10
    assert sum(found.share.values()) == pytest.approx(1.0)
    assert "num_workers" in found.advice
    assert found.advice in str(found)


@pytest.mark.parametrize(
    ("part", "word"),
    [("transfer", "pinned"), ("hooks", "after_step"), ("optimizer", "batch_size"), ("backward", "encoder")],
)
def test_advice(part: str, word: str) -> None:
    ms = dict.fromkeys(PARTS, 0.5) | {part: 20.0}
    assert word in advise(ms, TrainConfig(steps=1), "cpu")
    assert "bf16" in advise(dict.fromkeys(PARTS, 0.0) | {"forward": 20.0}, TrainConfig(steps=1), "cuda")


def test_a_method_that_owns_its_step_is_measured_as_one_part(toy) -> None:
    class Own(toy.Regress):
        def training_step(self, batches: Any, trainer: Any) -> Any:
            output = trainer.forward(batches[0])
            trainer.backward(output.loss)
            trainer.update()
            return output

    found = profile(
        Own(toy.Net(toy.Spec(6))), toy.Rows(), TrainConfig(batch_size=8, epochs=1), steps=2, warmup=1
    )
    assert found.ms["forward"] > 0
    assert found.ms["backward"] == 0
