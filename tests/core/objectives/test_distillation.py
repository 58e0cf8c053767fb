"""Sharpened-teacher cross-entropy: DINO, iBOT, Sinkhorn centering."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.clustering import sinkhorn
from ssl_domains.core.objectives.distillation import TeacherCrossEntropy


def logits(seed, n=6, k=5, dtype=torch.float64):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(**options):
    return TeacherCrossEntropy(5, **options).double()


def slow(students, teachers, center, t_s=0.1, t_t=0.04):
    terms = []
    for t, teacher in enumerate(teachers):
        for s, student in enumerate(students):
            if s != t:
                p = torch.softmax((teacher - center) / t_t, 1)
                terms.append((-p * torch.log_softmax(student / t_s, 1)).sum(1).mean())
    return sum(terms) / len(terms)


def test_equals_the_slow_formula():
    students, teachers = [logits(i) for i in range(4)], [logits(10), logits(11)]
    objective = make()
    objective.center.copy_(logits(20, 1)[0])
    expected = slow(students, teachers, objective.center.clone())
    torch.testing.assert_close(objective(students, teachers).total, expected)
    warm = make(teacher_temperature=0.07)(students, teachers).total
    torch.testing.assert_close(warm, slow(students, teachers, 0.0, t_t=0.07))
    torch.testing.assert_close(make()(students, teachers, teacher_temperature=0.07).total, warm)
    ramped = make()
    ramped.teacher_temperature = 0.07
    torch.testing.assert_close(ramped(students, teachers).total, warm)


def test_equals_lightly_over_several_steps():
    loss = pytest.importorskip("lightly.loss")
    theirs, ours = loss.DINOLoss(output_dim=5).double(), make()
    for step in range(3):
        students, teachers = [logits(10 * step + i) for i in range(4)], [logits(90 + step), logits(95 + step)]
        torch.testing.assert_close(ours.over_views(students, teachers).total, theirs(teachers, students))
        ours.after_step(0.0)
        torch.testing.assert_close(ours.center, theirs.center.flatten())


def test_the_center_moves_in_training_mode_only():
    teachers = [logits(1) + 3, logits(2) + 3]
    objective = make(center_momentum=0.9)
    objective(teachers, teachers)
    assert objective.center.abs().sum() == 0
    objective.after_step(0.0)
    torch.testing.assert_close(objective.center, 0.1 * torch.cat(teachers).mean(0))
    before = objective.center.clone()
    objective.after_step(0.1)
    objective.eval()(teachers, teachers)
    objective.after_step(0.2)
    torch.testing.assert_close(objective.center, before, rtol=0, atol=0)
    objective.update_center(teachers)
    torch.testing.assert_close(objective.center, 0.9 * before + 0.1 * torch.cat(teachers).mean(0))
    for centering in ("sinkhorn", "none"):
        other = make(centering=centering)
        other(teachers, teachers)
        other.after_step(0.0)
        assert other.center.abs().sum() == 0


def test_micro_batches_move_the_center_like_one_batch():
    whole, parts = make(), make()
    views = [logits(1), logits(2)]
    whole(views, views)
    for rows in (slice(0, 2), slice(2, 6)):
        parts([v[rows] for v in views], [v[rows] for v in views])
    whole.after_step(0.0)
    parts.after_step(0.0)
    torch.testing.assert_close(parts.center, whole.center)


def test_the_temperature_ramps_and_resumes():
    views = [logits(1), logits(2)]
    ramped = make(teacher_temperature=0.04, teacher_temperature_end=0.07, centering="none")
    for fraction, temperature in ((None, 0.04), (0.15, 0.055), (0.3, 0.07), (0.9, 0.07)):
        if fraction is not None:
            ramped.after_step(fraction)
        expected = make(teacher_temperature=temperature, centering="none")(views, views).total
        torch.testing.assert_close(ramped(views, views).total, expected, rtol=1e-6, atol=0)
    resumed = make(teacher_temperature=0.04, teacher_temperature_end=0.07, centering="none")
    resumed.load_state_dict(ramped.state_dict())
    torch.testing.assert_close(resumed(views, views).total, ramped(views, views).total, rtol=0, atol=0)


def test_the_center_converges_to_the_mean_and_travels():
    objective = make(center_momentum=0.5)
    for _ in range(60):
        objective.update_center(logits(3))
    torch.testing.assert_close(objective.center, logits(3).mean(0))
    other = make()
    other.load_state_dict(objective.state_dict())
    torch.testing.assert_close(other.center, objective.center)
    objective.update_center(logits(0, n=0))
    torch.testing.assert_close(other.center, objective.center)


def test_trivial_values():
    zeros = [torch.zeros(3, 5), torch.zeros(3, 5)]
    terms = TeacherCrossEntropy(5)(zeros, zeros)
    assert terms.total.item() == pytest.approx(math.log(5)) == pytest.approx(terms.trivial["uniform"])
    assert terms.parts["teacher_entropy"].item() == pytest.approx(math.log(5))
    peaked = [100 * F.one_hot(torch.zeros(3, dtype=torch.int64), 5).float()] * 2
    one = TeacherCrossEntropy(5, centering="none")(peaked, peaked)
    assert one.total.item() == pytest.approx(one.trivial["constant"], abs=1e-6)


def test_centering_undoes_a_common_offset():
    """With centers a teacher shifted towards one output teaches what it taught before."""
    students, teachers = [logits(1), logits(2)], [logits(3), logits(4)]
    offset = torch.tensor([8.0, 0, 0, 0, 0], dtype=torch.float64)
    centred = make()
    centred.center.copy_(offset)
    shifted = [t + offset for t in teachers]
    torch.testing.assert_close(centred(students, shifted).total, make()(students, teachers).total)
    assert abs(make(centering="none")(students, shifted).total - make()(students, teachers).total) > 0.1


def test_sinkhorn_centering():
    students, teachers = [logits(1), logits(2)], [logits(3), logits(4)]
    codes = sinkhorn(torch.cat(teachers), 0.04, 3).split(6)
    rows = [-(codes[t] * (students[1 - t] / 0.1).log_softmax(1)).sum(1) for t in (0, 1)]
    torch.testing.assert_close(make(centering="sinkhorn")(students, teachers).total, torch.cat(rows).mean())


def test_patch_tokens_pair_with_themselves():
    objective = make(pairs="same_view")
    student, teacher, weights = logits(1), logits(2), torch.tensor([1.0, 0, 0, 3, 0, 0])
    rows = -((teacher / 0.04).softmax(1) * (student / 0.1).log_softmax(1)).sum(1)
    objective.eval()
    torch.testing.assert_close(objective(student, teacher).total, rows.mean())
    torch.testing.assert_close(
        objective(student, teacher, weights=weights).total, (rows[0] + 3 * rows[3]) / 4
    )
    two = objective([student, teacher], [teacher, student]).total
    torch.testing.assert_close(
        two, (objective(student, teacher).total + objective(teacher, student).total) / 2
    )
    empty = objective(logits(0, n=0).requires_grad_(), logits(0, n=0)).total
    empty.backward()
    assert empty.item() == 0.0


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), shift=st.floats(-20, 20))
def test_invariances(seed, shift):
    students, teachers = [logits(seed), logits(seed + 1)], [logits(seed + 2), logits(seed + 3)]
    terms = make()(students, teachers)
    rows, outputs = torch.randperm(6), torch.randperm(5)
    for other in (
        make()([s + shift for s in students], [t - shift for t in teachers]),
        make()([s[rows] for s in students], [t[rows] for t in teachers]),
        make()([s[:, outputs] for s in students], [t[:, outputs] for t in teachers]),
        make()(students[::-1], teachers[::-1]),
    ):
        torch.testing.assert_close(other.total, terms.total)
    assert terms.parts["kl"] >= 0
    torch.testing.assert_close(terms.parts["kl"] + terms.parts["teacher_entropy"], terms.total)


def test_gradient_reaches_the_student_only():
    students = [logits(1).requires_grad_(), logits(2).requires_grad_()]
    teachers = [logits(3).requires_grad_(), logits(4).requires_grad_()]
    make()(students, teachers).total.backward()
    assert all(s.grad.abs().sum() > 0 for s in students)
    assert all(t.grad is None for t in teachers)
    objective = make().eval()
    assert torch.autograd.gradcheck(lambda a, b: objective([a, b], teachers).total, students)


def test_low_precision_logits():
    views = [logits(1).bfloat16(), logits(2).bfloat16()]
    objective = TeacherCrossEntropy(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = objective(views, views).total
    assert total.dtype == objective.center.dtype == torch.float32


def test_bad_arguments():
    for options, says in (
        ({"student_temperature": 0.0}, "student_temperature"),
        ({"teacher_temperature": -1.0}, "above 0"),
        ({"center_momentum": 1.1}, "center_momentum"),
        ({"centering": "median"}, "median"),
        ({"pairs": "all"}, "pairs"),
    ):
        with pytest.raises(UserError, match=says):
            make(**options)
    with pytest.raises(ValueError, match="no pair"):
        make()([logits(1)], [logits(2)])
    with pytest.raises(ValueError, match=r"\[B, 5\]"):
        make()([logits(1, k=4)] * 2, [logits(2)])
    assert len(make().check(batch_size=1, width=4, views=1, n_samples=None)) == 2
    assert make(pairs="same_view").check(batch_size=8, width=4, views=1, n_samples=None) == []
