"""Pairs of real things, each from the files of a package, where they are there:

    python benchmarks/prepare_crossmodal.py ROOT

- Tux Paint's stamps (ROOT/files/usr/share/tuxpaint/stamps): ROOT/stamps.csv with the columns image, caption, label
  (the folder right below stamps), audio (a French recording or empty), and audio_ru (a Russian one or empty).
- Open Clip Art (ROOT/files/usr/share/openclipart): ROOT/clipart.csv with the columns path, title, keywords, caption
  (both), category (empty for small ones) and series (drawings whose file names differ by digits alone), and the
  pictures in ROOT/clipart, on white, their longer side 64 pixels. Left out are icons, shapes and the unsorted.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

STAMPS = "files/usr/share/tuxpaint/stamps"
CLIPART = "files/usr/share/openclipart"
SIDE = 64
RARE = 90
"""Categories of fewer pictures are no class of the probe."""


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


def words(file: Path) -> tuple[str, str]:
    """Title and keywords that a drawing's metadata give; empty where there are none."""
    try:
        tree = ElementTree.parse(file)
    except (ElementTree.ParseError, OSError):
        return "", ""
    rdf = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
    dublin = "{http://purl.org/dc/elements/1.1/}"
    work = next((e for e in tree.iter() if e.tag.endswith("}Work")), None)
    if work is None:
        return "", ""
    title = " ".join((work.findtext(f"{dublin}title") or "").split())
    subject = work.find(f"{dublin}subject")
    found = [] if subject is None else [" ".join((e.text or "").split()) for e in subject.iter(f"{rdf}li")]
    return title, ", ".join(k for k in found if k)


def clipart(root: Path) -> int:
    """Writes the table and the small pictures; returns the rows."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = 10_000_000
    folder, small = root / CLIPART, root / "clipart"
    rows: list[list[str]] = []
    for picture in sorted((folder / "png").rglob("*.png")):
        name = picture.relative_to(folder / "png")
        if name.parts[0] in ("shapes", "unsorted") or name.parts[:2] == ("computer", "icons"):
            continue
        title, keywords = words((folder / "svg" / name).with_suffix(".svg"))
        if not title and not keywords:
            continue
        try:
            with Image.open(picture) as image:
                drawn = image.convert("RGBA")
        except Image.DecompressionBombError:  # a few are 15,000 pixels wide
            continue
        drawn.thumbnail((SIDE, SIDE))
        white = Image.new("RGBA", drawn.size, "white")
        white.alpha_composite(drawn)
        place = (small / name).with_suffix(".jpg")
        place.parent.mkdir(parents=True, exist_ok=True)
        white.convert("RGB").save(place, quality=92)
        caption = ". ".join(text for text in (title, keywords) if text)
        series = re.sub(r"[\d_]+", "", name.stem)
        rows.append([str(place.relative_to(root)), title, keywords, caption, name.parts[0], series])
    count = {row[4]: sum(other[4] == row[4] for other in rows) for row in rows}
    with (root / "clipart.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "title", "keywords", "caption", "category", "series"])
        writer.writerows([*row[:4], row[4] if count[row[4]] >= RARE else "", row[5]] for row in rows)
    return len(rows)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    if (root / STAMPS).is_dir():
        print(f"stamps.csv: {stamps(root)} pairs")
    if (root / CLIPART).is_dir():
        print(f"clipart.csv: {clipart(root)} pairs")
