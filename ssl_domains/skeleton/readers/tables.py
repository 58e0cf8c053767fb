"""Skeletons in CSV and Parquet: a row a joint, or a row a frame."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.skeleton.known_layouts import LAYOUTS
from ssl_domains.skeleton.layouts import Layout, make
from ssl_domains.skeleton.readers.files import ReadOptions, about
from ssl_domains.skeleton.recordings import Recording, Recordings, same_points

_CLIP = ("clip", "video", "sequence", "recording", "file")
_FRAME = ("frame", "time", "timestamp", "t")
_AXES = ("x", "y", "z")
_SURE = ("confidence", "score", "visibility", "likelihood", "c")


def read(path: Path, options: ReadOptions) -> Recordings:
    """Recordings of a table, or of all tables in a folder.

    Long: columns frame, joint, x, y (z) and, optionally, clip, person, confidence, label, group. Wide: a
    row a frame with columns ``<joint>_x``, ``<joint>_y`` (``_z``, ``_confidence``) and the same others.
    Without a column clip a file is one recording.

    Raises:
        DataError: no such columns, or a joint that some frames lack a row for in another number than others.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in _ENDINGS)
    items: list[Recording] = []
    names: list[list[str]] = []
    for file in files:
        frame = read_frame(file)
        facts = about(file, path)
        found, joints = _long(frame, file, options) if "joint" in frame else _wide(frame, file, options)
        for item in found:
            item.label = facts["label"] if item.label is None else item.label
        items += found
        names += [joints] * len(found)
    if items:
        same_points(items, names)
    c = items[0].points.shape[-1] if items else 3
    return Recordings(items, _AXES[:c], _layout(names[0]) if names else None)


_ENDINGS = (".csv", ".tsv", ".parquet")


def read_frame(file: Path) -> Any:
    """A pandas frame of a file.

    Raises:
        DataError: pandas is not installed, or the file is broken.
    """
    try:
        import pandas as pd
    except ImportError:
        raise DataError(
            f"{file}: tables need the package pandas: pip install 'ssl-domains[skeleton]'"
        ) from None
    try:
        if file.suffix.lower() == ".parquet":
            return pd.read_parquet(file)
        return pd.read_csv(file, sep="\t" if file.suffix.lower() == ".tsv" else ",")
    except Exception as error:  # parser errors of several libraries
        raise DataError(f"{file}: cannot be read as a table: {error}") from None


def column(frame: Any, wanted: str | None, usual: tuple[str, ...], file: Path, key: str) -> str | None:
    """The column that an option names, or the first of the usual names that is there.

    Raises:
        DataError: the named one is not there.
    """
    if wanted is not None:
        if wanted not in frame.columns:
            raise DataError(
                f"{file}: no column {wanted!r}; check data.{key} (it has: {', '.join(map(str, frame))})"
            )
        return wanted
    return next((name for name in usual if name in frame.columns), None)


def _layout(joints: list[str]) -> Layout:
    for known in LAYOUTS.values():
        if set(known.joints) == set(joints) and len(known) == len(joints) and list(known.joints) == joints:
            return known
    return make("table", joints)


def _long(frame: Any, file: Path, options: ReadOptions) -> tuple[list[Recording], list[str]]:
    axes = [a for a in _AXES if a in frame]
    time = column(frame, options.frame, _FRAME, file, "frame")
    if len(axes) < 2 or time is None:
        raise DataError(f"{file}: a table with a column `joint` also needs frame, x and y")
    sure = next((name for name in _SURE if name in frame), None)
    names = [str(j) for j in frame["joint"].drop_duplicates()]
    order = next((list(k.joints) for k in LAYOUTS.values() if set(k.joints) == set(names)), names)
    place = {name: i for i, name in enumerate(order)}
    items = []
    for name, part in _by_clip(frame, file, options):
        frames, t = np.unique(part[time].to_numpy(), return_inverse=True)
        persons, m = np.unique(
            part["person"].to_numpy() if "person" in part else np.zeros(len(part)), return_inverse=True
        )
        points = np.full((len(frames), len(persons), len(order), len(axes)), np.nan, dtype=np.float32)
        v = part["joint"].astype(str).map(place).to_numpy()
        points[t, m, v] = _numbers(part, axes, file)
        confidence = None
        if sure is not None:
            confidence = np.zeros(points.shape[:3], dtype=np.float32)
            confidence[t, m, v] = _numbers(part, [sure], file)[:, 0]
        wanted = options.persons or 1
        points, confidence = _persons(points, confidence, wanted)
        items.append(Recording(name, points, confidence, **_facts(part, options, file)))
    return items, order


def _wide(frame: Any, file: Path, options: ReadOptions) -> tuple[list[Recording], list[str]]:
    joints = [m[1] for c in frame.columns if (m := re.fullmatch(r"(.+)[_.]x", str(c)))]
    joints = [j for j in joints if f"{j}_y" in frame or f"{j}.y" in frame]
    if not joints:
        raise DataError(f"{file}: has neither a column `joint` nor columns <joint>_x and <joint>_y")
    dot = "_" if f"{joints[0]}_x" in frame else "."
    axes = [a for a in _AXES if f"{joints[0]}{dot}{a}" in frame]
    sure = next((name for name in _SURE if f"{joints[0]}{dot}{name}" in frame), None)
    time = column(frame, options.frame, _FRAME, file, "frame")
    items = []
    for name, part in _by_clip(frame, file, options):
        part = part if time is None else part.sort_values(time, kind="stable")
        wanted = [f"{j}{dot}{a}" for j in joints for a in axes]
        lost = [c for c in wanted if c not in part]
        if lost:
            raise DataError(f"{file}: has no column {lost[0]!r}, which the other joints have")
        points = _numbers(part, wanted, file).reshape(len(part), 1, len(joints), len(axes))
        confidence = None
        if sure is not None:
            confidence = _numbers(part, [f"{j}{dot}{sure}" for j in joints], file)[:, None]
        items.append(Recording(name, points, confidence, **_facts(part, options, file)))
    return items, joints


def _numbers(part: Any, columns: list[str], file: Path) -> np.ndarray:
    try:
        return part[columns].to_numpy(dtype=np.float32)
    except (ValueError, TypeError):
        bad = next(c for c in columns if part[c].dtype == object)
        raise DataError(f"{file}: column {bad!r} holds something that is no number") from None


def _persons(
    points: np.ndarray, confidence: np.ndarray | None, wanted: int
) -> tuple[np.ndarray, np.ndarray | None]:
    from ssl_domains.skeleton.recordings import keep_moving

    if points.shape[1] == wanted:
        return points, confidence
    known = confidence if confidence is not None else (~np.isnan(points).any(-1)).astype(np.float32)
    return keep_moving(points, known, wanted)


def _by_clip(frame: Any, file: Path, options: ReadOptions) -> Any:
    clip = column(frame, options.clip, _CLIP, file, "clip")
    if clip is None:
        return [(file.name, frame)]
    return [(str(name), part) for name, part in frame.groupby(clip, sort=False)]


def _facts(part: Any, options: ReadOptions, file: Path) -> dict[str, Any]:
    """Label, group and split of a recording: the value that its rows share."""
    facts: dict[str, Any] = {}
    usual = {"label": ("label", "action"), "group": ("group", "subject"), "split": ("split",)}
    for key, names in usual.items():
        name = column(part, getattr(options, key), names, file, key)
        if name is not None:
            value = part[name].iloc[0]
            value = value.item() if hasattr(value, "item") else value
            facts[key] = value if key == "label" or value is None else str(value)
    return facts
