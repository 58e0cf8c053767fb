"""Key points in JSON: COCO results and annotations, OpenPose folders, MediaPipe landmarks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.known_layouts import LAYOUTS
from ssl_domains.skeleton.layouts import Layout
from ssl_domains.skeleton.readers.files import ReadOptions, about, files_of, text_of
from ssl_domains.skeleton.recordings import Recording, Recordings, same_points, track

Frame = tuple[np.ndarray, np.ndarray]
"""Persons of a frame: ``[P, V, C]`` and confidence ``[P, V]``."""


def read(path: Path, options: ReadOptions) -> Recordings:
    """Recordings from JSON.

    OpenPose: a folder of ``*_keypoints.json``, one a frame; its folder is the recording, and the
    folder above that the label. COCO: a list of ``{image_id, keypoints}`` or ``{"annotations": [...]}``,
    one file a recording. MediaPipe: a list of frames (or ``{"frames": [...]}``) of 33 landmarks ``{x, y, z,
    visibility}``, directly or under ``pose_landmarks`` or ``landmarks``, of one person or a list of them.

    Raises:
        DataError: broken JSON, another form, frames of different joint counts, or nobody in a file.
    """
    files = files_of(path, ".json")
    by_folder: dict[Path, list[Path]] = {}
    items, layouts = [], []
    for file in files:
        if file.stem.endswith("_keypoints"):
            by_folder.setdefault(file.parent, []).append(file)
            continue
        frames, layout, facts = _frames(_parse(file), file)
        items.append(_recording(file.name, frames, options.persons or 1, about(file, path) | facts))
        layouts.append(layout)
    for folder, members in by_folder.items():
        frames = [_openpose(_parse(file), file) for file in members]
        v = next((f[0].shape[1] for f in frames if len(f[0])), 0)
        items.append(_recording(folder.name, frames, options.persons or 1, about(folder, path)))
        layouts.append(LAYOUTS["openpose-25" if v == 25 else "openpose-18"])
    if items:
        same_points(items)
    c = items[0].points.shape[-1] if items else 2
    return Recordings(items, ("x", "y", "z")[:c], layouts[0] if layouts else None)


def _parse(file: Path) -> Any:
    try:
        return json.loads(text_of(file))
    except ValueError as error:
        raise DataError(f"{file}: is not JSON: {error}") from None


def _recording(name: str, frames: Sequence[Frame], persons: int, facts: dict[str, Any]) -> Recording:
    counts = {f[0].shape[1:] for f in frames if len(f[0])}
    if not counts:
        raise DataError(f"{name}: no frame holds a person; remove it")
    if len(counts) > 1:
        raise DataError(
            f"{name}: its frames have different numbers of joints ({sorted(c[0] for c in counts)})"
        )
    shape = counts.pop()
    empty = (np.zeros((0, *shape), np.float32), np.zeros((0, shape[0]), np.float32))
    whole = [f if len(f[0]) else empty for f in frames]
    points, confidence = track([f[0] for f in whole], [f[1] for f in whole], persons)
    return Recording(name, points, confidence, **facts)


def _frames(found: Any, file: Path) -> tuple[list[Frame], Layout | None, dict[str, Any]]:
    facts: dict[str, Any] = {}
    if isinstance(found, dict):
        facts = {
            key: found[key] for key in ("label", "group", "split") if isinstance(found.get(key), str | int)
        }
        if "rate" in found or "fps" in found:
            facts["rate"] = float(found.get("rate") or found["fps"])
    if isinstance(found, dict) and "annotations" in found:
        found = found["annotations"]
    elif isinstance(found, dict):
        found = found.get("frames", found.get("results"))
    if not isinstance(found, list) or not found:
        raise DataError(f"{file}: holds no list of frames or annotations")
    if isinstance(found[0], dict) and "keypoints" in found[0]:
        frames = _coco(found, file)
        v = frames[0][0].shape[1]
        return frames, LAYOUTS["coco-17"] if v == 17 else None, facts
    frames = [_mediapipe(frame, file, t) for t, frame in enumerate(found)]
    return frames, LAYOUTS["mediapipe-33"], facts


def _coco(found: list[Any], file: Path) -> list[Frame]:
    """Persons of each image, in the order of the images' ids."""
    by_image: dict[Any, list[np.ndarray]] = {}
    for number, entry in enumerate(found):
        values = np.asarray(entry.get("keypoints", ()), dtype=np.float32)
        if values.size == 0 or values.size % 3:
            raise DataError(
                f"{file}: annotation {number} has {values.size} key-point values, expected x, y, score each"
            )
        by_image.setdefault(entry.get("image_id", number), []).append(values.reshape(-1, 3))
    try:
        order = sorted(by_image)
    except TypeError:
        order = list(by_image)
    return [_scored(by_image[image], file) for image in order]


def _scored(persons: Sequence[np.ndarray], file: Path) -> Frame:
    """Key points with a score of 0 are missing; COCO's annotations have flags 0, 1 (hidden), 2 instead."""
    if len({len(p) for p in persons}) > 1:
        raise DataError(f"{file}: persons of one frame have different numbers of joints")
    values = np.stack(list(persons))
    score = values[..., 2] / (2.0 if values[..., 2].max() > 1.0 else 1.0)
    return np.where(score[..., None] > 0, values[..., :2], np.nan).astype(np.float32), score


def _openpose(found: Any, file: Path) -> Frame:
    if not isinstance(found, dict) or "people" not in found:
        raise DataError(f"{file}: holds no `people`, as OpenPose's files do")
    persons = []
    for person in found["people"]:
        values = (
            person.get("pose_keypoints_3d")
            or person.get("pose_keypoints_2d")
            or person.get("pose_keypoints")
            or ()
        )
        wide = 4 if person.get("pose_keypoints_3d") else 3
        if not len(values) or len(values) % wide:
            raise DataError(f"{file}: a person has {len(values)} key-point values, expected {wide} a joint")
        persons.append(np.asarray(values, dtype=np.float32).reshape(-1, wide))
    if not persons:
        return np.zeros((0, 0, 2), np.float32), np.zeros((0, 0), np.float32)
    joined = np.stack(persons)
    score = joined[..., -1].clip(0, 1)
    return np.where(score[..., None] > 0, joined[..., :-1], np.nan).astype(np.float32), score


def _mediapipe(frame: Any, file: Path, number: int) -> Frame:
    """Persons of one frame of landmarks."""
    if isinstance(frame, dict):
        keys = ("pose_world_landmarks", "pose_landmarks", "landmarks")
        frame = next((frame[key] for key in keys if frame.get(key)), [])
    if isinstance(frame, dict):  # protobuf's JSON: {"landmark": [...]}
        frame = frame.get("landmark", [])
    if not frame:
        return np.zeros((0, 0, 3), np.float32), np.zeros((0, 0), np.float32)
    persons = [frame] if isinstance(frame[0], dict) else frame
    try:
        values = np.array([[[p["x"], p["y"], p.get("z", 0.0), p.get("visibility", 1.0)] for p in person]
                           for person in persons], dtype=np.float32)  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{file}: frame {number} is no list of landmarks {{x, y, z, visibility}}") from None
    if values.shape[1] != 33:
        raise DataError(f"{file}: frame {number} has {values.shape[1]} landmarks, MediaPipe's pose has 33")
    return values[..., :3], values[..., 3]
