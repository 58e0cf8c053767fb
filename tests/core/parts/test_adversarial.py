"""Adversarial offsets: they raise the loss, keep their length, and leave parameters without gradient."""

import pytest
import torch
from torch import nn

from ssl_domains.core.parts.adversarial import adversarial_offset, unit


@pytest.fixture
def setting():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    x, start = torch.randn(64, 3, 4).double(), torch.randn(64, 3, 4).double()
    return net, lambda d: nn.functional.softplus(-net((x + d).flatten(1)).squeeze(1)), start


@pytest.mark.parametrize("steps", [1, 3])
def test_raises_the_loss_of_nearly_every_row(setting, steps):
    _, loss, start = setting
    d = adversarial_offset(loss, start, 0.01, steps)
    clean, moved = loss(torch.zeros_like(d)), loss(d)
    assert (moved > clean).float().mean() > 0.95
    assert (loss(-d) < clean).float().mean() > 0.95  # what the released code of the paper does


def test_lengths(setting):
    _, loss, start = setting
    one = adversarial_offset(loss, start, 0.3).flatten(1).norm(dim=1)
    assert torch.allclose(one, torch.full_like(one, 0.3))
    several = adversarial_offset(loss, start, 0.3, 3).flatten(1).norm(dim=1)
    assert (several <= 0.3 + 1e-6).all()
    assert (several > 0.25).all()
    assert not adversarial_offset(loss, start, 0.0).any()


def test_is_the_gradient_where_it_is_known():
    """A linear loss: the best offset is along its coefficients, in any number of steps."""
    w = torch.tensor([[3.0, 4.0], [0.0, -2.0]])
    d = adversarial_offset(lambda d: (w * d).sum(1), torch.ones(2, 2), 0.5)
    assert torch.allclose(d, torch.tensor([[0.3, 0.4], [0.0, -0.5]]))


def test_no_parameter_gets_gradient_and_none_is_needed_around(setting):
    net, loss, start = setting
    with torch.no_grad():
        d = adversarial_offset(loss, start, 0.1)
    assert not d.requires_grad
    assert all(p.grad is None for p in net.parameters())


def test_where_the_loss_is_flat_the_start_decides():
    start = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    d = adversarial_offset(lambda d: (d * 0.0).sum(1), start, 0.5)
    assert torch.allclose(d, torch.tensor([[0.0, 0.5], [0.0, 0.0]]))
    assert torch.equal(unit(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_finds_a_way_from_the_lowest_point():
    """``|d|^2`` is lowest and flat at 0; the small start shows the way up."""
    d = adversarial_offset(lambda d: d.square().sum(1), torch.tensor([[1.0, 0.0]]), 0.2)
    assert torch.allclose(d, torch.tensor([[0.2, 0.0]]))
