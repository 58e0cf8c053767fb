"""Cosine and masked regression."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.regression import (
    CosineRegression,
    MaskedL1,
    MaskedMSE,
    MaskedSmoothL1,
    ScaledCosineError,
)

X, Z = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
ALL = [
    CosineRegression(), CosineRegression("simsiam"), ScaledCosineError(), MaskedL1(), MaskedMSE(),
    MaskedSmoothL1(0.5), MaskedMSE(normalize_target=True),
]  # fmt: skip


def rand(seed, n=7, d=5):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("form", "value"), [("byol", 0.585786), ("simsiam", -0.707107)])
def test_cosine_hand_values(form, value):
    objective = CosineRegression(form)
    assert objective(X, Z).total.item() == pytest.approx(value, abs=1e-6)
    same = objective(3 * Z.repeat(4, 1), Z.repeat(4, 1))
    assert same.total.item() == pytest.approx(same.trivial["constant"], abs=1e-6)


def test_byol_is_the_distance_of_unit_vectors():
    p, z = rand(0), rand(1)
    slow = (F.normalize(p) - F.normalize(z)).square().sum(1).mean()
    torch.testing.assert_close(CosineRegression()(p, z).total, slow)


def test_cosine_equals_lightly():
    loss = pytest.importorskip("lightly.loss")
    p, z = rand(2), rand(3)
    theirs = loss.NegativeCosineSimilarity()(p, z)
    torch.testing.assert_close(CosineRegression("simsiam")(p, z).total, theirs)
    torch.testing.assert_close(ScaledCosineError(gamma=1.0)(p, z).total, theirs + 1)


@pytest.mark.parametrize(("gamma", "value"), [(1.0, 0.292893), (2.0, 0.085786), (3.0, 0.025126)])
def test_scaled_cosine_hand_values(gamma, value):
    objective = ScaledCosineError(gamma)
    assert objective(Z, X).total.item() == pytest.approx(value, abs=1e-6)
    assert objective(5 * X, X).total.item() == pytest.approx(0.0, abs=1e-6)
    assert objective(-X, X).total.item() == pytest.approx(2**gamma, abs=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0, 3.0])
def test_scaled_cosine_rows_of_zeros_cost_one(gamma):
    zeros, ones = torch.zeros(3, 4), torch.ones(3, 4)
    for prediction, target in ((zeros, ones), (ones, zeros), (zeros, zeros)):
        prediction = prediction.clone().requires_grad_()
        terms = ScaledCosineError(gamma)(prediction, target)
        terms.total.backward()
        assert terms.total.item() == pytest.approx(terms.trivial["zero"])
        assert torch.isfinite(prediction.grad).all()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), gamma=st.floats(1, 4))
def test_scaled_cosine_properties(seed, scale, gamma):
    p, x = rand(seed), rand(seed + 1)
    objective = ScaledCosineError(gamma)
    loss = objective(p, x).total
    torch.testing.assert_close(loss, ((1 - F.cosine_similarity(p, x)) ** gamma).mean())
    factors = scale * torch.arange(1, 8, dtype=torch.float64)[:, None]
    torch.testing.assert_close(objective(p * factors, x).total, loss)
    torch.testing.assert_close(objective(p, x * factors).total, loss)
    rows = torch.randperm(7)
    torch.testing.assert_close(objective(p[rows], x[rows]).total, loss)
    assert 0 <= loss <= 2**gamma


def test_scaled_cosine_joined_graphs_weigh_by_masked_counts():
    objective = ScaledCosineError()
    p, x = rand(4), rand(5)
    parts = [objective(p[:2], x[:2]).total, objective(p[2:], x[2:]).total]
    torch.testing.assert_close(objective(p, x).total, (2 * parts[0] + 5 * parts[1]) / 7)


def test_scaled_cosine_is_no_nan_where_rounding_passes_one():
    x = rand(6, 2000, 3).float()
    prediction = (1.7 * x).requires_grad_()
    total = ScaledCosineError(1.5)(prediction, x).total
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        (MaskedL1(), 1.5),
        (MaskedMSE(), 2.5),
        (MaskedSmoothL1(), 1.0),
        (MaskedSmoothL1(0.0), 1.5),
        (MaskedSmoothL1(4.0), 0.3125),
    ],
)
def test_masked_hand_values(objective, value):
    assert objective(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).total.item() == pytest.approx(
        value
    )


@pytest.mark.parametrize(
    ("objective", "reference"),
    [(MaskedL1(), F.l1_loss), (MaskedMSE(), F.mse_loss), (MaskedSmoothL1(), F.smooth_l1_loss)],
)
def test_masked_equal_torch(objective, reference):
    p, t = rand(7), rand(8)
    torch.testing.assert_close(objective(p, t).total, reference(p, t))
    constant = objective(p, t).parts["constant_prediction"]
    torch.testing.assert_close(constant, reference(t.mean(0).expand_as(t), t))


def test_normalised_target():
    p, t = rand(9), 4 + 3 * rand(10)
    slow = (t - t.mean(1, keepdim=True)) / (t.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(MaskedMSE(normalize_target=True)(p, t).total, F.mse_loss(p, slow))
    zero = MaskedMSE(normalize_target=True)(torch.zeros_like(t), t).total
    assert zero.item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("objective", ALL)
def test_weights(objective):
    p, t = rand(11), rand(12)
    weights = torch.tensor([0.0, 2, 0, 1, 0, 0, 0])
    expected = objective(p[[1, 1, 3]], t[[1, 1, 3]]).total
    torch.testing.assert_close(objective(p, t, weights).total, expected)
    assert torch.isfinite(objective(p, t, torch.zeros(7)).total)
    torch.testing.assert_close(objective(p, t, torch.ones(7)).total, objective(p, t).total)


@pytest.mark.parametrize("objective", ALL)
def test_no_masked_rows(objective):
    p = torch.zeros(0, 5, requires_grad=True)
    total = objective(p, torch.zeros(0, 5)).total
    total.backward()
    assert torch.isfinite(total)


@pytest.mark.parametrize("kind", [CosineRegression, ScaledCosineError, MaskedL1, MaskedMSE, MaskedSmoothL1])
def test_the_target_gets_no_gradient_unless_asked(kind):
    p, t = rand(13).requires_grad_(), rand(14).requires_grad_()
    kind()(p, t).total.backward()
    assert t.grad is None
    assert p.grad.abs().sum() > 0
    kind(stop_gradient=False)(p, t).total.backward()
    assert t.grad.abs().sum() > 0


@pytest.mark.parametrize("objective", ALL)
def test_gradient_and_low_precision(objective):
    p, t = rand(15).requires_grad_(), rand(16)
    assert torch.autograd.gradcheck(lambda x: objective(x, t).total, (p,))
    low = objective(p.detach().bfloat16(), t.float()).total
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), objective(p, t).total.detach(), rtol=0.05, atol=0.05)


def test_bad_arguments():
    for make, says in (
        (lambda: CosineRegression("moco"), "form"),
        (lambda: ScaledCosineError(0.5), "gamma"),
        (lambda: MaskedSmoothL1(-1.0), "beta"),
        (lambda: CosineRegression(eps=0.0), "eps"),
    ):
        with pytest.raises(UserError, match=says):
            make()
    with pytest.raises(ValueError, match=r"masked_mse.*one shape"):
        MaskedMSE()(rand(0, 3), rand(0, 4))
    assert CosineRegression().check(batch_size=8, width=4, views=1, n_samples=None)
    assert not CosineRegression().check(batch_size=8, width=4, views=2, n_samples=None)
