"""Generated patients: ellipsoid organs in a body, each patient bent by a map that is known exactly.

One anatomy lives in canonical coordinates ``u`` in [-1, 1]^3 (D, H, W). Patient p sees it through a smooth
map ``u = T_p(v)``: an affine map and a few low waves. So the point of patient q that corresponds to a point
of patient p is known: ``T_q^{-1}(T_p(v))``. No number on phantoms says anything about people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.medical3d.spec import Preparation
from ssl_domains.medical3d.windows import PRESETS

PREFIX = "generated://phantoms"
WAVES = 4
ORGANS = ("liver", "spleen", "left kidney", "right kidney", "spine", "heart", "stomach", "bladder")
# Centre and half axes (D, H, W), and HU, of each organ in canonical coordinates; drawn by hand.
_ANATOMY = {
    "liver": ((0.10, 0.10, 0.42), (0.28, 0.38, 0.30), 70),
    "spleen": ((0.15, -0.25, -0.50), (0.22, 0.18, 0.14), 55),
    "left kidney": ((-0.25, -0.35, -0.35), (0.22, 0.13, 0.13), 110),
    "right kidney": ((-0.30, -0.35, 0.35), (0.22, 0.13, 0.13), 110),
    "spine": ((0.0, -0.55, 0.0), (1.20, 0.15, 0.13), 350),
    "heart": ((0.65, 0.10, -0.15), (0.22, 0.26, 0.28), 90),
    "stomach": ((0.12, 0.25, -0.25), (0.20, 0.22, 0.22), 20),
    "bladder": ((-0.70, 0.15, 0.0), (0.16, 0.20, 0.24), 5),
}
USUAL = 60.0
_BODY = ((0.0, 0.0, 0.0), (1.6, 0.72, 0.86))
_DEFAULTS = {
    "patients": 24,
    "size": 48,
    "organs": 5,
    "scans": 1,
    "seed": 0,
    "bend": 8,
    "noise": 12,
    "alike": 0,
}


@dataclass(frozen=True)
class Anatomy:
    """The map of one patient, from his voxels to the canonical body.

    Attributes:
        matrix: ``[3, 3]``, and
        shift: ``[3]``: the affine part on v in [-1, 1]^3.
        waves: ``[WAVES, 3]`` wave vectors,
        phases: ``[WAVES]``,
        bends: ``[WAVES, 3]``: displacement of each wave.
        shape: of his volume.
    """

    matrix: np.ndarray
    shift: np.ndarray
    waves: np.ndarray
    phases: np.ndarray
    bends: np.ndarray
    shape: tuple[int, int, int]

    def canonical(self, points: np.ndarray) -> np.ndarray:
        """``[n, 3]`` voxel coordinates to canonical ones."""
        v = (np.asarray(points, np.float64) + 0.5) / np.array(self.shape) * 2 - 1
        return self._map(v)

    def _map(self, v: np.ndarray) -> np.ndarray:
        bent: np.ndarray = np.sin(v @ self.waves.T + self.phases) @ self.bends
        return v @ self.matrix.T + self.shift + bent

    def voxels(self, canonical: np.ndarray, steps: int = 40) -> np.ndarray:
        """``[n, 3]`` canonical coordinates to (fractional) voxel coordinates: the inverse, by fixed point
        iteration, which converges since the waves are gentle."""
        inverse = np.linalg.inv(self.matrix)
        u = np.asarray(canonical, np.float64)
        v = (u - self.shift) @ inverse.T
        for _ in range(steps):
            v = (u - self.shift - np.sin(v @ self.waves.T + self.phases) @ self.bends) @ inverse.T
        return (v + 1) / 2 * np.array(self.shape) - 0.5


@dataclass
class Phantom:
    """One generated study: ``hu [D, H, W]`` float32, ``mask [D, H, W]`` int32, and what is known of it."""

    name: str
    patient: str
    hu: np.ndarray
    mask: np.ndarray
    label: int
    anatomy: Anatomy


def is_phantoms(source: object) -> bool:
    """True for ``generated://phantoms...``."""
    return isinstance(source, str) and source.startswith(PREFIX)


def options_of(source: str) -> dict[str, int]:
    """The numbers in ``generated://phantoms?patients=24&size=48&organs=5&scans=1&seed=0&bend=8&noise=12&alike=0``.

    ``scans``: studies a patient. ``bend``: amplitude of the waves in percent of the half side; ``noise``: in
    HU; ``alike``: in percent, how far the organs' HU are moved to one value (100: place and shape alone tell
    them apart).

    Raises:
        DataError: an unknown key or a number out of range.
    """
    head, _, query = source.partition("?")
    if head.rstrip("/") != PREFIX:
        raise DataError(f"{source}: use {PREFIX}?patients=24&size=48")
    found = dict(_DEFAULTS)
    low = {"patients": 2, "size": 16, "organs": 1, "scans": 1}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in found or not value.isdigit() or int(value) < low.get(key, 0):
            raise DataError(f"{source}: {key}={value} is none of {', '.join(found)} with a whole number")
        found[key] = int(value)
    if found["organs"] > len(ORGANS) or found["bend"] > 15 or found["alike"] > 100:
        raise DataError(f"{source}: at most {len(ORGANS)} organs, a bend of 15, and alike of 100")
    return found


def generate(source: str) -> list[Phantom]:
    """All studies of a source; the label of a patient is whether his liver has a bright lesion.

    Raises:
        DataError: see :func:`options_of`.
    """
    options = options_of(source)
    made = []
    for number in range(options["patients"]):
        rng = np.random.default_rng([options["seed"], number])
        build, lesion = _build(rng, options["bend"] / 100), bool(rng.random() < 0.5)
        place = rng.uniform(-0.4, 0.4, 3)
        for scan in range(options["scans"]):
            own = np.random.default_rng([options["seed"], number, scan, 1])
            made.append(_scan(number, scan, options, build, place if lesion else None, own))
    return made


def _build(rng: np.random.Generator, bend: float) -> dict[str, np.ndarray]:
    """Size, turn and bends of a body."""
    turn = np.eye(3)
    for axis in range(3):
        angle = rng.normal(0, 0.06)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turn = one @ turn
    waves = rng.uniform(1.0, 3.0, (WAVES, 3)) * rng.choice([-1, 1], (WAVES, 3))
    bends = rng.uniform(-1, 1, (WAVES, 3)) * bend
    # The slope of the waves stays below 0.6, so that the map has an inverse.
    steep = (np.linalg.norm(waves, axis=1) * np.linalg.norm(bends, axis=1)).sum()
    return {
        "matrix": turn @ np.diag(rng.uniform(0.9, 1.15, 3)),
        "shift": rng.normal(0, 0.05, 3),
        "waves": waves,
        "phases": rng.uniform(0, 2 * np.pi, WAVES),
        "bends": bends * min(1.0, 0.6 / max(steep, 1e-9)),
    }


def _scan(
    number: int,
    scan: int,
    options: dict[str, int],
    build: dict[str, np.ndarray],
    lesion: np.ndarray | None,
    rng: np.random.Generator,
) -> Phantom:
    side = options["size"]
    moved = dict(build, shift=build["shift"] + (rng.normal(0, 0.03, 3) if scan else 0.0))
    shape = (side + 2 * (number % 3), side, side)  # volumes of one cohort differ in height
    anatomy = Anatomy(**moved, shape=shape)
    axes = [np.arange(n) for n in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    u = anatomy.canonical(points)
    hu = np.full(len(u), -1000.0)
    hu[_inside(u, *_BODY)] = -80.0 + rng.normal(0, 5)
    mask = np.zeros(len(u), dtype=np.int32)
    gain = rng.normal(1.0, 0.05)
    for value, organ in enumerate(ORGANS[: options["organs"]], start=1):
        centre, half, level = _ANATOMY[organ]
        where = _inside(u, centre, half) & (hu > -900)
        moved_level = level + (USUAL - level) * options["alike"] / 100
        hu[where], mask[where] = moved_level * gain + rng.normal(0, 4), value
    if lesion is not None:
        centre, half, _ = _ANATOMY["liver"]
        hu[_inside(u, np.array(centre) + lesion * np.array(half), (0.12, 0.12, 0.12)) & (mask == 1)] += 90.0
    hu += _texture(u, rng) * (hu > -900)
    hu += rng.normal(0, options["noise"], len(hu))
    return Phantom(
        f"patient {number:03d}" + (f" scan {scan}" if options["scans"] > 1 else ""),
        f"{number:03d}",
        hu.reshape(shape).astype(np.float32),
        mask.reshape(shape),
        int(lesion is not None),
        anatomy,
    )


def _texture(u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Parenchyma: fine waves that differ from patient to patient, in HU."""
    waves = rng.normal(0, 14, (6, 3))
    return np.asarray(8.0 * np.sin(u @ waves.T + rng.uniform(0, 2 * np.pi, 6)).mean(axis=1) * np.sqrt(6))


def _inside(u: np.ndarray, centre: Any, half: Any) -> np.ndarray:
    inside: np.ndarray = (((u - np.array(centre)) / np.array(half)) ** 2).sum(axis=1) <= 1.0
    return inside


PREPARATION = Preparation(None, "abdomen", PRESETS["abdomen"])
"""How phantoms are windowed when the recipe says nothing."""
