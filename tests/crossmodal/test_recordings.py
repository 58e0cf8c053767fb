"""Recordings: resampling, mapping of long ones, what MNE reads, what is wrong with a file."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.crossmodal.recordings import Reader, unit_square
from ssl_domains.crossmodal.signals_domain import SignalDomain

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path, sensors=20, seconds=12.0, rate=100.0, **more):
    x = RNG.normal(size=(sensors, int(seconds * rate))).astype(np.float32)
    np.savez(path, x=x, rate=rate, positions=RNG.uniform(size=(sensors, 2)), **more)
    return x


def test_a_mapped_recording_is_the_one_in_memory(tmp_path, cache):
    x = write(tmp_path / "a.npz")
    held, mapped = (Reader(50.0, room).open(tmp_path / "a.npz") for room in (1 << 20, 0))
    np.testing.assert_array_equal(held.x, mapped.x)
    assert held.x.shape == (20, 600)
    assert isinstance(mapped.x.base, np.memmap)
    assert mapped.x.T.flags.c_contiguous  # a segment is one stretch of the file
    assert len(list((cache / "signals").iterdir())) == 1
    again = Reader(50.0, 0).open(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.x, held.x)
    assert len(list((cache / "signals").iterdir())) == 1
    np.testing.assert_array_equal(Reader(None, 0).open(tmp_path / "a.npz").x, x)  # at its own rate


def test_room_is_shared_by_the_recordings_of_a_source(tmp_path):
    reader = Reader(None, room=4 * 20 * 1200 + 10)
    for name in ("a", "b"):
        write(tmp_path / f"{name}.npz")
    first, second = (reader.open(tmp_path / f"{name}.npz") for name in ("a", "b"))
    assert not isinstance(first.x.base, np.memmap)
    assert isinstance(second.x.base, np.memmap)


def test_samples_of_a_mapped_source_are_those_in_memory(tmp_path, monkeypatch):
    write(tmp_path / "a.npz", seconds=9.0)
    held = SignalDomain().open(str(tmp_path / "a.npz"), rate=50.0, seconds=1.0, hop=1.0)
    monkeypatch.setattr(Reader.__init__, "__defaults__", (0,))
    mapped = SignalDomain().open(str(tmp_path / "a.npz"), rate=50.0, seconds=1.0, hop=1.0)
    assert isinstance(mapped.recordings[0].x.base, np.memmap)
    np.testing.assert_array_equal(held.fetch([0, 7]).x["signal"], mapped.fetch([0, 7]).x["signal"])


def test_nothing_is_left_behind_when_a_long_recording_is_broken(tmp_path, cache):
    x = write(tmp_path / "a.npz")
    x[18, 3] = np.nan
    np.savez(tmp_path / "b.npz", x=x, rate=100.0)
    with pytest.raises(DataError, match=r"b\.npz: sensor 18 holds NaN"):
        Reader(50.0, 0).open(tmp_path / "b.npz")
    assert not any((cache / "signals").iterdir())


@pytest.fixture
def fif(tmp_path):
    mne = pytest.importorskip("mne")
    names = ["EEG 001", "EEG 002", "EEG 003", "EEG 004", "STI 014"]
    info = mne.create_info(names, 200.0, ["eeg"] * 4 + ["stim"])
    x = RNG.normal(0, 1e-5, (5, 4000))
    raw = mne.io.RawArray(x, info, verbose="error")
    places = {"EEG 001": (0.0, 0.09, 0.03), "EEG 002": (0.0, -0.09, 0.03), "EEG 003": (0.08, 0.0, 0.05)}
    raw.set_montage(mne.channels.make_dig_montage(places), on_missing="ignore", verbose="error")
    raw.info["bads"] = ["EEG 002"]
    folder = tmp_path / "sub-07"
    folder.mkdir()
    raw.save(folder / "story_raw.fif", verbose="error")
    return folder / "story_raw.fif", x


def test_what_mne_reads(fif):
    path, x = fif
    found = Reader(100.0).open(path)
    assert found.x.shape == (4, 2000)  # without the trigger channel, at half the rate
    assert found.subject == "07"
    assert np.isfinite(found.positions).all(axis=1).tolist() == [True, False, True, False]
    whole = Reader(None).open(path)
    np.testing.assert_allclose(whole.x, x[:4], atol=1e-9)


def test_a_folder_of_mne_recordings_is_cut_into_segments(fif):
    path, _ = fif
    source = SignalDomain().open(str(path.parent), rate=100.0, seconds=2.0, hop=1.0)
    batch = source.fetch([0, 3])
    assert batch.x["signal"].shape == (2, 4, 200)
    assert batch.x["valid"][0].tolist() == [True, False, True, False]
    assert abs(float(batch.x["signal"].median())) < 0.5  # robust scaling, from volts


def test_what_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.edf").write_bytes(b"no header")
    with pytest.raises(DataError, match=r"a\.edf: MNE cannot read it"):
        Reader(100.0).open(tmp_path / "a.edf")
    (tmp_path / "a.txt").write_text("x")
    empty = tmp_path / "nothing"
    empty.mkdir()
    with pytest.raises(DataError, match="no recording of sensors; known are"):
        Reader(100.0).open(tmp_path / "a.txt")
    with pytest.raises(DataError, match="holds no recording"):
        SignalDomain().open(str(empty))
    monkeypatch.setitem(sys.modules, "mne", None)
    with pytest.raises(DataError, match=r"wants MNE; install it with pip install 'ssl-domains\[brain\]'"):
        Reader(100.0).open(tmp_path / "a.edf")


def test_places_on_a_head_are_laid_flat():
    places = np.array([[0.0, 0, 1], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [np.nan] * 3])
    flat = unit_square(places)
    np.testing.assert_allclose(flat[0], flat[1:5].mean(axis=0), atol=1e-9)
    assert np.nanmin(flat) == 0.0
    assert np.nanmax(flat) == 1.0
    assert np.isnan(flat[5]).all()
