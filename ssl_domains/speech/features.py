"""Features of recordings, computed in batches on the device: log-mel, MFCC, Kaldi's filter banks.

Only frames that lie wholly within a recording are taken, so that padding reaches none of them: n samples give
``1 + (n - window) // hop`` frames, as in Kaldi with ``snip-edges``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.speech.sound import Sound, real
from ssl_domains.speech.torchaudio_guard import load_torchaudio

Kind = Literal["logmel", "mfcc", "fbank"]
FLOOR = 1e-10
"""Under the logarithm, so that silence stays finite."""


class Features(nn.Module):
    """``[B, T]`` samples to ``[B, N, F]`` features, normalised over each recording.

    Args:
        rate: samples a second.
        kind: ``logmel`` (Hann window, HTK mel, natural logarithm of the power), ``mfcc`` (13 cepstra of 40
            bands in decibels), or ``fbank`` (Kaldi's: mean removed and pre-emphasis 0.97 in each frame, Povey
            window, samples on the 16-bit scale).
        bins: mel bands. Default 80 (TERA, w2v-BERT); for ``mfcc`` the number of cepstra, 13 by default.
        window: seconds of a frame. Default 0.025.
        hop: seconds from one frame to the next. Default 0.010.
        normalise: ``utterance``: mean 0 and deviation 1 of each band over the recording (CMVN); ``mean``:
            mean 0 only; ``none``.
        level: loudness in dB to which a recording is scaled first (root mean square); None: as it is.
            Default -25, as TERA's code (s3prl).
        deltas: time differences that are appended (torchaudio's, 5 frames): 2 is usual for ``mfcc``.
        samples: window and hop in samples instead of seconds, for features on the frames of a convolution.

    Raises:
        ValueError: an unknown kind, or a window of less than two samples.
    """

    def __init__(
        self,
        rate: int,
        kind: Kind = "logmel",
        bins: int | None = None,
        window: float = 0.025,
        hop: float = 0.010,
        normalise: Literal["utterance", "mean", "none"] = "utterance",
        level: float | None = -25.0,
        deltas: int = 0,
        samples: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if kind not in ("logmel", "mfcc", "fbank"):
            raise ValueError(f"encoder.features must be logmel, mfcc or fbank, got {kind!r}")
        if normalise not in ("utterance", "mean", "none"):
            raise ValueError(f"encoder.normalise must be utterance, mean or none, got {normalise!r}")
        self.rate, self.kind, self.normalise, self.level, self.deltas = rate, kind, normalise, level, deltas
        self.bins = bins or (13 if kind == "mfcc" else 80)
        self.window, self.hop = samples or (round(window * rate), round(hop * rate))
        if self.window < 2 or self.hop < 1:
            raise ValueError(f"encoder.window and hop are too short at {rate} samples a second")
        self.width = self.bins * (1 + deltas)
        audio = load_torchaudio()
        n_fft = self.window if samples else 2 ** (self.window - 1).bit_length()
        self.span = n_fft if kind != "fbank" else self.window
        """Samples that a frame looks at."""
        mel = {"n_fft": n_fft, "win_length": self.window, "hop_length": self.hop, "center": False}
        if kind == "logmel":
            self.transform = audio.transforms.MelSpectrogram(
                rate, f_min=20.0, n_mels=self.bins, power=2, **mel
            )
        elif kind == "mfcc":
            self.transform = audio.transforms.MFCC(
                rate, self.bins, melkwargs={"n_mels": 40, "f_min": 20.0, **mel}
            )
            # Decibels without the floor that depends on the loudest value of the batch.
            self.transform.amplitude_to_DB = audio.transforms.AmplitudeToDB("power", top_db=None)
        else:
            self._kaldi(audio, n_fft)

    def _kaldi(self, audio, n_fft: int) -> None:  # type: ignore[no-untyped-def]
        banks, _ = audio.compliance.kaldi.get_mel_banks(
            self.bins, n_fft, float(self.rate), 20.0, 0.0, 100.0, -500.0, 1.0
        )
        self.register_buffer(
            "banks", F.pad(banks, (0, 1)).T.contiguous(), persistent=False
        )  # [n_fft / 2 + 1, F]
        povey = torch.hann_window(self.window, periodic=False).pow(0.85)
        self.register_buffer("povey", povey, persistent=False)
        self.n_fft = n_fft

    def lengths(self, samples: Tensor) -> Tensor:
        """``[B]`` frames of recordings of so many samples; at least 1, as short ones are filled up with 0."""
        return (torch.div(samples - self.span, self.hop, rounding_mode="floor") + 1).clamp_min(1)

    def n_frames(self, samples: int) -> int:
        """Frames of a padded batch."""
        return max((samples - self.span) // self.hop + 1, 1)

    def forward(self, x: Sound) -> tuple[Tensor, Tensor]:
        """Features ``[B, N, F]`` float32, 0 beyond the lengths, and the lengths ``[B]`` in frames."""
        with torch.autocast(x.values.device.type, enabled=False):
            values = x.values.float()
            if values.shape[1] < self.span:
                values = F.pad(values, (0, self.span - values.shape[1]))
            values = self._levelled(values, x.lengths)
            frames = self._fbank(values) if self.kind == "fbank" else self.transform(values).transpose(1, 2)
            if self.kind == "logmel":
                frames = (frames + FLOOR).log()
            lengths = self.lengths(x.lengths)
            frames = self._with_deltas(frames, lengths)
            return self._normalised(frames, lengths), lengths

    def _levelled(self, values: Tensor, lengths: Tensor) -> Tensor:
        if self.level is None:
            return values
        power = values.square().sum(dim=1) / lengths.clamp_min(1)
        gain = 10 ** (self.level / 20) / power.sqrt().clamp_min(1e-8)
        return values * torch.where(power > 0, gain, 1.0)[:, None]

    def _fbank(self, values: Tensor) -> Tensor:
        """As ``torchaudio.compliance.kaldi.fbank`` without dither, for a batch."""
        frames = (values * 32768.0).unfold(1, self.window, self.hop)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        frames = (frames - 0.97 * before) * self.get_buffer("povey")
        power = torch.fft.rfft(frames, self.n_fft).abs().square()
        return (power @ self.get_buffer("banks")).clamp_min(torch.finfo(torch.float32).eps).log()

    def _with_deltas(self, frames: Tensor, lengths: Tensor) -> Tensor:
        if not self.deltas:
            return frames
        audio = load_torchaudio()
        n = frames.shape[1]
        # The last real frame stands in for the padding, as it does at the end of a recording by itself.
        at = torch.minimum(torch.arange(n, device=frames.device), lengths[:, None] - 1)
        current = torch.gather(frames, 1, at[..., None].expand_as(frames)).transpose(1, 2)
        parts = [frames]
        for _ in range(self.deltas):
            current = audio.functional.compute_deltas(current)
            held = torch.gather(current.transpose(1, 2), 1, at[..., None].expand_as(frames))
            parts.append(current.transpose(1, 2))
            current = held.transpose(1, 2)
        return torch.cat(parts, dim=-1)

    def _normalised(self, frames: Tensor, lengths: Tensor) -> Tensor:
        there = real(frames.shape[1], lengths)[..., None]
        if self.normalise == "none":
            return frames.masked_fill(~there, 0.0)
        n = lengths[:, None, None].to(frames.dtype)
        frames = frames - frames.masked_fill(~there, 0.0).sum(dim=1, keepdim=True) / n
        frames = frames.masked_fill(~there, 0.0)
        if self.normalise == "mean":
            return frames
        spread = (frames.square().sum(dim=1, keepdim=True) / n).sqrt()
        # A band that never changes (silence) stays 0 instead of becoming rounding errors of size 1.
        return torch.where(spread > 1e-4, frames / spread.clamp_min(1e-4), 0.0)


def blanked(values: Tensor, lengths: Tensor, blanks: Tensor | None) -> Tensor:
    """SpecAugment (Park et al., Interspeech 2019): what ``Sound.blanks`` names is set to 0, the mean.

    Args:
        values: ``[B, N, F]`` normalised features.
        lengths: ``[B]`` real frames.
        blanks: see :class:`Sound`.
    """
    if blanks is None:
        return values
    n, f = values.shape[1:]
    time = torch.arange(n, device=values.device) / lengths.clamp_min(1)[:, None]  # [B, N]
    band = torch.arange(f, device=values.device).expand(len(values), f) / f
    gone = []
    for axis, at in ((0, time), (1, band)):
        start = torch.where(blanks[..., 0] == axis, blanks[..., 1], 2.0)[..., None]
        gone.append(((at[:, None] >= start) & (at[:, None] < blanks[..., 2:3])).any(dim=1))
    return values.masked_fill(gone[0][..., None] | gone[1][:, None], 0.0)
