"""A generated listening experiment: features of a story, and what sensors on several heads would record of
it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core import cache

RATE, BLOCK, FEATURES = 40.0, 8.0, 8


def listening(
    pairs: int, seed: int, subjects: int = 6, sensors: int = 24
) -> tuple[dict[str, list[Any]], Path]:
    """Files in the cache, and the table of segments.

    A story is an autoregressive process of 8 features at 40 Hz, in blocks of 8 s. Each subject hears all of
    it: sensors on a disc mix the features, 150 ms later, by smooth maps of their places that the subject
    turns and bends; noise, and now and then an artefact a thousand times as large.

    Args:
        pairs: segments over all subjects, about.
        seed: of everything.
        subjects: heads.
        sensors: on each head.

    Returns:
        Columns ``brain``, ``brain_start``, ``sound``, ``sound_start``, ``subject`` and ``block``; and the
        folder.
    """
    key = cache.key_of(["listening", pairs, seed, subjects, sensors, RATE, BLOCK])
    blocks = max(pairs // subjects // 9, 4)
    with cache.locked("crossmodal", key):
        if cache.find("crossmodal", key) is None:
            with cache.writing("crossmodal", key) as folder:
                _write(folder.path, blocks, seed, subjects, sensors)
                folder.meta({"blocks": blocks})
    place = cache.find("crossmodal", key)
    assert place is not None
    columns: dict[str, list[Any]] = {
        name: [] for name in ("brain", "brain_start", "sound", "sound_start", "subject", "block")
    }
    for subject in range(subjects):
        for block in range(blocks):
            for start in np.arange(0.5, BLOCK - 2.49, 0.6):  # a segment lies inside its block
                second = round(float(block * BLOCK + start), 3)
                row = (
                    f"subject{subject}.npz",
                    second,
                    "story.npz",
                    second,
                    f"subject{subject}",
                    f"block{block}",
                )
                for name, value in zip(columns, row, strict=True):
                    columns[name].append(value)
    return columns, place


def _write(folder: Path, blocks: int, seed: int, subjects: int, sensors: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(blocks * BLOCK * RATE)
    story = np.zeros((FEATURES, n))
    decay = rng.uniform(0.75, 0.93, FEATURES)
    for t in range(1, n):
        story[:, t] = decay * story[:, t - 1] + np.sqrt(1 - decay**2) * rng.normal(size=FEATURES)
    np.savez(folder / "story.npz", x=story.astype(np.float32), rate=RATE)
    shared = rng.normal(size=(FEATURES, 6)) / 2
    delay = round(0.15 * RATE)
    for subject in range(subjects):
        places = rng.uniform(-1, 1, (sensors * 3, 2))
        places = places[np.linalg.norm(places, axis=1) < 1][:sensors]
        u, v = places.T
        basis = np.stack([np.ones_like(u), u, v, u * v, u**2, v**2], axis=1)
        turn = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0]
        own = 0.7 * shared + 0.5 * turn @ shared + 0.15 * rng.normal(size=shared.shape)
        clean = basis @ own.T @ np.roll(story, delay, axis=1)
        x = clean + 0.8 * clean.std() * rng.normal(size=clean.shape)
        for at in rng.integers(0, n - 20, n // 2000 + 1):
            x[rng.integers(len(x)), at : at + 10] += 1000 * x.std() * rng.choice([-1, 1])
        np.savez(
            folder / f"subject{subject}.npz", x=x.astype(np.float32), rate=RATE, positions=places,
            subject=f"subject{subject}",
        )  # fmt: skip
