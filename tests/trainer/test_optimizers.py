"""Optimizers: groups, scaling, the ramp, and LARS against its literal formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssl_domains.core import registry
from ssl_domains.core.errors import UserError
from ssl_domains.trainer.optimizers import LARS, SGD, Adam, AdamW, Lars, OptimizerConfig


def groups_of(model: nn.Module) -> list[dict]:
    return [
        {"params": [p for p in model.parameters() if p.ndim > 1], "decay": True},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "decay": False, "lr_scale": 0.5},
        {"params": [], "decay": True},
    ]


@pytest.mark.parametrize(("name", "kind"), [("adamw", AdamW), ("adam", Adam), ("sgd", SGD), ("lars", LARS)])
def test_every_optimizer_is_registered_and_builds_groups(name: str, kind: type[OptimizerConfig]) -> None:
    assert registry.get("optimizer", name) is kind
    made = kind(weight_decay=0.3).build(groups_of(nn.Linear(3, 2)))
    assert [group["weight_decay"] for group in made.param_groups] == [0.3, 0.0]
    assert all(group["initial_lr"] == group["lr"] for group in made.param_groups)
    rates = [group["lr"] for group in made.param_groups]
    plain = kind()
    assert rates == [plain.lr, 0.5 * getattr(plain, "lr_vectors", plain.lr)]


def test_linear_scaling_rule() -> None:
    made = SGD(lr=0.1, lr_batch=256).build(groups_of(nn.Linear(3, 2)), batch_size=1024)
    assert made.param_groups[0]["lr"] == pytest.approx(0.4)
    assert SGD(lr=0.1).build(groups_of(nn.Linear(3, 2)), batch_size=1024).param_groups[0]["lr"] == 0.1


def test_weight_decay_ramp_leaves_biases_alone() -> None:
    config = AdamW(weight_decay=0.04, weight_decay_end=0.4)
    made = config.build(groups_of(nn.Linear(3, 2)))
    found = []
    for fraction in (0.0, 0.5, 1.0):
        config.set_weight_decay(made, fraction)
        found.append(made.param_groups[0]["weight_decay"])
        assert made.param_groups[1]["weight_decay"] == 0.0
    assert found == pytest.approx([0.04, 0.22, 0.4])
    linear = AdamW(weight_decay=0.0, weight_decay_end=1.0, weight_decay_ramp="linear")
    linear.set_weight_decay(made, 0.25)
    assert made.param_groups[0]["weight_decay"] == pytest.approx(0.25)


def test_bad_values_and_nothing_to_train() -> None:
    with pytest.raises(UserError, match="lr is -1"):
        AdamW(lr=-1)
    with pytest.raises(UserError, match="no parameters to train"):
        AdamW().build([{"params": []}])


def test_lars_is_its_literal_formula_over_three_steps() -> None:
    torch.manual_seed(0)
    weight, bias, zero = (torch.randn(3, 4), torch.randn(4), torch.zeros(2, 2))
    own = [nn.Parameter(t.clone().double()) for t in (weight, bias, zero)]
    made = Lars(
        [{"params": [own[0], own[2]], "lr": 0.2, "weight_decay": 0.1, "decay": True},
         {"params": [own[1]], "lr": 0.05, "weight_decay": 0.0, "decay": False}],
        momentum=0.9, trust=0.001,
    )  # fmt: skip
    p = [t.clone().double() for t in (weight, bias, zero)]
    v = [torch.zeros_like(t) for t in p]
    for step in range(3):
        grads = [torch.full_like(t, 0.3 + step) * torch.arange(t.numel()).view_as(t).sin() for t in p]
        for parameter, grad in zip(own, grads, strict=True):
            parameter.grad = grad.clone()
        made.step()
        for i, (rate, decay, adapt) in enumerate([(0.2, 0.1, True), (0.05, 0.0, False), (0.2, 0.1, True)]):
            update = grads[i] + decay * p[i]
            if adapt and p[i].norm() > 0 and update.norm() > 0:
                update = update * 0.001 * p[i].norm() / update.norm()
            v[i] = 0.9 * v[i] + update
            p[i] = p[i] - rate * v[i]
    for parameter, expected in zip(own, p, strict=True):
        torch.testing.assert_close(parameter.data, expected)


def test_lars_calls_a_closure_and_skips_what_has_no_gradient() -> None:
    parameter, idle = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    made = Lars([parameter, idle])

    def closure() -> float:
        loss = parameter.square().sum()
        loss.backward()
        return float(loss.detach())

    assert made.step(closure) == 4.0
    assert torch.equal(idle.data, torch.ones(2, 2))
    assert not torch.equal(parameter.data, torch.ones(2, 2))
