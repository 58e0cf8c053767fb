"""Sound tracks of films: read like recordings, in the film's time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.speech import decode, tracks
from ssl_domains.speech.domain import SpeechDomain

RATE = 16000


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path / "cache"))


def film(
    path: Path, pitch: float = 400.0, seconds: float = 1.0, late: float = 0.0, sound: bool = True
) -> Path:
    """A black film with a tone, which begins ``late`` seconds after it."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        track = container.add_stream("pcm_s16le" if path.suffix in (".mkv", ".avi") else "aac", rate=RATE)
        track.layout = "mono"
        for i in range(int(25 * seconds)):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            picture.pts = i
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        time = np.arange(int(RATE * seconds)) / RATE
        wave = (0.5 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)
        if not sound:
            return path
        for start in range(0, len(wave), 1024):
            part = wave[start : start + 1024][None]
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = start + round(late * RATE)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def pitch_of(x: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(x * np.hanning(len(x)))).argmax() * RATE / len(x))


@pytest.mark.parametrize("ending", [".mkv", ".avi", ".mp4", ".m4a"])
def test_the_track_of_a_film_is_a_recording(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    if ending == ".m4a":  # an MP4 by another name
        film(tmp_path / "a.mp4").rename(path)
    else:
        film(path)
    header = decode.read_header(str(path))
    assert (header.rate, header.channels) == (RATE, 1)
    assert header.seconds == pytest.approx(1.0, abs=0.15)
    x = decode.read(str(path), 4000, 8000, RATE)
    assert len(x) == 8000
    assert pitch_of(x) == pytest.approx(400, abs=3)
    assert np.abs(x).max() == pytest.approx(0.5, abs=0.05)


def test_sound_that_begins_late_stays_late(tmp_path):
    x = decode.read(str(film(tmp_path / "late.mkv", late=0.5)), 0, 24000, RATE)
    assert np.abs(x[:7900]).max() == 0
    assert np.abs(x[8100:]).max() > 0.45


def test_a_track_is_taken_out_once(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mkv")
    first = tracks.track(str(path))
    monkeypatch.setattr(tracks, "_take_out", None)
    assert tracks.track(str(path)) == first


def test_a_film_without_sound_is_left_out_and_a_text_too(tmp_path):
    film(tmp_path / "mute.mp4", sound=False)
    (tmp_path / "text.mp4").write_text("no film")
    for name, sentence in (
        ("mute.mp4", "no sound track|is empty|cannot be decoded"),
        ("text.mp4", "cannot be decoded"),
    ):
        with pytest.raises(decode.BrokenSound, match=sentence):
            decode.read_header(str(tmp_path / name))
    assert not list((tmp_path / "cache" / "speech").glob("*/track.wav"))  # nothing half-written


def test_a_manifest_names_films_and_a_folder_holds_m4a(tmp_path):
    rows = ["path,start,end"]
    for i in range(6):
        film(tmp_path / f"f{i}.mp4", 300 + 50 * i)
        rows.append(f"f{i}.mp4,0.2,0.8")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    source = SpeechDomain().open(str(tmp_path / "list.csv"))
    assert len(source) == 6
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(4):
        (tmp_path / f"f{i}.mp4").rename(folder / f"f{i}.m4a")
    assert len(SpeechDomain().open(str(folder))) == 4


def test_without_pyav_the_package_is_named(tmp_path, monkeypatch):
    import sys

    path = film(tmp_path / "a.mkv")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"needs PyAV: pip install 'ssl-domains\[video\]'"):
        decode.read_header(str(path))
