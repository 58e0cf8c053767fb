"""What a reader finds: which stretch of which file each utterance is, and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ssl_domains.speech.decode import Raw
from ssl_domains.speech.tracks import SOUNDS

SUFFIXES = (
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aiff",
    ".aif",
    ".au",
    ".snd",
    ".w64",
    ".caf",
    ".sph",
    *SOUNDS,
)
"""Endings of files that are taken for recordings in a folder."""


class Files(Protocol):
    """Sound files by number: a path, or the bytes of a file. Can be sent to another process."""

    def __len__(self) -> int:
        """Number of files."""

    def __getitem__(self, number: int) -> Raw:
        """A path or bytes."""


@dataclass(frozen=True)
class Segments:
    """Labelled stretches of one file (phones, words).

    Attributes:
        start, end: ``[S]`` seconds from the beginning of the file, in order.
        names: S names.
    """

    start: np.ndarray
    end: np.ndarray
    names: list[str]


@dataclass
class Utterance:
    """One row of a source.

    Attributes:
        file: number of its file.
        id: what the user calls it.
        start: seconds from the beginning of the file.
        end: of the stretch, in seconds; None: the end of the file.
        text: what is said, or None.
        speaker: who says it, or None.
        label: what probes predict, or None.
        split: train, valid or test, or None.
    """

    file: int
    id: str
    start: float = 0.0
    end: float | None = None
    text: str | None = None
    speaker: str | None = None
    label: Any = None
    split: str | None = None


@dataclass
class Listing:
    """Recordings before any is opened.

    Attributes:
        name: of the source, for messages.
        files: the sound files.
        names: of the files, for messages.
        rows: utterances.
        segments: of each file, or None.
        notes: sentences for the card.
        arrays: ``[T]`` float32 samples of each file instead of ``files``, at ``rate``.
        rate: of ``arrays``.
    """

    name: str
    files: Files
    names: Sequence[str]
    rows: list[Utterance]
    segments: Sequence[Segments | None] | None = None
    notes: list[str] = field(default_factory=list)
    arrays: Sequence[np.ndarray] | None = None
    rate: int = 0
