"""Manifests of the recordings that ``fetch.sh --speech`` unpacks.

    python benchmarks/prepare_speech.py FOLDER

``speech_russian.csv``: festvox-ru, one speaker; phones with times lie in label files beside the recordings.
``speech_fillets.csv``: lines of the game Fish Fillets in Czech and Dutch; who speaks is told from the names.
``speech_librivox.csv``: ten English recordings with transcripts.
``speech_superb.csv``: what all of SUPERB's kinds of tasks need in one table: Russian sentences with their
text (recognition, phones, ABX), frequent words cut out of them with the word as label (keyword spotting;
where a word is, is told by laying its letters along the labelled phones), and the fishes' lines with their
speaker (identification, verification).
"""

from __future__ import annotations

import csv
import re
import sys
import zlib
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np

VOICE = "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
VOWELS = "аеёиоуыэюя"
KINDS = [
    ("б", "b"), ("бп", "p"), ("в", "v"), ("вф", "f"), ("д", "d"), ("дт", "t"), ("г", "g"), ("гк", "k"),
    ("гх", "h"), ("вг", "v"), ("з", "z"), ("зс", "s"), ("ж", "zh"), ("жш", "sh"), ("ц", "c"), ("ч", "ch"),
    ("щ", "sch"), ("й", "j"), ("л", "l"), ("м", "m"), ("н", "n"), ("р", "r"),
]  # fmt: skip
"""Letters that a phone (soft ones have it twice) may stand for."""
LEAST, SHORTEST = 20, 3
"""A keyword occurs so often, and has so many letters."""
ROLES = {"m": "small fish", "v": "big fish"}


def split_of(key: str) -> str:
    """Train, valid or test, from a name alone."""
    place = zlib.crc32(key.encode()) % 100
    return "test" if place < 25 else "valid" if place < 35 else "train"


def russian(files: Path) -> list[dict[str, str]]:
    """Utterances with their transcripts; a fifth is for the test."""
    voice = files / VOICE
    text = (voice / "etc/txt.done.data").read_text(encoding="utf-8", errors="replace")
    said = dict(re.findall(r'\(\s*(\S+)\s+"(.*?)"\s*\)', text))
    rows = []
    for path in sorted((voice / "wav").glob("*.wav")):
        place = {"path": str(path.relative_to(files.parent)), "text": said.get(path.stem, "")}
        rows.append(place | {"speaker": "nsh", "split": split_of(path.stem)})
    return rows


@cache
def unlike(letter: str, phone: str) -> float:
    """0 where a phone may stand for a letter, 1 elsewhere."""
    if letter in VOWELS:
        return 0.0 if phone[0] in "aeiouy" else 1.0
    single = phone[0] if len(phone) == 2 and phone[0] == phone[1] else phone
    return 0.0 if any(letter in letters and single == kind for letters, kind in KINDS) else 1.0


def laid_along(words: list[str], phones: list[str]) -> list[tuple[int, int, float]]:
    """First and last phone of each word, and its share of letters that do not fit: the cheapest alignment, in
    which letters are silent and phones inserted (a glide before a vowel is almost free) at a cost."""
    letters = [(i, letter) for i, word in enumerate(words) for letter in word if letter not in "ьъ"]
    added = [0.2 if phone == "j" else 0.7 for phone in phones]
    cost = np.full((len(letters) + 1, len(phones) + 1), np.inf)
    cost[0] = np.concatenate([[0.0], np.cumsum(added)])
    step = np.zeros(cost.shape, dtype=np.int64)  # 0: phone inserted, 1: letter silent, 2: both
    for i, (_, letter) in enumerate(letters, 1):
        cost[i, 0] = cost[i - 1, 0] + 0.7
        step[i, 0] = 1
        for j, phone in enumerate(phones, 1):
            ways = (
                cost[i, j - 1] + added[j - 1],
                cost[i - 1, j] + 0.7,
                cost[i - 1, j - 1] + unlike(letter, phone),
            )
            step[i, j] = int(np.argmin(ways))
            cost[i, j] = ways[step[i, j]]
    i, j = len(letters), len(phones)
    found: list[list[int]] = [[] for _ in words]
    wrong = [0.0] * len(words)
    while i:
        kind, word = step[i, j], letters[i - 1][0]
        if kind == 2:
            found[word].append(j - 1)
            wrong[word] += unlike(letters[i - 1][1], phones[j - 1])
        wrong[word] += float(kind == 1)
        i, j = i - int(kind > 0), j - int(kind != 1)
    return [
        (min(at, default=0), max(at, default=-1), bad / max(len(word), 1))
        for at, bad, word in zip(found, wrong, words, strict=True)
    ]


def keywords(files: Path, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Frequent words of the Russian sentences, with their places."""
    found = []
    for row in rows:
        lines = (files / VOICE / "lab" / f"{Path(row['path']).stem}.lab").read_text().splitlines()
        marks = [line.split() for line in lines if len(line.split()) == 3]
        ends = [float(mark[0]) for mark in marks]
        said = [(mark[2], [0.0, *ends][k], ends[k]) for k, mark in enumerate(marks) if mark[2] != "pau"]
        words = re.findall("[а-яё]+", row["text"].lower().replace("+", ""))
        for word, (first, last, bad) in zip(words, laid_along(words, [s[0] for s in said]), strict=True):
            if last > first and bad <= 0.34 and len(word) >= SHORTEST:
                place = {"start": f"{said[first][1]:.3f}", "end": f"{said[last][2]:.3f}", "label": word}
                found.append({"path": row["path"], **place, "split": row["split"]})
    often = Counter(row["label"] for row in found)
    return [row for row in found if often[row["label"]] >= LEAST]


def superb(files: Path) -> list[dict[str, str]]:
    """One table for all tasks; a cell that is empty leaves a row out of a task."""
    sentences = russian(files)
    text = [{key: row[key] for key in ("path", "text", "split")} for row in sentences]
    who = [{key: row[key] for key in ("path", "speaker", "split")} for row in fillets(files)]
    columns = ("path", "start", "end", "text", "speaker", "label", "split")
    return [{key: row.get(key, "") for key in columns} for row in [*text, *keywords(files, sentences), *who]]


def fillets(files: Path) -> list[dict[str, str]]:
    """Lines of the two fishes; a level of the game stays on one side. Others speak too rarely."""
    sound, rows = files / "usr/share/games/fillets-ng/sound", []
    for path in sorted(sound.glob("*/*/*.ogg")):
        level, language = path.parts[-3], path.parts[-2]
        role = re.match(r"[^-]+-([mv])-", path.name)
        if language in ("cs", "nl") and role:
            who = f"{language} {ROLES[role[1]]}"
            place = {"path": str(path.relative_to(files.parent)), "speaker": who, "label": who}
            rows.append(place | {"split": split_of(level)})
    return rows


def librivox(files: Path) -> list[dict[str, str]]:
    """Five sentences of a novel, five of cards."""
    data, rows = files / "usr/share/pocketsphinx/test/data", []
    for folder, name in (("librivox", "transcription"), ("cards", "cards.transcription")):
        for line in (data / folder / name).read_text(encoding="utf-8").splitlines():
            found = re.match(r"(?:<s>)?\s*(.*?)\s*(?:</s>)?\s*\((\S+)\)\s*$", line)
            path = None if found is None else data / folder / f"{found[2]}.wav"
            if found and path and path.is_file():
                rows.append(
                    {"path": str(path.relative_to(files.parent)), "text": found[1], "speaker": folder}
                )
    return rows


MANIFESTS = {"russian": russian, "fillets": fillets, "librivox": librivox, "superb": superb}


def main() -> None:
    """Writes the manifests."""
    root = Path(sys.argv[1])
    for name, make in MANIFESTS.items():
        rows = make(root / "files")
        with (root / f"speech_{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        print(f"speech_{name}.csv: {len(rows)} recordings")


if __name__ == "__main__":
    main()
