"""Manifests of the recordings that ``fetch.sh --speech`` unpacks.

    python benchmarks/prepare_speech.py FOLDER

``speech_russian.csv``: festvox-ru, one speaker; phones with times lie in label files beside the recordings.
``speech_fillets.csv``: lines of the game Fish Fillets in Czech and Dutch; who speaks is told from the names.
``speech_librivox.csv``: ten English recordings with transcripts.
"""

from __future__ import annotations

import csv
import re
import sys
import zlib
from pathlib import Path

ROLES = {"m": "small fish", "v": "big fish"}


def split_of(key: str) -> str:
    """Train, valid or test, from a name alone."""
    place = zlib.crc32(key.encode()) % 100
    return "test" if place < 25 else "valid" if place < 35 else "train"


def russian(files: Path) -> list[dict[str, str]]:
    """Utterances with their transcripts; a fifth is for the test."""
    voice = files / "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
    text = (voice / "etc/txt.done.data").read_text(encoding="utf-8", errors="replace")
    said = dict(re.findall(r'\(\s*(\S+)\s+"(.*?)"\s*\)', text))
    rows = []
    for path in sorted((voice / "wav").glob("*.wav")):
        place = {"path": str(path.relative_to(files.parent)), "text": said.get(path.stem, "")}
        rows.append(place | {"speaker": "nsh", "split": split_of(path.stem)})
    return rows


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


def main() -> None:
    """Writes the three manifests."""
    root = Path(sys.argv[1])
    for name, make in (("russian", russian), ("fillets", fillets), ("librivox", librivox)):
        rows = make(root / "files")
        with (root / f"speech_{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        print(f"speech_{name}.csv: {len(rows)} recordings")


if __name__ == "__main__":
    main()
