"""Sources: folders, labels beside recordings, datasets, caches, splits, buckets."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from ssl_domains.core.bucket_sampler import Bucket, padding_share
from ssl_domains.core.errors import DataError
from ssl_domains.core.samplers import Shuffle
from ssl_domains.guess import guess_domain
from ssl_domains.speech.domain import SpeechDomain
from ssl_domains.speech.segments import read_segments
from ssl_domains.speech.spec import SpeechSpec

RATE = 16000


@pytest.fixture
def words(tmp_path):
    rng = np.random.default_rng(0)
    for word in ("yes", "no"):
        for i in range(6):
            place = tmp_path / word / f"spk{i % 3}_{i}.wav"
            place.parent.mkdir(exist_ok=True)
            soundfile.write(place, rng.normal(0, 0.1, int(RATE * (0.3 + 0.05 * i))), RATE)
    return tmp_path


def test_class_folders_speakers_and_splits(words):
    source = SpeechDomain().open(str(words), speaker=r"(spk\d)", valid=0.34, test=0.34)
    assert source.class_names == ["no", "yes"]
    assert source.group_names == ["spk0", "spk1", "spk2"]
    who = {name: set(source.groups[rows].tolist()) for name, rows in source.splits.items()}
    assert [len(w) for w in who.values()] == [1, 1, 1]  # no speaker is on two sides
    assert len(set.union(*who.values())) == 3
    by_speaker = SpeechDomain().open(str(words), speaker=r"(spk\d)", label="speaker", test=0.3)
    assert by_speaker.class_names == source.group_names
    assert set(by_speaker.groups[by_speaker.splits["train"]]) == {0, 1, 2}  # all are trained on
    assert guess_domain(str(words)) == "speech"
    assert guess_domain("generated://speech") == "speech"


def test_one_row_is_the_row_of_a_batch_and_lengths_are_kept(words):
    source = SpeechDomain().open(str(words))
    batch = source.fetch([0, 5, 7])
    for place, row in enumerate((0, 5, 7)):
        one = source.fetch([row]).x
        n = int(one.lengths[0])
        assert n == int(batch.x.lengths[place]) == round(source.lengths[row] * RATE)
        assert torch.equal(batch.x.values[place, :n], one.values[0])
        assert not batch.x.values[place, n:].any()
    with pytest.raises(IndexError, match="row numbers"):
        source.fetch([99])
    features = source.raw_features(np.array([7, 0, 5]))
    np.testing.assert_allclose(features[1], source.raw_features(np.array([0]))[0], atol=1e-4)


def test_pieces_cover_every_row_once(words):
    source = SpeechDomain().open(str(words))
    rows = np.array([3, 1, 8, 11, 4])
    pieces = source.pieces(rows, 2)
    assert sorted(np.concatenate(pieces).tolist()) == [0, 1, 2, 3, 4]
    assert max(map(len, pieces)) == 2


def test_label_files(tmp_path):
    (tmp_path / "a.lab").write_text("separator ;\nnfields 1\n#\n 0.10 125 pau\n 0.25 125 a\n 0.40 125 t\n")
    found = read_segments(tmp_path / "a.lab")
    assert found.names == ["pau", "a", "t"]
    np.testing.assert_allclose(found.start, [0, 0.1, 0.25])
    (tmp_path / "b.lab").write_text("0 1000000 a\n1000000 2500000 b\n")
    np.testing.assert_allclose(read_segments(tmp_path / "b.lab").end, [0.1, 0.25])
    (tmp_path / "c.phn").write_text("0 1600 h#\n1600 4000 iy\n")
    np.testing.assert_allclose(read_segments(tmp_path / "c.phn").end, [0.1, 0.25])
    (tmp_path / "d.lab").write_text("0 100000 a\nlater 3 b\n")
    with pytest.raises(DataError, match=r"d\.lab: line 2 is 'later 3 b', expected start, end, name"):
        read_segments(tmp_path / "d.lab")


def test_segments_follow_windows(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.random.default_rng(0).normal(0, 0.1, 2 * RATE), RATE)
    (tmp_path / "x.lab").write_text("#\n0.8 1 a\n1.3 1 b\n2.0 1 a\n")
    source = SpeechDomain().open(str(tmp_path), max_seconds=1.0, valid=0, test=0)
    assert source.segment_names == ["a", "b"]
    start, end, kind = source.segments(1)
    np.testing.assert_allclose(start, [0.0, 0.3])
    np.testing.assert_allclose(end, [0.3, 1.0])
    assert kind.tolist() == [1, 0]
    (tmp_path / "x.lab").unlink()
    (tmp_path / "s.csv").write_text("path,start,end,segment\nx.wav,0.0,0.5,c\nx.wav,0.5,2.0,d\n")
    by_table = SpeechDomain().open(str(tmp_path), segments=str(tmp_path / "s.csv"), valid=0, test=0)
    assert by_table.segment_names == ["c", "d"]


def test_texts_beside_recordings(tmp_path):
    for name in ("1-2-0001", "1-2-0002"):
        soundfile.write(tmp_path / f"{name}.flac", np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    (tmp_path / "1-2.trans.txt").write_text("1-2-0001 HELLO THERE\n1-2-0002 YES\n")
    source = SpeechDomain().open(str(tmp_path), speaker=r"^(\d+)-", valid=0, test=0)
    assert source.texts == ["HELLO THERE", "YES"]
    assert source.spec.symbols == tuple(sorted(set("HELLO THERE YES")))


def test_datasets_of_hugging_face(words, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = sorted(words.rglob("*.wav"))
    table = {"audio": [str(f) for f in files], "label": [f.parent.name for f in files],
             "speaker_id": [f.name[:4] for f in files]}  # fmt: skip
    made = datasets.Dataset.from_dict(table).cast_column("audio", datasets.Audio(sampling_rate=RATE))
    source = SpeechDomain().open(made)
    assert len(source) == 12
    assert source.class_names == ["no", "yes"]
    assert source.group_names == ["spk0", "spk1", "spk2"]
    torch.testing.assert_close(source.fetch([0]).x, SpeechDomain().open(str(words)).fetch([0]).x)
    made.save_to_disk(str(tmp_path / "saved"))
    assert len(SpeechDomain().open(str(tmp_path / "saved"))) == 12
    with pytest.raises(DataError, match="cast one to Audio"):
        SpeechDomain().open(made.remove_columns("audio"))


def test_arrays_in_memory_and_the_cache(words, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path / "cache"))
    plain = SpeechDomain().open(str(words), rate=8000)
    for _ in range(2):
        kept = SpeechDomain().open(str(words), rate=8000, cache=True)
        torch.testing.assert_close(kept.fetch([3, 9]).x, plain.fetch([3, 9]).x)
    arrays = SpeechDomain().open(([np.ones(4000), np.zeros(8000)], 8000), rate=16000, valid=0, test=0)
    assert arrays.fetch([0, 1]).x.lengths.tolist() == [8000, 16000]


def test_spec_travels_and_opens_new_data(words):
    source = SpeechDomain().open(str(words), rate=8000, max_seconds=0.4)
    spec = SpeechSpec.from_dict(source.spec.to_dict())
    assert spec == source.spec
    new = SpeechDomain().embed_source(spec, str(words))
    assert new.spec == spec
    assert new.lengths.max() <= 0.401
    assert new.class_names == source.class_names


def test_buckets_keep_their_budget_and_waste_less():
    class Source:
        lengths = np.random.default_rng(0).lognormal(1.0, 0.8, 500)
        full_batch = False

    rows = np.arange(500)
    bucket = Bucket(budget=60)
    bucket.prepare(Source())
    n = bucket.n_batches(rows, 64)
    for epoch in range(2):
        batches = bucket.epoch(rows, 64, n, 0, epoch)
        assert len(batches) == n
        assert sorted(np.concatenate(batches).tolist()) == rows.tolist()
        assert all(len(b) * Source.lengths[b].max() <= 60 or len(b) == 1 for b in batches)
        assert max(map(len, batches)) <= 64
    again = bucket.epoch(rows, 64, n, 0, 1)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    shuffled = Shuffle().epoch(rows, 10, 50, 0, 0)
    assert padding_share(batches, Source.lengths) < 0.15 < padding_share(shuffled, Source.lengths)
    with pytest.raises(DataError, match="different lengths"):
        Bucket(10).prepare(object())
