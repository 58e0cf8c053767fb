"""Mixed Barlow Twins' loss: the four matrices of the paper, its zeros, gradients, two processes."""

import pytest
import torch

from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.mixed_barlow_twins import MixedBarlowTwins
from ssl_domains.core.objectives.redundancy import BarlowTwins


def rand(seed, n=12, d=5):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def permutation(n=12, seed=0):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def literal(za, zb, zm, rows, m, lambda_=1 / 128, regularizer=4.0, eps=1e-5):
    """The paper's four matrices, each entry."""
    a, b, x = ((z - z.mean(0)) / (z.var(0, unbiased=False) + eps).sqrt() for z in (za, zb, zm))
    n, d = za.shape
    c = a.T @ b / n
    eye = torch.eye(d, dtype=torch.bool)
    base = (c[eye] - 1).square().sum() + lambda_ * c[~eye].square().sum()
    c_ma, c_mb = x.T @ a / n, x.T @ b / n
    t_ma = m * (a.T @ a / n) + (1 - m) * (b[rows].T @ a / n)
    t_mb = m * (a.T @ b / n) + (1 - m) * (b[rows].T @ b / n)
    r = (c_ma - t_ma).square().sum() + (c_mb - t_mb).square().sum()
    return base + regularizer * lambda_ * r, r


@pytest.mark.parametrize("shape", [(12, 5), (6, 20)])
@pytest.mark.parametrize("m", [0.3, 0.9])
def test_equals_the_four_matrices(shape, m):
    z = [rand(seed, *shape).requires_grad_() for seed in range(3)]
    rows = permutation(shape[0])
    terms = MixedBarlowTwins()(*z, rows, m)
    slow, r = literal(*z, rows, m)
    torch.testing.assert_close(terms.total, slow, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(terms.parts["mixture"], r.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(terms.parts["barlow_twins"], BarlowTwins(1 / 128)(z[0], z[1]).total.detach())
    for a, b in zip(torch.autograd.grad(terms.total, z), torch.autograd.grad(slow, z), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_zero_at_both_ends_of_the_mixture():
    """m = 1: the mixture is view A; m = 0: it is view B permuted. The wrong target fails the first."""
    za, zb, rows = rand(1), rand(2), permutation()
    loss = MixedBarlowTwins()
    assert loss(za, zb, za, rows, 1.0).parts["mixture"] == 0
    assert loss(za, zb, zb[rows], rows, 0.0).parts["mixture"].item() == pytest.approx(0, abs=1e-24)
    a, b = ((z - z.mean(0)) / z.std(0, unbiased=False) for z in (za, zb))
    wrong = (a.T @ b - b.T @ b).square().sum()  # the ImageNet code's target at m = 1
    assert wrong > 1


def test_linear_encoder_is_zero_only_without_standardising_the_mixture(monkeypatch):
    """A mixture of two independent samples varies less; standardising it is the intended penalty."""
    za, zb, rows = rand(1), rand(2), permutation()
    standard = [(z - z.mean(0)) / z.std(0, unbiased=False) for z in (za, zb)]
    mixed = 0.4 * standard[0] + 0.6 * standard[1][rows]
    assert MixedBarlowTwins()(*standard, mixed, rows, 0.4).parts["mixture"] > 0.1
    monkeypatch.setattr(MixedBarlowTwins, "_standard", lambda self, z, count: z)
    assert MixedBarlowTwins()(*standard, mixed, rows, 0.4).parts["mixture"] < 1e-20


def test_every_side_gets_gradient_from_the_regulariser():
    z = [rand(seed).requires_grad_() for seed in range(3)]
    rows, loss = permutation(), MixedBarlowTwins()
    whole = torch.autograd.grad(loss(*z, rows, 0.5).total, z)
    base = torch.autograd.grad(BarlowTwins(1 / 128)(z[0], z[1]).total, z[:2])
    assert whole[2].abs().max() > 0
    assert all((w - b).abs().max() > 1e-6 for w, b in zip(whole, base, strict=False))


def test_joint_permutation_with_reindexed_partners():
    z, rows, order = [rand(seed) for seed in range(3)], permutation(), permutation(seed=5)
    inverse = torch.argsort(order)
    loss = MixedBarlowTwins()
    moved = loss(*(v[order] for v in z), inverse[rows[order]], 0.3)
    torch.testing.assert_close(moved.total, loss(*z, rows, 0.3).total, rtol=1e-9, atol=0)


def test_all_entries_and_sums():
    """The diagonal counts, and R is a sum: four copies of the columns give 16 times as much."""
    z, rows = [rand(seed, 200, 3) for seed in range(3)], permutation(200)
    once = MixedBarlowTwins()(*z, rows, 0.5).parts["mixture"]
    wide = MixedBarlowTwins()(*(v.repeat(1, 4) for v in z), rows, 0.5).parts["mixture"]
    assert wide.item() == pytest.approx(16 * once.item(), rel=1e-6)


def test_without_mixture_it_is_barlow_twins_bit_for_bit():
    z1, z2 = rand(1).float(), rand(2).float()
    ours, plain = MixedBarlowTwins(0.01)(z1, z2), BarlowTwins(0.01)(z1, z2)
    assert torch.equal(ours.total, plain.total)


def test_ramp_and_row_normalisation():
    z, rows = [rand(seed) for seed in range(3)], permutation()
    loss = MixedBarlowTwins(ramp=0.5)
    base = loss(z[0], z[1]).total
    torch.testing.assert_close(loss(*z, rows, 0.5).total, base)
    full = MixedBarlowTwins()(*z, rows, 0.5).total - base
    for fraction, weight in ((0.25, 0.5), (0.5, 1.0), (0.9, 1.0)):
        loss.after_step(fraction)
        torch.testing.assert_close(loss(*z, rows, 0.5).total - base, weight * full, rtol=1e-6, atol=0)
    unit = [torch.nn.functional.normalize(v, dim=1) for v in z]
    rowed = MixedBarlowTwins(normalize_rows=True, eps=1e-12)(*z, rows, 0.5).total
    torch.testing.assert_close(rowed, MixedBarlowTwins(eps=1e-12)(*unit, rows, 0.5).total)
    assert "weight" in loss.state_dict()


def test_bad_arguments():
    for wrong in ({"regularizer": -1}, {"ramp": 2.0}, {"lambda_": -1}):
        with pytest.raises(UserError):
            MixedBarlowTwins(**wrong)


def worker(rank):
    mine = slice(0, 6) if rank == 0 else slice(6, 12)
    z = [rand(seed)[mine].clone().requires_grad_() for seed in range(3)]
    terms = MixedBarlowTwins()(*z, permutation(6, seed=rank), 0.3)
    terms.total.backward()
    return terms.total.detach(), terms.parts, torch.stack([v.grad for v in z])


def test_two_processes_equal_one():
    from ssl_domains.core.testing import run_processes

    z = [rand(seed).requires_grad_() for seed in range(3)]
    rows = torch.cat([permutation(6, seed=0), 6 + permutation(6, seed=1)])
    terms = MixedBarlowTwins()(*z, rows, 0.3)
    terms.total.backward()
    joined = torch.stack([v.grad for v in z])
    first, second = run_processes(worker, 2)
    torch.testing.assert_close(torch.cat([first[2], second[2]], 1) / 2, joined, rtol=0, atol=1e-9)
    for total, parts, _ in (first, second):
        torch.testing.assert_close(total, terms.total.detach(), rtol=0, atol=1e-9)
        torch.testing.assert_close(parts, terms.parts, rtol=0, atol=1e-9)
