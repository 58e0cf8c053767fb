"""Generated pairs with sound: pictures with a spoken word, films with their sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core import cache

RATE = 16000
FILM_RATE, FRAMES, SIDE = 8.0, 8, 24


def _wave(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    import soundfile

    soundfile.write(path, samples.astype(np.float32), rate, subtype="PCM_16")


def spoken(pairs: int, seed: int) -> tuple[dict[str, Any], Path]:
    """Pictures of eight kinds of things, each with a generated utterance that holds the thing's name among
    fillers, by one of several voices.

    Returns:
        Columns ``image`` ``[n, 32, 32, 3]`` uint8, ``audio`` (WAV files), ``voice`` and ``label``; and their
        folder.
    """
    from ssl_domains.crossmodal.generated import COLOURS, GROUNDS, PLACES, SHAPES, SIZES, draw
    from ssl_domains.speech.synthetic import generate

    listing = generate(f"generated://speech?utterances={pairs}&speakers=8&seed={seed}")
    labels = [str(row.label) for row in listing.rows]
    things = {  # a name means a shape of a kind of colour
        name: (SHAPES[i % len(SHAPES)], list(COLOURS)[(2 * i) % len(COLOURS)])
        for i, name in enumerate(sorted(set(labels)))
    }
    rng = np.random.default_rng([seed, 23])
    images = []
    for label in labels:
        shape, colour = things[label]
        words = {"shape": shape, "colour": colour, "size": str(rng.choice(list(SIZES)))}
        words |= {"place": str(rng.choice(PLACES)), "ground": str(rng.choice(list(GROUNDS)))}
        images.append(draw(words, rng))
    key = cache.key_of(["spoken", pairs, seed])
    with cache.locked("crossmodal", key):
        if cache.find("crossmodal", key) is None:
            assert listing.arrays is not None
            with cache.writing("crossmodal", key) as folder:
                for i, samples in enumerate(listing.arrays):
                    _wave(folder.path / f"{i:05d}.wav", np.asarray(samples))
                folder.meta({"pairs": pairs})
    place = cache.find("crossmodal", key)
    assert place is not None
    columns = {
        "image": np.stack(images),
        "audio": [f"{i:05d}.wav" for i in range(pairs)],
        "voice": [str(row.speaker) for row in listing.rows],
        "label": labels,
    }
    return columns, place


def films(pairs: int, seed: int) -> tuple[dict[str, Any], Path]:
    """Films of one second in which a ball moves, and their sound: the higher the ball the higher the tone,
    the further to the right the brighter it is, and it clicks where the ball turns round.

    Returns:
        Columns ``video`` ``[n, 8, 24, 24, 3]`` uint8, ``audio`` (WAV files of one second) and ``label`` (how
        the ball moves); and their folder.
    """
    rng = np.random.default_rng([seed, 29])
    kinds = ("rising", "falling", "bouncing", "circling")
    clips, labels, sounds = [], [], []
    time = np.linspace(0, 1, FRAMES)
    fine = np.linspace(0, 1, RATE, endpoint=False)
    row, column = np.mgrid[:SIDE, :SIDE] / (SIDE - 1.0)
    for i in range(pairs):
        kind = kinds[i % len(kinds)]
        path = _path(kind, rng)
        y, x = path(time)
        colour = rng.uniform(90, 255, 3)
        reach = np.hypot(row[None] - (1 - y)[:, None, None], column[None] - x[:, None, None])
        ball = (reach < rng.uniform(0.12, 0.2))[..., None]
        ground = rng.uniform(0, 80)
        clip = np.where(ball, colour, ground) + rng.normal(0, 6, (FRAMES, SIDE, SIDE, 1))
        clips.append(clip.clip(0, 255).astype(np.uint8))
        high, right = path(fine)
        phase = 2 * np.pi * np.cumsum(220 * 2 ** (2 * high)) / RATE
        tone = np.sin(phase) + right * (0.5 * np.sin(2 * phase) + 0.35 * np.sin(3 * phase))
        turns = np.flatnonzero(np.diff(np.sign(np.diff(high))) != 0)
        for turn in turns[:: max(len(turns) // 6, 1)]:
            tone[turn : turn + 300] += 2 * rng.normal(size=len(tone[turn : turn + 300]))
        sounds.append(rng.uniform(0.05, 0.15) * tone + 0.01 * rng.normal(size=RATE))
        labels.append(kind)
    key = cache.key_of(["films", pairs, seed])
    with cache.locked("crossmodal", key):
        if cache.find("crossmodal", key) is None:
            with cache.writing("crossmodal", key) as folder:
                for i, samples in enumerate(sounds):
                    _wave(folder.path / f"{i:05d}.wav", samples.clip(-1, 1))
                folder.meta({"pairs": pairs})
    place = cache.find("crossmodal", key)
    assert place is not None
    names = [f"{i:05d}.wav" for i in range(pairs)]
    return {"video": np.stack(clips), "audio": names, "label": labels}, place


def _path(kind: str, rng: np.random.Generator) -> Any:
    """A function from seconds ``[t]`` to height and place, both in [0, 1]."""
    start, drift, turns = rng.uniform(0.05, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(1.0, 2.5)
    left, phase = rng.uniform(0.2, 0.8), rng.uniform(0, 6.28)

    def at(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = left + drift * (t - 0.5)
        if kind == "rising":
            y = start + (0.95 - start) * t
        elif kind == "falling":
            y = 0.95 - (0.95 - start) * t
        elif kind == "bouncing":
            y = start + (0.9 - start) * np.abs(np.sin(np.pi * turns * t + phase))
        else:
            y = 0.5 + 0.35 * np.sin(2 * np.pi * t + phase)
            x = 0.5 + 0.35 * np.cos(2 * np.pi * t + phase)
        return y.clip(0, 1), x.clip(0, 1)

    return at
