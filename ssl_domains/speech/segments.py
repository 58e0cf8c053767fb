"""Labelled stretches of recordings: xwaves and HTK labels, TIMIT's phones, tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.speech.listing import Segments

ENDINGS = (".lab", ".phn")
"""Files beside a recording, or with its name in a folder ``lab`` beside its own."""
COLUMNS = ("path", "start", "end", "segment")


def find_segments(paths: Sequence[str], folder: str | None = None) -> list[Segments | None]:
    """What lies beside the recordings.

    Args:
        paths: of the recordings.
        folder: where label files of the same names are, if not beside the recordings.
    """
    return [_beside(Path(path), folder) for path in paths]


def _beside(path: Path, folder: str | None) -> Segments | None:
    places = [Path(folder)] if folder else [path.parent, path.parent.parent / "lab"]
    for place in places:
        for ending in (*ENDINGS, *(e.upper() for e in ENDINGS)):
            file = place / (path.stem + ending)
            if file.is_file():
                return read_segments(file)
    return None


def read_segments(file: Path, rate: int = 16000) -> Segments:
    """One label file.

    ``.phn`` is TIMIT's: first and last sample, name. ``.lab`` is xwaves' (a line ``#``, then end in seconds,
    a colour, name; Festival) or HTK's (start and end in units of 100 ns, name).

    Raises:
        DataError: a line that is none of these; names file and line.
    """
    start: list[float] = []
    end: list[float] = []
    names: list[str] = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    xwaves = any(line.strip() == "#" for line in lines)
    begun = not xwaves
    for number, line in enumerate(lines, 1):
        if not begun or not line.strip():
            begun = begun or line.strip() == "#"
            continue
        words = line.split()
        try:
            if xwaves:
                first, last, name = (end[-1] if end else 0.0), float(words[0]), words[2]
            else:
                unit = 1.0 / rate if file.suffix.lower() == ".phn" else 1e-7
                first, last, name = float(words[0]) * unit, float(words[1]) * unit, words[2]
        except (ValueError, IndexError):
            wanted = "end, colour, name" if xwaves else "start, end, name"
            raise DataError(f"{file}: line {number} is {line.strip()!r}, expected {wanted}") from None
        if last < first:
            raise DataError(f"{file}: line {number} ends before it starts ({last:g} s)")
        start.append(first)
        end.append(last)
        names.append(name)
    return Segments(np.array(start), np.array(end), names)


def segments_of_table(file: Path, paths: Sequence[str]) -> list[Segments | None]:
    """Segments from a table with the columns path, start, end (seconds) and segment, for these recordings.

    Raises:
        DataError: a column is missing, or a time is no number.
    """
    from ssl_domains.speech.readers import read_table

    table = read_table(file)
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise DataError(f"data.segments: {file} has no column {missing[0]!r} (it has: {', '.join(table)})")
    places = {str(Path(path)): i for i, path in enumerate(paths)}
    found: dict[int, list[tuple[float, float, str]]] = {}
    for row, (path, start, end, name) in enumerate(zip(*(table[key] for key in COLUMNS), strict=True), 1):
        full = Path(str(path)) if Path(str(path)).is_absolute() else file.parent / str(path)
        if str(full) in places:
            try:
                found.setdefault(places[str(full)], []).append((float(start), float(end), str(name)))
            except (TypeError, ValueError):
                raise DataError(f"{file}: row {row} has no times ({start!r}, {end!r})") from None
    out: list[Segments | None] = [None] * len(paths)
    for i, rows in found.items():
        rows.sort()
        out[i] = Segments(
            np.array([r[0] for r in rows]), np.array([r[1] for r in rows]), [r[2] for r in rows]
        )
    return out
