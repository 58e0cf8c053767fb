"""Clips of drawn units that walk, from the sprite sheets of the game Widelands (Debian package
``widelands-data``, GPL-2+).

    python benchmarks/prepare_video.py ROOT

ROOT is the folder that ``fetch.sh`` fills; the package lies unpacked in ``ROOT/files``. Written is
``ROOT/widelands_clips.npz``: ``x [n, 8, 40, 40, 3]`` uint8, and for each clip its ``heading`` (6), ``unit``
(a worker, animal or ship), ``action`` (walk, walkload, sail ...), ``tribe`` and ``sheet`` (clips of one
sheet are cut from one drawing).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

HEADINGS = ("ne", "e", "se", "sw", "w", "nw")
FRAMES, SIDE, GROUND = 8, 40, 128
PLACES = ("tribes/workers", "tribes/ships", "world/critters")


def block(text: str, start: int) -> str:
    """What stands between the brace at or after ``start`` and the one that closes it."""
    begin = text.index("{", start)
    depth = 0
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin + 1 : at]
    raise ValueError("a brace is not closed")


def sheets(text: str) -> Iterator[tuple[str, str, int, int, int]]:
    """(name, base of the file name, frames, columns, rows) of each sheet that comes in six headings."""
    for found in re.finditer(r"spritesheets\s*=\s*\{", text):
        inside = block(text, found.start())
        at = 0
        while match := re.compile(r"(\w+)\s*=\s*\{").search(inside, at):
            body = block(inside, match.start())
            at = match.end() + len(body)
            numbers = {key: re.search(rf"\b{key}\s*=\s*(\d+)", body) for key in ("frames", "columns", "rows")}
            if re.search(r"directional\s*=\s*true", body) and all(numbers.values()):
                base = re.search(r"basename\s*=\s*\"(\w+)\"", body)
                frames, columns, rows = (int(m[1]) for m in numbers.values() if m)
                yield match[1], base[1] if base else match[1], frames, columns, rows


def cut(file: Path, frames: int, columns: int, rows: int) -> np.ndarray:
    """``[frames, 40, 40, 3]`` uint8 on grey: a sheet's drawings, shrunk to fit, in the middle."""
    with Image.open(file) as image:
        sheet = image.convert("RGBA")
    width, height = sheet.width // columns, sheet.height // rows
    factor = min(SIDE / width, SIDE / height, 1.0)
    out = np.full((frames, SIDE, SIDE, 3), GROUND, dtype=np.uint8)
    for i in range(frames):
        left, top = i % columns * width, i // columns * height
        tile = sheet.crop((left, top, left + width, top + height))
        if factor < 1:
            size = (max(round(width * factor), 1), max(round(height * factor), 1))
            tile = tile.resize(size, Image.Resampling.BOX)
        canvas = Image.new("RGBA", (SIDE, SIDE), (GROUND, GROUND, GROUND, 255))
        canvas.alpha_composite(tile, ((SIDE - tile.width) // 2, (SIDE - tile.height) // 2))
        out[i] = np.asarray(canvas.convert("RGB"))
    return out


def main(root: Path) -> None:
    data = root / "files/usr/share/games/widelands/data"
    clips: list[np.ndarray] = []
    columns_: dict[str, list[str]] = {key: [] for key in ("heading", "unit", "action", "tribe", "sheet")}
    for place in PLACES:
        for script in sorted((data / place).rglob("init.lua")):
            unit = script.parent.relative_to(data / place)
            tribe = unit.parts[0] if place != "world/critters" else "animals"
            for action, base, frames, columns, rows in sheets(script.read_text(encoding="utf-8")):
                for heading in HEADINGS:
                    file = script.parent / f"{base}_{heading}_1.png"
                    if not file.is_file() or frames < FRAMES:
                        continue
                    drawn = cut(file, frames, columns, rows)
                    for start in range(0, frames - FRAMES + 1, FRAMES):
                        clips.append(drawn[start : start + FRAMES])
                        name = f"{place.split('/')[1]}/{unit.as_posix()}"
                        facts = (heading, name, action, tribe, f"{name}/{action}/{heading}")
                        for key, value in zip(columns_, facts, strict=True):
                            columns_[key].append(value)
    if not clips:
        raise SystemExit(f"no sprite sheets in {data}: fetch widelands-data first")
    arrays = {key: np.array(values) for key, values in columns_.items()}
    np.savez_compressed(root / "widelands_clips.npz", x=np.stack(clips), **arrays)  # type: ignore[arg-type]
    found = ", ".join(f"{len(set(v))} {k}s" for k, v in columns_.items())
    print(f"widelands_clips.npz: {len(clips)} clips; {found}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
