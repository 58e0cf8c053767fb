"""Grid masks: counts, shapes of blocks, disjointness, independence of the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.errors import DataError
from ssl_domains.core.grid_masking import BlockMask, MultiBlockMask, TubeMask, inside
from ssl_domains.core.layout import Grid, Set
from ssl_domains.core.random import Draw

grids = st.tuples(st.integers(2, 16), st.integers(2, 16))


def test_inside_paints_rectangles():
    got = inside(
        torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([1, 2]), torch.tensor([2, 1]), (3, 3)
    )
    assert got.int().tolist() == [[0, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 1, 0, 0]]


@settings(deadline=None, max_examples=40)
@given(grids, st.floats(0.05, 0.95), st.integers(0, 10**6))
def test_block_hides_the_same_number_in_every_row(shape, ratio, step):
    mask = BlockMask(ratio)(Grid(shape), Draw(0, step, torch.arange(5)))
    n = shape[0] * shape[1]
    expected = min(max(round(ratio * n), 1), n - 1)
    assert mask.hidden.sum(1).tolist() == [expected] * 5
    assert not bool(mask.hidden.gather(1, mask.context).any())
    assert mask.context.shape == (5, n - expected)


def neighbours_alike(hidden: torch.Tensor, shape: tuple[int, int]) -> float:
    grid = hidden.view(-1, *shape)
    right = (grid[:, :, 1:] == grid[:, :, :-1]).float().mean()
    below = (grid[:, 1:] == grid[:, :-1]).float().mean()
    return float((right + below) / 2)


def test_blocks_hold_together_and_reach_every_place():
    layout, index = Grid((14, 14)), torch.arange(4000)
    mask = BlockMask(0.4)(layout, Draw(1, 2, index))
    assert neighbours_alike(mask.hidden, (14, 14)) > 0.8  # 0.52 for single tokens at this share
    frequency = mask.hidden.float().mean(0)
    assert float(frequency.min()) > 0.03  # corners lie in fewer rectangles
    assert float((frequency - frequency.flip(0)).abs().max()) < 0.05  # no side is favoured
    part = BlockMask(0.4)(layout, Draw(1, 2, index[[7, 1234]]))
    assert torch.equal(part.hidden, mask.hidden[[7, 1234]])


@settings(deadline=None, max_examples=40)
@given(st.tuples(st.integers(5, 16), st.integers(5, 16)), st.integers(1, 4), st.integers(0, 10**6))
def test_multi_block_context_and_targets_are_disjoint_blocks(shape, k, step):
    mask = MultiBlockMask(n_targets=k)(Grid(shape), Draw(0, step, torch.arange(6)))
    n = shape[0] * shape[1]
    assert mask.targets.shape[:2] == (k, 6)
    assert mask.context.shape[0] == 6
    for b in range(6):
        context = set(mask.context[b].tolist())
        assert len(context) == mask.context.shape[1]
        assert mask.hidden[b].sum() == n - len(context)
        for j in range(k):
            target = mask.targets[j, b]
            assert not context & set(target.tolist())
            rows, columns = target // shape[1], target % shape[1]
            size = int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))
            assert size == len(set(target.tolist())) == mask.targets.shape[2]


def test_multi_block_sizes_are_those_of_the_paper():
    shares, aspects, contexts = [], [], []
    for step in range(200):
        mask = MultiBlockMask()(Grid((14, 14)), Draw(3, step, torch.arange(8)))
        rows = mask.targets[0, 0] // 14
        height = int(rows.max() - rows.min()) + 1
        shares.append(mask.targets.shape[2] / 196)
        aspects.append(height / (mask.targets.shape[2] / height))
        contexts.append(mask.context.shape[1] / 196)
    assert min(shares) > 0.12
    assert max(shares) < 0.23
    assert min(aspects) < 0.85
    assert max(aspects) > 1.35
    assert 0.15 < sum(contexts) / 200 < 0.6
    assert len(set(shares)) > 3  # the size is drawn anew each step


def test_tube_hides_the_same_places_at_every_time():
    mask = TubeMask(0.75)(Grid((3, 2, 4)), Draw(0, 0, torch.arange(9)))
    by_time = mask.hidden.view(9, 3, 8)
    assert torch.equal(by_time[:, 0], by_time[:, 2])
    assert by_time.sum(2).unique().tolist() == [6]
    assert torch.equal(mask.context, torch.stack([(~row).nonzero()[:, 0] for row in mask.hidden]))


@pytest.mark.parametrize(
    ("masker", "layout", "text"),
    [
        (BlockMask(), Grid((8,)), "grid of 2 axes"),
        (BlockMask(), Set(9), "Set"),
        (MultiBlockMask(), Grid((1, 3)), "at least 4 tokens"),
        (TubeMask(), Grid((8,)), "one more axis"),
        (TubeMask(), Grid((8, 1)), "at least 2 places"),
    ],
)
def test_layouts_that_do_not_fit_are_named(masker, layout, text):
    with pytest.raises(DataError, match=text):
        masker(layout, Draw(0, 0, torch.arange(2)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: BlockMask(0.0), lambda: BlockMask(aspect=0.0), lambda: BlockMask(rounds=0),
        lambda: MultiBlockMask(n_targets=0), lambda: MultiBlockMask(target_scale=(0.5, 0.2)),
        lambda: TubeMask(1.0),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(make):
    with pytest.raises(ValueError):
        make()
