"""GroCo: the paper's numbers, the literal formula, gradients, invariances, two processes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.ordering import GroCo, uniform_loss
from ssl_domains.core.parts.sorting import SortingNetwork


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_scores(positives, negatives, **options):
    """The loss of one anchor with these similarities."""
    groco = GroCo(negatives=len(negatives), **options)
    pos, neg = (torch.tensor([x], dtype=torch.float64) for x in (positives, negatives))
    return groco._anchors(pos, neg)[0, 0].item()


def literal(views, n_global, k, kind="odd_even"):
    """The sheet's formula with the whole permutation matrix and both halves of the cross-entropy."""
    z = [F.normalize(v, dim=1) for v in views]
    losses = []
    for v, anchor in enumerate(z):
        positives = torch.stack([(anchor * z[p].detach()).sum(1) for p in range(n_global) if p != v], 1)
        table = anchor @ z[v].detach().T
        table = table.masked_fill(torch.eye(len(table), dtype=torch.bool), -torch.inf)
        negatives = table.topk(k, dim=1).values.sort(1).values
        x = torch.cat([negatives, positives.sort(1).values], 1)
        _, matrix = SortingNetwork(x.shape[1], kind)(x)
        target = torch.cat([torch.zeros(k), torch.ones(positives.shape[1])]).to(x).expand_as(x)
        above = matrix[:, :, k:].sum(2).clamp(0, 1)
        below = matrix[:, :, :k].sum(2).clamp(0, 1)
        halves = F.binary_cross_entropy(above, target), F.binary_cross_entropy(below, 1 - target)
        torch.testing.assert_close(*halves, rtol=1e-9, atol=1e-12)
        losses.append(sum(halves) / 2)
    return sum(losses) / len(losses)


def test_values_of_the_sheet():
    assert of_scores([1.0], [-1.0]) == pytest.approx(0.159680, abs=1e-6)
    assert of_scores([0.3], [0.3]) == pytest.approx(math.log(2))
    expected = -math.log(0.5 + math.atan(3.0 * 0.4) / math.pi)
    assert of_scores([0.5], [0.1], steepness=3.0) == pytest.approx(expected)
    assert of_scores([0.2], [0.2] * 2) == pytest.approx(0.422837, abs=1e-6)
    assert of_scores([0.2], [0.2] * 10) == pytest.approx(0.201983, abs=1e-6)
    assert of_scores([1.0], [-1.0] * 10) == pytest.approx(0.146972, abs=1e-6)
    assert of_scores([1.0], [0.0] * 10) == pytest.approx(0.179349, abs=1e-6)
    assert of_scores([-1.0], [1.0] * 10) == pytest.approx(0.264333, abs=1e-6)
    assert uniform_loss(10, 1) == pytest.approx(0.201983, abs=1e-6)
    assert uniform_loss(1, 1) == pytest.approx(math.log(2))


@pytest.mark.parametrize(("n_views", "n_global"), [(2, 2), (4, 4), (5, 2)])
def test_equals_the_literal_formula(n_views, n_global):
    views = [rand(14, 6, seed=i).requires_grad_() for i in range(n_views)]
    terms = GroCo(negatives=5, chunk_size=4).over_peers(views, n_global)
    slow = literal(views, n_global, 5)
    torch.testing.assert_close(terms.total, slow, rtol=1e-10, atol=1e-12)
    for a, b in zip(torch.autograd.grad(terms.total, views), torch.autograd.grad(slow, views), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)
        assert a.abs().max() > 0


def test_many_negatives_and_the_bitonic_network():
    views = [rand(60, 6, seed=i) for i in range(3)]
    terms = GroCo(negatives=40, network="bitonic").over_peers(views, 3)
    torch.testing.assert_close(terms.total, literal(views, 3, 40, "bitonic"))
    assert terms.parts["ordered"] == GroCo(negatives=40).over_peers(views, 3).parts["ordered"]


def test_gradient_sits_at_the_boundary():
    positive = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    negatives = torch.linspace(-0.2, 0.6, 10, dtype=torch.float64)[None].requires_grad_()
    GroCo()._anchors(positive, negatives)[0, 0].backward()
    assert positive.grad.item() < 0
    grad = negatives.grad[0]
    assert (grad > 0).all()
    near = grad[(negatives[0] - 0.4).abs() < 0.12].mean()
    assert (grad[:3] < 0.1 * near).all()


def test_no_gradient_reaches_the_comparison_side():
    """With other anchors and targets only the anchors are moved; and the stop-gradient matters."""
    anchors = [rand(12, 5, seed=i).requires_grad_() for i in range(2)]
    targets = [rand(12, 5, seed=i).requires_grad_() for i in range(2)]
    GroCo(4).over_views(anchors, targets).total.backward()
    assert all(t.grad is None for t in targets)
    own = [rand(12, 5, seed=i).requires_grad_() for i in range(2)]
    GroCo(4).over_peers(own, 2).total.backward()
    for a, b in zip(anchors, own, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    through = [rand(12, 5, seed=i).requires_grad_() for i in range(2)]
    z = [F.normalize(v, dim=1) for v in through]
    groco = GroCo(4)
    loss = 0.0
    for v in range(2):
        table = (z[v] @ z[v].T).masked_fill(torch.eye(12, dtype=torch.bool), -2.0)
        positives = (z[v] * z[1 - v]).sum(1, keepdim=True)
        loss = loss + groco._anchors(positives, table.topk(4, 1).values)[:, 0].mean() / 2
    loss.backward()
    assert not torch.allclose(through[0].grad, own[0].grad)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 500), scale=st.floats(0.1, 30))
def test_invariances(seed, scale):
    views = [rand(11, 4, seed=seed + i) for i in range(3)]
    groco = GroCo(negatives=4)
    loss = groco.over_peers(views, 2).total
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    factors = scale * torch.arange(1, 12, dtype=torch.float64)[:, None]
    torch.testing.assert_close(groco.over_peers([v[order] for v in views], 2).total, loss)
    torch.testing.assert_close(groco.over_peers([views[0] * factors, *views[1:]], 2).total, loss)


def test_ordered_counts_anchors_whose_positives_win():
    z = torch.eye(6, dtype=torch.float64)
    assert GroCo(3)(z, z).parts["ordered"] == 1.0
    assert GroCo(3)(z, z.roll(1, 0)).parts["ordered"] == 0.0  # all cosines are 0: no strict order


def test_preconditions_and_bad_arguments():
    assert "lower objective.negatives" in GroCo().check(batch_size=8, width=4, views=2, n_samples=9)[0]
    assert not GroCo().check(batch_size=11, width=4, views=2, n_samples=90)
    with pytest.raises(ValueError, match="at least 11, got 5"):
        GroCo()(rand(5, 3), rand(5, 3, seed=1))
    with pytest.raises(ValueError, match="two views"):
        GroCo().over_peers([rand(5, 3)], 1)
    for wrong in ({"negatives": 0}, {"network": "quick"}, {"steepness": -1}):
        with pytest.raises(UserError):
            GroCo(**wrong)


def worker(rank):
    views = [rand(20, 6, seed=i) for i in range(4)]
    share = slice(0, 10) if rank == 0 else slice(10, 20)
    mine = [v[share].clone().requires_grad_() for v in views]
    terms = GroCo(negatives=7, chunk_size=3).over_peers(mine, 2)
    terms.total.backward()
    return terms.total.detach(), terms.parts, torch.stack([v.grad for v in mine])


def test_two_processes_equal_one():
    from ssl_domains.core.testing import run_processes

    views = [rand(20, 6, seed=i).requires_grad_() for i in range(4)]
    terms = GroCo(negatives=7).over_peers(views, 2)
    terms.total.backward()
    (a, parts, first), (b, _, second) = run_processes(worker, 2)
    joined = torch.stack([v.grad for v in views])
    torch.testing.assert_close(torch.cat([first, second], 1) / 2, joined, rtol=0, atol=1e-9)
    for value in (a, b):
        torch.testing.assert_close(value, terms.total.detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(parts, terms.parts, rtol=0, atol=1e-9)
    with torch.no_grad():
        alone = (
            sum(GroCo(7).over_peers([v[s] for v in views], 2).total for s in (slice(0, 10), slice(10, 20)))
            / 2
        )
    assert abs(alone - terms.total) > 1e-4  # local negatives would be seen
