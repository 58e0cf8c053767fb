"""Masks: exact counts, disjointness, equal frequency, independence of the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.errors import DataError
from ssl_domains.core.layout import Graph, Grid, Set
from ssl_domains.core.masking import DisjointSubsets, RandomMask
from ssl_domains.core.random import Draw


def graph(n: int, seeds: torch.Tensor | None = None) -> Graph:
    return Graph(
        n, torch.zeros(2, 0, dtype=torch.int64), torch.zeros(n, dtype=torch.int64), 1, torch.arange(n), seeds
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.floats(0.05, 0.95), st.integers(0, 10**6))
def test_random_mask_hides_the_same_number_in_every_row(n, ratio, step):
    mask = RandomMask(ratio)(Set(n), Draw(0, step, torch.arange(7)))
    expected = min(max(round(ratio * n), 1), n - 1)
    assert mask.hidden.sum(1).tolist() == [expected] * 7
    assert not bool(mask.hidden.gather(1, mask.context).any())
    assert mask.context.shape == (7, n - expected)


def test_random_mask_is_uniform_and_independent_of_the_batch():
    layout, index = Grid((4, 5)), torch.arange(8000)
    mask = RandomMask(0.25)(layout, Draw(5, 3, index))
    frequency = mask.hidden.float().mean(0)
    assert float((frequency - 0.25).abs().max()) < 0.025
    part = RandomMask(0.25)(layout, Draw(5, 3, index[[11, 3, 7999]]))
    assert torch.equal(part.hidden, mask.hidden[[11, 3, 7999]])


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 60), st.floats(0.02, 0.98), st.floats(0, 1), st.integers(0, 999))
def test_graph_mask_counts_of_token_noise_and_unaltered_nodes(n, ratio, noise, step):
    mask = RandomMask(ratio, noise)(graph(n), Draw(1, step, torch.arange(n)))
    hidden = max(int(ratio * n), 1)
    assert int(mask.hidden.sum()) == hidden
    if mask.substitute is None:
        assert int(noise * hidden) == 0
        return
    own = torch.arange(n)
    token = mask.hidden & (mask.substitute == -1)
    assert int(token.sum()) == int((1 - noise) * hidden)
    unaltered = mask.hidden & (mask.substitute == own)
    noisy = mask.hidden & (mask.substitute >= 0) & ~unaltered
    # a node may happen to draw itself as its donor, so the bound is one-sided
    assert int(noisy.sum()) <= int(noise * hidden)
    assert int(token.sum() + noisy.sum() + unaltered.sum()) == hidden
    donors = mask.substitute[noisy]
    assert len(set(donors.tolist())) == len(donors)


def test_graph_mask_touches_seeds_only():
    seeds = torch.zeros(20, dtype=torch.bool)
    seeds[:6] = True
    mask = RandomMask(0.5)(graph(20, seeds), Draw(0, 0, torch.arange(20)))
    assert int(mask.hidden.sum()) == 3
    assert not bool(mask.hidden[6:].any())


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 60), st.integers(0, 10**6))
def test_disjoint_subsets(n, step):
    masker = DisjointSubsets()
    mask = masker(Set(n), Draw(2, step, torch.arange(5)))
    k, b, n_target = mask.targets.shape
    assert (k, b) == (4, 5)
    assert n_target >= 1
    assert mask.context.shape[1] + n_target <= n
    for row in range(5):
        context = set(mask.context[row].tolist())
        assert len(context) == mask.context.shape[1]
        for target in mask.targets[:, row]:
            assert len(set(target.tolist())) == n_target
            assert not context & set(target.tolist())


def test_disjoint_subsets_hit_every_column_equally_and_sizes_follow_the_shares():
    masker, n = DisjointSubsets(), 54
    contexts, targets = torch.zeros(n), torch.zeros(n)
    sizes = set()
    for step in range(60):
        mask = masker(Set(n), Draw(0, step, torch.arange(64)))
        contexts += torch.bincount(mask.context.flatten(), minlength=n)
        targets += torch.bincount(mask.targets.flatten(), minlength=n)
        sizes.add((mask.context.shape[1], mask.targets.shape[2]))
    assert {c for c, _ in sizes} <= set(range(7, 21))
    assert {t for _, t in sizes} <= set(range(8, 35))
    assert len(sizes) > 40
    for hits in (contexts, targets):
        assert float(hits.max() / hits.min()) < 1.35


def test_too_few_tokens_and_bad_shares():
    draw = Draw(0, 0, torch.arange(3))
    for masker in (RandomMask(), DisjointSubsets()):
        with pytest.raises(DataError, match="at least 2"):
            masker(Set(1), draw)
    with pytest.raises(ValueError, match="ratio"):
        RandomMask(1.0)
    with pytest.raises(ValueError, match="add up"):
        DisjointSubsets(context=(0.6, 0.9), targets=(0.5, 0.9))
