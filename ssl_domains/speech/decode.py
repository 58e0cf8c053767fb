"""Recordings from files: headers first, then only the samples that are wanted."""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_domains.speech.tracks import NoTrack, has_track, track

Raw = str | bytes
"""A path, or the bytes of a file."""


class BrokenSound(Exception):
    """A file that cannot be read; the message is one sentence without the file's name."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        frames: samples a channel.
        rate: of them a second.
        channels: number of channels.
        kind: format and coding, such as ``WAV PCM_24``.
    """

    frames: int
    rate: int
    channels: int
    kind: str

    @property
    def seconds(self) -> float:
        """Length."""
        return self.frames / self.rate


def _open(raw: Raw) -> Any:
    import soundfile

    try:
        if isinstance(raw, str):
            if not os.path.isfile(raw):
                raise BrokenSound("the file does not exist")
            if os.path.getsize(raw) == 0:
                raise BrokenSound("the file is empty")
            if has_track(raw):
                raw = track(raw)
            # Opened here: from a name, libsndfile would trust the ending (an MP3 called .wav).
            return soundfile.SoundFile(open(raw, "rb"))
        return soundfile.SoundFile(io.BytesIO(raw))
    except NoTrack as error:
        raise BrokenSound(str(error)) from None
    except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError) as error:
        reason = str(error).split(": ", 1)[-1].strip().rstrip(".")
        raise BrokenSound(f"it cannot be decoded ({reason})") from None


def read_header(raw: Raw) -> Header:
    """Length, rate and channels; no sample is decoded.

    Raises:
        BrokenSound: no such file, not a sound file, or one without samples.
    """
    with _open(raw) as file:
        header = Header(
            int(file.frames), int(file.samplerate), int(file.channels), f"{file.format} {file.subtype}"
        )
    if header.frames <= 0 or header.frames >= 2**62:
        raise BrokenSound("it holds no samples")
    return header


def read(raw: Raw, start: int, frames: int, rate: int, channel: str = "mix") -> np.ndarray:
    """``[T]`` float32: a stretch of a recording, one channel, resampled.

    Args:
        raw: path or bytes.
        start: first frame, at the file's own rate.
        frames: number of frames.
        rate: wanted samples a second.
        channel: ``mix`` or a number.

    Raises:
        BrokenSound: it cannot be decoded, ends early, or lacks that channel.
    """
    with _open(raw) as file:
        own = int(file.samplerate)
        try:
            file.seek(start)
            samples = file.read(frames, dtype="float32", always_2d=True)
        except (RuntimeError, OSError) as error:
            raise BrokenSound(f"it cannot be decoded from frame {start} on ({error})") from None
    if len(samples) == 0:
        raise BrokenSound(f"it ends before frame {start}, though its header says otherwise")
    if channel == "mix":
        mono = samples.mean(axis=1)
    elif int(channel) < samples.shape[1]:
        mono = samples[:, int(channel)]
    else:
        raise BrokenSound(f"it has {samples.shape[1]} channels, and data.channel is {channel}")
    return resampled(mono, own, rate)


def resampled(samples: np.ndarray, own: int, rate: int) -> np.ndarray:
    """``[T * rate / own]`` float32, by a polyphase filter (scipy)."""
    if own == rate:
        return np.ascontiguousarray(samples, dtype=np.float32)
    from scipy.signal import resample_poly

    shared = math.gcd(own, rate)
    out = resample_poly(samples, rate // shared, own // shared)
    return out[: max(len(samples) * rate // own, 1)].astype(np.float32)


def quiet_cuts(raw: Raw, header: Header, longest: float) -> list[float]:
    """Seconds at which a long recording is cut: the quietest 0.1 s in the second half of each window.

    The file is read once, in blocks; only the loudness of each 0.05 s is kept.

    Args:
        raw: path or bytes.
        header: of it.
        longest: seconds of the longest piece.
    """
    block = max(int(header.rate * 0.05), 1)
    power = []
    with _open(raw) as file:
        for piece in file.blocks(block * 200, dtype="float32", always_2d=True):
            mono = piece.mean(axis=1)
            edges = np.arange(0, len(mono), block)
            sums = np.add.reduceat(np.nan_to_num(mono.astype(np.float64)) ** 2, edges)
            power.append(sums / np.diff([*edges, len(mono)]))
    level = np.concatenate(power) if power else np.zeros(1)
    smooth = np.convolve(level, [0.5, 0.5], mode="same")
    cuts, begin, step = [], 0, max(int(longest * header.rate / block), 2)
    while len(smooth) - begin > step:
        window = smooth[begin + step // 2 : begin + step]
        begin += step // 2 + int(window.argmin())
        cuts.append(begin * block / header.rate)
    return cuts
