"""Noises and rooms of one's own: what is kept, how it is drawn and mixed, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.core.random import Draw
from ssl_domains.speech import effects
from ssl_domains.speech.sound import Sound, pad
from ssl_domains.speech.sound_pool import NoisePool, RoomPool
from ssl_domains.speech.spec import SpeechSpec
from ssl_domains.speech.views import SoundAugment, UtteranceMixing

RATE = 8000


@pytest.fixture
def noises(tmp_path):
    """Three noises, at levels that tell them apart, and at several rates."""
    folder, rng = tmp_path / "noises", np.random.default_rng(0)
    folder.mkdir()
    for i, (rate, seconds) in enumerate([(8000, 0.5), (16000, 1.0), (8000, 2.0)]):
        white = rng.normal(0, 1, int(rate * seconds))
        soundfile.write(folder / f"{i}.wav", 0.1 * np.sign(white) * (i + 1), rate, subtype="FLOAT")
    return folder


@pytest.fixture
def x():
    rng = np.random.default_rng(1)
    return pad([rng.normal(0, 0.1, n).astype(np.float32) for n in (3000, 8000, 5000)])


def batch_of(x):
    return Batch(x, torch.arange(len(x)) + 5)


def test_noises_are_resampled_once_and_drawn_for_each_sample(noises):
    pool = NoisePool(str(noises), RATE, 600)
    assert pool.length.tolist() == [4000, 8000, 16000]
    index = torch.arange(200)
    drawn = pool.draw(6000, Draw(0, 3, index))
    assert drawn.shape == (200, 6000)
    one = drawn.abs().round(decimals=3).eq(0.1).all(dim=1)  # the first noise, which begins anew after 4,000
    assert 40 < int(one.sum()) < 95
    torch.testing.assert_close(drawn[one][:, :2000], drawn[one][:, 4000:])
    begins = {tuple(row.tolist()) for row in drawn[one][:, :40]}
    assert len(begins) > 30  # from another place each time
    alone = pool.draw(2000, Draw(0, 3, index[7:8]))
    assert torch.equal(alone[0], drawn[7, :2000])  # whatever the batch and its length


def test_the_pool_is_bounded_and_takes_windows_from_all_over(tmp_path):
    long = np.repeat(np.arange(1, 21) / 40, RATE * 10)  # 200 s, each window of 10 s at a level of its own
    soundfile.write(tmp_path / "long.wav", long, RATE)
    pool = NoisePool(str(tmp_path), RATE, 60)
    assert len(pool.flat) == 60 * RATE
    levels = pool.flat[pool.start + 10] * 40
    assert levels[0] == pytest.approx(1, abs=0.01)
    assert levels[-1] == pytest.approx(20, abs=0.01)


def test_noise_is_mixed_at_the_ratio_and_only_where_it_should(noises, x):
    quiet = {"crop": None, "room": None, "speed": None, "gain": None, "time_masks": 0, "band_masks": 0}
    views = SoundAugment(
        SpeechSpec(RATE), **quiet, share=1.0, noise=(7.0, 7.0), noise_from=str(noises), n_views=1
    )
    views.prepare(None)
    (view,) = views(batch_of(x), Draw(0, 0, torch.arange(3)))
    added = view.x.values - x.values
    for row, n in enumerate(x.lengths.tolist()):
        ratio = x.values[row, :n].square().mean() / added[row, :n].square().mean()
        assert float(10 * ratio.log10()) == pytest.approx(7.0, abs=0.05)
        level = added[row, :n].abs()
        assert float((level.max() - level.median()) / level.max()) < 0.2  # one level: it is the file's
        assert not view.x.values[row, n:].any()
    clean, _ = UtteranceMixing(SpeechSpec(RATE), None, 1.0, 1.0, noise_snr=(0, 0), noise_from=str(noises))(
        batch_of(x), Draw(0, 0, torch.arange(3))
    )
    laid = (clean.x.values - x.values)[1]
    assert laid[laid != 0].abs().std() < 0.05 * laid.abs().max()


def test_rooms_begin_with_the_direct_sound_and_are_convolved_in_a_batch(tmp_path, x):
    early = np.zeros(400)
    early[[100, 130, 300]] = [0.8, -0.4, 0.2]  # 100 samples of silence come first
    soundfile.write(tmp_path / "a.wav", np.stack([early, np.ones(400) * 0.1], axis=1), RATE, subtype="FLOAT")
    pool = RoomPool(str(tmp_path), RATE, 600)
    wanted = np.zeros(300)
    wanted[[0, 30, 200]] = [0.8, -0.4, 0.2]
    torch.testing.assert_close(
        pool.responses[0].double(), torch.from_numpy(wanted / np.linalg.norm(wanted)), atol=1e-6, rtol=0
    )
    wet = effects.convolved(x, pool.draw(Draw(0, 0, torch.arange(3))))
    for row, n in enumerate(x.lengths.tolist()):
        slow = np.convolve(x.values[row, :n].double().numpy(), wanted)[:n]
        slow *= np.linalg.norm(x.values[row, :n]) / np.linalg.norm(slow)
        np.testing.assert_allclose(wet.values[row, :n].numpy(), slow, atol=1e-5)
        assert not wet.values[row, n:].any()
    off = {"crop": None, "noise": None, "speed": None, "gain": None, "time_masks": 0, "band_masks": 0}
    views = SoundAugment(SpeechSpec(RATE), **off, share=1.0, room=None, rooms_from=str(tmp_path), n_views=1)
    (view,) = views(batch_of(x), Draw(0, 0, torch.arange(3)))
    torch.testing.assert_close(view.x.values, wet.values)
    assert views.operations == ["room"]


def test_broken_and_silent_files_are_left_out_and_counted(noises, x):
    (noises / "broken.wav").write_bytes(b"RIFF no sound")
    soundfile.write(noises / "silent.wav", np.zeros(8000), RATE)
    with pytest.warns(UserWarning, match=r"1 recordings left out \(broken.wav"):
        pool = NoisePool(str(noises), RATE, 600)
    assert len(pool.length) == 3


def test_of_splits_the_training_part_is_taken(noises):
    table = "path,split\n0.wav,train\n1.wav,test\n2.wav,valid\n"
    (noises / "noises.csv").write_text(table)
    assert NoisePool(str(noises / "noises.csv"), RATE, 600).length.tolist() == [4000]


@pytest.mark.parametrize("kind", [NoisePool, RoomPool])
def test_mistakes_are_named(kind, tmp_path):
    key = "views.noise_from" if kind is NoisePool else "views.rooms_from"
    with pytest.raises(DataError, match=f"{key}: .*nowhere does not exist; give a folder"):
        kind(str(tmp_path / "nowhere"), RATE, 600)
    with pytest.raises(DataError, match=f"{key}: .* holds no recording"):
        kind(str(tmp_path), RATE, 600)
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(DataError, match=f"{key}: .*a.wav: it cannot be decoded .*none can be used"):
        kind(str(tmp_path), RATE, 600)
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), RATE)
    with pytest.raises(DataError, match=f"{key}: .* nothing but silence"):
        kind(str(tmp_path), RATE, 600)


def test_recordings_are_no_rooms_and_options_must_fit(tmp_path):
    soundfile.write(tmp_path / "song.wav", np.ones(RATE * 61) * 0.1, RATE)
    with pytest.raises(DataError, match=r"song\.wav has 61 s; impulse responses have less than 60 s"):
        RoomPool(str(tmp_path), RATE, 600)
    with pytest.raises(ValueError, match=r"views\.pool"):
        SoundAugment(pool=0)
    with pytest.raises(ValueError, match=r"views\.noise_from wants views\.noise"):
        SoundAugment(noise=None, noise_from="noises")


def test_pitch_has_a_factor_of_its_own_for_each_recording():
    """Against torchaudio's phase vocoder, which has one factor for all."""
    from ssl_domains.speech.torchaudio_guard import load_torchaudio

    time = torch.arange(RATE) / RATE
    tones = torch.stack([torch.sin(2 * torch.pi * f * time) for f in (300.0, 300.0, 500.0)])
    x = Sound(tones, torch.tensor([RATE, RATE, 6000]))
    factor = torch.tensor([1.0, 1.5, 0.8])
    found = effects.higher(x, factor, 1.5)
    spectrum = torch.fft.rfft(found.values[:, :6000] * torch.hann_window(6000)).abs()
    peaks = (spectrum.argmax(dim=1) * RATE / 6000).tolist()
    assert peaks == pytest.approx([300, 450, 400], abs=3)
    assert not found.values[2, 6000:].any()
    window = torch.hann_window(512, dtype=torch.float64)
    frames = torch.stft(tones.double(), 512, 128, window=window, return_complex=True)
    advance = torch.linspace(0, torch.pi * 128, 257, dtype=torch.float64)[:, None]
    factor = torch.tensor([1.0, 1.37, 0.83], dtype=torch.float64)
    slow = effects.slower(frames, factor, 1.5)
    vocoder = load_torchaudio().functional.phase_vocoder
    for row, one in enumerate(factor.tolist()):
        theirs = vocoder(frames[row : row + 1], 1 / one, advance)[0]
        torch.testing.assert_close(slow[row, :, : theirs.shape[1]], theirs, atol=1e-6, rtol=0)


def test_pitch_is_an_operation_with_its_share(x):
    off = {"crop": None, "noise": None, "speed": None, "gain": None, "time_masks": 0, "band_masks": 0}
    views = SoundAugment(SpeechSpec(RATE), **off, room=None, pitch=3.0, share=0.5, n_views=1)
    index = torch.arange(40)
    rows = Sound(x.values[1:2].expand(40, -1), x.lengths[1:2].expand(40))
    (view,) = views(Batch(rows, index), Draw(0, 0, index))
    assert view.params["applied"].shape == (40, 1)
    moved = (view.x.values - rows.values).abs().amax(dim=1) > 1e-4
    assert torch.equal(moved, view.params["applied"][:, 0])
    assert 10 < int(moved.sum()) < 30
    distinct = torch.unique(view.x.values[moved], dim=0)
    assert len(distinct) == int(moved.sum())
    assert views.target_width("applied", SpeechSpec(RATE)) == 1
