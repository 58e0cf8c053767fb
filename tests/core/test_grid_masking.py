"""Grid masks: counts, shapes of blocks, disjointness, independence of the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core.errors import DataError
from ssl_domains.core.grid_masking import (
    BlockMask,
    MultiBlockMask,
    RunningCellMask,
    TubeBlockMask,
    TubeMask,
    inside,
)
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


class TestRunningCells:
    def test_every_place_comes_into_view(self):
        """By hand: 2 x 2 cells, half hidden, over 4 times each place is hidden twice, in a row of two."""
        mask = RunningCellMask()(Grid((4, 4, 6)), Draw(0, 0, torch.arange(30)))
        hidden = mask.hidden.view(30, 4, 4, 6)
        assert (hidden.sum(dim=1) == 2).all()
        cells = hidden.view(30, 4, 2, 2, 3, 2).sum(dim=(3, 5))
        assert (cells == 2).all()
        shifted = hidden.flatten(2)
        assert not torch.equal(shifted[:, 0], shifted[:, 1])
        assert len({tuple(row.tolist()) for row in mask.hidden}) == 4, "the start is drawn"
        first = hidden[0, 0, :2, :2].flatten().tolist()
        assert hidden[0, 1, :2, :2].flatten().tolist() == [*first[1:], first[0]], "the next one in turn"
        assert mask.context_index().shape == (30, 48)

    def test_cells_that_do_not_fill_the_grid(self):
        grid = Grid((3, 3, 3))
        with pytest.raises(DataError, match="cells of 2 x 2 do not fill 3 x 3 places"):
            RunningCellMask()(grid, Draw(0, 0, torch.arange(2)))
        assert RunningCellMask()(Grid((4, 3, 3)), Draw(0, 0, torch.arange(2))).context_index().shape == (
            2,
            18,
        )
        with pytest.raises(DataError, match="time, height and width"):
            RunningCellMask()(Grid((4, 4)), Draw(0, 0, torch.arange(2)))
        with pytest.raises(ValueError, match=r"mask.cell"):
            RunningCellMask(cell=(1, 1))


class TestTubeBlocks:
    @pytest.mark.parametrize("shape", [(8, 14, 14), (2, 4, 4), (2, 2, 2), (1, 1, 2)])
    def test_tubes_disjoint_and_equal_in_length(self, shape):
        for step in range(6):
            mask = TubeBlockMask()(Grid(shape), Draw(0, step, torch.arange(7)))
            places = shape[1] * shape[2]
            for index in (mask.context, mask.targets[0]):
                by_time = index.view(7, shape[0], -1)
                assert (by_time - torch.arange(shape[0])[:, None] * places == by_time[:, :1]).all()
                assert (index.diff(dim=1) > 0).all()
            seen = torch.zeros(7, shape[0] * places, dtype=torch.bool).scatter(1, mask.context, True)
            assert torch.equal(seen, mask.visible)
            assert not seen.gather(1, mask.targets[0]).any()

    def test_blocks_cover_what_they_should(self):
        """One block of a quarter of 4 x 4 places: a square of 2 x 2 at both times."""
        mask = TubeBlockMask(blocks=(1,), scales=(0.25,), aspect=(1.0, 1.0))(
            Grid((2, 4, 4)), Draw(0, 0, torch.arange(20))
        )
        assert mask.targets.shape == (1, 20, 8)
        place = mask.targets[0, :, :4]
        rows, columns = place // 4, place % 4
        assert (rows.amax(1) - rows.amin(1) == 1).all()
        assert (columns.amax(1) - columns.amin(1) == 1).all()

    def test_short_range_and_long_range_masks_together(self):
        """One of each kind, of the paper's sizes: 14 x 14 places, 2 blocks of 0.7 leave little."""
        layout, draw = Grid((8, 14, 14)), Draw(0, 3, torch.arange(16))
        short, long = TubeBlockMask().masks(layout, draw)
        alone = TubeBlockMask(blocks=(8,), scales=(0.15,)).masks(layout, draw)[0]
        assert torch.equal(short.context, alone.context), "kinds are drawn apart"
        # Eight blocks of 0.15 at random places cover about 1 - 0.85 ** 8 = 0.73 of the middle, less at the
        # rim; contexts are cut to the batch's shortest.
        assert 0.1 < short.context.shape[1] / 1568 < 0.5
        assert long.context.shape[1] < short.context.shape[1]
        assert long.targets.shape[2] / 1568 > 0.6
        assert len(TubeBlockMask(together=False).masks(layout, draw)) == 1

    def test_wrong_options(self):
        with pytest.raises(ValueError, match="equal in number"):
            TubeBlockMask(blocks=(8,))
        with pytest.raises(DataError, match="at least 2 places"):
            TubeBlockMask()(Grid((4, 1, 1)), Draw(0, 0, torch.arange(2)))
