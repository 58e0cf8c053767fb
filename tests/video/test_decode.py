"""Decoding: the frames that a player would show, whatever the container, rate, rotation or damage."""

import struct

import numpy as np
import pytest

from ssl_domains.video.decode import BrokenVideo, Decoding, clip_times, read_clip, read_facts

HOW = Decoding((48, 64))


def numbers(path, times, how=HOW):
    """Numbers of the frames shown, told from their grey in the lower right corner."""
    clip = read_clip(str(path), np.asarray(times, dtype=float), read_facts(str(path)), how)
    return (clip[:, -8, -8].mean(axis=1) / 8).round().astype(int).tolist()


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "mpeg4"), ("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9"),
     ("a.avi", "mpeg4"), ("a.mov", "mjpeg")],
)  # fmt: skip
def test_frames_are_found_by_time(make, tmp_path, name, codec):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = make.video(tmp_path / name, codec=codec, pixels=pixels)
    facts = read_facts(str(path))
    assert facts.rate == pytest.approx(25, rel=0.01)
    assert facts.length == pytest.approx(1.2, abs=0.05)
    assert (facts.height, facts.width, facts.turned, facts.lost) == (48, 64, 0, 0.0)
    start = 0 if name != "a.avi" else numbers(path, [0])[0]
    wanted = [3, 7, 11, 15, 29]
    assert numbers(path, [i / 25 for i in wanted]) == [w + start for w in wanted]
    assert numbers(path, [20 / 25]) == [20 + start]  # after a seek


def test_ten_bits(make, tmp_path):
    path = make.video(tmp_path / "deep.mkv", codec="libx265", pixels="yuv420p10le")
    assert numbers(path, [0.0, 0.4, 1.0]) == [0, 10, 25]


def test_variable_frame_rate(make, tmp_path):
    """Slow at first, then fast: the frame of a time is the last one before it."""
    stamps = [0, 400, 800, 1200, 1240, 1280, 1320, 1360, 1400, 1440]
    path = make.video(tmp_path / "vary.mkv", n=10, codec="libx264", stamps=stamps)
    assert numbers(path, [0.0, 0.3, 0.5, 1.1, 1.25, 1.44]) == [0, 0, 1, 2, 4, 9]


@pytest.mark.parametrize(
    ("turn", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))]
)
def test_rotation_in_the_metadata(make, tmp_path, turn, matrix):
    """Telephones write pictures lying and say how to turn them: clockwise by ``turn`` here."""
    path = make.video(tmp_path / "turned.mp4")
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4 + 4 + 8 + 4 + 4 + 4 + 8 + 2 + 2 + 2 + 2
    a, b, c, d = (v * 65536 for v in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))
    facts = read_facts(str(path))
    lying = turn % 180 == 0
    assert (facts.height, facts.width) == ((48, 64) if lying else (64, 48))
    size = (facts.height, facts.width)
    clip = read_clip(str(path), np.array([0.2]), facts, Decoding(size))[0]
    wanted = np.rot90(make.frame(5), -turn // 90)
    assert np.abs(clip.astype(int) - wanted).mean() < 6


def test_odd_sizes_and_fits(make, tmp_path):
    path = make.video(tmp_path / "odd.mkv", codec="ffv1", size=(37, 51), pixels="bgr0")
    facts = read_facts(str(path))
    assert (facts.height, facts.width) == (37, 51)
    for fit in ("crop", "squeeze", "pad"):
        clip = read_clip(str(path), np.array([0.4]), facts, Decoding((30, 30), 1, fit))
        assert clip.shape == (1, 30, 30, 1)
        assert (clip[0, 0, 15, 0] == 0) == (fit == "pad")
        assert abs(int(clip[0, 15, 20, 0]) - 80) <= 2


def test_a_truncated_mp4_without_its_index_is_refused(make, tmp_path):
    path = make.video(tmp_path / "cut.mp4", n=60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BrokenVideo, match="cut off before its index"):
        read_facts(str(path))


def test_a_broken_tail_shortens_the_video(make, tmp_path):
    path = make.video(tmp_path / "tail.mkv", n=60, codec="mjpeg", pixels="yuvj420p")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    facts = read_facts(str(path))
    assert 0.6 < facts.length < 1.6
    assert facts.lost > 0.5
    shown = numbers(path, [0.2, 2.3])
    assert shown[0] == 5
    assert 15 < shown[1] < 45, "the last frame that can be decoded stands in for those that are lost"


def test_what_is_no_video(make, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video" * 100)
    cases = {
        str(tmp_path / "missing.mp4"): "does not exist",
        str(tmp_path / "empty.mp4"): "is empty",
        str(tmp_path / "text.mp4"): "no video that can be read",
        str(make.sound(tmp_path / "sound.m4a")): r"holds no video \(audio only\)",
    }
    for path, sentence in cases.items():
        with pytest.raises(BrokenVideo, match=sentence):
            read_facts(path)


def test_zero_frames(make, tmp_path):
    path = make.video(tmp_path / "none.mkv", n=0)
    with pytest.raises(BrokenVideo, match=r"no frame|no video"):
        read_facts(str(path))


def test_bytes_are_as_good_as_a_path(make, tmp_path):
    path = make.video(tmp_path / "a.mp4")
    raw = path.read_bytes()
    times = np.array([0.2, 0.8])
    same = read_clip(raw, times, read_facts(raw), HOW)
    assert np.array_equal(same, read_clip(str(path), times, read_facts(str(path)), HOW))


def test_times_of_clips():
    from ssl_domains.video.decode import Facts

    facts = Facts(2.0, 10.0, 8, 8)  # 20 frames
    nan = float("nan")
    assert clip_times(facts, nan, nan, 4, 0.1, 0.0) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert clip_times(facts, nan, nan, 4, 0.1, 1.0) == pytest.approx([1.6, 1.7, 1.8, 1.9])
    assert clip_times(facts, 0.5, 1.0, 4, 0.1, 1.0) == pytest.approx([0.6, 0.7, 0.8, 0.9])
    short = clip_times(facts, nan, nan, 4, 1.0, 0.5)  # 4 s wanted of 2: the last frame stays
    assert short == pytest.approx([0, 1, 1.9, 1.9])


def test_without_pyav_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    import sys

    from ssl_domains.core.errors import DataError

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"pip install 'ssl-domains\[video\]'"):
        read_facts(str(tmp_path / "a.mp4"))
