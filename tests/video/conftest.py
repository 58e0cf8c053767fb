"""Small video files that the tests of this folder share; made with PyAV."""

from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path_factory.mktemp("cache")))


def frame(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """``[H, W, 3]`` uint8: grey of 8 times the number, a white block in the top left corner."""
    out = np.full((height, width, 3), number * 8 % 256, dtype=np.uint8)
    out[: height // 4, : width // 4] = 255
    return out


def write(
    path: Path,
    n: int = 30,
    codec: str = "mpeg4",
    size: tuple[int, int] = (48, 64),
    rate: int = 25,
    pixels: str = "yuv420p",
    stamps: list[int] | None = None,
    offset: int = 0,
    gop: int = 12,
) -> Path:
    """A video whose frame i is grey of 8 i; ``stamps`` in thousandths of a second make its rate vary."""
    from fractions import Fraction

    options = {"g": str(gop), "x265-params": "log-level=none"} if "26" in codec else {"g": str(gop)}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], pixels
        stream.bit_rate = 2_000_000
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
            stream.time_base = Fraction(1, 1000)
        for i in range(n):
            picture = av.VideoFrame.from_ndarray(frame(i + offset, *size), format="rgb24")
            if stamps is not None:
                picture.pts, picture.time_base = stamps[i], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None)) if n else container.start_encoding()
    return path


def write_sound(path: Path) -> Path:
    """A file without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for i in range(10):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16000, i * 1024
            container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def make():
    """``make.frame``, ``make.video`` and ``make.sound``: the functions above."""
    return SimpleNamespace(frame=frame, video=write, sound=write_sound)


@pytest.fixture
def videos(tmp_path):
    """A folder of six videos in two classes."""
    for i in range(6):
        place = tmp_path / "videos" / ("cut", "run")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        write(place / f"{i}.mp4", offset=i)
    return tmp_path / "videos"
