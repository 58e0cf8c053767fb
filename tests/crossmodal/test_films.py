"""Tracks of one file, also where they differ in length: what is left out on one side shifts nothing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.crossmodal.parts import _matched
from ssl_domains.recipe.build import open_source
from ssl_domains.recipe.check import read_recipe

RATE = 16000


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path / "cache"))


def film(path: Path, number: int, sound: float = 2.0) -> None:
    """Two seconds of grey that tells the film's number, with as loud a noise."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        track = container.add_stream("pcm_s16le", rate=RATE)
        track.layout = "mono"
        for i in range(20):
            grey = np.full((32, 32, 3), 20 * number + 40 * (i >= 10), np.uint8)
            picture = av.VideoFrame.from_ndarray(grey, format="rgb24")
            picture.pts = i
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        wave = np.full((1, int(RATE * sound)), 0.02 * number, np.float32)
        wave[:, RATE:] += 0.04
        wave *= np.random.default_rng(0).choice([-1.0, 1.0], wave.shape).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
        container.mux(track.encode(frame))
        container.mux(track.encode(None))


def opened(table: Path, **data):
    parts = {"a": {"domain": "video", "data": {"frames": 4, "size": 32}}, "b": {"domain": "speech"}}
    recipe = {
        "domain": "crossmodal", "method": "cross_modal", "encoder": {"name": "towers", "width": 8},
        "objective": "clip", "train": {"steps": 1}, **parts,
        "data": {"source": str(table), "columns": {"a": "video", "b": "audio"},
                 "valid": 0.0, "test": 0.0, **data},
    }  # fmt: skip
    return open_source(read_recipe(recipe))[1]


def write_table(folder: Path, films: int = 6) -> Path:
    rows = ["video,video_start,video_end,audio,audio_start,audio_end"]
    rows += [f"f{i}.mkv,{s},{s + 1},f{i}.mkv,{s},{s + 1}" for i in range(films) for s in (0, 1)]
    (folder / "films.csv").write_text("\n".join(rows))
    return folder / "films.csv"


def check_partners(source) -> None:
    """Brightness and loudness were made to tell the same."""
    batch = source.fetch(np.arange(len(source)))
    bright = batch.x["a"].float().mean(dim=(1, 2, 3, 4)) / 20
    sound = batch.x["b"]
    loud = sound.values.abs().sum(dim=1) / sound.lengths / 0.02
    np.testing.assert_allclose(bright.numpy(), loud.numpy(), atol=0.5)


def test_both_tracks_of_a_film(tmp_path):
    for i in range(6):
        film(tmp_path / f"f{i}.mkv", i + 1)
    source = opened(write_table(tmp_path))
    assert len(source) == 12
    check_partners(source)


def test_a_track_that_ends_early_loses_its_own_stretches_only(tmp_path):
    for i in range(6):
        film(tmp_path / f"f{i}.mkv", i + 1, sound=1.0 if i == 2 else 2.0)
    table = write_table(tmp_path)
    with pytest.warns(UserWarning, match="left out") as said:
        source = opened(table)
    sentence = next(str(w.message) for w in said if "left out" in str(w.message))
    assert sentence.startswith(f"{table} (part speech): 1 recordings left out (")
    assert "f2.mkv[1-2]: it is from 1 to 2 s, and the file has 1.00 s" in sentence
    assert source.card()["missing partners"] == {"a": 0, "b": 1}
    assert len(source) == 11
    check_partners(source)
    with pytest.raises(DataError, match="1 of 12 rows lack a partner"):
        opened(table, strict=True)


class Ids:
    """A source that has these ids."""

    def __init__(self, *ids, listed=None):
        self.all, self.listed = ids, listed

    def __len__(self):
        return len(self.all)

    def ids(self, rows):
        return [self.all[int(i)] for i in rows]


def test_one_left_out_and_another_cut_in_two_is_no_match_by_order():
    assert _matched(Ids("a#0", "a#1", "c"), ["a", "b", "c"]).tolist() == [0, -1, 2]
    assert _matched(Ids(5, 6, 7), ["a", "b", "c"]).tolist() == [0, 1, 2]
    spans = [(0, 1), (1.0, 2.5), (1, None)]
    assert _matched(Ids("a[1-2.5]", "a[1-]"), ["a"] * 3, spans).tolist() == [-1, 0, 1]
    assert _matched(Ids("a@0-1", "a@1-nan"), ["a"] * 3, spans).tolist() == [0, -1, 1]
    assert _matched(Ids("x", "y", listed=np.array([2, 0])), ["a", "b", "c"]).tolist() == [1, -1, 0]
