"""Schedules against the numbers of the papers and independent implementations."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core import registry
from ssl_domains.core.errors import UserError
from ssl_domains.core.schedules import Constant, Infinite, Ramp, RepeatedCosine, WarmupCosine

PEAK = 1.5e-4


def sheet(**changes):
    """The schedule of arXiv 2503.02844 with eta_max 1.5e-4 and eta_const 3.75e-5."""
    options = {
        "warmup_steps": 100,
        "cooldown_steps": 300,
        "constant_ratio": 0.25,
        "final_ratio": 1e-8 / PEAK,
        "anneal_steps": 200,
    }
    return Infinite(**{**options, **changes})


def optimizer(*rates):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups)


@pytest.mark.parametrize(
    ("step", "rate"), [(50, 7.5e-5), (100, 1.5e-4), (250, 9.375e-5), (400, 3.75e-5), (10**6, 3.75e-5)]
)
def test_infinite_hand_values(step, rate):
    assert PEAK * sheet().multiplier(step) == pytest.approx(rate, rel=1e-12)


def test_infinite_exponential_anneal():
    schedule = sheet()
    schedule.start_annealing(1000)
    assert PEAK * schedule.multiplier(1100) == pytest.approx(math.sqrt(3.75e-5 * 1e-8), rel=1e-9)
    assert PEAK * schedule.multiplier(1100) == pytest.approx(6.12e-7, rel=1e-3)
    assert PEAK * schedule.multiplier(1200) == pytest.approx(1e-8, rel=1e-9)
    assert PEAK * schedule.multiplier(5000) == pytest.approx(1e-8, rel=1e-9)


@pytest.mark.parametrize(
    ("anneal", "half"), [("linear", 0.15), ("cosine", 0.15), ("1-sqrt", 0.1 + 0.1 * (1 - 0.5**0.5))]
)
def test_infinite_other_anneals(anneal, half):
    schedule = Infinite(constant_ratio=0.2, final_ratio=0.1, anneal=anneal, anneal_steps=100, anneal_start=10)
    assert schedule.multiplier(10) == pytest.approx(0.2)
    assert schedule.multiplier(60) == pytest.approx(half)
    assert schedule.multiplier(110) == pytest.approx(0.1)


@settings(deadline=None, max_examples=25)
@given(
    warmup=st.integers(0, 40),
    cooldown=st.integers(0, 40),
    constant=st.floats(0.05, 1.0),
    anneal=st.sampled_from(["exp", "cosine", "linear", "1-sqrt"]),
    delay=st.integers(0, 60),
)
def test_infinite_falls_after_the_warmup(warmup, cooldown, constant, anneal, delay):
    schedule = Infinite(
        warmup_steps=warmup,
        cooldown_steps=cooldown,
        constant_ratio=constant,
        final_ratio=0.01,
        anneal=anneal,
        anneal_steps=30,
        anneal_start=warmup + delay,
    )
    values = [schedule.multiplier(n) for n in range(warmup, warmup + delay + 60)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values))
    assert values[-1] == pytest.approx(0.01)


@pytest.mark.parametrize("anneal", ["exp", "cosine", "linear"])
def test_infinite_is_continuous(anneal):
    n = 10**6  # fine grid: a jump would not shrink with it
    schedule = Infinite(
        warmup_steps=n,
        cooldown_steps=n,
        constant_ratio=0.3,
        final_ratio=0.01,
        anneal=anneal,
        anneal_steps=n,
        anneal_start=3 * n,
    )
    for edge in (n, 2 * n, 3 * n, 4 * n):
        around = [schedule.multiplier(edge + d) for d in (-1, 0, 1)]
        assert max(around) - min(around) < 1e-5


def test_infinite_anneals_from_the_cooldown_too():
    schedule = sheet()
    before = schedule.multiplier(250)
    schedule.start_annealing(250)
    assert schedule.multiplier(250) == pytest.approx(before)
    assert PEAK * schedule.multiplier(450) == pytest.approx(1e-8)


def test_infinite_does_not_know_the_budget():
    steps = range(0, 3000, 7)
    short, long = sheet(total_steps=500), sheet(total_steps=10**7)
    assert [short.multiplier(n) for n in steps] == [long.multiplier(n) for n in steps]
    cosine = [WarmupCosine(total_steps=t).multiplier(100) for t in (500, 1000)]
    assert cosine[0] != cosine[1]


@pytest.mark.parametrize("saved_at", [None, 700])
def test_infinite_state_round_trip(saved_at):
    schedule = sheet()
    if saved_at is not None:
        schedule.start_annealing(saved_at)
    again, twice = sheet(), sheet()
    again.load_state_dict(schedule.state_dict())
    twice.load_state_dict(schedule.state_dict())
    for copy in (again, twice):
        assert [copy.multiplier(n) for n in range(1500)] == [schedule.multiplier(n) for n in range(1500)]


def test_a_fork_leaves_the_trunk_alone():
    trunk = sheet()
    state = trunk.state_dict()
    fork = sheet()
    fork.load_state_dict(state)
    fork.start_annealing(500)
    assert trunk.state_dict() == state == {"anneal_start": None}
    assert trunk.multiplier(700) == 0.25 != fork.multiplier(700)


def test_group_ratios_survive_every_phase():
    schedule, sgd = sheet(anneal_start=600), optimizer(1.0, 0.1, 0.003)
    for step in (1, 50, 100, 250, 400, 599, 650, 800, 2000):
        factor = schedule.apply(sgd, step)
        rates = [g["lr"] for g in sgd.param_groups]
        assert rates == pytest.approx([factor, 0.1 * factor, 0.003 * factor])


def test_apply_survives_an_optimizer_reload():
    schedule, sgd = WarmupCosine(total_steps=100), optimizer(2.0)
    schedule.apply(sgd, 50)
    fresh = optimizer(7.0)
    fresh.load_state_dict(sgd.state_dict())
    schedule.apply(fresh, 75)
    assert fresh.param_groups[0]["lr"] == pytest.approx(2.0 * schedule.multiplier(75))


def test_apply_fills_a_tensor_rate_in_place():
    parameter = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([parameter], lr=torch.tensor(0.5))
    rate = adam.param_groups[0]["lr"]
    Constant(warmup_steps=4).apply(adam, 2)
    assert adam.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.25)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_wsd_equals_transformers(floor):
    transformers = pytest.importorskip("transformers")
    sgd = optimizer(1.0)
    theirs = transformers.get_wsd_schedule(
        sgd, num_warmup_steps=20, num_stable_steps=50, num_decay_steps=30, min_lr_ratio=floor
    )
    ours = Infinite(
        warmup_steps=20,
        constant_ratio=1.0,
        final_ratio=floor,
        anneal="cosine",
        anneal_steps=30,
        anneal_start=70,
    )
    for step in range(120):
        if step >= 20 or floor == 0.0:  # theirs warms up from the floor, the paper's from 0
            assert ours.multiplier(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        sgd.step()
        theirs.step()


def test_infinite_contains_warmup_cosine():
    ours = Infinite(
        warmup_steps=20,
        cooldown_steps=0,
        constant_ratio=1.0,
        final_ratio=0.0,
        anneal="cosine",
        anneal_steps=80,
        anneal_start=20,
    )
    cosine = WarmupCosine(warmup_steps=20, total_steps=100)
    assert [ours.multiplier(n) for n in range(130)] == pytest.approx(
        [cosine.multiplier(n) for n in range(130)]
    )


def test_anneal_at_end_follows_the_budget():
    schedule = sheet(total_steps=1000, anneal_at_end=True)
    assert schedule.anneal_start == 800
    assert PEAK * schedule.multiplier(1000) == pytest.approx(1e-8)


def test_warmup_cosine_equals_transformers():
    transformers = pytest.importorskip("transformers")
    sgd = optimizer(1.0)
    theirs = transformers.get_cosine_schedule_with_warmup(sgd, num_warmup_steps=10, num_training_steps=60)
    ours = WarmupCosine(warmup_steps=10, total_steps=60)
    for step in range(61):
        assert ours.multiplier(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        sgd.step()
        theirs.step()


def test_warmup_cosine_ends():
    schedule = WarmupCosine(warmup=0.1, final_ratio=0.001, total_steps=1000)
    assert schedule.warmup_steps == 100
    assert [schedule.multiplier(n) for n in (0, 100, 550, 1000, 1010)] == pytest.approx(
        [0, 1, 0.5005, 0.001, 0.001]
    )


def test_repeated_cosine_restarts_at_each_task():
    one = WarmupCosine(warmup_steps=10, final_ratio=0.1, total_steps=100)
    three = RepeatedCosine(tasks=3, warmup_steps=10, final_ratio=0.1, total_steps=300)
    for step in range(300):
        assert three.multiplier(step) == one.multiplier(step % 100)
    assert three.multiplier(300) == 0.1
    endless = RepeatedCosine(task_steps=100, warmup=0.1, final_ratio=0.1)
    assert endless.multiplier(12345) == one.multiplier(45)


def test_repeated_cosine_unequal_tasks():
    schedule = RepeatedCosine(task_steps=[50, 200], warmup=0.1)
    assert schedule.multiplier(5) == schedule.multiplier(50 + 20) == 1.0
    assert schedule.multiplier(50) == 0.0
    assert sum(RepeatedCosine(tasks=3, total_steps=100).lengths) == 100


def test_constant():
    schedule = Constant(warmup=0.1, total_steps=100)
    assert [schedule.multiplier(n) for n in (0, 5, 10, 10**9)] == [0.0, 0.5, 1.0, 1.0]
    assert Constant().multiplier(0) == 1.0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: WarmupCosine(), "budget"),
        (lambda: WarmupCosine(warmup_steps=5, warmup=0.1, total_steps=10), "not both"),
        (lambda: WarmupCosine(warmup_steps=50, total_steps=10), "exceeds"),
        (lambda: WarmupCosine(final_ratio=1.5, total_steps=10), "final_ratio"),
        (lambda: Constant(warmup=0.1), "warmup_steps"),
        (lambda: Constant(total_steps=0), "total_steps"),
        (lambda: Constant(warmup_steps=-1), "warmup_steps"),
        (lambda: RepeatedCosine(), "either"),
        (lambda: RepeatedCosine(tasks=3), "cut"),
        (lambda: RepeatedCosine(task_steps=[3, 0]), "at least 1"),
        (lambda: RepeatedCosine(task_steps=[3], warmup_steps=4), "exceeds"),
        (lambda: Infinite(constant_ratio=0.0), "constant_ratio"),
        (lambda: Infinite(constant_ratio=0.1, final_ratio=0.2), "final_ratio"),
        (lambda: Infinite(final_ratio=0.0), "exp"),
        (lambda: Infinite(anneal="log"), "anneal"),
        (lambda: Infinite(anneal_at_end=True), "budget"),
        (lambda: Infinite(warmup_steps=10, anneal_start=5), "warm-up"),
        (lambda: Infinite(anneal_start=5).start_annealing(9), "already"),
        (lambda: Ramp(0, 1, "cubic"), "cubic"),
        (lambda: Ramp(0, 1, share=0.0), "share"),
        (lambda: Ramp(0), "end"),
    ],
)
def test_bad_arguments(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_registered_names():
    registered = {name: registry.get("schedule", name) for name in registry.names("schedule")}
    expected = {"constant": Constant, "warmup_cosine": WarmupCosine, "repeated_cosine": RepeatedCosine}
    assert {**expected, "infinite": Infinite}.items() <= registered.items()


def test_byol_momentum():
    ramp = Ramp(0.996, 1.0, "cosine")
    for k in (0, 25, 50, 100):
        assert ramp.value(k / 100) == pytest.approx(1 - (1 - 0.996) * (math.cos(math.pi * k / 100) + 1) / 2)


def test_ramp_kinds():
    assert Ramp(0.04, 0.07, "warmup", share=0.3).value(0.15) == pytest.approx(0.055)
    assert Ramp(0.04, 0.07, "warmup", share=0.3).value(0.9) == 0.07
    assert Ramp(0.0, 2.0, "warmup").value(0.05) == pytest.approx(1.0)
    assert Ramp(3.0, 1.0).value(0.25) == pytest.approx(2.5)
    assert Ramp(3.0, kind="constant").value(0.7) == 3.0
    assert Ramp(3.0, 1.0, "linear").value(-1) == 3.0
    assert Ramp(3.0, 1.0, "linear").value(7) == 1.0


@settings(deadline=None, max_examples=25)
@given(
    start=st.floats(-5, 5),
    end=st.floats(-5, 5),
    share=st.floats(0.01, 1),
    progress=st.floats(0, 1),
    kind=st.sampled_from(["linear", "cosine", "warmup"]),
)
def test_ramps_stay_between_their_ends(start, end, share, progress, kind):
    ramp = Ramp(start, end, kind, share)
    assert min(start, end) - 1e-9 <= ramp.value(progress) <= max(start, end) + 1e-9
    assert ramp.value(0.0) == pytest.approx(start)
    assert ramp.value(1.0) == end
