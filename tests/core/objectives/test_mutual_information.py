"""The Jensen-Shannon objective against its formulas."""

import math

import pytest
import torch
from torch.nn import functional as F

from ssl_domains.core.objectives.mutual_information import JensenShannon
from ssl_domains.core.testing import run_processes


def test_it_is_dgi_and_infograph():
    torch.manual_seed(0)
    true, false = torch.randn(7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    scores, labels = torch.cat([true, false]), torch.cat([torch.ones(7), torch.zeros(7)]).double()
    dgi = F.binary_cross_entropy_with_logits(scores, labels)
    torch.testing.assert_close(JensenShannon()(true, false).total, dgi)
    false = torch.randn(31, dtype=torch.float64)
    positive = (math.log(2) - F.softplus(-true)).mean()
    negative = (F.softplus(-false) + false - math.log(2)).mean()
    infograph = negative - positive
    torch.testing.assert_close(2 * JensenShannon()(true, false).total, infograph + 2 * math.log(2))


def test_nothing_learned_is_ln_2_and_weights_leave_pairs_out():
    terms = JensenShannon()(torch.zeros(3), torch.zeros(5))
    assert float(terms.total) == pytest.approx(terms.trivial["uniform"]) == pytest.approx(math.log(2))
    true, false = torch.tensor([1.0, 9.0]), torch.tensor([-2.0, 9.0])
    keep = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(
        JensenShannon()(true, false, keep, keep).total, JensenShannon()(true[:1], false[:1]).total
    )


def half(rank, true, false):
    a, b = (t[: 3 if rank == 0 else None] if rank == 0 else t[3:] for t in (true, false))
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    loss = JensenShannon()(a, b).total
    loss.backward()
    return loss.detach(), a.grad, b.grad


def test_two_processes_with_different_numbers_of_pairs():
    torch.manual_seed(0)
    true, false = torch.randn(5), torch.randn(8)
    found = run_processes(half, 2, true, false)
    a, b = true.clone().requires_grad_(), false.clone().requires_grad_()
    loss = JensenShannon()(a, b).total
    loss.backward()
    for value, *_ in found:
        torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(torch.cat([f[1] for f in found]) / 2, a.grad)
    torch.testing.assert_close(torch.cat([f[2] for f in found]) / 2, b.grad)
