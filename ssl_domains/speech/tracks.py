"""Sound tracks of films, and of sound files that soundfile does not read, by PyAV (FFmpeg).

A compressed track cannot be read exactly from any sample on, so it is taken out once, into the cache, and
read from there like any other recording.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core import cache
from ssl_domains.core.errors import DataError

SOUNDS = (".m4a", ".aac", ".wma", ".mka")
"""Endings of recordings."""
FILMS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".ts")
"""Endings of films, whose first sound track counts."""


class NoTrack(Exception):
    """The message says why, in a sentence without the file's name."""


def has_track(path: str) -> bool:
    """True for the endings that go through here."""
    return path.lower().endswith(SOUNDS + FILMS)


def track(path: str) -> str:
    """The track as a WAV file in the cache; its second 0 is that of the film's time stamps.

    Args:
        path: a film or recording.

    Raises:
        NoTrack: there is none, or it cannot be decoded.
        DataError: PyAV is missing, or the cache cannot be written.
    """
    state = os.stat(path)
    key = cache.key_of(["track", os.path.abspath(path), state.st_mtime_ns, state.st_size])
    with cache.locked("speech", key):
        if cache.find("speech", key) is None:
            with cache.writing("speech", key) as folder:
                _take_out(path, folder.path / "track.wav")
                folder.meta({"source": os.path.abspath(path)})
        found = cache.find("speech", key)
    assert found is not None
    return str(found / "track.wav")


def _take_out(path: str, out: Path) -> None:
    try:
        import av
    except ImportError:
        raise DataError(f"{path} needs PyAV: pip install 'ssl-domains[video]'") from None
    import soundfile

    try:
        with av.open(path) as container:
            if not container.streams.audio:
                raise NoTrack("it has no sound track")
            stream = container.streams.audio[0]
            rate, channels = int(stream.rate), int(stream.channels)
            resampler = av.AudioResampler(format="flt", layout=stream.layout, rate=rate)
            # RF64 is WAV where that is long enough, and goes on beyond 4 GiB
            with soundfile.SoundFile(out, "w", rate, channels, "PCM_16", format="RF64") as file:
                begun = False
                for frame in container.decode(stream):
                    skip = 0
                    if not begun and frame.time is not None:
                        ahead = round(
                            frame.time * rate
                        )  # sound that begins later than the film, or before it
                        file.write(np.zeros((max(ahead, 0), channels), np.float32))
                        skip = max(-ahead, 0)
                    begun = True
                    _write(file, resampler.resample(frame), channels, skip)
                _write(file, resampler.resample(None), channels)
                if not begun:
                    raise NoTrack("its sound track is empty")
    except (av.error.FFmpegError, soundfile.LibsndfileError, ValueError) as error:
        raise NoTrack(f"its sound track cannot be decoded ({error})") from None


def _write(file: Any, frames: list[Any], channels: int, skip: int = 0) -> None:
    for frame in frames:
        file.write(frame.to_ndarray().reshape(-1, channels)[skip:])
        skip = 0
