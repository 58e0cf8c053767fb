"""NTU RGB+D's ``.skeleton`` text files (Kinect v2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.known_layouts import LAYOUTS
from ssl_domains.skeleton.readers.files import ReadOptions, about, files_of, text_of
from ssl_domains.skeleton.recordings import Recording, Recordings, keep_moving

JOINTS = 25
_CONFIDENCE = np.array([0.0, 0.5, 1.0], dtype=np.float32)  # not tracked, inferred, tracked


def read(path: Path, options: ReadOptions) -> Recordings:
    """All ``.skeleton`` files at a place; action and performer are told from their names.

    A body keeps its place through its id; of more bodies than ``persons`` (2), those that move most stay.
    A joint's tracking state becomes its confidence: 1, 0.5 (inferred) or 0.

    Raises:
        DataError: a file that breaks off or holds no body; names the line.
    """
    persons = options.persons or 2
    items = []
    for file in files_of(path, ".skeleton"):
        points, confidence = read_file(file, persons)
        items.append(Recording(file.name, points, confidence, rate=30.0, **about(file, path)))
    return Recordings(items, ("x", "y", "z"), LAYOUTS["ntu-25"])


def read_file(file: Path, persons: int) -> tuple[np.ndarray, np.ndarray]:
    """``[T, M, 25, 3]`` metres, NaN where a body is not there, and ``[T, M, 25]`` confidence."""
    lines = text_of(file).splitlines()
    at = 0

    def numbers(count: int, what: str) -> list[float]:
        nonlocal at
        try:
            values = [float(word) for word in lines[at].split()]
        except IndexError:
            raise DataError(f"{file}: breaks off at line {at + 1}, where {what} should be") from None
        except ValueError:
            raise DataError(f"{file}: line {at + 1} should hold {what}, found {lines[at][:40]!r}") from None
        at += 1
        if len(values) < count:
            raise DataError(f"{file}: line {at} has {len(values)} numbers, {what} has {count}")
        return values

    n_frames = int(numbers(1, "the number of frames")[0])
    bodies: dict[int, list[tuple[int, np.ndarray]]] = {}
    for t in range(n_frames):
        for _ in range(int(numbers(1, "the number of bodies")[0])):
            body = int(numbers(10, "a body's description")[0])
            n_joints = int(numbers(1, "the number of joints")[0])
            if n_joints != JOINTS:
                raise DataError(f"{file}: line {at} says {n_joints} joints, a .skeleton file has {JOINTS}")
            joints = np.array([numbers(12, "a joint")[:12] for _ in range(JOINTS)], dtype=np.float32)
            bodies.setdefault(body, []).append((t, joints))
    if not bodies:
        raise DataError(f"{file}: no frame holds a body; remove the file")
    points = np.full((n_frames, len(bodies), JOINTS, 3), np.nan, dtype=np.float32)
    confidence = np.zeros((n_frames, len(bodies), JOINTS), dtype=np.float32)
    for number, seen in enumerate(bodies.values()):
        for t, joints in seen:
            points[t, number] = joints[:, :3]
            confidence[t, number] = _CONFIDENCE[joints[:, 11].clip(0, 2).astype(np.int64)]
    return keep_moving(points, confidence, persons)
