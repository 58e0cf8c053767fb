"""Spans, bands and TERA's alterations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from ssl_domains.core.batch import Mask, Tokens
from ssl_domains.core.errors import DataError
from ssl_domains.core.layout import Grid, Set
from ssl_domains.core.masking import RandomMask
from ssl_domains.core.objectives.regression import MaskedL1
from ssl_domains.core.random import Draw
from ssl_domains.core.span_masking import AlterationMask, BandMask, SpanMask


def draw(n, seed=0):
    return Draw(seed, 0, torch.arange(n))


def test_span_share_on_long_sequences():
    mask = SpanMask()(Grid((4000,), torch.full((60,), 4000)), draw(60))
    assert float(mask.hidden.float().mean()) == pytest.approx(1 - (1 - 0.065) ** 10, abs=0.01)  # 0.489


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=8), st.integers(0, 1000), st.integers(0, 30))
def test_spans_and_random_masks_honour_lengths(lengths, seed, more):
    lengths = torch.tensor(lengths)
    n = max(int(lengths.max()), 2)
    for masker in (SpanMask(), RandomMask(0.5)):
        short = masker(Grid((n,), lengths), draw(len(lengths), seed)).hidden
        long = masker(Grid((n + more,), lengths), draw(len(lengths), seed)).hidden
        assert torch.equal(short, long[:, :n])  # padding changes nothing
        assert not long[:, n:].any()
        count = short.sum(dim=1)
        assert ((count > 0) == (lengths > 1)).all()
        assert (count < lengths).all()
        assert not (short & (torch.arange(n) >= lengths[:, None])).any()


def test_at_least_two_spans_of_whole_length():
    mask = SpanMask(start=0.001, length=10)(Grid((200,), torch.full((300,), 200)), draw(300))
    edges = torch.nn.functional.pad(mask.hidden.int(), (1, 1)).diff(dim=1)
    runs = (edges == 1).sum(dim=1)
    assert int(mask.hidden.sum(dim=1).min()) >= 11  # two spans may overlap but for one step
    assert float((runs == 2).float().mean()) > 0.8


def test_equal_numbers_where_all_have_one_length():
    mask = SpanMask()(Grid((100, 3)), draw(5))
    assert mask.hidden.sum(dim=1).unique().tolist() == [49 * 3]
    assert mask.context_index().shape == (5, 51 * 3)
    joint = mask.hidden.view(5, 100, 3)
    assert (joint == joint[..., :1]).all()


def altered(n=1500, count=3000, channels=80, **options):
    return AlterationMask(**options)(Grid((n,), torch.full((count,), n), channels), draw(count))


def test_time_alteration_has_the_sheets_numbers():
    time = altered(band=0.0, noise_share=0.0)
    chosen = time.alteration.counted
    assert (chosen.all(dim=-1) == chosen.any(dim=-1)).all()  # whole frames
    frames = chosen[..., 0].sum(dim=1)
    assert int(frames.max()) <= 32 * 7 == 224
    assert float(frames.float().mean()) > 200  # overlaps take a few away
    assert not chosen[:, -1].any()  # starts + 7 never pass the length
    # One die a sample: all zero, or none.
    zeroed = time.alteration.cleared[..., 0].sum(dim=1)
    assert ((zeroed == frames) | (zeroed == 0)).all()
    at = torch.arange(1500)
    moved = (time.alteration.donor != at).any(dim=1)
    kept = ~moved & (zeroed == 0)
    counts = [int((zeroed > 0).sum()), int(moved.sum()), int(kept.sum())]
    assert sum(counts) == 3000
    assert chisquare(counts, [2400, 300, 300]).pvalue > 1e-4
    assert not (moved & (zeroed > 0)).any()
    assert not (time.alteration.donor != at)[~chosen[..., 0]].any()


def test_frequency_alteration_has_the_sheets_numbers():
    band = altered(time=0.0, noise_share=0.0, n=20)
    assert torch.equal(band.alteration.counted, band.alteration.cleared)
    width = band.alteration.counted[:, 0].sum(dim=1)
    assert (band.alteration.counted == band.alteration.counted[:, :1]).all()  # the whole sample
    assert int(width.max()) == 16
    assert float(width.float().mean()) == pytest.approx(8.0, abs=0.4)
    assert float((width == 0).float().mean()) == pytest.approx(1 / 17, abs=0.02)
    assert torch.equal(BandMask()(Grid((20,), torch.full((9,), 20), 80), draw(9)).hidden, band.hidden[:9])


def test_magnitude_is_drawn_by_batch_and_counts_all_only_alone():
    alone = [
        AlterationMask(time=0.0, band=0.0)(
            Grid((30,), torch.tensor([30, 10]), 8), Draw(0, step, torch.arange(2))
        )
        for step in range(400)
    ]
    noisy = [m.alteration.noise for m in alone if m.alteration.noise is not None]
    assert len(noisy) / 400 == pytest.approx(0.15, abs=0.06)
    assert float(torch.stack(noisy).std()) == pytest.approx(0.2, abs=0.01)
    assert alone[0].hidden.sum(dim=1).tolist() == [30, 10]
    assert alone[0].alteration.counted[0].all()


def test_targets_stay_and_the_loss_reads_counted_entries_alone():
    values = torch.randn(6, 90, 8)
    before = values.clone()
    grid = Grid((90,), torch.full((6,), 90), 8)
    mask = AlterationMask(zero=0.0, swap=1.0, noise_share=1.0)(grid, draw(6))
    seen = mask.alteration.apply(values)
    assert torch.equal(values, before)
    assert not torch.equal(seen, values)
    weights = Tokens(mask.alteration.counted.float()).select(mask)
    target = Tokens(values).select(mask)
    guess = torch.randn_like(target)
    loss = MaskedL1()(guess, target, weights=weights)
    counted = weights.bool()
    torch.testing.assert_close(
        loss.total, torch.nn.L1Loss()(guess.masked_select(counted), target.masked_select(counted))
    )
    other = torch.where(counted, guess, guess + 100.0)
    torch.testing.assert_close(MaskedL1()(other, target, weights=weights).total, loss.total)
    assert float(MaskedL1()(target, target, weights=weights).total) == 0.0
    assert float(MaskedL1()(target + 1, target, weights=weights).total) == pytest.approx(1.0)


def test_keeping_branch_alters_nothing_and_still_counts():
    mask = AlterationMask(zero=0.0, swap=0.0, band=0.0, noise_share=0.0)(
        Grid((90,), torch.full((4,), 90), 8), draw(4)
    )
    values = torch.randn(4, 90, 8)
    assert torch.equal(mask.alteration.apply(values), values)
    assert mask.hidden.any(dim=1).all()


def test_swapped_frames_come_from_the_sample_before_anything_was_written():
    values = torch.arange(200.0).view(1, 200, 1)
    mask = AlterationMask(time=0.5, zero=0.0, swap=1.0, band=0.0, noise_share=0.0)(
        Grid((200,), torch.tensor([200]), 1), draw(1)
    )
    seen = mask.alteration.apply(values)
    assert torch.equal(seen[0, :, 0].long(), mask.alteration.donor[0])


def test_masks_say_what_they_want():
    with pytest.raises(DataError, match="alters numbers within frames"):
        AlterationMask()(Grid((10,)), draw(2))
    with pytest.raises(DataError, match="steps in time"):
        SpanMask()(Set(5), draw(2))
    with pytest.raises(ValueError, match="nothing is altered"):
        AlterationMask(time=0, band=0, noise_share=0)
    assert isinstance(SpanMask()(Grid((9,), torch.tensor([1])), draw(1)), Mask)
