"""Mixed reconstruction against hand values and a literal loop; on two processes."""

import math

import pytest
import torch
import torch.nn.functional as F

from ssl_domains.core.testing import run_processes
from ssl_domains.tabular.objectives import MixedReconstruction
from ssl_domains.tabular.spec import ColumnSpec, TableSpec

NAN = float("nan")


def make_spec():
    numeric = tuple(ColumnSpec(f"n{j}", "numeric", f"n{j}") for j in range(2))
    categorical = (
        ColumnSpec("c0", "categorical", "c0", categories=("a", "b"), counts=(0, 0, 3, 1)),
        ColumnSpec("c1", "categorical", "c1", categories=("a", "b", "c"), counts=(0, 0, 5, 5, 5)),
    )
    return TableSpec(numeric, categorical)


def make_objective(**options):
    torch.manual_seed(0)
    loss = MixedReconstruction(make_spec(), 5, **options).double()
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter)
    return loss


def cells(m=30):
    """Random cells, with missing ones of both kinds."""
    generator = torch.Generator().manual_seed(1)
    column = torch.randint(0, 4, (m,), generator=generator)
    sizes = torch.tensor([0, 0, 4, 5])
    code = torch.randint(0, 100, (m,), generator=generator) % sizes[column].clamp_min(1)
    number = torch.randn(m, generator=generator, dtype=torch.float64)
    number[torch.rand(m, generator=generator) < 0.2] = NAN
    value = torch.where(column < 2, number, code.double())
    latent = torch.randn(m, 5, generator=generator, dtype=torch.float64)
    return latent, torch.stack([value, column.double()], dim=1)


def literal(loss, latent, target):
    errors, entropies = [], []
    for z, (value, column) in zip(latent, target):
        j = int(column)
        if j < 2 and not math.isnan(value):
            errors.append((z @ loss.weight[j] + loss.bias[j] - value) ** 2)
        if j >= 2 and value >= 1:
            logits = loss.classifiers[j - 2](z)
            entropies.append(F.cross_entropy(logits, value.long() - 1))
    return torch.stack(errors).mean(), torch.stack(entropies).mean()


def test_equals_the_literal_loop():
    loss = make_objective(numeric_weight=0.7, categorical_weight=1.3)
    latent, target = cells()
    latent.requires_grad_()
    errors, entropy = literal(loss, latent, target)
    terms = loss(latent, target)
    torch.testing.assert_close(terms.total.double(), 0.7 * errors + 1.3 * entropy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms.parts["squared_error"].double(), errors, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms.parts["cross_entropy"].double(), entropy, rtol=1e-5, atol=1e-6)
    names = [name for name, _ in loss.named_parameters()]
    want = torch.autograd.grad(0.7 * errors + 1.3 * entropy, [latent, *loss.parameters()])
    got = torch.autograd.grad(terms.total, [latent, *loss.parameters()])
    for name, a, b in zip(["latent", *names], got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_by_hand():
    loss = MixedReconstruction(make_spec(), 5)
    for parameter in loss.parameters():
        torch.nn.init.zeros_(parameter)
    target = torch.tensor([[2.0, 0], [NAN, 0], [-1.0, 1], [2.0, 2], [0.0, 2], [4.0, 3]])
    terms = loss(torch.randn(6, 5), target)
    assert terms.parts["squared_error"].item() == pytest.approx((4 + 1) / 2)
    # zero logits: ln of the number of codes without the missing one
    assert terms.parts["cross_entropy"].item() == pytest.approx((math.log(3) + math.log(4)) / 2)
    assert terms.total.item() == pytest.approx(2.5 + (math.log(3) + math.log(4)) / 2)


def test_trivial_value_is_what_constants_reach():
    loss = make_objective(numeric_weight=2.0)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert loss(*cells()).trivial["constant"] == pytest.approx(2.0 + (entropy + math.log(3)) / 2)


def test_missing_cells_do_not_count():
    loss = make_objective()
    latent, target = cells()
    gone = torch.tensor([[NAN, 0.0], [NAN, 1.0], [0.0, 2.0], [0.0, 3.0]], dtype=torch.float64)
    more = torch.cat([latent, torch.full((4, 5), 100.0, dtype=torch.float64).requires_grad_()])
    total = loss(more, torch.cat([target, gone])).total
    torch.testing.assert_close(total, loss(latent, target).total)


def test_only_missing_cells_give_zero_and_finite_gradients():
    loss = make_objective()
    latent = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    total = loss(latent, torch.tensor([[NAN, 0.0], [0.0, 2.0]], dtype=torch.float64)).total
    total.backward()
    assert total.item() == 0
    assert not latent.grad.any()
    assert all(not p.grad.any() for p in loss.parameters())


def test_wants_latents():
    assert make_objective().prediction_width(target_width=2, encoder_width=5) == 5


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_tables_of_one_kind(kind):
    spec = make_spec()
    spec = TableSpec(spec.numeric, ()) if kind == "numeric" else TableSpec((), spec.categorical)
    target = (
        torch.tensor([[0.5, 0.0], [NAN, 1.0]])
        if kind == "numeric"
        else torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    )
    latent = torch.randn(2, 5, requires_grad=True)
    total = MixedReconstruction(spec, 5)(latent, target).total
    total.backward()
    assert total > 0
    assert torch.isfinite(latent.grad).all()


def share(rank, latent, target):
    loss = make_objective()
    own = latent.tensor_split(2)[rank].clone().requires_grad_()
    total = loss(own, target.tensor_split(2)[rank]).total
    total.backward()
    return total.detach(), own.grad, [p.grad for p in loss.parameters()]


def test_two_processes_equal_one():
    latent, target = cells()
    loss = make_objective()
    whole = latent.clone().requires_grad_()
    total = loss(whole, target).total
    total.backward()
    (a, first, grads), (b, second, others) = run_processes(share, 2, latent, target)
    torch.testing.assert_close(a, total.detach())
    torch.testing.assert_close(b, total.detach())
    torch.testing.assert_close(torch.cat([first, second]) / 2, whole.grad)
    for g, h, parameter in zip(grads, others, loss.parameters(), strict=True):
        torch.testing.assert_close((g + h) / 2, parameter.grad)
