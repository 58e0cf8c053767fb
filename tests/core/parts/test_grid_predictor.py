"""The predictor over grids: order of its rows, what it may see, gradient."""

import pytest
import torch

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.grid_masking import MultiBlockMask
from ssl_domains.core.layout import Grid
from ssl_domains.core.masking import RandomMask
from ssl_domains.core.parts.grid_predictor import GridPredictor, gather_tokens, grid_codes, grid_positions
from ssl_domains.core.parts.transformer import sincos
from ssl_domains.core.random import Draw

SHAPE = (4, 5)


def parts(masker, width: int = 8):
    torch.manual_seed(0)
    layout = Grid(SHAPE)
    mask = masker(layout, Draw(0, 1, torch.arange(3)))
    tokens = torch.randn(3, 20, width)
    seen = gather_tokens(tokens, mask.context)
    predictor = GridPredictor(SHAPE, width, 6, width=16, depth=2, heads=4)
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return predictor, Encoded(Tokens(seen, layout), seen.mean(1)), mask, tokens


def test_positions_run_in_row_major_order():
    assert grid_positions((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    torch.testing.assert_close(grid_codes((2, 3), 8), sincos(grid_positions((2, 3)), 8))
    assert grid_codes((2, 2, 2), 16)[:, 12:].abs().sum() == 0  # 16 = 2 * 6 + 4


@pytest.mark.parametrize("masker", [RandomMask(0.6), MultiBlockMask(3)])
def test_rows_come_in_the_order_of_select(masker):
    predictor, encoded, mask, _ = parts(masker)
    out = predictor(encoded, mask)
    number = Tokens(torch.arange(20.0).expand(3, 20)[..., None]).select(mask)[:, 0].long()
    assert out.shape == (len(number), 6)
    # The same place of the same sample gets the same prediction wherever it stands in the list.
    row = torch.arange(3)[:, None].expand(3, 20)[..., None].float()
    sample = Tokens(row).select(mask)[:, 0].long()
    for b in range(3):
        one = Encoded(Tokens(encoded.tokens.values[b : b + 1]), encoded.pooled[b : b + 1])
        small = Mask(
            mask.hidden[b : b + 1], mask.context[b : b + 1],
            None if mask.targets is None else mask.targets[:, b : b + 1],
        )  # fmt: skip
        torch.testing.assert_close(predictor(one, small), out[sample == b], rtol=1e-4, atol=1e-5)


def test_an_encoder_that_replaces_gives_the_same():
    predictor, encoded, mask, tokens = parts(RandomMask(0.5))
    whole = Encoded(Tokens(tokens), tokens.mean(1))
    torch.testing.assert_close(predictor(whole, mask), predictor(encoded, mask))


def test_predictions_do_not_see_hidden_tokens_but_all_visible_ones():
    predictor, _, mask, tokens = parts(RandomMask(0.5))
    tokens.requires_grad_(True)
    predictor(Encoded(Tokens(tokens), tokens.mean(1)), mask).pow(2).sum().backward()
    moved = tokens.grad.abs().sum(2) > 0
    assert torch.equal(moved, mask.visible)
    assert all(p.grad is not None for p in predictor.parameters())


def test_places_are_told_apart_by_their_code():
    predictor, encoded, mask, _ = parts(RandomMask(0.5))
    out = predictor(encoded, mask)
    assert len({tuple(row) for row in out.tolist()}) == len(out)
