"""Redundancy within recordings (Less is More): hashes, leaders, rules, the file that names what stays."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssl_domains.core.errors import DataError
from ssl_domains.curation.filter import kept_rows
from ssl_domains.curation.hashing import difference_hash
from ssl_domains.curation.information import information_duplicates
from ssl_domains.curation.redundancy import parse_rule, reduce_recordings, reduce_rows


class Recordings:
    """Grey pictures of a few recordings."""

    labels = None
    task = class_names = spec = None
    full_batch = False

    def __init__(self, pictures, recordings):
        self.pictures, self.recordings = np.asarray(pictures), np.asarray(recordings)
        self.splits = {"train": np.arange(len(self.pictures)), "valid": np.arange(0), "test": np.arange(0)}

    def __len__(self):
        return len(self.pictures)

    def grey(self, rows):
        return self.pictures[rows]

    def ids(self, rows):
        return [f"slice {int(r)}" for r in rows]

    def raw_features(self, rows):
        return self.pictures[rows].reshape(len(rows), -1).astype(np.float32)


def smooth(seed, n=12, side=20):
    rng = np.random.default_rng(seed)
    small = rng.random((n, 4, 4))
    return np.stack([np.asarray(Image.fromarray(s.astype(np.float32)).resize((side, side))) for s in small])


def test_difference_hash_of_plain_pictures():
    constant, rising = np.full((1, 16, 18), 0.3), np.tile(np.linspace(0, 1, 18), (1, 16, 1))
    assert (difference_hash(constant) == -1).all()
    assert (difference_hash(rising) == 1).all()
    assert (difference_hash(1 - rising) == -1).all()


def test_difference_hash_equals_the_usual_definition():
    """As imagehash.dhash: grey, 9 x 8 by Lanczos, one where the right pixel is brighter."""
    pictures = (smooth(0) * 255).astype(np.uint8)
    for picture, found in zip(pictures, difference_hash(pictures), strict=True):
        pixels = np.asarray(Image.fromarray(picture).convert("L").resize((9, 8), Image.Resampling.LANCZOS))
        assert np.array_equal(found.reshape(8, 8) > 0, pixels[:, 1:] > pixels[:, :-1])


def test_difference_hash_ignores_level_and_gain_but_not_mirrors():
    x = smooth(1)
    assert np.array_equal(difference_hash(x), difference_hash(3 * x - 7))
    assert (difference_hash(x) != difference_hash(x[:, :, ::-1])).any()
    noise = np.random.default_rng(0).normal(0, 1e-4, x[:2].shape)
    assert (difference_hash(np.concatenate([x, noise]))[-2:] == -1).all()  # air is constant


@given(st.integers(0, 1000), st.integers(-1, 64))
@settings(max_examples=40, deadline=None)
def test_what_stays_is_maximal_and_apart(seed, threshold):
    source = Recordings(smooth(seed, 20), np.repeat([0, 1, 2], [9, 4, 7]))
    found = reduce_rows(source, np.arange(20), "dhash", threshold)
    bits = difference_hash(source.pictures)
    distance = ((bits[:, None] != bits[None]).sum(axis=2)).astype(int)
    for number in range(3):
        own = np.flatnonzero(source.recordings == number)
        bits_own = difference_hash(source.pictures[own])
        distance[np.ix_(own, own)] = (bits_own[:, None] != bits_own[None]).sum(axis=2)
        kept = own[found.kept[own]]
        assert own[0] in kept
        for i in kept:
            assert all(distance[i, j] > threshold for j in kept if j != i)
        for i in own[~found.kept[own]]:
            assert source.recordings[found.of[i]] == number
            assert found.kept[found.of[i]]
            assert distance[i, found.of[i]] <= threshold
    assert found.sizes().sum() == 20
    if threshold == -1:
        assert found.kept.all()
    if threshold == 64:
        assert found.kept.sum() == 3
    if threshold == 0:
        own = [difference_hash(source.pictures[source.recordings == r]) for r in range(3)]
        assert found.kept.sum() == sum(len(np.unique(bits, axis=0)) for bits in own)


def test_order_of_recordings_plays_no_part():
    source = Recordings(smooth(3, 20), np.repeat([0, 1], 10))
    one = reduce_rows(source, np.arange(20), "dhash", 12)
    order = np.concatenate([np.arange(10, 20), np.arange(10)])
    other = reduce_rows(source, order, "dhash", 12)
    assert set(one.rows[one.kept]) == set(other.rows[other.kept])
    alone = reduce_rows(Recordings(source.pictures[:10], np.zeros(10, int)), np.arange(10), "dhash", 12)
    assert np.array_equal(alone.kept, one.kept[:10])


def test_mutual_information_sees_through_a_change_of_contrast():
    rng = np.random.default_rng(0)
    x = smooth(5, 3, 32)
    pictures = np.stack([x[0], 1 - x[0], x[0] ** 2, x[1], rng.random((32, 32))])
    kept, of, similarity = information_duplicates(pictures, 0.6)
    assert kept.tolist() == [True, False, False, True, True]
    assert of[1] == of[2] == 0
    assert (similarity[1:3] >= 0.6).all()
    assert information_duplicates(pictures, 1.0)[0].sum() >= 4


def test_other_rules():
    x = smooth(6, 12)
    noise = np.random.default_rng(0).normal(0, 1e-3, (36, 20, 20))
    source = Recordings(np.repeat(x, 3, axis=0) + noise, np.zeros(36, int))
    rows = np.arange(36)
    assert reduce_rows(source, rows, "every", 4).kept.sum() == 9
    assert reduce_rows(source, rows, "raw", 0.98).kept.sum() == 12
    embed = {"embed": lambda r: source.raw_features(r) - 0.5}
    assert reduce_rows(source, rows, "embedding", 0.98, **embed).kept.sum() == 12
    assert reduce_rows(source, rows, "phash", 6).kept.sum() <= 16
    with pytest.raises(DataError, match="wants an encoder"):
        reduce_rows(source, rows, "embedding")
    with pytest.raises(ValueError, match="must be one of"):
        reduce_rows(source, rows, "sha")
    with pytest.raises(ValueError, match="whole number"):
        reduce_rows(source, rows, "every", 0.5)
    source.recordings = None
    with pytest.raises(DataError, match="one recording"):
        reduce_rows(source, rows, "dhash")


def test_file_names_what_stays_and_why(tmp_path):
    source = Recordings(np.repeat(smooth(7, 4), 2, axis=0), np.zeros(8, int))
    done = reduce_recordings(source, tmp_path / "kept.parquet", "dhash", 0)
    assert (done.rows, done.kept) == (8, 4)
    table = pq.read_table(tmp_path / "kept.parquet").to_pydict()
    assert table["duplicate_of"][1] == "slice 0"
    assert kept_rows(source, tmp_path / "kept.parquet").tolist() == [0, 2, 4, 6]


def test_rules_are_told_from_files():
    assert parse_rule("dhash:6") == ("dhash", 6.0)
    assert parse_rule("mutual_information") == ("mutual_information", None)
    assert parse_rule("runs/kept.parquet") is None
    assert parse_rule("kept.csv") is None
