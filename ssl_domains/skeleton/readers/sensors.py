"""Body-worn sensors: tables and arrays with time stamps, several devices on one clock."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.layouts import Layout
from ssl_domains.skeleton.readers import arrays
from ssl_domains.skeleton.readers.files import ReadOptions, expand
from ssl_domains.skeleton.readers.tables import column, read_frame
from ssl_domains.skeleton.recordings import Recording, Recordings
from ssl_domains.skeleton.store import ArrayStore

_TIME = ("time", "timestamp", "t", "seconds")
_DEVICE = ("device", "sensor", "position")
_RECORDING = ("recording", "session", "trial", "sequence", "clip", "file")
_GROUP = ("group", "subject", "user", "participant")
_LABEL = ("label", "activity", "action")
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class SensorOptions:
    """What the reader of sensors needs to know of the recipe's ``data`` section.

    Attributes:
        common: names of label, group, split and recording (``clip``) columns.
        time: column of the time stamps.
        time_unit: s, ms, us or ns, of stamps that are numbers.
        device: column of the device, in tables with a row a device and moment.
        devices: names of the devices; prefixes of columns, or names of files.
        channels: names of the channels; None: all columns of numbers.
        rate: frames a second after resampling; None: that of the first device.
        max_gap: seconds between two samples beyond which nothing is filled in.
    """

    common: ReadOptions
    time: str | None = None
    time_unit: str = "s"
    device: str | None = None
    devices: Sequence[str] | None = None
    channels: Sequence[str] | None = None
    rate: float | None = None
    max_gap: float = 0.25


@dataclass
class Track:
    """One device in one recording: ``time [n]`` seconds, ``values [n, C]``, and where it is from."""

    device: str
    time: np.ndarray
    values: np.ndarray
    origin: str
    first_row: np.ndarray


def read_sensors(source: Any, options: SensorOptions) -> Recordings:
    """Recordings of devices on one clock.

    A table is either long (a row a device and moment: columns time, device, channels), or wide (a row a
    moment: time and ``<device>_<channel>``, with ``devices`` named), or of one device. Further columns:
        recording,
    subject, label, split. A folder: every table is a recording, unless ``devices`` names its files: then
    every folder is one, with a file a device. ``.npz``: ``x [N, C, T, V]`` or ``[N, C, T]`` windows, or
    ``x [S, V, C]`` with start and length; and ``devices``, ``channels``, ``rate``, label, group, split.

    Raises:
        DataError: no such columns, time stamps that run backwards, or devices with other channels.
    """
    if options.time_unit not in _UNITS:
        raise DataError(f"data.time_unit is {options.time_unit!r}; use one of {', '.join(_UNITS)}")
    path = expand(source)
    if path.suffix.lower() in (".npz", ".npy"):
        return _arrays(path, options)
    files = (
        [path]
        if path.is_file()
        else sorted(p for e in ("csv", "tsv", "parquet") for p in path.rglob(f"*.{e}"))
    )
    if not files:
        raise DataError(f"{path}: holds no table (.csv, .tsv, .parquet) or array; check data.source")
    reader = _Reader(options)
    for file in files:
        reader.table(file, path)
    return reader.recordings(str(path))


def device_layout(names: Sequence[str]) -> Layout:
    """Devices as points without bones."""
    return Layout(
        "devices", tuple(names), (-1,) * len(names), (), tuple((n, (i,)) for i, n in enumerate(names)), -1
    )


def vectors_of(channels: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Triples of channels that are the axes of one vector: ``acc_x, acc_y, acc_z``."""
    stems: dict[str, list[int]] = {}
    for i, name in enumerate(channels):
        if m := re.fullmatch(r"(?i)(.*?)[_. ]?([xyz])", name):
            stems.setdefault(m[1], []).append(i)
    return tuple(tuple(places) for places in stems.values() if len(places) == 3)


class _Reader:
    """Collects the tracks of all recordings, then puts each on one clock."""

    def __init__(self, options: SensorOptions) -> None:
        self.options, self.channels = options, tuple(options.channels or ())
        self.tracks: dict[str, list[Track]] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.labels: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def table(self, file: Path, root: Path) -> None:
        """Reads one table."""
        frame, o = read_frame(file), self.options
        time = column(frame, o.time, _TIME, file, "time")
        if time is None:
            raise DataError(
                f"{file}: has no column of time stamps (looked for {', '.join(_TIME)}); say which: data.time"
            )
        seconds = self._seconds(frame[time], file, time)
        device = column(frame, o.device, _DEVICE, file, "device")
        usual = {"label": _LABEL, "group": _GROUP, "split": ("split",), "clip": _RECORDING}
        names = {k: column(frame, getattr(o.common, k), u, file, k) for k, u in usual.items()}
        own_file = o.devices is not None and file.stem in o.devices
        base = str(file.parent.relative_to(root)) if own_file and root.is_dir() else file.name
        skip = {time, device, *names.values()}
        rows = np.arange(len(frame))
        keys = (
            [names["group"], names["clip"]]
            if names["clip"] and names["group"]
            else [names["clip"] or names["group"]]
        )
        keys = [k for k in keys if k is not None]
        groups = frame.groupby(keys, sort=False).indices if keys else {(): rows}
        for key, places in groups.items():
            key = key if isinstance(key, tuple) else (key,)
            name = "/".join([base, *map(str, key)]) if key else base
            places = np.sort(places)
            part = frame.iloc[places]
            self._facts(name, part, names, seconds[places], file)
            if device is not None:
                for which, inside in part.groupby(device, sort=False).indices.items():
                    self._add(name, str(which), frame, places[np.sort(inside)], seconds, skip, file, "")
            elif own_file or o.devices is None:
                self._add(name, file.stem if own_file else "device", frame, places, seconds, skip, file, "")
            else:
                for which in o.devices:
                    self._add(name, which, frame, places, seconds, skip, file, which)

    def _seconds(self, stamps: Any, file: Path, name: str) -> np.ndarray:
        import pandas as pd

        if stamps.dtype == object or str(stamps.dtype).startswith(("str", "datetime")):
            try:
                stamps = pd.to_datetime(stamps)
            except (ValueError, TypeError):
                raise DataError(f"{file}: column {name!r} holds neither numbers nor times") from None
            return (stamps - stamps.iloc[0]).dt.total_seconds().to_numpy()
        values = stamps.to_numpy(dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DataError(f"{file}: row {bad[0] + 1} has no time stamp in column {name!r}; remove it")
        return values * _UNITS[self.options.time_unit]

    def _add(
        self,
        name: str,
        device: str,
        frame: Any,
        rows: np.ndarray,
        seconds: np.ndarray,
        skip: set,
        file: Path,
        prefix: str,
    ) -> None:
        part = frame.iloc[rows]
        channels, columns = self._columns(part, prefix, skip, file)
        if not self.channels:
            self.channels = channels
        if channels != self.channels:
            raise DataError(
                f"{file}: device {device!r} has the channels {', '.join(channels)}, others have "
                f"{', '.join(self.channels)}; name those they share in data.channels"
            )
        try:
            values = part[columns].to_numpy(dtype=np.float64)
        except (ValueError, TypeError):
            bad = next(c for c in columns if part[c].dtype == object)
            raise DataError(
                f"{file}: column {bad!r} holds something that is no number; leave it out with data.channels"
            ) from None
        time = seconds[rows]
        back = np.flatnonzero(np.diff(time) < 0)
        if len(back):
            at = rows[back[0] + 1] + 1
            raise DataError(
                f"{file}: row {at}: time stamps of device {device!r} run backwards ({time[back[0]]:g} s then "
                f"{time[back[0] + 1]:g} s); sort the rows, or name a column of recordings in data.clip"
            )
        known = self.tracks.setdefault(name, [])
        if any(t.device == device for t in known):
            raise DataError(
                f"{file}: device {device!r} is in recording {name!r} twice; name recordings in data.clip"
            )
        known.append(Track(device, time, values, str(file), rows))

    def _columns(self, part: Any, prefix: str, skip: set, file: Path) -> tuple[tuple[str, ...], list[str]]:
        """Names of the channels, and of their columns."""
        if not prefix:
            found = [c for c in part.columns if c not in skip and part[c].dtype.kind in "fiu"]
            wanted = list(self.options.channels or found)
            lost = [c for c in wanted if c not in part.columns]
            if lost or not wanted:
                raise DataError(
                    f"{file}: has no channel {lost[0] if lost else 'at all'!r}; check data.channels"
                )
            return tuple(map(str, wanted)), wanted
        own = {
            str(c)[len(prefix) + 1 :]: c
            for c in part.columns
            if re.match(rf"{re.escape(prefix)}[_.: ]", str(c))
        }
        if not own:
            raise DataError(f"{file}: has no column that begins with {prefix!r}; check data.devices")
        chosen = self.options.channels or list(own)
        lost = [c for c in chosen if c not in own]
        if lost:
            raise DataError(f"{file}: device {prefix!r} has no channel {lost[0]!r}; check data.channels")
        return tuple(chosen), [own[c] for c in chosen]

    def _facts(
        self, name: str, part: Any, names: dict[str, str | None], seconds: np.ndarray, file: Path
    ) -> None:
        facts = self.facts.setdefault(name, {})
        for key in ("group", "split"):
            if names[key] is not None:
                facts[key] = str(part[names[key]].iloc[0])
        if names["label"] is not None:
            order = np.argsort(seconds, kind="stable")
            self.labels.setdefault(name, (seconds[order], part[names["label"]].to_numpy()[order]))

    def recordings(self, source: str) -> Recordings:
        """Every recording resampled to one rate."""
        devices = list(
            self.options.devices or dict.fromkeys(t.device for ts in self.tracks.values() for t in ts)
        )
        rate = self.options.rate or self._rate()
        items = []
        for name, tracks in self.tracks.items():
            points, start = on_one_clock(tracks, devices, len(self.channels), rate, self.options.max_gap)
            label = None
            if name in self.labels:
                time, values = self.labels[name]
                at = np.searchsorted(time, start + np.arange(len(points)) / rate + 1e-9, side="right") - 1
                label = values[at.clip(0)]
            items.append(Recording(name, points[:, None], label=label, rate=rate, **self.facts.get(name, {})))
        notes = [f"resampled to {rate:g} values a second"]
        return Recordings(
            items, self.channels, device_layout(devices), vectors_of(self.channels), source, notes
        )

    def _rate(self) -> float:
        track = next((t for ts in self.tracks.values() for t in ts if len(t.time) > 1), None)
        if track is None:
            raise DataError("no device has two samples; check data.source")
        step = float(np.median(np.diff(track.time)))
        if not step > 0:
            raise DataError(
                f"{track.origin}: most time stamps of {track.device!r} are the same; check data.time_unit"
            )
        return float(round(1.0 / step, 3))


def on_one_clock(
    tracks: Sequence[Track], devices: Sequence[str], n_channels: int, rate: float, max_gap: float
) -> tuple[np.ndarray, float]:
    """``[T, V, C]`` float32 at ``rate`` from the first sample of any device to the last, and the time of
    the first.

    Straight lines between samples at most ``max_gap`` seconds apart; else NaN. A device that samples more
    than twice as fast is first averaged over each frame's time, so that nothing folds back.
    """
    start, stop = min(t.time[0] for t in tracks), max(t.time[-1] for t in tracks)
    grid = start + np.arange(int(np.floor((stop - start) * rate + 1e-6)) + 1) / rate
    out = np.full((len(grid), len(devices), n_channels), np.nan, dtype=np.float32)
    for track in tracks:
        if track.device not in devices:
            continue
        time, first = np.unique(track.time, return_index=True)  # of equal stamps the first counts
        values = track.values[first]
        v = list(devices).index(track.device)
        fast = len(time) > 2 and float(np.median(np.diff(time))) * rate < 0.5
        for c in range(n_channels):
            known = np.isfinite(values[:, c])
            if known.any():
                t, x = time[known], values[known, c]
                if fast:
                    t, x = _averaged(t, x, grid[0], rate)
                out[:, v, c] = _line(grid, t, x, max_gap)
    return out, float(start)


def _averaged(time: np.ndarray, x: np.ndarray, start: float, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean time and value of each frame's samples."""
    frame = np.floor((time - start) * rate + 0.5).astype(np.int64)
    count = np.bincount(frame)
    some = count > 0
    return np.bincount(frame, time)[some] / count[some], np.bincount(frame, x)[some] / count[some]


def _line(grid: np.ndarray, time: np.ndarray, x: np.ndarray, max_gap: float) -> np.ndarray:
    after = np.searchsorted(time, grid, side="left").clip(0, len(time) - 1)
    before = (np.searchsorted(time, grid, side="right") - 1).clip(0)
    near = np.minimum(np.abs(time[after] - grid), np.abs(grid - time[before])) < 1e-9
    inside = (grid >= time[0] - max_gap / 2) & (grid <= time[-1] + max_gap / 2)
    closed = time[after] - time[before] <= max_gap + 1e-9
    return np.where(near | (inside & closed), np.interp(grid, time, x), np.nan)


def _arrays(path: Path, options: SensorOptions) -> Recordings:
    """Windows or recordings in an array file."""
    loaded = arrays.load_arrays(path)
    key = next((k for k in arrays.X_NAMES if k in loaded), None)
    if key is None:
        raise DataError(f"{path}: holds {', '.join(loaded) or 'nothing'}; wants an array x [N, C, T, V]")
    x = loaded[key]
    store: ArrayStore | None
    if "start" not in loaded:
        x = x[..., None, None] if x.ndim == 3 else x[..., None] if x.ndim == 4 else x
        if x.ndim != 5 or x.shape[4] != 1:
            raise DataError(
                f"{path}: x has the shape {list(loaded[key].shape)}, expected windows [N, C, T, V]"
            )
        items, store = arrays.clips_of(x, loaded, path)
        c, v = x.shape[1], x.shape[3]
    else:
        items, store = arrays.ragged(x, loaded, path), None
        v, c = items[0].points.shape[2:]
    arrays.describe(items, loaded, options.common, path)
    rate = options.rate or (float(loaded["rate"]) if "rate" in loaded else None)
    devices = list(options.devices or [str(d) for d in loaded.get("devices", range(v))])
    channels = tuple(options.channels or [str(d) for d in loaded.get("channels", range(c))])
    if len(devices) != v or len(channels) != c:
        raise DataError(
            f"{path}: x has {v} devices of {c} channels, data names {len(devices)} of {len(channels)}"
        )
    for item in items:
        item.rate = rate
    return Recordings(items, channels, device_layout(devices), vectors_of(channels), str(path), array=store)
