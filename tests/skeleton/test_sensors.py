"""Devices on one clock: time stamps, gaps, rates, missing devices."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.domain import SkeletonDomain
from ssl_domains.skeleton.readers.sensors import Track, on_one_clock, vectors_of
from ssl_domains.skeleton.splits import SharedGroupWarning

CHANNELS = ("acc_x", "acc_y", "acc_z")


def open_(source, **data):
    return SkeletonDomain().open(source, kind="sensors", **data)


def wave(time: np.ndarray, phase: float = 0.0) -> np.ndarray:
    return np.stack([np.sin(time + phase), np.cos(time + phase), time * 0 + 1], axis=1)


def long_table(path, seconds=12.0, people=3, rates=(50.0, 33.0), start=(0.0, 0.013)):
    rows = []
    for person in range(people):
        for number, device in enumerate(("wrist", "ankle")):
            time = np.arange(start[number], seconds, 1 / rates[number])
            part = pd.DataFrame(wave(time, person), columns=CHANNELS)
            rows.append(
                part.assign(
                    time=time, device=device, subject=f"p{person}", activity=["sit", "walk", "run"][person]
                )
            )
    frame = pd.concat(rows)
    frame.to_csv(path, index=False)
    return frame


def test_devices_of_other_rates_share_a_clock(tmp_path):
    long_table(tmp_path / "long.csv")
    source = open_(tmp_path / "long.csv", window=2, hop=1, rate=25, normalize="none")
    spec = source.spec
    assert spec.layout.joints == ("wrist", "ankle")
    assert (spec.channels, spec.vectors, spec.frames, spec.rate) == (CHANNELS, ((0, 1, 2),), 50, 25.0)
    assert source.class_names == ["run", "sit", "walk"]
    assert source.group_names == ["p0", "p1", "p2"]
    batch = source.fetch([3])  # the window from 3 s to 5 s of the first person
    time = 3.0 + np.arange(50) / 25
    for device in range(2):
        assert np.abs(batch.x["points"][0, :, :, device, 0].numpy() - wave(time).T).max() < 0.03
    assert (batch.x["confidence"] == 1).all()


def test_wide_tables_and_folders_say_the_same(tmp_path):
    time = np.arange(0, 6, 0.02)
    wide = pd.DataFrame({"timestamp": (time * 1000).round().astype(int)})
    for number, device in enumerate(("wrist", "ankle")):
        for i, channel in enumerate(CHANNELS):
            wide[f"{device}_{channel}"] = wave(time, number)[:, i]
    wide.to_parquet(tmp_path / "wide.parquet")
    folder = tmp_path / "files" / "one"
    folder.mkdir(parents=True)
    for number, device in enumerate(("wrist", "ankle")):
        frame = pd.DataFrame(wave(time, number), columns=CHANNELS).assign(time=time)
        frame.to_csv(folder / f"{device}.csv", index=False)
    options = {"devices": ["wrist", "ankle"], "window": 2, "valid": 0, "test": 0}
    a = open_(tmp_path / "wide.parquet", time_unit="ms", **options)
    b = open_(tmp_path / "files", **options)
    assert len(a) == len(b) == 3
    assert np.allclose(a.fetch([0, 2]).x["points"], b.fetch([0, 2]).x["points"], atol=1e-4)


def test_dates_as_time_stamps(tmp_path):
    time = pd.date_range("2026-01-01 10:00", periods=200, freq="20ms")
    pd.DataFrame(wave(np.arange(200) * 0.02), columns=CHANNELS).assign(time=time).to_csv(
        tmp_path / "a.csv", index=False
    )
    source = open_(tmp_path / "a.csv", window=1, valid=0, test=0)
    assert source.spec.rate == pytest.approx(50)
    assert source.spec.layout.joints == ("device",)


def test_gaps_longer_than_max_gap_are_missing():
    time = np.concatenate([np.arange(0, 1, 0.02), np.arange(2, 3, 0.02)])
    track = Track("a", time, time[:, None], "", np.arange(len(time)))
    points, start = on_one_clock([track], ["a", "b"], 1, 50.0, max_gap=0.25)
    assert start == 0.0
    gone = np.isnan(points[:, 0, 0])
    assert gone[51:99].all()
    assert not gone[:49].any()
    assert not gone[101:].any()
    assert np.isnan(points[:, 1]).all()
    filled, _ = on_one_clock([track], ["a"], 1, 50.0, max_gap=2.0)
    assert np.allclose(filled[:, 0, 0], np.arange(len(filled)) / 50, atol=1e-5)


def test_fast_devices_are_averaged_before_they_are_thinned():
    """A tone above half the new rate must not fold back into the window."""
    time = np.arange(0, 4, 1 / 400)
    track = Track("a", time, np.sin(2 * np.pi * 60 * time)[:, None], "", np.arange(len(time)))
    points, _ = on_one_clock([track], ["a"], 1, 25.0, max_gap=0.25)
    assert np.abs(points).max() < 0.35


def test_a_device_that_is_missing_for_a_while(tmp_path):
    frame = long_table(tmp_path / "long.csv", people=1)
    lost = frame[~((frame.device == "ankle") & frame.time.between(3.9, 8.1))]
    lost.drop(columns="activity").to_csv(tmp_path / "lost.csv", index=False)
    source = open_(tmp_path / "lost.csv", window=2, valid=0, test=0, normalize="none")
    batch = source.fetch([0, 2])
    assert (batch.x["confidence"][0] == 1).all()
    assert (batch.x["confidence"][1, :, 0] == 1).all()
    assert (batch.x["confidence"][1, :, 1] == 0).all()
    assert (batch.x["points"][1, :, :, 1] == 0).all()
    assert source.card()["missing points"] > 0.1


def test_backward_time_stamps_name_file_and_row(tmp_path):
    frame = pd.DataFrame(wave(np.arange(50) * 0.02), columns=CHANNELS).assign(time=np.arange(50) * 0.02)
    frame.loc[30, "time"] = 0.1
    frame.to_csv(tmp_path / "back.csv", index=False)
    with pytest.raises(
        DataError, match=r"back\.csv: row 31: time stamps of device 'device' run backwards \(0\.58 s"
    ):
        open_(tmp_path / "back.csv", window=0.5)


def test_other_channels_and_columns(tmp_path):
    long_table(tmp_path / "long.csv")
    with pytest.raises(DataError, match="no column 'when'"):
        open_(tmp_path / "long.csv", time="when", window=2)
    with pytest.raises(DataError, match="has no channel 'gyr_x'"):
        open_(tmp_path / "long.csv", channels=["gyr_x"], window=2)
    frame = long_table(tmp_path / "b.csv")
    frame[~((frame.subject == "p1") & (frame.time > 5))].to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(DataError, match="give a window"):
        open_(tmp_path / "b.csv")
    with pytest.raises(DataError, match="is long enough for a window"):
        open_(tmp_path / "long.csv", window=60)


def test_people_stay_whole_and_shared_ones_are_warned_of(tmp_path):
    long_table(tmp_path / "long.csv")
    source = open_(tmp_path / "long.csv", window=2, test_groups=["p2"], valid_groups=["p1"])
    who = {s: {source.clips.groups[i] for i in rows} for s, rows in source.splits.items()}
    assert who == {"train": {"p0"}, "valid": {"p1"}, "test": {"p2"}}
    with pytest.raises(DataError, match=r"there is no group 'p9' \(there are: p0, p1, p2\)"):
        open_(tmp_path / "long.csv", window=2, test_groups=["p9"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = open_(tmp_path / "long.csv", window=2, valid=0.3, test=0.3)
    assert all(len({drawn.clips.groups[i] for i in rows}) == 1 for rows in drawn.splits.values())
    frame = pd.read_csv(tmp_path / "long.csv")
    frame["split"] = np.where(frame.time < 6, "train", "test")
    frame["recording"] = frame.split
    frame.to_csv(tmp_path / "split.csv", index=False)
    with pytest.warns(SharedGroupWarning, match="3 groups are in train and test"):
        open_(tmp_path / "split.csv", window=2)


def test_scale_is_of_the_train_rows_and_travels(tmp_path):
    long_table(tmp_path / "long.csv")
    source = open_(tmp_path / "long.csv", window=2, test_groups=["p2"], valid=0)
    x = source.fetch(source.splits["train"]).x["points"]
    assert np.allclose(x.square().mean((0, 1, 2, 4)), 1.0, atol=1e-3)
    spec = type(source.spec).from_dict(source.spec.to_dict())
    assert spec == source.spec
    only = pd.read_csv(tmp_path / "long.csv").query("device == 'wrist'")
    only.to_csv(tmp_path / "wrist.csv", index=False)
    one = SkeletonDomain().embed_source(spec, tmp_path / "wrist.csv")
    assert "not there: ankle" in one.card()["notes"]
    whole = SkeletonDomain().embed_source(spec, tmp_path / "long.csv")
    a, b = one.fetch([0]).x, whole.fetch([0]).x
    assert np.allclose(a["points"][..., 0, :], b["points"][..., 0, :], atol=1e-4)
    assert (a["confidence"][..., 1, :] == 0).all()


def test_vectors_are_told_from_names():
    assert vectors_of(["acc_x", "acc_y", "acc_z", "temp", "gyr_x", "gyr_y", "gyr_z"]) == (
        (0, 1, 2),
        (4, 5, 6),
    )
    assert vectors_of(["ax", "ay", "az"]) == ((0, 1, 2),)
    assert vectors_of(["light", "heart"]) == ()
