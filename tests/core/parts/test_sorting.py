"""Sorting networks: against the definition, against diffsort, exact in the limit, doubly stochastic."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.parts.sorting import SortingNetwork


def rows(n, b=7, seed=0):
    return torch.randn(b, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal(x, layers, steepness):
    """One row, comparator by comparator, with the matrix written out."""
    x, n = list(x), len(x)
    total = torch.eye(n, dtype=torch.float64)
    for pairs in layers:
        mix = torch.eye(n, dtype=torch.float64)
        for i, j in pairs:
            alpha = 0.5 + torch.atan(steepness * (x[j] - x[i])) / math.pi
            x[i], x[j] = alpha * x[i] + (1 - alpha) * x[j], (1 - alpha) * x[i] + alpha * x[j]
            mix[i, i] = mix[j, j] = alpha
            mix[i, j] = mix[j, i] = 1 - alpha
        total = total @ mix
    return torch.stack(x), total


def test_odd_even_equals_the_definition():
    x = rows(5)
    layers = [[(0, 1), (2, 3)], [(1, 2), (3, 4)], [(0, 1), (2, 3)], [(1, 2), (3, 4)], [(0, 1), (2, 3)]]
    values, permutation = SortingNetwork(5, steepness=2.0)(x)
    for b in range(len(x)):
        slow_values, slow_permutation = literal(x[b], layers, 2.0)
        torch.testing.assert_close(values[b], slow_values, rtol=0, atol=1e-14)
        torch.testing.assert_close(permutation[b], slow_permutation, rtol=0, atol=1e-14)


def test_bitonic_of_four_equals_the_definition():
    x = rows(4)
    layers = [[(0, 1), (2, 3)], [(0, 3), (1, 2)], [(0, 1), (2, 3)]]
    network = SortingNetwork(4, "bitonic")
    assert network.n_layers == 3
    values, permutation = network(x)
    for b in range(len(x)):
        slow_values, slow_permutation = literal(x[b], layers, 1.0)
        torch.testing.assert_close(values[b], slow_values, rtol=0, atol=1e-14)
        torch.testing.assert_close(permutation[b], slow_permutation, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("kind", "n"), [("odd_even", 2), ("odd_even", 11), ("bitonic", 8), ("bitonic", 16)])
@pytest.mark.parametrize("distribution", ["cauchy", "logistic"])
def test_equals_diffsort(kind, n, distribution):
    diffsort = pytest.importorskip("diffsort")
    x = rows(n, seed=3).float()
    theirs = diffsort.DiffSortNet(kind, n, steepness=1.5, distribution=distribution)
    values, permutation = SortingNetwork(n, kind, 1.5, distribution)(x)
    other_values, other_permutation = theirs(x)
    torch.testing.assert_close(values, other_values, rtol=0, atol=2e-6)
    torch.testing.assert_close(permutation, other_permutation, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["odd_even", "bitonic"])
@pytest.mark.parametrize("n", [2, 3, 5, 7, 8, 12, 13, 31])
def test_sorts_exactly_in_the_limit(kind, n):
    x = rows(n, b=64, seed=n)
    values, permutation = SortingNetwork(n, kind, steepness=1e14)(x)
    expected, order = x.sort(dim=1)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-9)
    assert torch.equal(permutation.argmax(dim=1), order)


def test_bitonic_needs_few_layers():
    assert SortingNetwork(64, "bitonic").n_layers == 21  # 6 * 7 / 2
    assert SortingNetwork(64).n_layers == 64


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(2, 14),
    seed=st.integers(0, 999),
    steepness=st.floats(0.05, 50),
    kind=st.sampled_from(["odd_even", "bitonic"]),
    distribution=st.sampled_from(["cauchy", "logistic"]),
)
def test_permutation_is_doubly_stochastic_and_carries_the_values(n, seed, steepness, kind, distribution):
    x = rows(n, seed=seed)
    network = SortingNetwork(n, kind, steepness, distribution)
    values, permutation = network(x)
    ones = torch.ones(len(x), n, dtype=torch.float64)
    torch.testing.assert_close(permutation.sum(1), ones, rtol=0, atol=1e-9)
    torch.testing.assert_close(permutation.sum(2), ones, rtol=0, atol=1e-9)
    assert permutation.min() >= 0
    torch.testing.assert_close(values, torch.einsum("bi,bir->br", x, permutation))
    weights = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(network.rank_mass(x, weights), permutation @ weights)


def test_gradients():
    for kind in ("odd_even", "bitonic"):
        network = SortingNetwork(6, kind)
        x = rows(6, b=3, seed=9).requires_grad_()
        assert torch.autograd.gradcheck(network, (x,))
        assert torch.autograd.gradcheck(lambda v: network.rank_mass(v, torch.arange(6) > 3), (x,))  # noqa: B023


def test_arguments_are_checked():
    for wrong in ({"n": 1}, {"kind": "quick"}, {"steepness": 0}, {"distribution": "normal"}):
        with pytest.raises(ValueError, match=r"sorting|steepness|distribution"):
            SortingNetwork(**{"n": 4, **wrong})
