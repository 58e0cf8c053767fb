"""The triplet loss: values by hand, torch's own, mining, gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.triplet import Triplet

ANCHOR = torch.tensor([[0.0, 0.0]])
NEAR, FAR = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])


@pytest.mark.parametrize(("margin", "value"), [(1.0, 0.0), (4.0, 1.0)])
def test_worked_value(margin, value):
    loss = Triplet(margin, normalize=False)(ANCHOR, NEAR, FAR)
    assert float(loss.total) == value


@pytest.mark.parametrize("squared", [True, False])
def test_equals_torchs(squared):
    torch.manual_seed(0)
    a, p, n = torch.randn(3, 16, 8).unbind()

    def apart(x, y):
        d = (x - y).square().sum(-1)
        return d if squared else d.sqrt()

    expected = nn.TripletMarginWithDistanceLoss(distance_function=apart, margin=0.7)(a, p, n)
    ours = Triplet(0.7, squared=squared, normalize=False)(a, p, n).total
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_mining_by_hand():
    q = torch.tensor([[0.0], [10.0], [20.0]])
    k = torch.tensor([[2.0], [11.0], [12.5]])  # distances of query 1: 64, 1, 6.25; the positive is 1
    rows = {}
    for mining in ("hardest", "semi_hard", "all"):
        loss = Triplet(1.0, normalize=False, mining=mining)
        near, far, allowed = loss._mined(q, k, None)
        rows[mining] = far[1].tolist(), near[1].item(), allowed[1].tolist()
    assert rows["hardest"] == ([6.25], 1.0, [True])
    assert rows["semi_hard"] == ([6.25], 1.0, [True])
    assert rows["all"][2] == [True, False, True]
    # query 2's positive (56.25) is farther than key 1 would be nearer: semi-hard takes the farthest beyond it
    near, far, _ = Triplet(1.0, normalize=False, mining="semi_hard")._mined(q, k, None)
    assert near[2].item() == pytest.approx(56.25)
    assert far[2].item() == pytest.approx(81.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_invariances(seed):
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 6, 4, generator=g).unbind()
    loss = Triplet(0.3, mining="hardest", symmetric=True)
    value = loss(q, k).total
    order = torch.randperm(6, generator=g)
    torch.testing.assert_close(loss(q[order], k[order]).total, value)  # the order of a batch does not matter
    torch.testing.assert_close(loss(3 * q, 0.5 * k).total, value)  # unit vectors: nor does scale
    torch.testing.assert_close(loss(k, q).total, value)  # symmetric
    assert 0 <= float(value) <= 4.3


def test_ignored_pairs_and_weights():
    torch.manual_seed(0)
    q, k = torch.randn(2, 5, 4).unbind()
    loss = Triplet(0.5, mining="all")
    ignore = torch.zeros(5, 5, dtype=torch.bool)
    ignore[:, 4] = True
    ignore[4] = True
    part = loss(q, k, ignore_mask=ignore).total
    torch.testing.assert_close(part, loss(q[:4], k[:4]).total)
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    moved = k.clone().requires_grad_()
    only = q.clone().requires_grad_()
    loss(only, moved, query_weights=weights).total.backward()
    assert only.grad[4].abs().sum() == 0


def test_gradcheck():
    torch.manual_seed(0)
    q, k = torch.randn(2, 4, 3, dtype=torch.float64).unbind()
    loss = Triplet(2.0, mining="all")
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b).total, (q.requires_grad_(), k.requires_grad_()))


def test_refusals():
    with pytest.raises(UserError, match="margin must be positive"):
        Triplet(0.0)
    with pytest.raises(UserError, match="mining must be"):
        Triplet(0.1, mining="soft")
