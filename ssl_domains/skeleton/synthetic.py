"""Generated recordings: a body of 25 joints that moves in a few ways, and devices worn on it.

``generated://motions`` gives skeletons, ``generated://wearables`` what accelerometers and gyroscopes on
six limbs would measure. They are for trying things out: no number on them says anything about people.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.known_layouts import LAYOUTS
from ssl_domains.skeleton.readers.sensors import device_layout, vectors_of
from ssl_domains.skeleton.recordings import Recording, Recordings

ACTIONS = ("walk", "run", "jump", "wave left", "wave right", "clap", "kick", "bow")
DEVICES = {"left_wrist": 6, "right_wrist": 10, "chest": 20, "hip": 0, "left_ankle": 14, "right_ankle": 18}
"""Where devices are worn: joints of ``ntu-25``."""
RATE = 30.0
_GRAVITY = np.array([0.0, -9.81, 0.0])

# Rest pose of ntu-25 in metres: offset of each joint from its parent.
_OFFSETS = {
    "spine_shoulder": (0, 0.9, 0), "spine_mid": (0, -0.25, 0), "spine_base": (0, -0.25, 0),
    "neck": (0, 0.08, 0), "head": (0, 0.15, 0), "left_shoulder": (0.18, -0.03, 0),
    "left_elbow": (0, -0.28, 0),
    "left_wrist": (0, -0.25, 0), "left_hand": (0, -0.08, 0), "left_hand_tip": (0, -0.08, 0),
    "left_thumb": (0.03, -0.04, 0.03), "left_hip": (0.1, -0.05, 0), "left_knee": (0, -0.42, 0),
    "left_ankle": (0, -0.4, 0), "left_foot": (0, -0.06, 0.14),
}  # fmt: skip
_SWING = ("left_shoulder", "right_shoulder", "left_hip", "right_hip", "spine_mid", "left_elbow",
          "right_elbow", "left_knee", "right_knee")  # fmt: skip


def is_generated(source: object) -> bool:
    """True for ``generated://...``."""
    return isinstance(source, str) and source.startswith("generated://")


def generate(source: str) -> Recordings:
    """``generated://motions?clips=800&people=20&seed=0``, or ``generated://wearables?...`` (there a clip
    is 8 s).

    Raises:
        DataError: an unknown kind or key.
    """
    kind, _, query = source.removeprefix("generated://").partition("?")
    if kind not in ("motions", "wearables"):
        raise DataError(f"{source}: use generated://motions or generated://wearables")
    options = {
        "clips": 800 if kind == "motions" else 240,
        "people": 20 if kind == "motions" else 12,
        "seed": 0,
    }
    for key, value in parse_qsl(query):
        if key not in options or not value.isdigit() or (key != "seed" and int(value) < 1):
            raise DataError(f"{source}: {key}={value} is none of clips, people (1 or more), seed")
        options[key] = int(value)
    rng = np.random.default_rng(options["seed"])
    people = [_person(rng) for _ in range(options["people"])]
    items = []
    for number in range(options["clips"]):
        action, who = number % len(ACTIONS), int(rng.integers(len(people)))
        frames = int(rng.integers(48, 120)) if kind == "motions" else int(8 * RATE)
        points, turns = _move(action, people[who], frames, rng)
        facts: dict[str, Any] = {"label": ACTIONS[action], "group": f"person {who:02d}", "rate": RATE}
        if kind == "motions":
            items.append(Recording(f"motion {number}", points[:, None].astype(np.float32), **facts))
        else:
            values = _worn(points, turns, rng)
            items.append(Recording(f"recording {number}", values[:, None].astype(np.float32), **facts))
    if kind == "motions":
        return Recordings(items, ("x", "y", "z"), LAYOUTS["ntu-25"], name=source)
    channels = ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z")
    return Recordings(items, channels, device_layout(list(DEVICES)), vectors_of(channels), name=source)


def _person(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Size, pace and style of somebody."""
    return {
        "size": rng.uniform(0.85, 1.15, 3),
        "pace": rng.uniform(0.8, 1.25, 1),
        "style": rng.normal(1.0, 0.25, len(_SWING)),
        "lean": rng.normal(0.0, 0.1, 3),
    }


def _angles(action: int, phase: np.ndarray, style: np.ndarray) -> np.ndarray:
    """``[T, 9, 2]`` radians (forward, sideways) of the swinging joints, in the order of ``_SWING``."""
    s, c = np.sin(phase), np.cos(phase)
    out = np.zeros((len(phase), len(_SWING), 2))
    name = ACTIONS[action]
    if name in ("walk", "run"):
        big = 0.5 if name == "walk" else 0.9
        out[:, 0, 0], out[:, 1, 0], out[:, 2, 0], out[:, 3, 0] = big * s, -big * s, -big * s, big * s
        bend = 0.3 if name == "walk" else 1.2
        out[:, 5, 0], out[:, 6, 0] = -bend, -bend
        out[:, 7, 0], out[:, 8, 0] = bend * np.maximum(s, 0), bend * np.maximum(-s, 0)
    elif name == "jump":
        low = np.maximum(s, 0)
        out[:, (2, 3), 0], out[:, (7, 8), 0] = -0.7 * low[:, None], 1.4 * low[:, None]
        out[:, (0, 1), 0] = (0.6 - 1.2 * low)[:, None]
    elif name.startswith("wave"):
        side = 0 if name.endswith("left") else 1
        out[:, side, 1] = 2.4 * (1 if side == 0 else -1)
        out[:, 5 + side, 1] = (0.6 * s) * (1 if side == 0 else -1)
    elif name == "clap":
        out[:, (0, 1), 0] = -1.1
        out[:, 0, 1], out[:, 1, 1] = -0.3 * (1 + c), 0.3 * (1 + c)
    elif name == "kick":
        out[:, 3, 0], out[:, 8, 0] = -1.2 * np.maximum(s, 0), 0.8 * np.maximum(-s, 0)
        out[:, 0, 0] = -0.4 * s
    else:
        out[:, 4, 0] = 0.5 * (1 - c)
    return out * style[None, :, None]


def _move(
    action: int, person: dict[str, np.ndarray], frames: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """``[T, 25, 3]`` positions and ``[T, 25, 3, 3]`` orientations."""
    layout = LAYOUTS["ntu-25"]
    rhythm = {"run": 2.4, "clap": 1.8, "jump": 1.0, "kick": 0.9, "bow": 0.4}.get(ACTIONS[action], 1.2)
    speed = rhythm * float(person["pace"][0]) * rng.uniform(0.9, 1.1)
    phase = 2 * np.pi * (speed * np.arange(frames) / RATE + rng.random())
    sway = 2 * np.pi * (rng.uniform(0.1, 0.5, (1, len(_SWING), 2)) * np.arange(frames)[:, None, None] / RATE)
    sway = 0.2 * np.sin(sway + rng.uniform(0, 2 * np.pi, (1, len(_SWING), 2)))
    angles = _angles(action, phase, person["style"]) + sway + rng.normal(0, 0.1, (1, len(_SWING), 2))
    swing = {name: _turn(angles[:, i, 0], 0) @ _turn(angles[:, i, 1], 2) for i, name in enumerate(_SWING)}
    facing = _turn(np.full(frames, rng.uniform(0, 2 * np.pi)), 1)
    lean = _turn(np.full(frames, person["lean"][0]), 0)
    places = np.zeros((frames, 25, 3))
    turns = np.zeros((frames, 25, 3, 3))
    for joint in _parents_first(layout.parents):
        name, parent = layout.joints[joint], layout.parents[joint]
        mirrored = name.startswith("right_")
        offset = np.array(_OFFSETS[name.replace("right_", "left_") if mirrored else name], dtype=np.float64)
        offset = offset * (-1 if mirrored else 1, 1, 1) * person["size"]
        own = swing.get(name, np.broadcast_to(np.eye(3), (frames, 3, 3)))
        if parent < 0:
            places[:, joint], turns[:, joint] = offset, facing @ lean
        else:
            places[:, joint] = places[:, parent] + np.einsum("tij,j->ti", turns[:, parent], offset)
            turns[:, joint] = turns[:, parent] @ own
    pace = {"walk": 1.2, "run": 3.0}.get(ACTIONS[action], 0.0) * float(person["pace"][0])
    ahead = facing[:, :, 2] * (pace * np.arange(frames) / RATE)[:, None]
    bounce = {"walk": 0.03, "run": 0.08, "jump": 0.15}.get(ACTIONS[action], 0.0) * np.abs(np.cos(phase))
    places = places + ahead[:, None] + bounce[:, None, None] * np.array([0, 1, 0])
    return places + rng.normal(0, 0.02, places.shape) + rng.normal(0, 1.0, 3), turns


def _parents_first(parents: tuple[int, ...]) -> list[int]:
    order: list[int] = []
    while len(order) < len(parents):
        order += [j for j, p in enumerate(parents) if j not in order and (p < 0 or p in order)]
    return order


def _turn(angle: np.ndarray, axis: int) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    out = np.zeros((len(angle), 3, 3))
    a, b = (axis + 1) % 3, (axis + 2) % 3
    out[:, axis, axis], out[:, a, a], out[:, b, b] = 1.0, c, c
    out[:, a, b], out[:, b, a] = -s, s
    return out


def _worn(points: np.ndarray, turns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``[T, 6 devices, 6]``: acceleration (with gravity) and angular velocity in each device's own axes."""
    joints = list(DEVICES.values())
    smooth = np.apply_along_axis(lambda x: np.convolve(x, np.ones(5) / 5, mode="same"), 0, points[:, joints])
    acceleration = np.gradient(np.gradient(smooth, axis=0), axis=0) * RATE**2
    acceleration[:4], acceleration[-4:] = acceleration[4], acceleration[-5]
    tilt = rng.normal(0, 0.2, 3)
    mounted = np.linalg.multi_dot([_turn(tilt[axis : axis + 1], axis)[0] for axis in range(3)])
    own = turns[:, joints] @ mounted
    felt = np.einsum("tvji,tvj->tvi", own, acceleration - _GRAVITY)
    change = np.einsum("tvji,tvjk->tvik", own[:-1], own[1:])
    rate = np.stack([change[..., 2, 1] - change[..., 1, 2], change[..., 0, 2] - change[..., 2, 0],
                     change[..., 1, 0] - change[..., 0, 1]], axis=-1) * RATE / 2  # fmt: skip
    rate = np.concatenate([rate, rate[-1:]])
    noise = rng.normal(0, 1, (len(points), len(joints), 6)) * np.array([0.3] * 3 + [0.05] * 3)
    return np.concatenate([felt, rate], axis=-1) + noise
