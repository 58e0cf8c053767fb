"""Cuboid masks: numbers, one piece at a time, any number of axes, the same in any batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.cuboid_masking import CuboidMask
from ssl_domains.core.errors import DataError
from ssl_domains.core.layout import Grid, Set
from ssl_domains.core.random import Draw


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3).filter(lambda s: torch.tensor(s).prod() > 1),
    st.floats(0.05, 0.95),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_hides_equally_many_in_every_sample(shape, ratio, seed):
    layout = Grid(tuple(shape))
    mask = CuboidMask(ratio)(layout, Draw(seed, 0, torch.arange(5)))
    n = layout.n_tokens
    assert (mask.hidden.sum(dim=1) == min(max(round(ratio * n), 1), n - 1)).all()
    context = torch.zeros_like(mask.hidden).scatter(1, mask.context, True)
    assert torch.equal(context, ~mask.hidden)
    alone = CuboidMask(ratio)(layout, Draw(seed, 0, torch.tensor([3])))
    assert torch.equal(alone.hidden[0], mask.hidden[3])


def test_hidden_tokens_stand_together():
    """Hidden tokens have more hidden neighbours than scattered ones would have."""
    layout = Grid((8, 8, 8))
    hidden = CuboidMask(0.5)(layout, Draw(0, 0, torch.arange(64))).hidden.view(-1, 8, 8, 8)
    pairs = (hidden[:, 1:] & hidden[:, :-1]).float().sum() / hidden[:, 1:].float().sum()
    assert float(pairs) > 0.75  # 0.5 if scattered


def test_one_cuboid_is_a_block():
    layout = Grid((8, 8, 8))
    mask = CuboidMask(64 / 512, side=(0.5, 0.5), blocks=1)(layout, Draw(0, 0, torch.arange(8)))
    for hidden in mask.hidden.view(8, 8, 8, 8):
        places = hidden.nonzero()
        assert (places.amax(dim=0) - places.amin(dim=0) == 3).all()


def test_mistakes_end_in_sentences():
    with pytest.raises(DataError, match="wants tokens on a grid"):
        CuboidMask()(Set(5), Draw(0, 0, torch.arange(2)))
    with pytest.raises(ValueError, match=r"mask.side must be \[low, high\]"):
        CuboidMask(side=(0.5, 0.1))
