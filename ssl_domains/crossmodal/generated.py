"""Pairs that are computed: pictures of coloured shapes with sentences that describe them."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.crossmodal.tables import PairTable

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = {
    "red": (214, 40, 40), "green": (42, 157, 80), "blue": (38, 84, 204), "yellow": (240, 200, 30),
    "purple": (130, 60, 160), "orange": (244, 130, 30),
}  # fmt: skip
SIZES = {"small": 5.0, "large": 8.5}
PLACES = ("top left", "top right", "bottom left", "bottom right")
GROUNDS = {"white": 235, "grey": 140, "black": 25}
FORMS = (
    "a {size} {colour} {shape} at the {place} of a {ground} field",
    "on {ground}: one {shape}, {colour} and {size}, {place}",
    "{place}, a {colour} {shape} which is {size}, {ground} behind it",
)
SIDE = 32


def generate(source: str) -> PairTable:
    """``generated://scenes?pairs=2000&seed=0``: a shape (the label) of some colour, size and place on a
    field, and a
    sentence in one of three forms; ``generated://digits``: scikit-learn's digits and their names;
    ``generated://listening``: see :func:`ssl_domains.crossmodal.generated_brain.listening`;
    ``generated://terrain``: see :func:`ssl_domains.crossmodal.generated_terrain.terrain`;
    ``generated://spoken`` and ``generated://films``: see :mod:`ssl_domains.crossmodal.generated_sound`.

    Returns:
        Columns ``image`` ``[n, 32, 32, 3]`` uint8 (digits: ``[n, 8, 8, 1]``), ``text`` and ``label``; of
            scenes also ``colour``, ``size``, ``place``, ``ground`` and a measured ``brightness``, which make
            a table.

    Raises:
        DataError: another kind, or an unknown key.
    """
    kind, _, query = source.removeprefix("generated://").partition("?")
    options = {"pairs": 2000, "seed": 0}
    for key, value in parse_qsl(query):
        if key not in options or not value.isdigit():
            raise DataError(f"{source}: {key}={value} is none of pairs, seed")
        options[key] = int(value)
    if kind == "listening":
        from ssl_domains.crossmodal.generated_brain import listening

        columns, folder = listening(options["pairs"], options["seed"])
        return PairTable(source, columns, folder)
    if kind in ("spoken", "films"):
        from ssl_domains.crossmodal.generated_sound import films, spoken

        made, folder = (spoken if kind == "spoken" else films)(options["pairs"], options["seed"])
        return PairTable(source, made, folder)
    if kind == "terrain":
        from ssl_domains.crossmodal.generated_terrain import terrain

        found, folder = terrain(options["pairs"], options["seed"])
        return PairTable(source, found, folder)
    if kind == "digits":
        return _digits()
    if kind != "scenes":
        raise DataError(f"{source}: known are scenes, digits, spoken, films, listening and terrain")
    rng = np.random.default_rng(options["seed"])
    n = options["pairs"]
    images = np.empty((n, SIDE, SIDE, 3), dtype=np.uint8)
    texts, labels = [], []
    facts: dict[str, list[Any]] = {name: [] for name in ("colour", "size", "place", "ground", "brightness")}
    for i in range(n):
        words = {
            "shape": str(rng.choice(SHAPES)), "colour": str(rng.choice(list(COLOURS))),
            "size": str(rng.choice(list(SIZES))), "place": str(rng.choice(PLACES)),
            "ground": str(rng.choice(list(GROUNDS))),
        }  # fmt: skip
        images[i] = draw(words, rng)
        texts.append(FORMS[int(rng.integers(len(FORMS)))].format(**words))
        labels.append(words["shape"])
        for name in ("colour", "size", "place", "ground"):
            facts[name].append(words[name])
        facts["brightness"].append(round(float(images[i].mean() + rng.normal(0, 3)), 2))
    return PairTable(source, {"image": images, "text": texts, "label": labels, **facts})


def draw(words: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """``[32, 32, 3]`` uint8: the shape, moved and dyed a little, with noise."""
    y0 = (8 if words["place"].startswith("top") else 23) + rng.normal(0, 1.0)
    x0 = (8 if words["place"].endswith("left") else 23) + rng.normal(0, 1.0)
    r = SIZES[words["size"]] * rng.uniform(0.85, 1.1)
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    dy, dx = y - y0, x - x0
    reach = np.hypot(dy, dx)
    inside = {
        "circle": reach < r,
        "square": np.maximum(abs(dy), abs(dx)) < 0.85 * r,
        "triangle": (dy < 0.7 * r) & (dy > -r + 1.8 * abs(dx)),
        "cross": (np.minimum(abs(dy), abs(dx)) < 0.3 * r) & (np.maximum(abs(dy), abs(dx)) < r),
        "ring": (reach < r) & (reach > 0.55 * r),
    }[words["shape"]]
    colour = np.array(COLOURS[words["colour"]]) * rng.uniform(0.85, 1.1)
    ground = GROUNDS[words["ground"]] * rng.uniform(0.9, 1.05)
    picture = np.where(inside[..., None], colour, ground) + rng.normal(0, 8, (SIDE, SIDE, 1))
    return picture.clip(0, 255).astype(np.uint8)


def _digits() -> PairTable:
    from sklearn.datasets import load_digits

    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    x, y = load_digits(return_X_y=True)
    images = (x.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    words = [names[int(k)] for k in y]
    return PairTable(
        "generated://digits", {"image": images, "text": [f"the digit {w}" for w in words], "label": words}
    )
