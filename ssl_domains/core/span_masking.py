"""Masks in time and frequency: spans (wav2vec 2.0 and its relatives), bands, TERA's alterations.

They go along the first axis of a grid and honour its lengths: padding is never hidden, and a sample is
hidden alike however long the batch is padded. All samples are drawn at once.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ssl_domains.core.batch import Alteration, Mask
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Masker
from ssl_domains.core.layout import Grid, Layout
from ssl_domains.core.masking import lowest, real_tokens, share
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import mask


def _grid(layout: Layout, name: str) -> Grid:
    if not isinstance(layout, Grid) or layout.shape[0] < 2:
        raise DataError(f"mask {name!r} wants at least 2 steps in time; use random")
    return layout


def lengths_of(layout: Grid, draw: Draw) -> Tensor:
    """``[B]`` int64 steps of each sample."""
    if layout.lengths is not None:
        return layout.lengths
    return torch.full((len(draw.index),), layout.shape[0], dtype=torch.int64, device=draw.index.device)


@mask("span")
class SpanMask(Masker):
    """Spans of time (wav2vec 2.0, Baevski et al., NeurIPS 2020, section 3.1): every step starts a span with
    probability ``start``; spans may overlap.

    On a grid of more axes all places of a step are hidden together. A sample shorter than two spans gets
    spans of half its length, so that something stays visible; of one step nothing is hidden. On long
    sequences ``1 - (1 - start) ** length`` of the steps are hidden: 0.489 with the defaults.

    Where all samples have one length they all hide this share, rounded, so that encoders that drop hidden
    tokens get a rectangle: steps are hidden or shown at random until it is met.

    Args:
        start: probability that a step starts a span. Default 0.065 (wav2vec 2.0, w2v-BERT); 0.08 in
            HuBERT; BEST-RQ has 0.01 with spans of 0.4 s.
        length: steps of a span. Default 10 (0.2 s at 50 Hz).
        min_spans: at least so many spans a sample. Default 2.

    Raises:
        ValueError: a value out of range.
    """

    layouts: ClassVar[tuple[type, ...]] = (Grid,)

    def __init__(self, start: float = 0.065, length: int = 10, min_spans: int = 2) -> None:
        self.start = share(start, "mask.start")
        if length < 1 or min_spans < 1:
            raise ValueError(f"mask.length and mask.min_spans must be at least 1, got {length}, {min_spans}")
        self.length, self.min_spans = length, min_spans

    def __call__(self, layout: Layout, draw: Draw) -> Mask:
        grid = _grid(layout, "span")
        lengths = lengths_of(grid, draw)
        steps = self._hidden(grid.shape[0], lengths, draw)
        places = grid.n_tokens // grid.shape[0]
        if grid.lengths is not None:
            return Mask(steps.repeat_interleave(places, dim=1))
        steps = self._equal(steps, draw)
        hidden = steps.repeat_interleave(places, dim=1)
        n_seen = int((~hidden[:1]).sum())
        return Mask(hidden, context=hidden.to(torch.int8).argsort(dim=1, stable=True)[:, :n_seen])

    def _hidden(self, n: int, lengths: Tensor, draw: Draw) -> Tensor:
        """``[B, n]`` bool."""
        at = torch.arange(n, device=lengths.device)
        span = torch.minimum(lengths // 2, torch.full_like(lengths, self.length))  # [B]; 0 for one step
        last = (lengths - span)[:, None]
        allowed = (at <= last) & (span > 0)[:, None] & (at < lengths[:, None])
        key, least = draw.bits(n), torch.full_like(lengths, self.min_spans)
        # The key decides both: a start with probability `start`, and which ones fill up to the least.
        unit = ((key >> 40) & (2**24 - 1)).to(torch.float32) * 2.0**-24
        starts = ((unit < self.start) & allowed) | lowest((key >> 40) & (2**24 - 1), allowed, least)
        count = torch.nn.functional.pad(starts.long().cumsum(dim=1), (1, 0))  # [B, n + 1] starts before t
        before = (at + 1 - span[:, None]).clamp_min(0)
        hidden = (count[:, 1:] - torch.gather(count, 1, before)) > 0
        hidden = hidden & (at < lengths[:, None])
        # Nothing left to see: one random step is shown.
        full = hidden.sum(dim=1) == lengths
        shown = lowest(draw.bits(n), at < lengths[:, None], full.long())
        return hidden & ~shown

    def _equal(self, hidden: Tensor, draw: Draw) -> Tensor:
        """The same number of hidden steps in every row."""
        n = hidden.shape[1]
        wanted = round((1 - (1 - self.start) ** self.length) * n)
        wanted = min(max(wanted, 1), n - 1)
        order = (draw.permutation(n) + n * (~hidden).long()).argsort(dim=1)
        return torch.zeros_like(hidden).scatter_(1, order[:, :wanted], True)


@mask("alteration")
class AlterationMask(Masker):
    """TERA's three alterations (Liu et al., TASLP 2021, section III; settings of the authors' code).

    *Time*: ``round(len * time / span)`` spans a sample. One die a SAMPLE decides what happens to all of them:
    set to 0 (share ``zero``), overwritten by as many other spans of the same sample (``swap``), or left as
    they are. *Frequency*: a band of ``0 .. int(band * C)`` channels, all widths equally likely, is set to 0
    in the whole sample. *Magnitude*: with probability ``noise_share`` a BATCH gets normal noise of deviation
    ``noise`` on everything.

    The loss reads the entries of chosen spans, altered or not, and of bands; with magnitude alone it reads
    all. Mockingjay (Liu et al., ICASSP 2020) is ``band: 0, noise_share: 0``.

    Args:
        time: share of the steps in spans. Default 0.15; 0: off.
        span: steps of a span. Default 7.
        zero: share of the samples whose spans are set to 0. Default 0.8.
        swap: share of those whose spans come from elsewhere. Default 0.1; the rest is left as it is.
        overlap: spans may overlap. False: they start on a random grid of 1.5 spans.
        band: widest band, as a share of the channels. Default 0.2; 0: off.
        noise_share: share of the batches with noise. Default 0.15; 0: off.
        noise: its deviation, in units of the normalised features. Default 0.2.

    Raises:
        ValueError: a share out of range, or nothing is altered.
    """

    layouts: ClassVar[tuple[type, ...]] = (Grid,)

    def __init__(
        self,
        time: float = 0.15,
        span: int = 7,
        zero: float = 0.8,
        swap: float = 0.1,
        overlap: bool = True,
        band: float = 0.2,
        noise_share: float = 0.15,
        noise: float = 0.2,
    ) -> None:
        for name, value in (("time", time), ("band", band), ("noise_share", noise_share)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"mask.{name} is a share and must lie in [0, 1], got {value}")
        if min(zero, swap) < 0 or zero + swap > 1:
            raise ValueError(f"mask.zero and mask.swap are shares of the samples, got {zero} and {swap}")
        if span < 1 or noise < 0:
            raise ValueError(f"mask.span must be at least 1 and mask.noise not negative, got {span}, {noise}")
        if time == band == noise_share == 0:
            raise ValueError("mask: time, band and noise_share are all 0, so nothing is altered")
        self.time, self.span, self.zero, self.swap, self.overlap = time, span, zero, swap, overlap
        self.band, self.noise_share, self.noise = band, noise_share, noise

    def __call__(self, layout: Layout, draw: Draw) -> Mask:
        if not isinstance(layout, Grid) or layout.channels is None or len(layout.shape) != 1:
            raise DataError(
                "a mask of frequencies alters numbers within frames, which this encoder does not give; "
                "use span, or an encoder on spectrogram frames (speech_transformer)"
            )
        real = real_tokens(layout, lengths_of(layout, draw))  # [B, N]
        chosen, cleared, donor = self._spans(layout.shape[0], real, draw)
        bands = self._bands(layout.channels, draw)  # [B, C]
        counted = (chosen[..., None] | bands[:, None]) & real[..., None]
        if not self.time and not self.band:
            counted = real[..., None].expand_as(counted).clone()
        noise = None
        if self.noise_share and draw.integers(0, 2**24 - 1) < self.noise_share * 2**24:
            noise = self.noise * draw.normal(layout.shape[0], layout.channels)
        altered = Alteration(counted, (cleared[..., None] | bands[:, None]) & real[..., None], donor, noise)
        return Mask(counted.any(dim=-1), alteration=altered)

    def _spans(self, n: int, real: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor | None]:
        """Steps in spans ``[B, n]``, those set to 0, and where the others' content comes from."""
        none = torch.zeros_like(real)
        if not self.time:
            return none, none, None
        lengths = real.sum(dim=1)
        count = (lengths * self.time / self.span).round().long()  # [B]
        most = min(round(n * self.time / self.span), n)
        if most == 0:
            return none, none, None
        at = torch.arange(n, device=real.device)
        allowed = at <= (lengths - self.span - 1)[:, None]
        pitch = int(1.5 * self.span)
        grid = allowed if self.overlap else allowed & ((at - draw.randint(pitch)[:, None]) % pitch == 0)
        starts, there = _drawn(grid, count, most, draw)  # [B, most]
        steps = starts[..., None] + torch.arange(self.span, device=at.device)  # [B, most, span]
        number = torch.where(there, torch.arange(most, device=at.device), -1)[..., None].expand_as(steps)
        owner = torch.full_like(real, -1, dtype=torch.int64)
        # A later span writes over an earlier one.
        owner = owner.scatter_reduce(1, steps.flatten(1).clamp_max(n - 1), number.flatten(1), "amax")
        chosen = owner >= 0
        die = draw.uniform()[:, None]
        cleared = chosen & (die < self.zero)
        swapped = chosen & (die >= self.zero) & (die < self.zero + self.swap)
        others, _ = _drawn(allowed, count, most, draw)
        place = owner.clamp_min(0)
        source = torch.gather(others, 1, place) + at - torch.gather(starts, 1, place)
        return chosen, cleared, torch.where(swapped, source, at).clamp(0, n - 1)

    def _bands(self, channels: int, draw: Draw) -> Tensor:
        """``[B, C]`` bool."""
        widest = int(self.band * channels)
        if widest == 0:
            return torch.zeros(len(draw.index), channels, dtype=torch.bool, device=draw.index.device)
        width = draw.randint(widest + 1)
        start = (draw.uniform() * (channels - width)).long()
        at = torch.arange(channels, device=width.device)
        return (at >= start[:, None]) & (at < (start + width)[:, None])


def _drawn(allowed: Tensor, count: Tensor, most: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """Starts ``[B, most]`` without repeats among ``allowed [B, n]``, and which of them are there: the first
    ``count [B]``, as far as there are so many."""
    key = torch.where(allowed, draw.bits(allowed.shape[1]), torch.iinfo(torch.int64).max)
    starts = key.argsort(dim=1, stable=True)[:, :most]
    n = torch.minimum(count, allowed.sum(dim=1))
    return starts, torch.arange(most, device=allowed.device) < n[:, None]


@mask("bands")
class BandMask(AlterationMask):
    """A band of frequencies is hidden in the whole sample: TERA's frequency alteration alone.

    Args:
        band: widest band, as a share of the channels. Default 0.2 (TERA).
    """

    def __init__(self, band: float = 0.2) -> None:
        super().__init__(time=0.0, band=band, noise_share=0.0)
