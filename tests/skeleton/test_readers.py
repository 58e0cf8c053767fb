"""Every format, read back to the numbers that were written."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.domain import SkeletonDomain
from ssl_domains.skeleton.readers.files import ReadOptions, read
from ssl_domains.skeleton.recordings import fill_gaps, keep_moving, track

OPTIONS = ReadOptions()


def ntu_text(points: np.ndarray, state: int = 2, body: int = 72057594037931101) -> str:
    """A ``.skeleton`` file of one body from ``[T, 25, 3]``; an empty array of a frame means nobody."""
    lines = [str(len(points))]
    for frame in points:
        if np.isnan(frame).all():
            lines.append("0")
            continue
        lines += ["1", f"{body} 0 1 1 1 1 0 0.1 -0.2 2", "25"]
        lines += [" ".join(map(str, [*joint, 0, 0, 0, 0, 1, 0, 0, 0, state])) for joint in frame.tolist()]
    return "\n".join(lines) + "\n"


BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 0.0 0.0 0.0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT LeftArm
  {
    OFFSET 1.0 0.0 0.0
    CHANNELS 3 Zrotation Xrotation Yrotation
    JOINT LeftHand
    {
      OFFSET 1.0 0.0 0.0
      CHANNELS 3 Zrotation Xrotation Yrotation
      End Site
      {
        OFFSET 0.5 0.0 0.0
      }
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.04
0 0 0 0 0 0 0 0 0 0 0 0
1 2 3 90 0 0 0 0 0 0 0 0
0 0 0 0 0 0 0 0 90 0 0 0
"""


def landmarks(t: int, v: int = 33) -> list[dict[str, float]]:
    """One MediaPipe person."""
    return [{"x": i / v, "y": t / 10, "z": 0.1 * i, "visibility": 0.9} for i in range(v)]


def openpose(person: list[list[float]] | None) -> str:
    people = [] if person is None else [{"pose_keypoints_2d": list(np.ravel(person))}]
    return json.dumps({"version": 1.3, "people": people})


def test_ntu_files(tmp_path):
    points = np.random.default_rng(0).normal(size=(5, 25, 3)).round(4)
    (tmp_path / "S001C002P003R001A013.skeleton").write_text(ntu_text(points, state=1))
    found = read(tmp_path, OPTIONS)
    item = found.items[0]
    assert found.layout.name == "ntu-25"
    assert (item.label, item.group, item.rate) == ("A013", "P003", 30.0)
    assert item.points.shape == (5, 2, 25, 3)
    assert np.allclose(item.points[:, 0], points, atol=1e-6)
    assert np.isnan(item.points[:, 1]).all()
    assert (item.confidence[:, 0] == 0.5).all()  # inferred


def test_broken_ntu_file_names_the_line(tmp_path):
    path = tmp_path / "a.skeleton"
    path.write_text("\n".join(ntu_text(np.zeros((2, 25, 3))).splitlines()[:-3]))
    with pytest.raises(DataError, match=r"a\.skeleton: breaks off at line \d+"):
        read(path, OPTIONS)
    path.write_text("2\n0\n0\n")
    with pytest.raises(DataError, match="no frame holds a body"):
        read(path, OPTIONS)


def test_coco_results_are_tracked(tmp_path):
    """Two persons whose order changes from frame to frame keep their places."""
    rows = []
    for t in range(6):
        people = [np.full((17, 3), (10.0 + t, 5.0, 0.9)), np.full((17, 3), (200.0 - t, 5.0, 0.8))]
        for person in people if t % 2 else people[::-1]:
            rows.append({"image_id": t, "keypoints": person.ravel().tolist(), "score": 0.9})
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    found = read(path, ReadOptions(persons=2))
    x = found.items[0].points[..., 0]  # [T, M, V]
    assert found.layout.name == "coco-17"
    one, two = sorted((x[:, m, 0] for m in range(2)), key=lambda v: v[0])
    assert np.allclose(one, 10 + np.arange(6))
    assert np.allclose(two, 200 - np.arange(6))


def test_openpose_folder(tmp_path):
    folder = tmp_path / "wave" / "clip1"
    folder.mkdir(parents=True)
    for t in range(4):
        person = None if t == 2 else [[t, v, 0.0 if v == 3 else 0.7] for v in range(25)]
        (folder / f"clip1_{t:012d}_keypoints.json").write_text(openpose(person))
    found = read(tmp_path, OPTIONS)
    item = found.items[0]
    assert (found.layout.name, item.name, item.label) == ("openpose-25", "clip1", "wave")
    assert np.isnan(item.points[2]).all()
    assert np.isnan(item.points[0, 0, 3]).all()
    assert item.confidence[0, 0, 4] == pytest.approx(0.7)


def test_mediapipe_frames(tmp_path):
    path = tmp_path / "pose.json"
    frames = [{"pose_landmarks": landmarks(0)}, {"pose_landmarks": None}, {"pose_landmarks": [landmarks(2)]}]
    path.write_text(json.dumps({"frames": frames, "fps": 25, "label": "dance"}))
    found = read(path, OPTIONS)
    item = found.items[0]
    assert (found.layout.name, item.label, item.rate) == ("mediapipe-33", "dance", 25.0)
    assert item.points.shape == (3, 1, 33, 3)
    assert item.points[2, 0, 0, 1] == pytest.approx(0.2)
    assert np.isnan(item.points[1]).all()
    path.write_text(json.dumps([landmarks(0, 20)]))
    with pytest.raises(DataError, match="20 landmarks"):
        read(path, OPTIONS)


def test_bvh_by_hand(tmp_path):
    (tmp_path / "a.bvh").write_text(BVH)
    found = read(tmp_path / "a.bvh", OPTIONS)
    p = found.items[0].points[:, 0]  # [T, 3, 3]
    assert found.layout.joints == ("Hips", "LeftArm", "LeftHand")
    assert found.layout.parents == (-1, 0, 1)
    assert found.items[0].rate == pytest.approx(25.0)
    assert np.allclose(p[0], [[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    assert np.allclose(p[1], [[1, 2, 3], [1, 3, 3], [1, 4, 3]], atol=1e-6)  # turned by 90 degrees about z
    assert np.allclose(p[2], [[0, 0, 0], [1, 0, 0], [1, 0, -1]], atol=1e-6)  # the arm by 90 degrees about y
    (tmp_path / "b.bvh").write_text(BVH.replace("LeftHand", "Other"))
    with pytest.raises(DataError, match="first difference: 'Other'"):
        read(tmp_path, OPTIONS)
    (tmp_path / "b.bvh").write_text(BVH.replace("0 0 0 0 0 0 0 0 90 0 0 0", "0 0 0"))
    with pytest.raises(DataError, match="3 values for 12 channels"):
        read(tmp_path / "b.bvh", OPTIONS)


def test_c3d(tmp_path):
    ezc3d = pytest.importorskip("ezc3d")
    c3d = ezc3d.c3d()
    c3d["parameters"]["POINT"]["RATE"]["value"] = [100]
    c3d["parameters"]["POINT"]["LABELS"]["value"] = ("LASI", "RASI", "head")
    points = np.random.default_rng(0).normal(size=(4, 3, 6))
    points[:, 1, 2] = np.nan
    c3d["data"]["points"] = points
    c3d.write(str(tmp_path / "a.c3d"))
    found = read(tmp_path / "a.c3d", OPTIONS)
    assert found.layout.joints == ("LASI", "RASI", "head")
    assert found.layout.pairs == ((0, 1),)
    assert found.items[0].rate == 100.0
    assert np.allclose(found.items[0].points[0, 0, 0], points[:3, 0, 0], atol=1e-5)
    assert np.isnan(found.items[0].points[2, 0, 1]).all()
    (tmp_path / "b.c3d").write_bytes(b"no")
    with pytest.raises(DataError, match=r"b\.c3d: cannot be read as C3D"):
        read(tmp_path / "b.c3d", OPTIONS)


@pytest.mark.parametrize("form", ["long", "wide"])
def test_tables(tmp_path, form):
    rng = np.random.default_rng(0)
    joints = ["hip", "left_hand", "right_hand"]
    values = rng.normal(size=(2, 5, 3, 3))
    rows = []
    for clip in range(2):
        for t in range(5):
            facts = {"clip": f"c{clip}", "frame": t, "label": "ab"[clip], "subject": clip}
            if form == "wide":
                cells = {
                    f"{j}_{a}": values[clip, t, v, i]
                    for v, j in enumerate(joints)
                    for i, a in enumerate("xyz")
                }
                rows.append(facts | cells)
                continue
            for v, joint in enumerate(joints):
                if (clip, t, v) != (1, 2, 0):
                    rows.append(facts | {"joint": joint} | dict(zip("xyz", values[clip, t, v])))
    pd.DataFrame(rows).to_csv(tmp_path / "poses.csv", index=False)
    found = read(tmp_path / "poses.csv", OPTIONS)
    assert found.layout.joints == tuple(joints)
    assert found.layout.pairs == ((1, 2),)
    assert [(i.label, i.group) for i in found.items] == [("a", "0"), ("b", "1")]
    assert np.allclose(found.items[0].points[:, 0], values[0], atol=1e-6)
    assert np.isnan(found.items[1].points[2, 0, 0]).all() == (form == "long")


def test_arrays_ragged_padded_and_mapped(tmp_path, clips):
    x = np.random.default_rng(0).normal(size=(6, 3, 12, 17, 2)).astype(np.float32)
    length = np.array([12, 5, 12, 7, 12, 12])
    path = clips("a.npz", x, length=length, label=np.array(list("aabbcc")), subject=np.arange(6))
    source = SkeletonDomain().open(path, center="none", normalize="none", valid=0.0, test=0.0)
    assert source.spec.layout.name == "coco-17"
    assert source.spec.persons == 2
    batch = source.fetch([1, 3])
    assert batch.x["length"].tolist() == [5, 7]
    assert batch.x["points"].shape == (2, 3, 7, 17, 2)
    assert np.allclose(batch.x["points"][0, :, :5], x[1, :, :5])
    assert (batch.x["points"][0, :, 5:] == 0).all()
    np.save(tmp_path / "b.npy", x)
    np.save(tmp_path / "b_label.npy", np.array([0, 0, 1, 1, 2, 2]))
    again = SkeletonDomain().open(tmp_path / "b.npy", center="none", normalize="none")
    assert again.class_names == ["0", "1", "2"]
    assert np.allclose(again.fetch([4]).x["points"][0], x[4])


def test_large_arrays_stay_on_the_disk(tmp_path, monkeypatch):
    """The same batches, whether the array was copied or stays mapped."""
    import ssl_domains.skeleton.build as build
    from ssl_domains.skeleton.store import ArrayStore

    x = np.random.default_rng(0).normal(size=(9, 3, 10, 25, 1)).astype(np.float32)
    x[2, :, 3, 4] = np.nan
    np.save(tmp_path / "x.npy", x)
    whole = SkeletonDomain().open(tmp_path / "x.npy", max_gap=0.0)
    monkeypatch.setattr(build, "IN_MEMORY", 0)
    mapped = SkeletonDomain().open(tmp_path / "x.npy", max_gap=0.0)
    assert isinstance(mapped.store, ArrayStore)
    for key, value in whole.fetch([2, 8, 0]).x.items():
        assert np.allclose(value, mapped.fetch([2, 8, 0]).x[key], atol=1e-5), key


def test_gaps_are_filled_by_lines():
    x = np.array([0.0, np.nan, np.nan, 3.0, np.nan, np.nan, np.nan, 7.0, np.nan])
    assert np.array_equal(fill_gaps(x, 2), [0, 1, 2, 3, np.nan, np.nan, np.nan, 7, np.nan], equal_nan=True)
    assert np.array_equal(fill_gaps(x, 0), x, equal_nan=True)


def test_tracks_keep_the_most_confident_and_the_most_moving():
    still, moving = np.zeros((6, 1, 4, 2)), np.random.default_rng(0).normal(size=(6, 1, 4, 2))
    both = np.concatenate([still, moving], axis=1)
    kept, sure = keep_moving(both, np.ones((6, 2, 4)), 1)
    assert np.array_equal(kept, moving)
    assert sure.shape == (6, 1, 4)
    points, confidence = track([both[t] for t in range(6)], [np.array([[0.2] * 4, [0.9] * 4])] * 6, 1)
    assert np.allclose(points, moving, atol=1e-6)
    assert confidence.max() == pytest.approx(0.9)
    with pytest.raises(DataError, match="no frame holds a person"):
        track([np.zeros((0, 4, 2))], [np.zeros((0, 4))], 1)
