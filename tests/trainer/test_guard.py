"""The guard: sentences for known collapses, silence on healthy runs, replay of a NaN step."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.batch import Output, View
from ssl_domains.core.diagnostics import dead_dimensions, feature_variance, mean_cosine, rankme
from ssl_domains.core.errors import CollapseError
from ssl_domains.core.interfaces import Views
from ssl_domains.core.methods.joint_embedding import JointEmbedding
from ssl_domains.core.objectives.contrastive import NTXent
from ssl_domains.core.objectives.redundancy import BarlowTwins, VICReg
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.guard import Guard, GuardWarning, check_preconditions, judge_stage, measure
from ssl_domains.trainer.loop import Trainer
from ssl_domains.trainer.optimizers import AdamW
from ssl_domains.trainer.run import RunDirectory


def guard(**train: Any) -> Guard:
    return Guard(TrainConfig(**({"steps": 1000, "guard_every": 10, "guard_warmup": 50} | train)), 1000)


def show(g: Guard, outputs: list[Output], start: int = 10) -> list[str]:
    """What the guard says about one output every ten steps."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i, output in enumerate(outputs):
            g.look(start + 10 * i, output)
            g.judge(said.append)
    assert [str(w.message) for w in caught if w.category is GuardWarning] == [s[7:] for s in said]
    return said


def output(loss: float = 1.0, trivial: dict | None = None, **stages: torch.Tensor) -> Output:
    return Output(torch.tensor(loss), {}, stages, trivial or {})


def spread(n: int = 64, d: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


# --- measures ---------------------------------------------------------------------------------


def test_measures_are_those_of_the_diagnostics() -> None:
    z = spread(200, 12) + 0.5
    z[:, 3] = 2.0
    found = measure(z)
    assert found["rank"] == pytest.approx(rankme(z), rel=1e-4)
    assert found["cosine"] == pytest.approx(mean_cosine(z), abs=1e-5)
    assert found["variance"] == pytest.approx(float(feature_variance(z).mean()), rel=1e-5)
    assert found["dead"] == pytest.approx(dead_dimensions(z) / 12) == 1 / 12
    assert measure(spread(4000, 256, 1))["std"] == pytest.approx(1.0, abs=0.01)
    line = torch.outer(torch.randn(50), torch.ones(9))
    assert measure(line)["directions"] == pytest.approx(1.0)
    assert measure(torch.ones(3, 5)) == {}
    assert measure(torch.ones(9, 1)) == {}


@settings(deadline=None, max_examples=20)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_judgement_does_not_depend_on_scale_or_rotation(scale: float, seed: int) -> None:
    z = spread(40, 8, seed)
    q = torch.linalg.qr(spread(8, 8, seed + 1))[0]
    a, b = measure(z), measure(scale * z @ q)
    for key in ("cosine", "rank", "directions"):
        assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-4)
    assert judge_stage(b, a) is None


def test_rows_are_sampled_across_token_positions() -> None:
    """4,096 rows whose position 0 of every 2 and 4 is constant: a plain stride would see only that."""
    for period in (2, 4, 8):
        z = spread(4096 * period // 2, 8)
        z[::period] = 1.0
        assert measure(z)["cosine"] < 0.9


# --- sentences --------------------------------------------------------------------------------


def test_complete_collapse_of_a_stage() -> None:
    same = torch.ones(64, 16) + 1e-4 * spread()
    said = show(guard(), [output(projector=spread())] * 8 + [output(projector=same)] * 6)
    assert len(said) == 1
    assert said[0].startswith("guard: projector: all vectors are nearly the same (mean cosine 1.000000")
    assert "for 20 steps: complete collapse" in said[0]
    assert "stop-gradient" in said[0]


def test_other_collapses_have_their_own_sentences() -> None:
    line = torch.outer(spread()[:, 0], torch.ones(64))
    few = spread(64, 64) * (torch.arange(64) < 4)
    cases = {
        "encoder: vectors lie on one line (RankMe 1.00 of 64, squared correlation of the features 1.00) "
        "for 20 steps: dimensional collapse": line,
        "encoder: 94% of 64 dimensions hardly vary for 20 steps: most units stand still": few,
    }
    for expected, z in cases.items():
        said = show(guard(), [output(encoder=spread(64, 64))] * 8 + [output(encoder=z)] * 4)
        assert len(said) == 1, said
        assert expected in said[0]
    zero = show(guard(), [output(teacher=spread())] * 8 + [output(teacher=torch.zeros(64, 16))] * 4)
    assert "teacher: all vectors" in zero[0]
    assert "center the teacher" in zero[0]


def test_loss_at_a_trivial_value() -> None:
    flat = output(math.log(4096) + 1e-4, {"uniform": math.log(4096)}, teacher=spread())
    assert show(guard(), [flat] * 25)[0] == (
        "guard: loss equals its uniform value ln(4096) = 8.318 for 20 steps: all candidates look alike; "
        "lower the temperature or the learning rate, or use milder views"
    )
    constant = output(64.0, {"constant": 64.0}, projector=spread())
    assert "constant value 64.000" in show(guard(), [constant] * 9)[0]
    moving = [output(8.318 - 0.1 * (i % 2), {"uniform": 8.318}, teacher=spread()) for i in range(30)]
    assert show(guard(), moving) == []


def test_silence_in_the_warm_up_and_for_what_was_so_from_the_start() -> None:
    same = torch.ones(64, 16) + 1e-3 * spread()
    assert show(guard(), [output(encoder=spread())] + [output(encoder=same)] * 4) == []
    offset = spread() + 100.0  # mean cosine 0.9999 from the beginning
    assert show(guard(), [output(encoder=offset)] * 30) == []
    brief = [output(encoder=spread())] * 8 + [output(encoder=same)] * 2 + [output(encoder=spread())] * 9
    assert show(guard(), brief) == []


def test_off_never_looks_and_stop_ends() -> None:
    assert not guard(on_collapse="off").due(10)
    assert guard().due(10)
    assert not guard().due(11)
    g = guard(on_collapse="stop", guard_warmup=0)
    with pytest.raises(CollapseError, match="encoder: all vectors"):
        show(g, [output(encoder=torch.ones(64, 16))] * 4)


def test_method_and_objective_word_the_cause() -> None:
    words = {"point": "weight 0 in the loss; raise it", "uniform": "flat at temperature 9; lower it"}
    config = TrainConfig(steps=1000, guard_every=10, guard_warmup=50)
    same = torch.ones(64, 16)
    said = show(Guard(config, 1000, remedies=lambda: words), [output(projector=same)] * 9)
    assert said[0].endswith("for 20 steps: complete collapse, weight 0 in the loss; raise it")
    flat = output(4.17, {"uniform": math.log(64)}, projector=same)  # on the way to the uniform value
    said = show(Guard(config, 1000, remedies=lambda: words), [flat] * 9)
    assert said[0].endswith("complete collapse, flat at temperature 9; lower it")


def test_one_collapse_is_one_sentence() -> None:
    same = torch.ones(64, 16)
    everywhere = output(64.0, {"constant": 64.0}, encoder=same, projector=same)
    assert [s[:15] for s in show(guard(), [everywhere] * 20)] == ["guard: encoder:"]
    later = [output(encoder=spread(), projector=same)] * 12 + [everywhere] * 12
    assert [s[:17] for s in show(guard(), later)] == ["guard: projector:"]
    dead = spread(64, 32) * (torch.arange(32) < 2)
    worse = [output(projector=spread(64, 32))] * 8 + [output(projector=dead)] * 4
    found = show(guard(), worse + [output(projector=dead, teacher=same)] * 4)
    assert ["hardly vary" in s for s in found] == [True, False]
    over = [output(encoder=same)] * 9 + [output(encoder=spread())] * 3 + [output(teacher=same)] * 4
    assert len(show(guard(), over)) == 2


def test_features_that_are_copies_are_a_line_whatever_their_scale() -> None:
    noise = spread(256, 16, 3)
    one = spread(256, 1, 4) * torch.logspace(-3, 3, 16) + 5.0 + 1e-4 * noise * torch.logspace(-3, 3, 16)
    now, first = measure(one), measure(noise)
    assert now["copies"] == pytest.approx(
        float(torch.corrcoef(one.T).square().mean() * 16 - 1) / 15, abs=1e-3
    )
    assert first["copies"] == pytest.approx(
        float(torch.corrcoef(noise.T).square().sum() - 16) / (16 * 15), abs=1e-5
    )
    assert judge_stage(now, first) == "line"
    assert judge_stage(now, now) is None  # so it was from the beginning
    assert judge_stage(measure(one[:6]), first) is None  # too few rows to tell


def test_a_loss_no_better_than_the_mean_target() -> None:
    def masked(loss: float, **stages: torch.Tensor) -> Output:
        return Output(torch.tensor(loss), {"constant_prediction": torch.tensor(0.5)}, stages, {})

    said = show(guard(), [masked(0.52)] * 20)
    assert len(said) == 1
    assert "loss is not below 0.5, the error of predicting the mean target for all, for 90 steps" in said[0]
    assert show(guard(), [masked(0.52)] * 12 + [masked(0.4)] * 20) == []  # a slow beginning
    assert show(guard(), [masked(0.52, teacher=spread())] * 30) == []  # targets that move


def test_a_teacher_that_uses_one_output() -> None:
    def teacher(used: float) -> Output:
        return Output(torch.tensor(0.7), {"used_outputs": torch.tensor(used)}, {}, {})

    said = show(guard(), [teacher(20.0)] * 8 + [teacher(1.2)] * 6)
    assert len(said) == 1
    assert "teacher: the same output for nearly all samples (1.20 in use) for 20 steps" in said[0]
    assert show(guard(), [teacher(20.0)] * 8 + [teacher(2.5)] * 6) == []
    assert show(guard(), [teacher(1.4)] * 20) == []  # two groups, unequal, from the beginning


def test_the_lowest_loss_alone_is_no_collapse() -> None:
    perfect = output(1e-5, {"constant": 0.0}, projector=spread())
    assert show(guard(), [output(1.0, projector=spread())] + [perfect] * 20) == []
    narrow = output(1e-5, {"constant": 0.0}, projector=torch.ones(64, 16) + 0.1 * spread())
    said = show(guard(), [output(1.0, projector=spread())] + [narrow] * 20)
    assert "loss equals its constant value 0.000" in said[0]


def test_state_travels() -> None:
    same = torch.ones(64, 16)
    outputs = [output(encoder=spread())] * 8 + [output(encoder=same)] * 6
    whole = guard()
    show(whole, outputs)
    first, second = guard(), guard()
    show(first, outputs[:10])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert show(second, outputs[10:], start=110)
    assert second.findings == whole.findings


# --- in training ------------------------------------------------------------------------------


class Noise(Views):
    def __call__(self, batch: Any, draw: Any) -> list[View]:
        return [View(batch.x + 0.2 * draw.normal(batch.x.shape[1])) for _ in range(2)]


def pretrain(toy: Any, objective: Any, run: RunDirectory | None = None, **train: Any) -> list[str]:
    torch.manual_seed(0)
    source = toy.Rows(200)
    method = JointEmbedding(
        toy.Net(source.spec, hidden=16), objective, Noise(), (16, 16), projector_norm="none"
    )
    config = TrainConfig(**({"batch_size": 64, "steps": 300, "guard_every": 10, "log_every": 50} | train))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GuardWarning)
        result = Trainer(method, source, config, optimizer=AdamW(lr=3e-3), run=run, progress=False).fit()
    return result.findings


def test_collapse_without_the_variance_term_is_found(toy, tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    found = pretrain(toy, VICReg(variance_weight=0.0, covariance_weight=0.0), run)
    assert any(s.startswith("projector: all vectors are nearly the same") for s in found), found
    assert json.loads((run.path / "findings.json").read_text())["findings"] == found
    with pytest.raises(CollapseError, match="projector"):
        pretrain(toy, VICReg(variance_weight=0.0, covariance_weight=0.0), on_collapse="stop")


@pytest.mark.parametrize("objective", [VICReg(), BarlowTwins(), NTXent(0.2)], ids=lambda o: type(o).__name__)
def test_healthy_runs_hear_nothing(toy, objective) -> None:
    assert pretrain(toy, objective) == []


def test_nan_step_is_named_and_can_be_replayed(toy, tmp_path) -> None:
    class Breaks(toy.Regress):
        calls = 0

        def forward(self, batch: Any, draw: Any) -> Output:
            found = super().forward(batch, draw)
            self.calls += 1
            return found._replace(loss=found.loss * (math.nan if self.calls == 13 else 1.0))

    run = RunDirectory.create(tmp_path / "run")
    config = TrainConfig(batch_size=8, steps=40, checkpoint_every=6, log_every=10, guard_every=15, seed=4)
    trainer = Trainer(Breaks(toy.Net(toy.Spec(6))), toy.Rows(), config, run=run, progress=False)
    with pytest.raises(
        CollapseError, match=r"NaN or infinite at step 12 \(epoch 1, batch 3\).*nan_step.json"
    ):
        trainer.fit()
    replay = json.loads((run.path / "nan_step.json").read_text())
    assert (replay["step"], replay["seed"], replay["checkpoint"]) == (12, 4, "step-00000012")
    assert replay["indices"] == trainer.order.batch(12).tolist()
    assert np.isin(replay["indices"], trainer.method.seen[12].index.numpy()).all()
    assert [p.name for p in run.checkpoints()] == ["step-00000012", "step-00000006"]


def test_preconditions_name_batch_and_data(toy) -> None:
    from ssl_domains.core.errors import UserError

    with pytest.raises(UserError, match="batch_size is 300, but the training split has 20 rows"):
        check_preconditions(toy.Regress(toy.Net(toy.Spec(6))), 300, 20)
    check_preconditions(toy.Regress(toy.Net(toy.Spec(6))), 20, None)
