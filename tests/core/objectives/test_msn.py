"""MSN's objective: the literal formula, its prior, what gets gradient, two processes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.clustering import sinkhorn
from ssl_domains.core.objectives.msn import MSNObjective
from ssl_domains.core.testing import run_processes


def scores(a=3, b=6, k=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    anchors = (torch.rand(a, b, k, generator=generator, dtype=torch.float64) * 2 - 1).requires_grad_()
    return anchors, torch.rand(b, k, generator=generator, dtype=torch.float64) * 2 - 1


def literal(anchors, target, t, sharp, weight, prior=None):
    """Equation 1 with its regulariser, sum by sum; targets without Sinkhorn."""
    a, b, k = anchors.shape
    total, mean = 0.0, [0.0] * k
    for i in range(a):
        for j in range(b):
            p = [math.exp(float(anchors[i, j, c]) / t) for c in range(k)]
            q = [math.exp(float(target[j, c]) / (t * sharp)) for c in range(k)]
            for c in range(k):
                total -= q[c] / sum(q) * math.log(p[c] / sum(p)) / (a * b)
                mean[c] += p[c] / sum(p) / (a * b)
    prior = prior or [1 / k] * k
    order = sorted(range(k), key=lambda c: -mean[c])
    placed = {c: prior[n] for n, c in enumerate(order)}
    return total + weight * sum(mean[c] * math.log(mean[c] / placed[c]) for c in range(k))


@pytest.mark.parametrize(("t", "sharp", "weight"), [(0.1, 0.25, 1.0), (0.5, 1.0, 0.3), (0.2, 0.5, 0.0)])
def test_literal_formula(t, sharp, weight):
    anchors, target = scores()
    found = MSNObjective(t, sharp, sinkhorn_iterations=0, weight=weight)(anchors, target)
    assert float(found.total) == pytest.approx(literal(anchors, target, t, sharp, weight), abs=1e-10)


def test_power_law_prior():
    anchors, target = scores()
    prior = [k**-0.25 for k in range(1, 6)]
    prior = [p / sum(prior) for p in prior]
    found = MSNObjective(sinkhorn_iterations=0, prior_exponent=0.25)(anchors, target)
    assert float(found.total) == pytest.approx(literal(anchors, target, 0.1, 0.25, 1.0, prior), abs=1e-10)


def test_targets_are_balanced():
    _, target = scores()
    objective = MSNObjective()
    torch.testing.assert_close(objective.targets(target), sinkhorn(target, 0.025, 3))
    q = objective.targets(target)
    torch.testing.assert_close(q.sum(1), torch.ones(6, dtype=q.dtype))


def test_values_known_by_hand():
    flat = torch.zeros(2, 4, 8)
    found = MSNObjective()(flat, flat[0])
    assert float(found.total) == pytest.approx(
        math.log(8), abs=1e-5
    )  # uniform: ln K, and a prior that is met
    assert found.trivial == {"uniform": math.log(8)}
    one = torch.full((2, 4, 8), -40.0)
    one[..., 0] = 40.0
    collapsed = MSNObjective(sinkhorn_iterations=0)(one, one[0])
    assert float(collapsed.parts["cross_entropy"]) == pytest.approx(0, abs=1e-6)
    assert float(collapsed.parts["prior"]) == pytest.approx(math.log(8), abs=1e-4)


@given(st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_order_of_samples_and_prototypes_does_not_matter(seed):
    anchors, target = scores(seed=seed)
    rows, columns = torch.randperm(6), torch.randperm(5)
    objective = MSNObjective(prior_exponent=0.25)
    before = objective(anchors, target).total
    torch.testing.assert_close(before, objective(anchors[:, rows], target[rows]).total)
    torch.testing.assert_close(before, objective(anchors[..., columns], target[:, columns]).total)


def test_only_anchors_get_gradient():
    anchors, target = scores()
    target.requires_grad_()
    MSNObjective()(anchors, target).total.backward()
    assert target.grad is None
    assert anchors.grad.abs().sum() > 0
    anchors = anchors.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: MSNObjective()(a, target.detach()).total, anchors)


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"sharpening": -1}, {"weight": -1}, {"sinkhorn_iterations": -1}]
)
def test_options_out_of_range(options):
    with pytest.raises(UserError, match="msn"):
        MSNObjective(**options)
    with pytest.raises(ValueError, match=r"anchors \[A, B, K\]"):
        MSNObjective()(torch.zeros(2, 3), torch.zeros(3, 2))


def _share(rank):
    anchors, target = scores(b=8)
    half = slice(4 * rank, 4 * rank + 4)
    mine = anchors.detach()[:, half].clone().requires_grad_()
    total = MSNObjective(prior_exponent=0.25)(mine, target[half]).total
    total.backward()
    return float(total.detach()), mine.grad / 2


def test_two_processes_are_one_with_the_joined_batch():
    anchors, target = scores(b=8)
    whole = MSNObjective(prior_exponent=0.25)(anchors, target).total
    whole.backward()
    for rank, (total, grad) in enumerate(run_processes(_share)):
        assert total == pytest.approx(float(whole.detach()), abs=1e-9)
        torch.testing.assert_close(grad, anchors.grad[:, 4 * rank : 4 * rank + 4], atol=1e-9, rtol=1e-7)
