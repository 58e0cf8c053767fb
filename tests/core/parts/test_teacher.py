"""EMA arithmetic, buffers, and no gradient."""

import pytest
import torch
from torch import nn

from ssl_domains.core.parts.teacher import Teacher


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_update_moves_by_one_minus_momentum():
    student = net()
    teacher = Teacher(student)
    old = [p.clone() for p in teacher.module.parameters()]
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn_like(p))
    teacher.update(student, 0.996)
    for before, now, target in zip(old, teacher.module.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(now - before, 0.004 * (target - before), rtol=1e-3, atol=1e-7)
        assert not now.requires_grad
    teacher.update(student, 0.0)
    for now, target in zip(teacher.module.parameters(), student.parameters(), strict=True):
        assert torch.equal(now, target)


@pytest.mark.parametrize(("rule", "expected"), [("own", 0.0), ("ema", 0.25), ("copy", 1.0)])
def test_buffer_rules(rule, expected):
    student = net()
    teacher = Teacher(student, rule)
    student[1].running_mean.fill_(1.0)
    teacher.update(student, 0.75)
    assert float(teacher.module[1].running_mean[0]) == pytest.approx(expected)


def test_output_has_no_gradient_and_architectures_must_match():
    student = net()
    teacher = Teacher(student)
    assert not teacher(torch.randn(5, 3)).requires_grad
    with pytest.raises(ValueError, match="different parameters"):
        teacher.update(nn.Sequential(nn.Linear(3, 4)), 0.5)


def test_a_teacher_of_a_module_without_parameters():
    """BGRL has no projector: an empty one must not stop the update."""
    Teacher(torch.nn.Sequential()).update(torch.nn.Sequential(), 0.9)
