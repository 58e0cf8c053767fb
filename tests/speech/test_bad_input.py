"""Recordings as they come: broken, silent, clipped, long, of all rates and codings; each mistake in one
sentence."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from ssl_domains.core.errors import DataError
from ssl_domains.core.random import Draw
from ssl_domains.core.span_masking import AlterationMask, SpanMask
from ssl_domains.speech.domain import SpeechDomain
from ssl_domains.speech.encoders.transformer import SpeechTransformer

RATE = 16000


def tone(seconds, rate=RATE, channels=1, hertz=440.0):
    time = np.arange(int(seconds * rate)) / rate
    one = 0.3 * np.sin(2 * np.pi * hertz * time)
    return np.repeat(one[:, None], channels, axis=1)


def open_(place, **options):
    return SpeechDomain().open(str(place), valid=0.0, test=0.0, **options)


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        soundfile.write(tmp_path / f"good{i}.wav", tone(0.5 + 0.1 * i), RATE)
    return tmp_path


def test_all_codings_rates_and_channels_give_one_sound(tmp_path):
    kinds = [
        ("a.wav", "PCM_16"),
        ("b.wav", "PCM_24"),
        ("c.wav", "FLOAT"),
        ("d.flac", "PCM_24"),
        ("e.wav", "DOUBLE"),
    ]
    for name, subtype in kinds:
        soundfile.write(tmp_path / name, tone(1.0), RATE, subtype=subtype)
    soundfile.write(tmp_path / "f.wav", tone(1.0, 8000), 8000)
    soundfile.write(tmp_path / "g.wav", tone(1.0, 48000, 2), 48000)
    soundfile.write(tmp_path / "h.ogg", tone(1.0, 44100), 44100)
    soundfile.write(tmp_path / "i.mp3", tone(1.0, 44100, 2), 44100)
    source = open_(tmp_path)
    assert source.card()["left_out"] == 0
    x = source.fetch(np.arange(9)).x
    assert (x.lengths[:7] == RATE).all()
    assert (x.lengths - RATE).abs().max() < 0.1 * RATE  # MP3 fills its last frame up
    wave = torch.from_numpy(tone(1.0)[:, 0]).float()
    middle = slice(2000, 14000)
    for row in range(7):
        torch.testing.assert_close(x.values[row, middle], wave[middle], atol=2e-3, rtol=0)
    for row in (7, 8):  # lossy, and shifted: the pitch is right
        spectrum = torch.fft.rfft(x.values[row, :RATE]).abs()
        assert abs(int(spectrum.argmax()) - 440) <= 2


def test_an_mp3_called_wav_is_read(tmp_path):
    soundfile.write(tmp_path / "x.mp3", tone(1.0), RATE)
    (tmp_path / "x.mp3").rename(tmp_path / "x.wav")
    assert open_(tmp_path).fetch([0]).x.values.abs().max() > 0.2


def test_broken_empty_and_missing_files_are_left_out_with_a_warning(folder):
    (folder / "header.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVEjunk and nothing else")
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "zero.wav", np.zeros(0), RATE)
    (folder / "text.flac").write_text("not a sound")
    with pytest.warns(UserWarning, match="4 recordings left out"):
        source = open_(folder)
    assert len(source) == 3
    told = " ".join(source.card()["left_out_files"])
    for part in ("header.wav", "the file is empty", "zero.wav: it holds no samples", "text.flac"):
        assert part in told
    with pytest.raises(DataError, match=r"empty\.wav: the file is empty .*4 such recordings.*mend or remove"):
        open_(folder, strict=True)


def test_a_folder_of_broken_files_alone_is_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.wav: the file is empty; none can be used"):
        open_(tmp_path)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(DataError, match="holds no recording"):
        open_(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_(tmp_path / "nowhere")


def test_silence_and_clipping_are_counted_and_stay_finite(folder):
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "clipped.wav", np.clip(tone(1.0) * 20, -1, 1), RATE)
    source = open_(folder)
    card = source.card()
    assert (card["of these silent"], card["of these clipped"]) == (1, 1)
    encoder = SpeechTransformer(source.spec, width=16, depth=1, heads=2).eval()
    assert torch.isfinite(encoder(source.fetch(np.arange(5)).x).pooled).all()


def test_samples_that_are_not_finite(folder):
    bad = tone(1.0)[:, 0]
    bad[100:110] = np.nan
    bad[200] = np.inf
    soundfile.write(folder / "nan.wav", bad, RATE, subtype="FLOAT")
    source = open_(folder)
    with pytest.warns(UserWarning, match=r"nan\.wav: 11 samples are NaN or infinite; they count as 0"):
        x = source.fetch(np.arange(4)).x
    assert torch.isfinite(x.values).all()
    with pytest.raises(DataError, match="11 samples are NaN"):
        open_(folder, strict=True).fetch(np.arange(4))


def test_a_file_that_breaks_later_counts_as_silence(folder):
    source = open_(folder)
    (folder / "good1.wav").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"good1\.wav: the file is empty; it counts as silence"):
        x = source.fetch([0, 1]).x
    assert x.values[0].any()
    assert not x.values[1].any()
    assert int(x.lengths[1]) == int(0.6 * RATE)


@pytest.mark.parametrize("cut", ["fixed", "silence"])
def test_three_hours_are_windows_and_are_not_held(tmp_path, cut):
    import tracemalloc

    rate = 1000
    seconds = 3 * 3600 if cut == "fixed" else 600
    with soundfile.SoundFile(tmp_path / "long.flac", "w", rate, 1) as file:
        piece = np.concatenate([tone(8.0, rate, hertz=100.0)[:, 0], np.zeros(2 * rate)])
        for _ in range(seconds // 10):
            file.write(piece)
    tracemalloc.start()
    source = open_(tmp_path, rate=rate, max_seconds=15, cut=cut)
    batch = source.fetch([0, len(source) // 2, len(source) - 1])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20e6  # three hours at this rate are 43 MB
    assert abs(source.lengths.sum() - seconds) < 1
    assert source.lengths.max() <= 15.01
    assert len({source.facts.ids[i] for i in range(len(source))}) == len(source)
    if cut == "silence":  # every cut but the last lies where there is no tone
        starts = source.at.offset[1:]
        assert ((starts % 10 > 7.9) | (starts % 10 < 0.1)).all()
    assert batch.x.values.shape[1] <= 15.01 * rate


def test_manifests(tmp_path, folder):
    rows = [
        "path,start,end,text,speaker,label",
        "good0.wav,,,one,ann,x",
        "good1.wav,0.1,0.4,two,bob,y",
        "gone.wav,,,three,ann,x",
        "good2.wav,0.2,9.0,four,bob,y",
    ]
    table = folder / "list.csv"
    table.write_text("\n".join(rows))
    with pytest.warns(
        UserWarning, match=r"2 recordings left out \(gone\.wav: the file does not exist; good2.*0\.70"
    ):
        source = open_(table)
    assert source.texts == ["one", "two"]
    assert source.group_names == ["ann", "bob"]
    assert source.class_names == ["x", "y"]
    assert source.fetch([1]).x.lengths.tolist() == [4800]
    assert source.ids([1]) == ["good1.wav[0.1-0.4]"]
    table.write_text("\n".join([rows[0], "good0.wav,soon,,,,"]))
    with pytest.raises(DataError, match="row 1 has 'soon' as start"):
        open_(table)
    table.write_text("name,words\ngood0.wav,hello")
    with pytest.raises(DataError, match=r"no column of paths .*say data\.path=COLUMN"):
        open_(table)
    with pytest.raises(DataError, match="no column 'wav'"):
        open_(table, path="wav")
    table.write_text("path\n")
    with pytest.raises(DataError, match="has no row"):
        open_(table)


def test_one_utterance_shorter_than_a_span(tmp_path):
    soundfile.write(tmp_path / "one.wav", tone(0.12), RATE)
    source = open_(tmp_path / "one.wav")
    assert len(source) == 1
    encoder = SpeechTransformer(source.spec, width=16, depth=1, heads=2).eval()
    x = source.fetch([0]).x
    layout = encoder.layout(x)
    draw = Draw(0, 0, torch.tensor([0]))
    hidden = SpanMask(length=20)(layout, draw).hidden
    assert 0 < int(hidden.sum()) < layout.n_tokens
    assert torch.isfinite(AlterationMask()(layout, draw).alteration.apply(encoder.targets(x).values)).all()


def test_too_short_recordings(folder):
    soundfile.write(folder / "blip.wav", tone(0.01), RATE)
    assert "1 recordings shorter than 0.1 s left out" in open_(folder).card()["notes"]
    with pytest.raises(DataError, match=r"all 4 recordings are shorter than data\.min_seconds"):
        open_(folder, min_seconds=2.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rate": 0}, r"data\.rate must be above 0"),
        ({"cut": "here"}, r"data\.cut is 'here'; use fixed or silence"),
        ({"channel": "left"}, r"data\.channel is 'left'; use mix or the number"),
        ({"label": "("}, r"data\.label: '\(' is no regular expression"),
        ({"speaker": "spk(.)"}, "does not match the path good0.wav"),
        ({"label": "folder"}, "two or more folders"),
        ({"group": "speaker"}, "no speaker is known"),
        ({"segments": "nowhere"}, "names none of the recordings"),
        ({"min_seconds": 20}, r"between 0 and data\.max_seconds"),
    ],
)
def test_options_end_in_sentences(folder, options, sentence):
    with pytest.raises(DataError, match=sentence):
        open_(folder, **options)


def test_a_channel_that_is_not_there(folder):
    with pytest.warns(UserWarning, match=r"1 channels, and data\.channel is 1"):
        open_(folder, channel=1).fetch([0])
