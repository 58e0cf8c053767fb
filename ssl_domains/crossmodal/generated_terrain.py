"""A generated drive over five kinds of ground: what they look like, and how wheels sound on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core import cache
from ssl_domains.crossmodal.terrain_map import MAP_ENDING

TERRAINS = ("asphalt", "lot", "grass", "cobble", "dirt")
RATE, SECONDS, STEP, PATCH = 4000, 0.5, 8, 16
HEIGHT = 64
LOOKS: dict[str, tuple[tuple[int, int, int], float, int]] = {
    "asphalt": ((105, 105, 110), 1.0, 14),
    "lot": ((112, 110, 110), 1.2, 16),
    "grass": ((70, 120, 55), 1.6, 26),
    "cobble": ((140, 125, 110), 4.0, 40),
    "dirt": ((130, 100, 70), 2.2, 22),
}
SOUNDS: dict[
    str, tuple[int, int, int, float]
] = {  # centre and width of the band in Hz, beats a second, loudness
    "asphalt": (500, 250, 0, 1.0),
    "lot": (1100, 300, 6, 1.0),
    "grass": (300, 150, 0, 0.6),
    "cobble": (800, 500, 14, 1.6),
    "dirt": (380, 190, 3, 0.8),
}


@dataclass
class Drive:
    """One run.

    Attributes:
        ground: ``[H, W, 3]`` uint8 seen from above.
        truth: ``[H, W]`` uint8 terrain.
        poses: ``[n, 3]`` x, y in pixels and heading, one a clip.
        sound: ``[T]`` float32 at 4 kHz; clip i begins at i * 0.5 s.
    """

    ground: np.ndarray
    truth: np.ndarray
    poses: np.ndarray
    sound: np.ndarray


def drive(seed: int, clips: int = 50) -> Drive:
    """A run over stretches of terrain, with its own light and loudness."""
    rng = np.random.default_rng([seed, 17])
    width = clips * STEP + 2 * PATCH
    truth = np.zeros((HEIGHT, width), dtype=np.uint8)
    at, last = 0, -1
    while at < width:
        kind = int(rng.choice([k for k in range(5) if k != last]))
        end = at + int(rng.integers(48, 112))
        slope = rng.uniform(-0.5, 0.5)
        edge = at + slope * (np.arange(HEIGHT) - HEIGHT / 2)
        truth[np.arange(width)[None] >= edge[:, None]] = kind
        at, last = end, kind
    light = rng.uniform(0.8, 1.2) * rng.uniform(0.93, 1.07, 3)
    ground = np.zeros((HEIGHT, width, 3))
    for k, name in enumerate(TERRAINS):
        colour, grain, contrast = LOOKS[name]
        noise = _smooth(rng.normal(size=(HEIGHT, width)), grain)
        ground[truth == k] = (np.array(colour) + contrast * noise[..., None])[truth == k]
    x = PATCH + STEP * np.arange(clips)
    phase = rng.uniform(0, 6)
    y = HEIGHT / 2 + 10 * np.sin(x / 60 + phase)
    heading = np.arctan(10 / 60 * np.cos(x / 60 + phase))
    kinds = truth[y.round().astype(int), x]
    gain = rng.uniform(0.6, 1.6)
    sound = np.concatenate([_sound(TERRAINS[k], gain, rng) for k in kinds]).astype(np.float32)
    return Drive((ground * light).clip(0, 255).astype(np.uint8), truth, np.stack([x, y, heading], 1), sound)


def _smooth(noise: np.ndarray, grain: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    out = gaussian_filter(noise, grain)
    return out / out.std()


def _sound(name: str, gain: float, rng: np.random.Generator) -> np.ndarray:
    """Half a second of noise in the terrain's band, with its beats, under a little motor hum."""
    centre, spread, beats, loud = SOUNDS[name]
    n = int(RATE * SECONDS)
    hertz = np.fft.rfftfreq(n, 1 / RATE)
    band = np.exp(-(((hertz - centre * rng.uniform(0.85, 1.15)) / spread) ** 2))
    wave = np.fft.irfft(np.fft.rfft(rng.normal(size=n)) * band, n)
    wave = wave / wave.std() * loud * rng.uniform(0.7, 1.4)
    time = np.arange(n) / RATE
    if beats:
        wave = wave * (1 + np.sin(2 * np.pi * (beats * time + rng.random())))
    hum = 0.5 * np.sin(2 * np.pi * 90 * time + rng.uniform(0, 6)) + 0.3 * rng.normal(size=n)
    return gain * (wave + hum)


def terrain(pairs: int, seed: int) -> tuple[dict[str, Any], Path]:
    """Clips and patches of several runs, for a table of pairs.

    A patch is what lay under the wheels, cut from the map by the pose of the clip (not by time).

    Returns:
        Columns ``sound`` (a file a run), ``sound_start``, ``image`` ``[n, 16, 16, 3]`` uint8, ``run``,
        ``label``; and the folder of the files, with a map beside each sound (see ``terrain_segmentation``).
    """
    clips = 50
    runs = max(pairs // clips, 4)
    key = cache.key_of(["terrain with maps", runs, clips, seed])
    drives = [drive(seed * 1000 + r, clips) for r in range(runs)]
    with cache.locked("crossmodal", key):
        if cache.find("crossmodal", key) is None:
            with cache.writing("crossmodal", key) as folder:
                for r, run in enumerate(drives):
                    np.savez(
                        folder.path / f"run{r}.npz", x=run.sound[None], rate=float(RATE), subject=f"run{r}"
                    )
                    np.savez_compressed(
                        folder.path / f"run{r}{MAP_ENDING}", ground=run.ground, truth=run.truth,
                        poses=run.poses, times=np.arange(clips) * SECONDS,
                    )  # fmt: skip
                folder.meta({"runs": runs})
    place = cache.find("crossmodal", key)
    assert place is not None
    columns: dict[str, Any] = {"sound": [], "sound_start": [], "run": [], "label": []}
    patches = []
    for r, run in enumerate(drives):
        for i, (x, y, _) in enumerate(run.poses):
            top, left = int(np.clip(round(y) - PATCH // 2, 0, HEIGHT - PATCH)), int(x) - PATCH // 2
            patches.append(run.ground[top : top + PATCH, left : left + PATCH])
            kind = TERRAINS[run.truth[round(y), int(x)]]
            for name, value in zip(columns, (f"run{r}.npz", i * SECONDS, f"run{r}", kind), strict=True):
                columns[name].append(value)
    columns["image"] = np.stack(patches)
    return columns, place
