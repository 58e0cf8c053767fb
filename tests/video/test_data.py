"""Sources of clips: every kind is opened, splits keep videos together, and bad input ends in one sentence."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ssl_domains.core.errors import DataError
from ssl_domains.guess import guess_domain
from ssl_domains.video.domain import VideoDomain

DOMAIN = VideoDomain()
SMALL = {"frames": 4, "stride": 2, "size": 32}


def shown(source, row):
    """Numbers of the frames of a clip, told from their grey."""
    x = source.fetch([row]).x[0]
    return (x[:, :, -6, -6].float().mean(0) / 8).round().int().tolist()


def test_a_folder_of_videos(videos):
    source = DOMAIN.open(str(videos), **SMALL)
    assert guess_domain(str(videos)) == "video"
    assert len(source) == 6
    assert source.class_names == ["cut", "run"]
    batch = source.fetch([3, 0])
    assert batch.x.shape == (2, 3, 4, 32, 32)
    assert batch.x.dtype == torch.uint8
    assert batch.index.tolist() == [3, 0]
    assert torch.equal(batch.x[0], source.fetch([3]).x[0])
    at = {name: i for i, name in enumerate(source.ids(np.arange(6)))}
    # Thirty frames, seven wanted: the clip in the middle begins with frame 11; video 2 starts at grey 2.
    assert shown(source, at["cut/2.mp4"]) == [13, 15, 17, 19]
    card = source.card()
    assert card["videos"] == card["clips"] == 6
    assert "25" in card["found_rates"]


def test_several_clips_a_video_stay_in_one_split(videos):
    source = DOMAIN.open(str(videos), clips_per_video=3, valid=0.2, test=0.2, **SMALL)
    assert len(source) == 18
    assert shown(source, 0)[0] == 0
    assert shown(source, 1)[0] == 11
    assert shown(source, 2)[-1] == 29
    rows = np.concatenate(list(source.splits.values()))
    assert sorted(rows) == list(range(18))
    sides = {name: set(part // 3) for name, part in source.splits.items()}
    assert not sides["train"] & (sides["valid"] | sides["test"])
    assert source.fetch([4, 5, 6]).meta["video"].tolist() == [1, 1, 2]
    assert source.ids(np.array([4])) == ["cut/2.mp4#1"]


def test_the_rate_decides_not_the_frames(make, tmp_path):
    """Two videos of one second, at 10 and at 30 frames: sampled at 10 a second they show the same times."""
    make.video(tmp_path / "a.mp4", n=10, rate=10, codec="libx264")
    make.video(tmp_path / "b.mp4", n=30, rate=30, codec="libx264")
    source = DOMAIN.open(str(tmp_path), frames=4, stride=2, rate=10, size=32)
    slow, fast = shown(source, 0), shown(source, 1)
    assert [3 * a for a in slow] == pytest.approx(fast, abs=3)
    assert fast[1] - fast[0] == 6


def test_a_table_with_seconds(videos):
    table = pd.DataFrame(
        {
            "path": ["cut/0.mp4", "cut/0.mp4", "run/1.mp4", "run/3.mp4"],
            "start": [0.0, 0.6, np.nan, 0.2],
            "end": [0.5, 1.2, np.nan, 0.8],
            "label": ["x", "y", "x", "y"],
        }
    )
    for name in ("table.csv", "table.parquet"):
        path = videos / name
        table.to_csv(path, index=False) if name.endswith("csv") else table.to_parquet(path)
        source = DOMAIN.open(str(path), valid=0.0, test=0.3, **SMALL)
        assert len(source) == 4
        assert shown(source, 0) == [2, 4, 6, 8]
        assert shown(source, 1)[0] >= 15
        assert source.class_names == ["x", "y"]
        test = set(source.splits["test"].tolist())
        assert len(test & {0, 1}) in (0, 2), "two stretches of one file are in one split"


def test_a_table_names_what_is_wrong(videos):
    def opened(**columns):
        path = videos / "t.csv"
        pd.DataFrame(columns).to_csv(path, index=False)
        return DOMAIN.open(str(path), **SMALL)

    good = ["cut/0.mp4", "run/1.mp4"]
    with pytest.raises(DataError, match=r"row 2 ends at 0.1 s, not after its start 0.5 s"):
        opened(path=good, start=[0.0, 0.5], end=[1.0, 0.1])
    with pytest.raises(DataError, match=r"row 1 has 'soon' in the column 'start'; give seconds"):
        opened(path=good, start=["soon", "0.5"])
    with pytest.raises(DataError, match=r"row 2 has no path in the column 'path'"):
        opened(path=["cut/0.mp4", None], label=[1, 2])
    with pytest.raises(DataError, match=r"no column of paths that can be told.*data.path=COLUMN"):
        opened(where=good)
    with pytest.raises(DataError, match=r"gone.mp4 does not exist \(2 such videos in all\); check data"):
        opened(path=["gone.mp4", "also_gone.mp4"])
    source = opened(path=[*good, "gone.mp4", "cut/2.mp4"], start=[0, 0, 0, 90])
    assert source.card()["left_out"] == 2
    assert "gone.mp4@0 does not exist" in source.broken[0]
    assert "starts after the video's end (1.20 s)" in source.broken[1]


def test_a_folder_that_mixes_formats(make, tmp_path):
    make.video(tmp_path / "a.mp4")
    make.video(tmp_path / "b.webm", codec="libvpx-vp9", size=(64, 48))
    make.video(tmp_path / "c.mkv", codec="libx265", pixels="yuv420p10le")
    make.sound(tmp_path / "d.mp4")
    (tmp_path / "e.avi").write_bytes(b"nothing")
    (tmp_path / "notes.txt").write_text("x")
    source = DOMAIN.open(str(tmp_path), **SMALL)
    assert len(source) == 3
    assert sorted(sentence.split()[0] for sentence in source.broken) == ["d.mp4", "e.avi"]
    assert any("1 .txt" in note for note in source.card()["notes"])
    with pytest.raises(DataError, match=r"d.mp4 holds no video \(audio only\).*mend or remove it"):
        DOMAIN.open(str(tmp_path), strict=True, **SMALL)


def test_clips_shorter_than_asked_keep_their_last_frame(make, tmp_path):
    for i in range(2):
        make.video(tmp_path / f"{i}.mp4", n=5)
    source = DOMAIN.open(str(tmp_path), frames=8, stride=2, size=32)
    assert shown(source, 0) == [0, 2, 4, 4, 4, 4, 4, 4]
    assert source.card()["shorter_than_a_clip"] == 2


def test_frame_folders(make, tmp_path):
    from PIL import Image

    for kind in ("a", "b"):
        for clip in range(2):
            place = tmp_path / kind / str(clip)
            place.mkdir(parents=True)
            for i in range(12):
                Image.fromarray(make.frame(i)).save(place / f"frame{i}.png")
    source = DOMAIN.open(str(tmp_path), frames=4, stride=3, size=32)
    assert len(source) == 4
    assert source.class_names == ["a", "b"]
    assert shown(source, 0) == [1, 4, 7, 10], "frame10 comes after frame9"


def test_arrays(tmp_path, make):
    x = np.stack([np.stack([make.frame(i + k, 16, 16) for i in range(10)]) for k in range(6)])
    kind, size = np.arange(6) % 2, np.arange(6) % 3
    np.savez(tmp_path / "clips.npz", x=x, kind=kind, size=size)
    source = DOMAIN.open(str(tmp_path / "clips.npz"), label="size", frames=4, stride=2)
    assert source.spec.size == (16, 16)
    assert source.labels.tolist() == size.tolist()
    assert shown(source, 0) == [1, 3, 5, 7]
    grey = DOMAIN.open((x[..., 0], kind), frames=10, size=8)
    assert grey.fetch([0]).x.shape == (1, 1, 10, 8, 8)
    for wrong, sentence in (
        (x[0, 0], "clips must be"),
        (np.full((3, 2, 8, 8), np.nan), "NaN"),
        (-x.astype(float), "must lie in"),
        (x[:, :0], "holds no frame"),
        (x.astype(str), "must be numbers"),
    ):
        with pytest.raises(DataError, match=sentence):
            DOMAIN.open(wrong)
    with pytest.raises(DataError, match=r"no array 'colour' of 6 values \(it has: kind, size\)"):
        DOMAIN.open(str(tmp_path / "clips.npz"), label="colour")


def test_hugging_face_datasets(videos, tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = sorted(str(p) for p in videos.rglob("*.mp4"))
    names = datasets.ClassLabel(names=["cut", "run"])
    features = datasets.Features({"video": datasets.Video(decode=False), "label": names})
    rows = {"video": [{"path": p, "bytes": None} for p in paths], "label": [0, 0, 0, 1, 1, 1]}
    found = datasets.Dataset.from_dict(rows, features=features)
    source = DOMAIN.open(found, **SMALL)
    assert len(source) == 6
    assert source.class_names == ["cut", "run"]
    assert shown(source, 0) == [11, 13, 15, 17]
    rows["video"] = [{"path": None, "bytes": Path(p).read_bytes()} for p in paths]
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    saved = DOMAIN.open(str(tmp_path / "saved"), **SMALL)
    assert torch.equal(saved.fetch(np.arange(6)).x, source.fetch(np.arange(6)).x)
    with pytest.raises(DataError, match="label holds videos"):
        DOMAIN.open(found, path="label", **SMALL)


def test_the_cache_decodes_once(videos, monkeypatch):
    first = DOMAIN.open(str(videos), cache=True, **SMALL)
    from ssl_domains.video import store

    def refuse(*_):
        raise AssertionError("decoded again")

    plain = DOMAIN.open(str(videos), **SMALL).fetch(np.arange(6)).x
    monkeypatch.setattr(store, "read_clip", refuse)
    monkeypatch.setattr(store, "read_facts", refuse)
    DOMAIN.open(str(videos), **SMALL)  # neither facts nor means are read again
    again = DOMAIN.open(str(videos), cache=True, **SMALL)
    assert torch.equal(again.fetch(np.arange(6)).x, plain)
    assert torch.equal(first.fetch(np.arange(6)).x, plain)


def test_a_video_that_breaks_later_turns_grey(videos):
    source = DOMAIN.open(str(videos), **SMALL)
    path = videos / source.ids(np.array([0]))[0]
    path.write_bytes(b"gone")
    with pytest.warns(UserWarning, match="plain grey takes its place"):
        assert (source.fetch([0]).x == 127).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source.fetch([0])  # said once
    source.store.strict = True
    with pytest.raises(DataError, match=r"data.strict=false"):
        source.fetch([0])


def test_wrong_options_and_sources(tmp_path, videos):
    for options, sentence in (
        ({"frames": 0}, "data.frames must be at least 1"),
        ({"frames": 8, "window": 4}, "data.window 4 is less than data.frames 8"),
        ({"rate": -1.0}, "data.rate is frames a second"),
        ({"label": "kind"}, "use label=folder"),
        ({"group": "("}, "no regular expression"),
        ({"valid": 1.0}, "share of the videos"),
    ):
        with pytest.raises(DataError, match=sentence):
            DOMAIN.open(str(videos), **options)
    for source, sentence in (
        (tmp_path / "nothing", "does not exist; give a folder"),
        (3, "int is no source of videos"),
        ("generated://clips?speed=0", "speed=0 is none of"),
    ):
        with pytest.raises(DataError, match=sentence):
            DOMAIN.open(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no video \(it is empty\)"):
        DOMAIN.open(str(tmp_path / "empty"))


def test_generated_clips_without_ground_show_the_digit_alone():
    name = "generated://clips?clips=20&frames=2&size=24"
    dark, lit = (DOMAIN.open(name + ground).fetch(np.arange(20)).x for ground in ("&ground=0", ""))
    assert (dark < 16).float().mean() > 0.6  # the noise is 1 % of white
    assert (lit < 16).float().mean() < 0.5
    assert (dark > 120).flatten(1).any(dim=1).all()


def test_generated_clips_are_the_same_for_the_same_name():
    name = "generated://clips?clips=20&frames=5&size=24"
    one, two = DOMAIN.open(name), DOMAIN.open(name, label="digit")
    assert torch.equal(one.fetch([3]).x, two.fetch([3]).x)
    assert len(one.class_names) == 8
    assert len(two.class_names) == 10
    assert guess_domain(name) == "video"
    x = one.fetch(np.arange(20)).x
    assert (x[:, :, 1:].int() - x[:, :, :-1].int()).abs().amax((1, 3, 4)).min() > 30, "something moves"


def test_spec_travels(videos):
    import json

    source = DOMAIN.open(str(videos), window=9, rate=12.5, fit="pad", **SMALL)
    spec = DOMAIN.spec_from_dict(json.loads(json.dumps(source.spec.to_dict())))
    assert spec == source.spec
    new = DOMAIN.embed_source(spec, str(videos), clips_per_video=2, frames=99)
    assert new.fetch([0]).x.shape == (1, 3, 9, 32, 32)
    assert len(new) == 12


def test_pictures_and_plain_features(videos):
    source = DOMAIN.open(str(videos), **SMALL)
    assert source.picture(0).shape == (32, 4 * 34 - 2, 3)
    assert source.raw_features(np.arange(3)).shape == (3, 4 * 8 * 8 * 3)
    assert source.grey(np.arange(2)).shape == (2, 32, 32)
    assert source.describe(0) == "cut"


def test_one_long_film(videos):
    film = str(videos / "cut" / "0.mp4")
    with pytest.raises(DataError, match=r"data.clips_per_video=N"):
        DOMAIN.open(film, **SMALL)
    source = DOMAIN.open(film, clips_per_video=5, **SMALL)
    assert len(source) == len(source.splits["train"]) == 5


def test_inspect_at_a_shell(videos, capsys):
    from ssl_domains.cli import main

    assert main(["inspect", str(videos), "domain=video", "frames=4", "size=32"]) == 0
    said = capsys.readouterr().out
    assert "videos: 6" in said
    assert "stride: 4   # as found" in said
    (videos / "none").mkdir()
    assert main(["inspect", str(videos / "none"), "--domain", "video"]) == 2
    assert "holds no video" in capsys.readouterr().err
