"""Layouts, clips in batches, centring, splits, cards and bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.domain import SkeletonDomain
from ssl_domains.skeleton.known_layouts import LAYOUTS
from ssl_domains.skeleton.layouts import find_layout, guess_pairs, read_layout, side_of
from ssl_domains.skeleton.spec import BodySpec
from ssl_domains.skeleton.splits import SharedGroupWarning


def open_(source, **data):
    return SkeletonDomain().open(source, **data)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_known_layouts_hang_together(layout):
    assert len(layout.bones) == len(layout) - 1  # one tree
    assert sorted(v for _, places in layout.parts for v in places) == list(range(len(layout)))
    mirror = layout.mirror()
    assert [mirror[m] for m in mirror] == list(range(len(layout)))
    for left, right in layout.pairs:
        assert (side_of(layout.joints[left]), side_of(layout.joints[right])) == ("left", "right")
    sided = [j for j in layout.joints if side_of(j)]
    assert len(sided) == 2 * len(layout.pairs)
    parents = [layout.parents[m] for m in mirror]
    for v, p in enumerate(layout.parents):  # the mirror image has the same bones
        assert parents[v] == (mirror[p] if p >= 0 else -1)
    assert type(layout).from_dict(json.loads(json.dumps(layout.to_dict()))) == layout


def test_layouts_of_a_file_and_their_mistakes(tmp_path):
    path = tmp_path / "dog.yaml"
    path.write_text("joints: [nose, tail, paw_L, paw_R]\nbones: {nose: tail, paw_L: tail, paw_R: tail}\n")
    dog = read_layout(path)
    assert (dog.parents, dog.pairs, dog.root) == ((1, -1, 1, 1), ((2, 3),), 1)
    assert find_layout(str(path), 4, "x") == dog
    for text, said in (
        ("joints: [a, a]", "'a' is named twice"),
        ("joints: [a, b]\nbones: {c: a}", "names 'c', which is no joint"),
        ("joints: [a, b]\nbones: {a: b, b: a}", "in a circle"),
        ("joints: [a, b]\nparts: {x: [a]}", "look at b"),
        ("bones: {}", "must hold joints"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            read_layout(path)
    assert guess_pairs(["LHip", "RHip", "l_knee", "r_knee", "root"]) == [(0, 1), (2, 3)]


def test_fetch_of_one_is_fetch_within_a_batch(motions):
    rows = [3, 7, 1]
    whole = motions.fetch(rows)
    for b, row in enumerate(rows):
        one, n = motions.fetch([row]).x, int(whole.x["length"][b])
        assert one["points"].shape[2] == n
        assert np.array_equal(one["points"][0], whole.x["points"][b, :, :n])
        assert (whole.x["confidence"][b, n:] == 0).all()
    assert whole.meta["group"].tolist() == [int(motions.groups[r]) for r in rows]
    assert motions.raw_features(np.array(rows)).shape == (3, 16 * 25 * 3)


def test_clips_are_centred_and_scaled(motions, clips):
    x = motions.fetch([2]).x["points"][0]
    assert np.allclose(x[:, 0, motions.spec.layout.root], 0.0, atol=1e-6)
    train = motions.fetch(motions.splits["train"]).x
    assert float((train["points"] ** 2).sum() / train["confidence"].sum() / 3) == pytest.approx(1.0, abs=0.01)
    moving = open_("generated://motions?clips=16&people=4", center="frame").fetch([0, 5]).x
    root = moving["points"][:, :, :, motions.spec.layout.root]
    assert np.allclose(root, 0.0, atol=1e-6)
    spec = BodySpec.from_dict(json.loads(json.dumps(motions.spec.to_dict())))
    assert spec == motions.spec


def test_a_root_that_is_missing_at_first(clips):
    x = np.random.default_rng(0).normal(size=(4, 3, 10, 25, 1)).astype(np.float32)
    x[0, :, :6, 1] = np.nan  # the root of ntu-25 comes in the seventh frame
    x[1, :, :, 1] = np.nan  # and never
    source = open_(clips("a.npz", x), normalize="none", max_gap=0, valid=0, test=0)
    first, second = source.fetch([0]).x, source.fetch([1]).x
    assert np.allclose(first["points"][0, :, 6, 1, 0], 0, atol=1e-6)
    known = second["confidence"][0, 0, :, 0] > 0
    assert np.allclose(second["points"][0, :, 0][:, known].mean(1), 0, atol=1e-6)
    assert second["points"].isfinite().all()


def test_groups_stay_whole_unless_a_split_is_given(clips):
    subject = np.array(list("aabbccdd"))
    source = open_(clips("a.npz", None, subject=subject), valid=0.25, test=0.25)
    sets = {s: {source.clips.groups[i] for i in rows} for s, rows in source.splits.items()}
    assert not sets["train"] & sets["test"]
    assert not sets["train"] & sets["valid"]
    split = np.array(["train", "test"] * 4)
    with pytest.warns(SharedGroupWarning, match="4 groups are in train and test"):
        open_(clips("a.npz", None, subject=subject, split=split))


def test_windows_of_one_recording_share_a_split():
    with pytest.warns(SharedGroupWarning, match="2 groups"):
        source = open_("generated://wearables?clips=12&people=2", window=2, hop=1, valid=0.2, test=0.2)
    recording = np.array([name.split("#")[0] for name in source.clips.names])
    train, test = (set(recording[source.splits[s]]) for s in ("train", "test"))
    assert test
    assert not train & test


def test_limit_and_card_and_inspect(motions):
    few = open_("generated://motions?clips=40&people=6", limit=10)
    assert len(few) == 10
    card, yaml = SkeletonDomain().inspect("generated://motions?clips=8&people=3")
    assert card["layout"] == "ntu-25, 25 joints"
    assert sum(card["class_balance"].values()) == pytest.approx(1.0)
    assert "# layout: ntu-25" in yaml
    assert motions.describe(0).endswith(" s")


def test_pictures(motions, wearables):
    for source in (motions, wearables):
        picture = source.picture(1)
        assert picture.shape == (96, 288, 3)
        assert picture.dtype == np.uint8
        assert 200 < (picture < 250).any(-1).sum() < 20_000


def bad(x):
    return np.where(np.arange(x.size).reshape(x.shape) == 70, np.inf, x)


X = np.random.default_rng(0).normal(size=(4, 3, 10, 25, 1)).astype(np.float32)
NOBODY = X.copy()
NOBODY[2] = 0.0


@pytest.mark.parametrize(
    ("x", "sides", "data", "said"),
    [
        (NOBODY, {}, {}, r"a\.npz:2: no frame holds a person"),
        (bad(X), {}, {}, r"a\.npz:0: frame 2, .*the value is infinite"),
        (X, {}, {"layout": "coco-17"}, r"layout 'coco-17' has 17; ntu-25 or openpose-25 would fit"),
        (X, {}, {"layout": "kinect"}, "no layout 'kinect'"),
        (X, {"length": np.array([10, 11, 10, 10])}, {}, "length of clip 1 is 11, expected 1 to 10"),
        (X, {"label": np.array([0, 1])}, {}, "'label' has 2 rows for 4 clips"),
        (X, {"label": np.zeros(4)}, {}, "all labels are '0'"),
        (X, {}, {"label": "action"}, "holds no array 'action'"),
        (X[0, 0, :, :, 0], {}, {}, r"expected numbers \[N, C, T, V, M\]"),
        (X, {}, {"center": "middle"}, "data.center is 'middle'"),
        (X, {}, {"normalize": "big"}, "data.normalize is 'big'"),
        (X, {}, {"frames": 1}, "data.frames is 1"),
        (X, {}, {"valid": 1.0}, "data.valid is a share"),
        (X, {}, {"min_confidence": 1.5}, "no frame holds a person"),
        (X, {"split": np.array(["train", "other", "test", "test"])}, {}, "split 'other' is not one of"),
    ],
)
def test_bad_arrays_end_in_a_sentence(clips, x, sides, data, said):
    with pytest.raises(DataError, match=said):
        open_(clips("a.npz", x, **sides), **data)


def test_bad_places(tmp_path, clips):
    with pytest.raises(DataError, match="no such file or folder"):
        open_(tmp_path / "none.npz")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.bvh").write_text("")
    (tmp_path / "two" / "a.csv").write_text("")
    with pytest.raises(DataError, match=r"several kinds \(\.bvh, \.csv\)"):
        open_(tmp_path / "two")
    (tmp_path / "broken.npz").write_bytes(b"PK no")
    with pytest.raises(DataError, match=r"broken\.npz: cannot be read"):
        open_(tmp_path / "broken.npz")
    (tmp_path / "pair").mkdir()
    clips("pair/a.npz", X)
    clips("pair/b.npz", X[:, :, :, :17])
    with pytest.raises(DataError, match=r"b\.npz:0 has 17 points of 3 values, a\.npz:0 has 25 of 3"):
        open_(tmp_path / "pair")
    (tmp_path / "labels.csv").write_text("name,label\nother,a\n")
    with pytest.raises(DataError, match=r"does not name a\.npz:0"):
        open_(clips("a.npz", X), labels=str(tmp_path / "labels.csv"))
    for name in ("generated://people", "generated://motions?clips=0", "generated://motions?size=3"):
        with pytest.raises(DataError, match="generated"):
            open_(name)


def test_missing_joints_are_zero_with_confidence_zero(clips):
    x = X.copy()
    x[1, :, 4:7, 9] = np.nan
    filled = open_(clips("a.npz", x), max_gap=0.2).fetch([1]).x["confidence"]
    assert (filled[0, 4:7, 9, 0] == 0.5).all()
    kept = open_(clips("a.npz", x), max_gap=0.05).fetch([1]).x
    assert (kept["confidence"][0, 4:7, 9, 0] == 0).all()
    assert (kept["points"][0, :, 4:7, 9] == 0).all()


def test_new_data_with_a_fitted_spec(motions, clips):
    spec = motions.spec
    other = replace(spec.layout, joints=spec.layout.joints[::-1])
    sent = {"name": "x", "joints": list(other.joints)}
    x = np.random.default_rng(0).normal(size=(3, 3, 30, 25, 1)).astype(np.float32)
    turned = SkeletonDomain().embed_source(spec, clips("a.npz", x, layout=np.array(json.dumps(sent))))
    plain = SkeletonDomain().embed_source(spec, clips("b.npz", np.ascontiguousarray(x[:, :, :, ::-1])))
    assert np.allclose(turned.fetch([0]).x["points"], plain.fetch([0]).x["points"], atol=1e-5)
    with pytest.raises(DataError, match="no 'spine_base', which the encoder knows"):
        SkeletonDomain().embed_source(spec, clips("c.npz", x[:, :, :, :17]))
    with pytest.raises(DataError, match="2 channels, the encoder wants x, y, z"):
        SkeletonDomain().embed_source(spec, clips("d.npz", x[:, :2]))
