"""A method that begins anew at some epochs: moments are forgotten, the schedule starts again, and a resumed
run ends as the unbroken one."""

from __future__ import annotations

import shutil

import pytest
import torch

from ssl_domains.core.schedules import WarmupCosine
from ssl_domains.trainer import files
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.optimizers import AdamW
from ssl_domains.trainer.rounds import Rounds
from ssl_domains.trainer.run import RunDirectory


@pytest.fixture
def trainer(toy):
    class Anew(toy.Regress):
        """Fresh (zero) weights at epoch 2."""

        def restarts(self):
            return [2, 50]

        def before_epoch(self, source, epoch):
            if epoch == 2 and not self.anew:
                self.anew.fill_(1)
                for parameter in self.parameters():
                    parameter.data.zero_()

    def make(run, steps=20):
        torch.manual_seed(0)
        source = toy.Rows(48)
        method = Anew(toy.Net(source.spec))
        method.register_buffer("anew", torch.zeros(1))
        config = TrainConfig(batch_size=6, steps=steps, log_every=1, guard_every=0, on_collapse="off",
                             checkpoint_every=7, keep=9)  # fmt: skip
        return Trainer(
            method, source, config, optimizer=AdamW(lr=0.01), run=run, progress=False,
            schedule=lambda total_steps: WarmupCosine(warmup_steps=2, total_steps=total_steps),
        )  # fmt: skip

    return make


def test_rounds_have_a_schedule_each():
    made = Rounds(lambda total_steps: WarmupCosine(warmup_steps=2, total_steps=total_steps), [0, 14], 20)
    one, two = (WarmupCosine(warmup_steps=2, total_steps=n) for n in (14, 6))
    assert [made.multiplier(step) for step in range(14)] == [one.multiplier(step) for step in range(14)]
    assert [made.multiplier(step) for step in range(14, 21)] == [two.multiplier(step) for step in range(7)]
    made.load_state_dict(made.state_dict())


def test_moments_and_rates_begin_anew_and_a_resumed_run_ends_alike(trainer, tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    whole = trainer(run)
    assert whole.starts == [0, 14]  # 42 training rows, 7 batches an epoch; epoch 50 never comes
    whole.fit()
    rates = [row["lr"] for row in run.metrics()]
    assert rates[14] == 0.0
    assert rates[0] == 0.0
    assert rates[2] == rates[16] == 0.01
    steps = {int(state["step"]) for state in whole.optimizers["main"].state.values()}
    assert steps == {6}  # moments of the second round alone
    for cut in (7, 14):  # within the first round, and where the second begins
        part = RunDirectory.create(tmp_path / f"cut {cut}")
        trainer(part).fit()
        for folder in part.checkpoints_path.iterdir():
            if int(folder.name.removeprefix("step-")) > cut:
                shutil.rmtree(folder)
        trainer(part).fit(resume=True)
        ours, theirs = (files.load_tensors(r.latest() / "method.safetensors") for r in (part, run))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
