"""Pairs from Tux Paint's stamps: pictures with their English names and, where there is one, a spoken name.

    python benchmarks/prepare_crossmodal.py ROOT

Reads ROOT/files/usr/share/tuxpaint/stamps, writes ROOT/stamps.csv with the columns image, caption, label (the
folder right below stamps), audio (a French recording or empty), and audio_ru (a Russian one or empty).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

STAMPS = "files/usr/share/tuxpaint/stamps"


def caption(file: Path) -> str:
    """The first line: English."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[0].strip() if lines else ""


def stamps(root: Path) -> int:
    """Writes the table; returns its rows."""
    folder = root / STAMPS
    rows = []
    for picture in sorted(folder.rglob("*.png")):
        if picture.stem.endswith(("_mirror", "_flip")):
            continue
        words = picture.with_suffix(".txt")
        spoken = {
            code: next(iter(picture.parent.glob(f"{picture.stem}_desc_{code}.ogg")), None)
            for code in ("fr", "ru")
        }
        rows.append(
            [
                str(picture.relative_to(root)),
                caption(words) if words.is_file() else "",
                picture.relative_to(folder).parts[0],
                *("" if path is None else str(path.relative_to(root)) for path in spoken.values()),
            ]
        )
    with (root / "stamps.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "label", "audio", "audio_ru"])
        writer.writerows(rows)
    return len(rows)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    print(f"stamps.csv: {stamps(root)} pairs")
