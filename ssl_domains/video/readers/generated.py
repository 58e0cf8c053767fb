"""Generated clips: handwritten digits that move over a noisy ground.

``generated://clips?clips=600&frames=16&size=32&seed=0``. What moves (``digit``) is told by any frame, where
it moves to (``direction``) by none: a method can be asked for both. For trying things out; no number on
them says anything about videos of the world.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.video.listing import Listing

PREFIX = "generated://clips"
DIRECTIONS = ("east", "south-east", "south", "south-west", "west", "north-west", "north", "north-east")
_STEPS = np.array([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])
_DEFAULTS = {"clips": 600, "frames": 16, "size": 32, "speed": 2, "seed": 0, "ground": 1}
_LEAST = {"clips": 2, "frames": 1, "size": 16, "speed": 1, "seed": 0, "ground": 0}


def is_generated(source: object) -> bool:
    """True for ``generated://clips...``."""
    return isinstance(source, str) and source.startswith(PREFIX)


def generate(source: str, label: str | None) -> Listing:
    """The clips of a name, the same for the same name.

    Args:
        source: ``generated://clips`` and options: ``clips``, ``frames``, ``size`` (pixels), ``speed`` (most
            pixels a frame), ``seed``, ``ground`` (0: white digits on black, since a colour or a ground that
            stays tells a video from all others, which is all that comparing clips of one video then learns).
        label: ``direction`` (also for ``auto``), ``digit``, or None.

    Raises:
        DataError: an unknown option or label.
    """
    name, _, query = source.partition("?")
    options = dict(_DEFAULTS)
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in options or not value.isdigit() or int(value) < _LEAST[key]:
            allowed = ", ".join(f"{k} ({v} or more)" for k, v in _LEAST.items())
            raise DataError(f"{source}: {key}={value} is none of {allowed}")
        options[key] = int(value)
    if name != PREFIX:
        raise DataError(f"{source}: use {PREFIX}")
    if label not in (None, "auto", "direction", "digit"):
        raise DataError(f"data.label is {label!r}; generated clips have direction and digit")
    clips, direction, digit, drawn = moving_digits(**options)
    if label == "digit":
        labels, names = digit, [str(d) for d in range(10)]
    else:
        labels, names = direction, list(DIRECTIONS)
    return Listing(
        source,
        range(len(clips)),
        clips=clips,
        label=None if label is None else labels,
        class_names=None if label is None else names,
        group=drawn,  # the same drawing is not in train and test
        mark=["moving digits", options],
    )


def moving_digits(
    clips: int, frames: int, size: int, speed: int, seed: int, ground: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(``[n, T, S, S, 3]`` uint8, direction ``[n]``, digit ``[n]``, number of the drawing ``[n]``).

    The ground is smooth and of random colour, differs between clips and stands still; noise is on every
    pixel of every frame. ``ground=0``: white on black. A digit that leaves on one side comes in on the
    other.
    """
    from sklearn.datasets import load_digits

    rng = np.random.default_rng([seed, 8])
    found = load_digits()
    scale = max(size // 24, 1)
    ink = np.kron(found.images / 16, np.ones((scale, scale)))  # [1797, 8 s, 8 s]
    drawn = rng.permutation(len(ink))[np.arange(clips) % len(ink)]
    direction = rng.integers(0, 8, clips)
    pace = rng.integers(1, speed + 1, clips)
    start = rng.integers(0, size, (clips, 2))
    out = np.empty((clips, frames, size, size, 3), dtype=np.uint8)
    for i in range(clips):
        behind = _ground(rng, size) if ground else np.zeros((size, size, 3))
        colour = rng.uniform(0.6, 1.0, 3) if ground else np.ones(3)
        canvas = np.zeros((size, size))
        canvas[: ink.shape[1], : ink.shape[2]] = ink[drawn[i]]
        for t in range(frames):
            place = start[i] + _STEPS[direction[i]] * pace[i] * t
            alpha = np.roll(canvas, place, (0, 1))[..., None]
            picture = behind * (1 - alpha) + colour * alpha + rng.normal(0, 0.01, (size, size, 3))
            out[i, t] = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    return out, direction, found.target[drawn].astype(np.int64), drawn


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """``[S, S, 3]`` of slow waves, dark enough for the ink to be seen."""
    down, across = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    a, b, phase = rng.uniform(2, 9), rng.uniform(2, 9), rng.uniform(0, 6)
    wave = 0.5 + 0.5 * np.sin(a * down + b * across + phase)
    return wave[..., None] * rng.uniform(0.05, 0.4, 3)
