"""What views do to a batch of recordings; all rows at once, each with its own parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssl_domains.core.random import Draw
from ssl_domains.speech.sound import Sound, real


def cropped(x: Sound, start: Tensor, length: Tensor, longest: int) -> Sound:
    """The samples ``start .. start + length`` of each row, padded to ``longest``.

    Args:
        x: the recordings.
        start, length: ``[B]`` int64, in samples.
        longest: T of the result; at least the largest length.
    """
    step = torch.arange(longest, device=x.values.device)
    at = (start[:, None] + step).clamp_max(x.values.shape[1] - 1)
    values = torch.gather(x.values, 1, at).masked_fill(step >= length[:, None], 0.0)
    return Sound(values, length)


def faster(x: Sound, factor: Tensor, slowest: float) -> Sound:
    """Played ``factor [B]`` (at least ``slowest``) times as fast: shorter and higher, by cubic interpolation
    (Catmull-Rom)."""
    lengths = (x.lengths / factor).floor().long().clamp_min(1)
    n = max(int(x.values.shape[1] / slowest), 1)
    step = torch.arange(n, device=x.values.device, dtype=torch.float64)
    values = cubic(x.values, step * factor[:, None].double())
    return Sound(values.masked_fill(~real(n, lengths), 0.0), lengths)


def cubic(values: Tensor, at: Tensor) -> Tensor:
    """``values [B, T]`` between its samples, at the places ``at [B, n]`` (float64); 0 outside."""
    whole = at.floor()
    share = (at - whole).to(values.dtype)
    padded = torch.nn.functional.pad(values, (1, 2))
    index = whole.long().clamp(0, values.shape[1] - 1)
    a, b, c, d = (torch.gather(padded, 1, index + k) for k in range(4))
    return b + 0.5 * share * (
        c - a + share * (2 * a - 5 * b + 4 * c - d + share * (3 * (b - c) + d - a))
    )  # fmt: skip


def higher(x: Sound, factor: Tensor, highest: float) -> Sound:
    """Pitch times ``factor [B]`` at the same length: a phase vocoder makes each row ``factor`` times as long,
    and resampling takes it back.

    Args:
        x: the recordings.
        factor: ``[B]``, at most ``highest``.
        highest: so much is computed of each row, whatever the factors are (no look at them on the host).
    """
    n_fft, hop = 512, 128
    window = torch.hann_window(n_fft, device=x.values.device)
    spectrum = torch.stft(x.values, n_fft, hop, window=window, return_complex=True, pad_mode="constant")
    longer = torch.istft(slower(spectrum, factor, highest), n_fft, hop, window=window)
    n = x.values.shape[1]
    step = torch.arange(n, device=window.device, dtype=torch.float64)
    values = cubic(longer, step * factor[:, None].double())
    return x.with_values(values.masked_fill(~real(n, x.lengths), 0.0))


def slower(spectrum: Tensor, factor: Tensor, highest: float) -> Tensor:
    """A phase vocoder (Flanagan & Golden, 1966) with a factor for each row: magnitudes between two frames on
    the line, phases that advance as they do there.

    Args:
        spectrum: ``[B, F, N]`` complex.
        factor: ``[B]`` by which each row gets longer, at most ``highest``.
        highest: the result has ``ceil(N * highest)`` frames; those beyond a row's own end are silent.
    """
    bands, n = spectrum.shape[1:]
    step = torch.arange(math.ceil(n * highest), device=spectrum.device, dtype=torch.float64)
    time = step / factor[:, None].double()  # [B, M]
    whole = time.long().clamp_max(n)
    share = (time - whole).to(spectrum.real.dtype)[:, None]
    padded = torch.nn.functional.pad(spectrum, (0, 2))
    index = whole[:, None].expand(-1, bands, -1)
    before, after = torch.gather(padded, 2, index), torch.gather(padded, 2, index + 1)
    # Frames are as far apart as before, so only what a phase gains modulo one turn matters.
    gained = after.angle() - before.angle()
    gained = gained - 2 * torch.pi * (gained / (2 * torch.pi)).round()
    phase = torch.cat([spectrum[:, :, :1].angle(), gained[:, :, :-1]], dim=2).cumsum(dim=2)
    return torch.polar(before.abs().lerp(after.abs(), share.clamp(0, 1)), phase)


def coloured_noise(like: Tensor, rate: int, draw: Draw) -> Tensor:
    """Noise of the shape of ``like [B, T]`` and mean square 1, whose power falls as ``1 / f ** a`` with ``a``
    uniform in [0, 2] for each row: from white to brown. It repeats after about a second, so that it does
    not depend on how long the batch is, and costs little."""
    n, block = like.shape[1], 2 ** (rate - 1).bit_length()
    spectrum = torch.fft.rfft(draw.normal(block))
    f = torch.arange(spectrum.shape[1], device=like.device, dtype=torch.float32).clamp_min(1.0)
    noise = torch.fft.irfft(spectrum * f ** (-draw.uniform()[:, None]), block)
    noise = noise / noise.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-8)
    return noise.repeat(1, -(-n // block))[:, :n]


def mixed(x: Sound, other: Tensor, snr: Tensor) -> Sound:
    """``other [B, T]`` under the recordings, so many dB (``snr [B]``) weaker than they are.

    Levels are mean squares over real samples of ``x`` and over those of ``other`` that are not 0.
    """
    there = real(x.values.shape[1], x.lengths)
    other = other.masked_fill(~there, 0.0)
    power = x.values.square().sum(dim=1) / x.lengths.clamp_min(1)
    strength = other.square().sum(dim=1) / (other != 0).sum(dim=1).clamp_min(1)
    gain = (power / strength.clamp_min(1e-10) / 10 ** (snr / 10)).sqrt()
    return x.with_values(x.values + gain[:, None] * other)


def in_room(x: Sound, seconds: Tensor, longest: float, direct: Tensor, rate: int, draw: Draw) -> Sound:
    """Convolved with a made-up room: a direct sound, and noise that falls by 60 dB in ``seconds [B]``.

    Args:
        x: the recordings.
        seconds: reverberation time.
        longest: at least the largest of them; as much of the room is computed.
        direct: ``[B]`` dB by which the direct sound is stronger than all of the rest.
        rate: samples a second.
        draw: of the noise.
    """
    taps = max(int(longest * rate), 2)
    time = torch.arange(taps, device=x.values.device) / rate
    tail = draw.normal(taps) * torch.exp(-6.9078 * time / seconds[:, None])
    tail[:, 0] = 0.0
    tail = tail / tail.square().sum(dim=1, keepdim=True).sqrt() * 10 ** (-direct[:, None] / 20)
    tail[:, 0] = 1.0
    return convolved(x, tail)


def convolved(x: Sound, response: Tensor) -> Sound:
    """The recordings through impulse responses ``[B, K]`` that begin with the direct sound, all at once by
    FFT; as long and as loud as before."""
    from scipy.fft import next_fast_len

    n = x.values.shape[1]
    size = next_fast_len(n + response.shape[1], real=True)
    wet = torch.fft.irfft(torch.fft.rfft(x.values, size) * torch.fft.rfft(response, size), size)[:, :n]
    wet = wet.masked_fill(~real(n, x.lengths), 0.0)
    before, after = (v.square().sum(dim=1, keepdim=True) for v in (x.values, wet))
    return x.with_values(wet * (before / after.clamp_min(1e-10)).sqrt())
