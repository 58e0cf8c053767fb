"""WebDataset shards: tar files whose members share a key, ``0001.jpg`` and ``0001.cls``."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.image.listing import SUFFIXES, Listing

LABEL_ENDINGS = ("cls", "txt")


@dataclass
class Members:
    """Images within uncompressed tar files, read at their places without unpacking."""

    files: list[str]
    which: np.ndarray  # [n] file
    start: np.ndarray  # [n] first byte
    size: np.ndarray  # [n]

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, row: int) -> bytes:
        with open(self.files[int(self.which[row])], "rb") as file:
            return os.pread(file.fileno(), int(self.size[row]), int(self.start[row]))


def read_shards(files: Sequence[Path], name: str, label: str | Sequence[str] | None) -> Listing:
    """Tar shards; only their headers are read now.

    Args:
        files: the shards.
        name: of the source, for messages.
        label: ``auto`` reads ``KEY.cls`` (a class number) or the field ``label`` of ``KEY.json``; a name
        reads
            that field; None: no labels.

    Raises:
        DataError: no tar file, a compressed one, or one without images.
    """
    entries: list[tuple[int, str, int, int]] = []
    extras: dict[str, Any] = {}
    for number, file in enumerate(files):
        _index(file, number, label, entries, extras)
    if not entries:
        raise DataError(f"{name} holds no image ({len(files)} tar file(s) looked through)")
    ids = [f"{files[which].name}/{member}" for which, member, _, _ in entries]
    keys = [f"{which}/{member.split('.', 1)[0]}" for which, member, _, _ in entries]
    values = None
    if label is not None and extras:
        values = np.array([extras.get(key) for key in keys], dtype=object)
    elif label is not None and label != "auto":
        raise DataError(f"data.label: no member of {name} holds a label {label!r} (KEY.cls, or KEY.json)")
    columns = np.array([[which, start, size] for which, _, start, size in entries], dtype=np.int64)
    stats = [file.stat() for file in files]
    return Listing(
        name,
        ids,
        Members([str(file) for file in files], columns[:, 0], columns[:, 1], columns[:, 2]),
        label=values,
        mark=[[str(f), s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)],
    )


def _index(
    file: Path,
    number: int,
    label: str | Sequence[str] | None,
    entries: list[tuple[int, str, int, int]],
    extras: dict[str, Any],
) -> None:
    try:
        with tarfile.open(file, "r:") as shard:
            for member in shard:
                if not member.isfile():
                    continue
                ending = os.path.splitext(member.name)[1].lower()
                if ending in SUFFIXES:
                    entries.append((number, member.name, member.offset_data, member.size))
                elif label is not None:
                    _extra(shard, member, f"{number}/{member.name.split('.', 1)[0]}", ending, label, extras)
    except tarfile.ReadError as error:
        if tarfile.is_tarfile(file):
            raise DataError(
                f"{file} is compressed, so its images cannot be read in any order; unpack it to a plain .tar"
            ) from None
        raise DataError(f"{file} is no tar file, or truncated ({error})") from None


def _extra(
    shard: tarfile.TarFile,
    member: tarfile.TarInfo,
    key: str,
    ending: str,
    label: str | Sequence[str],
    extras: dict[str, Any],
) -> None:
    wanted = "label" if label == "auto" else label
    handle = shard.extractfile(member)
    if handle is None or member.size > 1 << 20:
        return
    if ending == ".cls" and label in ("auto", "cls"):
        text = handle.read().decode("utf-8", "replace").strip()
        extras[key] = int(text) if text.lstrip("-").isdigit() else text
    elif ending == ".json" and isinstance(wanted, str):
        try:
            found = json.loads(handle.read())
        except ValueError:
            raise DataError(f"{member.name}: its JSON is damaged") from None
        if isinstance(found, dict) and wanted in found:
            extras.setdefault(key, found[wanted])
