"""Barlow Twins and VICReg: the papers' numbers, slow formulas, invariances, gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.redundancy import BarlowTwins, VICReg, correlation_penalties

SQUARE = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)


def rand(seed, n=12, d=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=dtype)


def slow_barlow(z1, z2, lambda_=0.0051, eps=1e-5):
    columns = [(z - z.mean(0)) / (z.var(0, unbiased=False) + eps).sqrt() for z in (z1, z2)]
    n, d = z1.shape
    loss = 0.0
    for i in range(d):
        for j in range(d):
            c = (columns[0][:, i] * columns[1][:, j]).sum() / n
            loss = loss + ((c - 1) ** 2 if i == j else lambda_ * c**2)
    return loss


def slow_vicreg(z1, z2, weights=(25.0, 25.0, 1.0), eps=1e-4, margin=1.0):
    variance = covariance = 0.0
    for z in (z1, z2):
        variance = variance + (margin - (z.var(0) + eps).sqrt()).clamp(min=0).mean() / 2
        matrix = torch.cov(z.T)
        covariance = covariance + (matrix**2).sum() / z.shape[1] - (matrix.diagonal() ** 2).sum() / z.shape[1]
    return weights[0] * ((z1 - z2) ** 2).mean() + weights[1] * variance + weights[2] * covariance


def test_barlow_hand_values():
    barlow = BarlowTwins()
    assert barlow(SQUARE, SQUARE).total.item() == pytest.approx(0.0, abs=1e-9)
    assert barlow(SQUARE, -SQUARE).total.item() == pytest.approx(8.0, abs=1e-3)
    assert barlow(SQUARE, SQUARE.flip(1)).total.item() == pytest.approx(2.0102, abs=1e-4)
    column = rand(0, 16, 1).expand(16, 3)
    assert barlow(column, column).total.item() == pytest.approx(0.0306, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_barlow_constant_embedding_costs_its_width(dtype):
    z = torch.full((8, 7), 3.0, dtype=dtype, requires_grad=True)
    terms = BarlowTwins()(z, z)
    terms.total.backward()
    assert terms.total.item() == pytest.approx(7.0)
    assert terms.trivial == {"constant": 7.0}
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("lambda_", [0.0051, 0.5, 0.0])
def test_barlow_equals_the_slow_formula(lambda_):
    z1, z2 = rand(1).requires_grad_(), rand(2).requires_grad_()
    ours = BarlowTwins(lambda_)(z1, z2).total
    slow = slow_barlow(z1, z2, lambda_)
    torch.testing.assert_close(ours, slow, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(ours, (z1, z2)), torch.autograd.grad(slow, (z1, z2)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(BarlowTwins()(z1, z2).total, (z1, z2)))


def test_barlow_equals_lightly():
    loss = pytest.importorskip("lightly.loss")
    z1, z2 = rand(3, 32, 16), rand(4, 32, 16)
    theirs = loss.BarlowTwinsLoss(lambda_param=5e-3)(z1, z2)
    torch.testing.assert_close(BarlowTwins(5e-3, scale=3.0)(z1, z2).total, 3 * theirs, rtol=1e-9, atol=0)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), scale=st.floats(0.5, 20), shift=st.floats(-5, 5))
def test_barlow_invariances(seed, scale, shift):
    z1, z2 = rand(seed) * 3, rand(seed + 1) * 3
    barlow = BarlowTwins(eps=1e-12)
    loss = barlow(z1, z2).total
    factors = scale * torch.arange(1, 6, dtype=torch.float64)
    rows, columns = torch.randperm(12), torch.randperm(5)
    for other in (
        barlow(z1 * factors + shift, z2),
        barlow(z1[rows], z2[rows]),
        barlow(z1[:, columns], z2[:, columns]),
        barlow(z2, z1),
    ):
        torch.testing.assert_close(other.total, loss, rtol=1e-7, atol=1e-9)
    flip = torch.tensor([-1.0, 1, 1, 1, 1], dtype=torch.float64)
    assert abs(barlow(z1 * flip, z2).total - loss) > 1e-9
    torch.testing.assert_close(barlow(z1 * flip, z2 * flip).total, loss, rtol=1e-9, atol=1e-9)


def test_penalties_gradcheck():
    a, b = rand(5, 4, 3).requires_grad_(), rand(6, 4, 3).requires_grad_()
    count = torch.tensor(4.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, y: correlation_penalties(x, y, count), (a, b))
    assert torch.autograd.gradcheck(lambda x: correlation_penalties(x, x, count), (a,))
    assert torch.autograd.gradcheck(lambda x, y: BarlowTwins()(x, y).total, (a, b))


def test_statistics_stay_in_float32_under_autocast():
    z1, z2 = rand(7, 64, 32, torch.float32), rand(8, 64, 32, torch.float32)
    for objective in (BarlowTwins(), VICReg()):
        plain = objective(z1, z2).total
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = objective(z1, z2).total
            low = objective(z1.bfloat16(), z2.bfloat16()).total
        assert inside.dtype == low.dtype == torch.float32
        torch.testing.assert_close(inside, plain, rtol=0, atol=0)
        torch.testing.assert_close(low, plain, rtol=0.02, atol=0.02)


def test_barlow_keeps_one_matrix():
    z1, z2 = rand(9, 4, 50).requires_grad_(), rand(10, 4, 50).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        BarlowTwins()(z1, z2)
    assert saved.count(torch.Size([50, 50])) == 1


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)])
def test_vicreg_equals_the_slow_formula(weights):
    z1, z2 = (0.5 * rand(11)).requires_grad_(), rand(12).requires_grad_()
    ours, slow = VICReg(*weights)(z1, z2).total, slow_vicreg(z1, z2, weights)
    torch.testing.assert_close(ours, slow, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(ours, (z1, z2)), torch.autograd.grad(slow, (z1, z2)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_vicreg_equals_lightly():
    loss = pytest.importorskip("lightly.loss")
    z1, z2 = 0.7 * rand(13, 32, 16), rand(14, 32, 16)
    torch.testing.assert_close(VICReg()(z1, z2).total, loss.VICRegLoss()(z1, z2), rtol=1e-9, atol=0)


def test_vicreg_constant_embedding():
    z = torch.full((8, 3), -2.0, dtype=torch.float64, requires_grad=True)
    terms = VICReg()(z, z)
    terms.total.backward()
    assert terms.total.item() == pytest.approx(24.75)
    assert terms.trivial["constant"] == pytest.approx(24.75)
    assert torch.isfinite(z.grad).all()
    margin = VICReg(variance_weight=2.0, margin=3.0, eps=1e-2)
    assert margin(z, z).total.item() == pytest.approx(margin(z, z).trivial["constant"]) == pytest.approx(5.8)


def test_vicreg_gradcheck():
    a, b = rand(15, 4, 3).requires_grad_(), rand(16, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: VICReg()(x, y).total, (a, b))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), shift=st.floats(-5, 5))
def test_vicreg_invariances(seed, shift):
    z1, z2 = rand(seed), rand(seed + 1)
    loss = VICReg()(z1, z2).total
    rows, columns = torch.randperm(12), torch.randperm(5)
    signs = torch.tensor([-1.0, 1, -1, 1, 1], dtype=torch.float64)
    for other in (
        VICReg()(z1 + shift, z2 + shift),
        VICReg()(z1[rows], z2[rows]),
        VICReg()(z1[:, columns], z2[:, columns]),
        VICReg()(z1 * signs, z2 * signs),
        VICReg()(z2, z1),
    ):
        torch.testing.assert_close(other.total, loss, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("objective", [BarlowTwins(), VICReg()])
def test_preconditions(objective):
    ok = {"batch_size": 256, "width": 8192, "views": 2, "n_samples": 1000}
    assert objective.check(**ok) == []
    assert "256" in objective.check(**{**ok, "batch_size": 32})[0]
    assert "at least 2" in objective.check(**{**ok, "batch_size": 1})[0]
    assert "views" in objective.check(**{**ok, "views": 1})[0]


def test_bad_arguments():
    for make in (
        lambda: BarlowTwins(-1.0),
        lambda: BarlowTwins(eps=0.0),
        lambda: VICReg(variance_weight=-1.0),
        lambda: VICReg(margin=0.0),
    ):
        with pytest.raises(UserError, match="above 0"):
            make()
    with pytest.raises(ValueError, match="one shape"):
        BarlowTwins()(rand(0), rand(1, 11))
