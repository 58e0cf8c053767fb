"""Small pictures of clips for the report."""

from __future__ import annotations

import numpy as np

from ssl_domains.skeleton.spec import BodySpec

SIZE = (96, 288)
"""Height and width in pixels."""
_SIDES = {"left": (47, 111, 180), "right": (200, 90, 50), "": (70, 70, 70)}
_CURVES = ((47, 111, 180), (200, 90, 50), (60, 140, 80))


def draw_clip(points: np.ndarray, confidence: np.ndarray, spec: BodySpec) -> np.ndarray:
    """``[H, W, 3]`` uint8 on white.

    Skeletons: five frames side by side; x to the right, and the axis with the larger spread of the two others
    upward; left bones blue, right ones red. Sensors: the length of each device's first vector over time.

    Args:
        points: ``[T, M, V, C]``.
        confidence: ``[T, M, V]``.
        spec: the data's.
    """
    picture = np.full((*SIZE, 3), 255, dtype=np.uint8)
    if spec.kind == "sensors":
        return _curves(picture, points[:, 0], confidence[:, 0] > 0, spec)
    return _skeletons(picture, points, confidence > 0, spec)


def _skeletons(picture: np.ndarray, points: np.ndarray, known: np.ndarray, spec: BodySpec) -> np.ndarray:
    from ssl_domains.skeleton.layouts import side_of

    frames = np.unique(np.linspace(0, len(points) - 1, 5).astype(np.int64))
    seen = points[frames][known[frames]]
    if not len(seen):
        return picture
    up = 1
    flipped = points.shape[-1] == 2  # image coordinates run downward
    flat = np.stack([points[..., 0], (-1 if flipped else 1) * points[..., up]], axis=-1)
    size = max(float(np.ptp(flat[t][known[t]], axis=0).max()) for t in frames if known[t].any()) or 1.0
    height, width = picture.shape[0], picture.shape[1] // 5
    bones = spec.layout.bones or [(v, v) for v in range(spec.points)]
    for slot, t in enumerate(frames):
        if not known[t].any():
            continue
        middle = (flat[t][known[t]].max(0) + flat[t][known[t]].min(0)) / 2
        place = (flat[t] - middle) / size * (min(height, width * 1.6) * 0.9)
        x, y = slot * width + width / 2 + place[..., 0], height / 2 - place[..., 1]
        for m in range(points.shape[1]):
            for child, parent in bones:
                if known[t, m, child] and known[t, m, parent]:
                    colour = _SIDES[side_of(spec.layout.joints[child])]
                    _line(picture, (x[m, child], y[m, child]), (x[m, parent], y[m, parent]), colour)
    return picture


def _curves(picture: np.ndarray, values: np.ndarray, known: np.ndarray, spec: BodySpec) -> np.ndarray:
    axes = list(spec.vectors[0]) if spec.vectors else list(range(values.shape[-1]))
    level = np.linalg.norm(values[..., axes], axis=-1)  # [T, V]
    row = picture.shape[0] / level.shape[1]
    x = np.linspace(2, picture.shape[1] - 3, len(level))
    for v in range(level.shape[1]):
        there = known[:, v]
        if not there.any():
            continue
        low, high = level[there, v].min(), max(level[there, v].max(), 1e-9)
        y = row * (v + 0.9) - (level[:, v] - low) / max(high - low, 1e-9) * row * 0.8
        for t in range(len(level) - 1):
            if there[t] and there[t + 1]:
                _line(picture, (x[t], y[t]), (x[t + 1], y[t + 1]), _CURVES[v % 3])
    return picture


def _line(
    picture: np.ndarray, start: tuple[float, float], stop: tuple[float, float], colour: tuple[int, int, int]
) -> None:
    """Two pixels wide."""
    n = int(max(abs(stop[0] - start[0]), abs(stop[1] - start[1]))) + 2
    x = np.linspace(start[0], stop[0], n).round().astype(np.int64)
    y = np.linspace(start[1], stop[1], n).round().astype(np.int64)
    for dx, dy in ((0, 0), (1, 0), (0, 1)):
        inside = (x + dx >= 0) & (x + dx < picture.shape[1]) & (y + dy >= 0) & (y + dy < picture.shape[0])
        picture[y[inside] + dy, x[inside] + dx] = colour
