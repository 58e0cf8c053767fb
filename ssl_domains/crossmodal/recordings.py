"""Recordings of many sensors: ``.npz`` files, and what MNE reads; long ones are resampled once and mapped."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core import cache
from ssl_domains.core.errors import DataError

MNE_SUFFIXES = (".fif", ".edf", ".bdf", ".gdf", ".vhdr", ".set", ".cnt", ".mff", ".ds", ".con", ".sqd")
"""Files (of CTF and EGI: folders) of M/EEG that MNE reads."""
SUFFIXES = (".npz", *MNE_SUFFIXES)
IN_MEMORY = 256 << 20
"""Bytes of recordings that a source holds; those beyond are written to the cache and mapped."""
CHANNELS = 16
"""Sensors that are read and resampled at a time."""


@dataclass
class Recording:
    """One file.

    Attributes:
        name: its path.
        x: ``[C, T]`` float32, in memory or mapped (then stored sample by sample, so that a segment is one
            stretch of the file).
        positions: ``[C, 2]`` in the unit square, NaN where unknown; None: none at all.
        subject: who was recorded.
        centre, spread: ``[C, 1]`` of its robust scale.
    """

    name: str
    x: np.ndarray
    positions: np.ndarray | None
    subject: str
    centre: np.ndarray | float = 0.0
    spread: np.ndarray | float = 1.0


@dataclass
class Raw:
    """A file before it is resampled.

    Attributes:
        rate: samples a second.
        shape: sensors and samples.
        read: ``[c, T]`` float32 of a slice of the sensors.
        positions: ``[C, 2 or 3]``, or None.
        subject: who was recorded.
    """

    rate: float
    shape: tuple[int, int]
    read: Callable[[slice], np.ndarray]
    positions: np.ndarray | None
    subject: str


class Reader:
    """Opens the recordings of one source.

    Args:
        rate: samples a second that they are resampled to (polyphase filter); None: that of the first one.
        room: bytes that may stay in memory.
    """

    def __init__(self, rate: float | None, room: int = IN_MEMORY) -> None:
        self.rate, self.room = rate, room

    def open(self, path: Path) -> Recording:
        """A recording.

        Raises:
            DataError: it cannot be read, lacks something, or holds NaN; or a package is missing.
        """
        raw = _npz(path) if path.suffix.lower() == ".npz" else _mne(path)
        self.rate = self.rate or raw.rate
        positions = None if raw.positions is None else unit_square(raw.positions)
        size = 4 * raw.shape[0] * round(raw.shape[1] * self.rate / raw.rate)
        if size <= self.room:
            self.room -= size
            x = np.concatenate([part for _, part in self._parts(path, raw)])
        else:
            x = self._mapped(path, raw)
        return Recording(str(path), x, positions, raw.subject)

    def _parts(self, path: Path, raw: Raw) -> Any:
        """Some sensors after the other ``(first, [c, T])``, resampled."""
        from scipy.signal import resample_poly

        assert self.rate is not None
        ratio = Fraction(self.rate / raw.rate).limit_denominator(1000)
        for first in range(0, raw.shape[0], CHANNELS):
            x = raw.read(slice(first, first + CHANNELS))
            if not np.isfinite(x).all():
                bad = first + int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
                raise DataError(f"{path}: sensor {bad} holds NaN or inf; interpolate it or leave it out")
            if ratio != 1:
                x = resample_poly(x, ratio.numerator, ratio.denominator, axis=1)
            yield first, x.astype(np.float32, copy=False)

    def _mapped(self, path: Path, raw: Raw) -> np.ndarray:
        """``[C, T]`` on the disk, from the cache where it is there already."""
        stat = path.stat()
        key = cache.key_of([str(path.resolve()), stat.st_size, stat.st_mtime_ns, self.rate])
        with cache.locked("signals", key):
            if cache.find("signals", key) is None:
                with cache.writing("signals", key) as folder:
                    out: np.ndarray | None = None
                    for first, part in self._parts(path, raw):
                        if out is None:
                            out = folder.array("x", (part.shape[1], raw.shape[0]), np.float32)
                        out[:, first : first + len(part)] = part.T
                    folder.meta({"rate": self.rate})
        place = cache.find("signals", key)
        assert place is not None
        found = cache.load_array(place, "x")
        assert found is not None
        return found.T


def _npz(path: Path) -> Raw:
    """``x [C, T]``, ``rate``, and maybe ``positions [C, 2 or 3]`` and ``subject``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as .npz ({error})") from None
    if "x" not in found or found["x"].ndim != 2 or "rate" not in found:
        raise DataError(
            f"{path}: wants arrays x [sensors, samples] and rate, found {', '.join(sorted(found))}"
        )
    x, positions = found["x"], found.get("positions")
    if positions is not None and positions.shape not in ((len(x), 2), (len(x), 3)):
        raise DataError(
            f"{path}: positions are {list(positions.shape)}, expected [{len(x)}, 2] or [{len(x)}, 3]"
        )
    subject = str(found.get("subject", path.stem))
    return Raw(float(found["rate"]), x.shape, lambda part: x[part].astype(np.float32), positions, subject)


def _mne(path: Path) -> Raw:
    """Any recording that MNE reads: its M/EEG sensors (those marked bad have no place and so no weight), the
    places in ``info`` (montage or device), the subject of ``info`` or of a BIDS name."""
    try:
        import mne
    except ImportError:
        raise DataError(
            f"{path}: reading {path.suffix} wants MNE; install it with pip install 'ssl-domains[brain]'"
        ) from None
    if path.suffix.lower() not in MNE_SUFFIXES:
        raise DataError(f"{path}: no recording of sensors; known are {', '.join(SUFFIXES)}")
    try:
        raw = mne.io.read_raw(path, preload=False, verbose="error")
    except Exception as error:  # its readers raise many kinds
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: MNE cannot read it ({reason})") from None
    picks = mne.pick_types(raw.info, meg=True, eeg=True, ref_meg=False, exclude=())
    if not len(picks):
        raise DataError(f"{path}: holds no M/EEG sensor (channels: {', '.join(raw.ch_names[:5])} ...)")
    places = np.array([raw.info["chs"][i]["loc"][:3] for i in picks], dtype=np.float64)
    bad = [raw.ch_names[i] in raw.info["bads"] for i in picks]
    places[~places.any(axis=1) | np.array(bad)] = np.nan
    who = (raw.info.get("subject_info") or {}).get("his_id") or re.search(r"sub-([A-Za-z0-9]+)", str(path))
    return Raw(
        float(raw.info["sfreq"]),
        (len(picks), raw.n_times),
        lambda part: raw.get_data(picks=picks[part], verbose="error").astype(np.float32),
        places if np.isfinite(places).any() else None,
        who.group(1) if isinstance(who, re.Match) else who or path.stem,
    )


def unit_square(positions: np.ndarray) -> np.ndarray:
    """``[C, 2]`` in [0, 1]: places on a head are first laid flat (azimuth and angle from the vertex kept)."""
    places = positions.astype(np.float64)
    if places.shape[1] == 3:
        centred = places - np.nanmean(places, axis=0)
        radius = np.linalg.norm(centred, axis=1).clip(1e-12)
        angle = np.arccos((centred[:, 2] / radius).clip(-1, 1))
        azimuth = np.arctan2(centred[:, 1], centred[:, 0])
        places = np.stack([angle * np.cos(azimuth), angle * np.sin(azimuth)], axis=1)
    if not np.isfinite(places).all(axis=1).any():
        return places
    low, high = np.nanmin(places, axis=0), np.nanmax(places, axis=0)
    return (places - low) / np.maximum((high - low).max(), 1e-12)
