"""BVH motion capture: hierarchy and angles, turned into positions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.known_layouts import LAYOUTS
from ssl_domains.skeleton.layouts import Layout, make
from ssl_domains.skeleton.readers.files import ReadOptions, about, files_of, text_of
from ssl_domains.skeleton.recordings import Recording, Recordings, same_points


@dataclass
class Joint:
    """A joint of the hierarchy: parent's place (-1: root), offset, channels by name, where they begin."""

    name: str
    parent: int
    offset: np.ndarray = field(default_factory=lambda: np.zeros(3))
    channels: list[str] = field(default_factory=list)
    first: int = 0


def read(path: Path, options: ReadOptions) -> Recordings:
    """All ``.bvh`` files at a place. End sites are left out; units are the files' own.

    The layout is the hierarchy itself, or ``cmu-31`` where the joints are those of CMU's library.

    Raises:
        DataError: a broken file, or two with different joints; names the line or the joint.
    """
    items, hierarchies = [], []
    for file in files_of(path, ".bvh"):
        joints, frames, seconds = parse(file)
        points = positions(joints, frames).astype(np.float32)
        rate = 1.0 / seconds if seconds > 0 else None
        items.append(Recording(file.name, points[:, None], rate=rate, **about(file, path)))
        hierarchies.append(joints)
    if items:
        same_points(items, [[j.name for j in joints] for joints in hierarchies])
    return Recordings(items, ("x", "y", "z"), _layout(hierarchies[0]) if hierarchies else None)


def _layout(joints: list[Joint]) -> Layout:
    names, parents = [j.name for j in joints], [j.parent for j in joints]
    cmu = LAYOUTS["cmu-31"]
    if tuple(names) == cmu.joints and tuple(parents) == cmu.parents:
        return cmu
    return make("bvh", names, parents)


def parse(file: Path) -> tuple[list[Joint], np.ndarray, float]:
    """Joints, ``[T, channels]`` motion, and seconds a frame."""
    lines = text_of(file).splitlines()
    joints: list[Joint] = []
    stack: list[int] = []
    at, in_end, n_channels = 0, False, 0
    for at, line in enumerate(lines):
        words = line.split()
        if not words or words[0] in ("HIERARCHY", "{"):
            continue
        head = words[0].upper()
        try:
            if head in ("ROOT", "JOINT"):
                joints.append(Joint(" ".join(words[1:]), stack[-1] if stack else -1))
                stack.append(len(joints) - 1)
            elif head == "END":
                in_end = True
            elif head == "OFFSET" and not in_end:
                joints[stack[-1]].offset = np.array([float(w) for w in words[1:4]])
            elif head == "CHANNELS":
                joint = joints[stack[-1]]
                joint.channels, joint.first = [w.lower() for w in words[2:]], n_channels
                n_channels += len(joint.channels)
            elif head == "}":
                in_end, _ = False, None if in_end else stack.pop()
            elif head == "MOTION":
                break
        except (IndexError, ValueError):
            raise DataError(
                f"{file}: line {at + 1} is no part of a BVH hierarchy: {line.strip()[:40]!r}"
            ) from None
    return joints, *_motion(lines[at + 1 :], at + 2, n_channels, file)


def _motion(lines: list[str], first: int, n_channels: int, file: Path) -> tuple[np.ndarray, float]:
    head = [line.lower() for line in lines[:2]]
    if len(head) < 2 or not head[0].startswith("frames:") or not head[1].startswith("frame time:"):
        raise DataError(f"{file}: after MOTION there must be `Frames:` and `Frame Time:` (line {first})")
    rows = []
    for number, line in enumerate(lines[2:], start=first + 2):
        if not line.strip():
            continue
        try:
            row = [float(w) for w in line.split()]
        except ValueError:
            raise DataError(f"{file}: line {number} holds something that is no number") from None
        if len(row) != n_channels:
            raise DataError(f"{file}: line {number} has {len(row)} values for {n_channels} channels")
        rows.append(row)
    if not rows:
        raise DataError(f"{file}: holds no frame; remove the file")
    return np.array(rows), float(head[1].split(":")[1])


def positions(joints: list[Joint], motion: np.ndarray) -> np.ndarray:
    """Forward kinematics: ``[T, V, 3]`` positions from ``[T, channels]`` (degrees); all frames at once."""
    turned: list[np.ndarray] = []
    placed: list[np.ndarray] = []
    for joint in joints:
        local, moved = np.broadcast_to(np.eye(3), (len(motion), 3, 3)), joint.offset[None]
        for number, name in enumerate(joint.channels):
            values, axis = motion[:, joint.first + number], "xyz".index(name[0])
            if name.endswith("position"):
                moved = moved + values[:, None] * np.eye(3)[axis]
            else:
                local = local @ _turn(axis, np.radians(values))
        if joint.parent >= 0:
            above = turned[joint.parent]
            placed.append(
                placed[joint.parent]
                + np.einsum("tij,tj->ti", above, np.broadcast_to(moved, (len(motion), 3)))
            )
            turned.append(above @ local)
        else:
            placed.append(np.broadcast_to(moved, (len(motion), 3)))
            turned.append(local)
    return np.stack(placed, axis=1)


def _turn(axis: int, angle: np.ndarray) -> np.ndarray:
    """``[T, 3, 3]`` rotations about one axis."""
    c, s = np.cos(angle), np.sin(angle)
    out = np.zeros((len(angle), 3, 3))
    a, b = (axis + 1) % 3, (axis + 2) % 3
    out[:, axis, axis] = 1.0
    out[:, a, a], out[:, a, b], out[:, b, a], out[:, b, b] = c, -s, s, c
    return out
