"""Turns 0 A.D.'s human animations and seglearn's watch recordings into arrays.

    python benchmarks/prepare_motions.py ROOT

Writes into ROOT, where the files that ``fetch.sh`` unpacked are there: ``motions_0ad.npz`` (22 joints),
``motions_0ad_worn.npz`` (what six devices on those bodies would measure), ``watch.npz`` (seglearn's watch as
one device of 6 channels) and ``watch_two.npz`` (its accelerometer and its gyroscope as two). A file that
is there stays.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PUBLIC = "files/usr/share/games/0ad/mods/public/public.zip"
BIPED = "art/animation/biped/"
WATCH = "files/seglearn/data/watch_dataset.npy"
# The bones of art/skeletons/biped.xml from top to bottom, which is their order in the files.
BONES = [
    "hip", "spine", "spine1", "chest", "shoulder_L", "arm_L", "forearm_L", "hand_L", "finger_L",
    "fingertip_L", "shield", "weapon_bow", "ammo", "weapon_L", "shield_arm", "neck", "head", "helmet",
    "neck_guard", "shoulder_R", "arm_R", "forearm_R", "hand_R", "finger_R", "fingertip_R", "weapon_R",
    "projectile", "cape1", "cape2", "cape3", "thigh_L", "leg_L", "foot_L", "thigh_R", "leg_R", "foot_R",
    "sheath_01_R", "sheath_01_L", "sheath_02_R", "sheath_02_L", "quiver_R", "quiver_L", "knee_L",
    "knee_R", "elbow_L", "elbow_R",
]  # fmt: skip
BODY = {
    "hip": None, "spine": "hip", "spine1": "spine", "chest": "spine1", "neck": "chest", "head": "neck",
    **{f"{name}_{side}": f"{parent}_{side}" if parent != "chest" and parent != "hip" else parent
       for side in "LR"
       for name, parent in (("shoulder", "chest"), ("arm", "shoulder"), ("forearm", "arm"),
                            ("hand", "forearm"),
                            ("finger", "hand"), ("thigh", "hip"), ("leg", "thigh"), ("foot", "leg"))},
}  # fmt: skip
"""Joints that are kept, and the parent of each."""
WORN = ("hand_L", "hand_R", "chest", "hip", "foot_L", "foot_R")
LABELS = (
    ("death", ("death",)),
    ("attack ranged", ("attack_ranged", "lithobolos", "oxybeles", "polybolos", "scorpio", "archer_attack")),
    ("attack melee", ("attack", "capture", "capturing")),
    ("idle", ("idle",)),
    ("ride", ("gallop", "trot", "pace")),
    ("run", ("run", "jog")),
    ("walk", ("walk", "carry", "move")),
    ("work", ("gather", "build", "farming", "seeding", "slaughter", "healing", "pray")),
)


def save(path: Path, **arrays: np.ndarray) -> None:
    """Atomic .npz."""
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
    os.replace(partial, path)
    print(f"{path.name}: {len(arrays['start']):,} recordings, {len(arrays['x']):,} frames")


def animations(path: Path) -> Iterator[tuple[str, float, np.ndarray]]:
    """(name, frames a second, ``[T, bones, 7]`` position and quaternion) of every animation of a human."""
    with zipfile.ZipFile(path) as archive:
        for name in sorted(n for n in archive.namelist() if n.startswith(BIPED) and n.endswith(".psa")):
            data = archive.read(name)
            if data[:4] != b"PSSA":
                raise SystemExit(f"{name} is no animation")
            at = 16 + struct.unpack_from("<I", data, 12)[0]
            milliseconds, bones, frames = struct.unpack_from("<fII", data, at)
            values = np.frombuffer(data, "<f4", bones * frames * 7, at + 12)
            yield name[len(BIPED) :].split(".dae")[0], 1000.0 / milliseconds, values.reshape(frames, bones, 7)


def label_of(name: str) -> str:
    """The action that a file's name says, or nothing."""
    stem = name.split("/")[-1].lower()
    return next((label for label, words in LABELS if any(w in stem for w in words)), "")


def turned(quaternion: np.ndarray) -> np.ndarray:
    """``[..., 3, 3]`` rotations of ``[..., 4]`` quaternions x, y, z, w."""
    x, y, z, w = np.moveaxis(quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def worn(place: np.ndarray, own: np.ndarray, rate: float) -> np.ndarray:
    """``[T, V, 6]``: acceleration with gravity and angular velocity, in each device's own axes.

    Args:
        place: ``[T, V, 3]`` metres, y upward.
        own: ``[T, V, 3, 3]`` orientations.
        rate: frames a second.
    """
    force = np.gradient(np.gradient(place, axis=0), axis=0) * rate**2 + np.array([0.0, 9.81, 0.0])
    felt = np.einsum("tvji,tvj->tvi", own, force)
    change = np.einsum("tvji,tvjk->tvik", own[:-1], own[1:])
    spin = np.stack([change[..., 2, 1] - change[..., 1, 2], change[..., 0, 2] - change[..., 2, 0],
                     change[..., 1, 0] - change[..., 0, 1]], axis=-1) * rate / 2  # fmt: skip
    return np.concatenate([felt, np.concatenate([spin, spin[-1:]])], axis=-1)


def motions(root: Path) -> None:
    """0 A.D.'s animations."""
    joints = list(BODY)
    bodies, devices, facts = [], [], []
    for name, rate, values in animations(root / PUBLIC):
        if not label_of(name) or len(values) < 8:
            continue
        places = [BONES.index(joint) for joint in joints]
        bodies.append(values[:, places, :3])
        at = [BONES.index(joint) for joint in WORN]
        own = turned(values[:, at, 3:].astype(np.float64))
        devices.append(
            worn(values[:, at, :3].astype(np.float64) / 2.3, own, rate)
        )  # a man is about 4 units tall
        facts.append((name, label_of(name), "/".join(name.split("/")[:-1]), len(values), rate))
    length = np.array([f[3] for f in facts])
    shared = {
        "start": np.concatenate([[0], np.cumsum(length)[:-1]]), "length": length,
        "name": np.array([f[0] for f in facts]), "label": np.array([f[1] for f in facts]),
        "group": np.array([f[2] for f in facts]), "rate": np.array(round(facts[0][4])),
    }  # fmt: skip
    layout = {
        "name": "0ad-22",
        "joints": joints,
        "bones": {c: p for c, p in BODY.items() if p},
        "root": "hip",
    }
    save(root / "motions_0ad.npz", x=np.concatenate(bodies), layout=np.array(json.dumps(layout)), **shared)
    channels = np.array([f"{s}_{a}" for s in ("acc", "gyr") for a in "xyz"])
    save(root / "motions_0ad_worn.npz", x=np.concatenate(devices).astype(np.float32), devices=np.array(WORN),
         channels=channels, **shared)  # fmt: skip


def watch(root: Path, file: Path) -> None:
    """seglearn's recordings: accelerometer and gyroscope of a watch, 7 exercises, 10 people, 50 Hz."""
    data = np.load(file, allow_pickle=True).item()  # a pickle of the package itself
    length = np.array([len(x) for x in data["X"]])
    x = np.concatenate(data["X"]).astype(np.float32)[:, :6]
    names = [str(n) for n in data["y_labels"]]
    shared = {
        "start": np.concatenate([[0], np.cumsum(length)[:-1]]), "length": length,
        "label": np.array([names[int(y)] for y in data["y"]]), "rate": np.array(50.0),
        "group": np.array([f"subject {int(s)}" for s in data["subject"]]),
    }  # fmt: skip
    both = np.array([f"{s}_{a}" for s in ("acc", "gyr") for a in "xyz"])
    save(root / "watch.npz", x=x[:, None], devices=np.array(["watch"]), channels=both, **shared)
    save(root / "watch_two.npz", x=x.reshape(-1, 2, 3), devices=np.array(["accelerometer", "gyroscope"]),
         channels=np.array(["x", "y", "z"]), **shared)  # fmt: skip


def main() -> None:
    root = Path(sys.argv[1])
    if (root / PUBLIC).exists() and not (root / "motions_0ad_worn.npz").exists():
        motions(root)
    if (root / WATCH).exists() and not (root / "watch_two.npz").exists():
        watch(root, root / WATCH)


if __name__ == "__main__":
    main()
