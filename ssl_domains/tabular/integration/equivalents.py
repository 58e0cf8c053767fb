"""Words that mean the same: a small built-in list, the user's own file, or a WordNet folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssl_domains.core.errors import DataError

BUILT_IN = """
street st|avenue ave av|road rd|boulevard blvd|drive dr|lane ln|court ct|place pl|square sq|highway hwy
parkway pkwy|terrace ter|circle cir|building bldg|floor fl|apartment apt|suite ste|room rm|post po
north n|south s|east e|west w|northeast ne|northwest nw|southeast se|southwest sw|saint st|mount mt|fort ft
company co|corporation corp|incorporated inc|limited ltd|brothers bros|department dept|division div
university univ|institute inst|college coll|school sch|laboratory lab|center centre ctr|hospital hosp
international intl|national natl|american amer|association assoc|society soc|government govt
conference conf|proceedings proc|symposium symp|workshop wkshp|journal j|transactions trans|review rev
bulletin bull|magazine mag|letters lett|volume vol|number no|edition ed|editor ed|page p|pages pp|chapter ch
january jan|february feb|march mar|april apr|june jun|july jul|august aug|september sept sep|october oct
november nov|december dec|monday mon|tuesday tue|wednesday wed|thursday thu|friday fri|saturday sat|sunday sun
doctor dr|professor prof|mister mr|junior jr|senior sr|captain capt|general gen|president pres|manager mgr
assistant asst|director dir|engineer engr|secretary secy|management mgmt|service svc|system sys
and &|one 1|two 2|three 3|four 4|five 5|six 6|seven 7|eight 8|nine 9|ten 10|first 1st|second 2nd|third 3rd
fourth 4th|fifth 5th|sixth 6th|seventh 7th|eighth 8th|ninth 9th|tenth 10th|million m|thousand k|percent %
restaurant rest|cafe caf|delicatessen deli|telephone tel phone|television tv|kilogram kg|kilometer km|meter m
centimeter cm|millimeter mm|gram g|liter l|inch in|foot ft|pound lb|ounce oz|hour hr|minute min|package pkg
large lg|medium med|small sm|black blk|white wht|without w/o|with w/|versus vs|yes y|no n|male m|female f
"""
_A, _B = 0x2545F4914F6CDD1D, 0x9E3779B97F4A7C1
MOST_CHARS = 32


@dataclass(frozen=True)
class Equivalents:
    """A table from hashed words to words that are no longer.

    Attributes:
        keys: ``[K]`` sorted hashes.
        first, count: ``[K]`` where the equivalents of a key begin in ``texts``, and how many there are.
        texts: ``[E, W]`` code points, 0 after the end.
    """

    keys: Tensor
    first: Tensor
    count: Tensor
    texts: Tensor

    @staticmethod
    def hashes(chars: Tensor, place: Tensor) -> Tensor:
        """Terms ``[C, L]`` whose sum over the characters of a word is its hash."""
        term = (chars.to(torch.int64) + 1) * _A + (place + 1) * _B
        term = (term ^ ((term >> 29) & 0x7FFFFFFFF)) * _B
        return term ^ ((term >> 32) & 0xFFFFFFFF)

    @classmethod
    def of(cls, groups: Iterable[Iterable[str]]) -> Equivalents:
        """The table of groups of words that mean the same; each word leads to the shorter ones of its
        groups."""
        pairs: dict[str, dict[str, None]] = {}
        for group in groups:
            words = [word.lower() for word in group]
            for word in words:
                for other in words:
                    if other != word and len(other) <= len(word) <= MOST_CHARS and " " not in word:
                        pairs.setdefault(word, {})[other] = None
        coded = {word: int(_hash(word)) for word in pairs}
        ranked = sorted(pairs, key=lambda word: coded[word])
        counts = torch.tensor([len(pairs[word]) for word in ranked], dtype=torch.int64)
        texts = [other for word in ranked for other in pairs[word]]
        width = max((len(text) for text in texts), default=1)
        table = torch.zeros(max(len(texts), 1), width, dtype=torch.int64)
        for i, text in enumerate(texts):
            table[i, : len(text)] = torch.tensor([ord(c) for c in text])
        keys = torch.tensor([coded[word] for word in ranked], dtype=torch.int64)
        return cls(keys, counts.cumsum(0) - counts, counts, table)

    def find(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Where the equivalents of each hash begin, and how many there are; both like ``key``."""
        if not len(self.keys):
            return torch.zeros_like(key), torch.zeros_like(key)
        at = torch.searchsorted(self.keys, key).clamp_max(len(self.keys) - 1)
        return self.first[at], torch.where(self.keys[at] == key, self.count[at], 0)

    def to(self, device: torch.device) -> Equivalents:
        """The table on a device."""
        if self.keys.device == device:
            return self
        return Equivalents(*(getattr(self, name).to(device) for name in ("keys", "first", "count", "texts")))


def _hash(word: str) -> Tensor:
    chars = torch.tensor([[ord(c) for c in word]])
    return Equivalents.hashes(chars, torch.arange(len(word))[None]).sum()


def built_in() -> Iterator[list[str]]:
    """The groups of :data:`BUILT_IN`."""
    for group in BUILT_IN.replace("\n", "|").split("|"):
        if group.strip():
            yield group.split()


def from_file(path: str | Path) -> Iterator[list[str]]:
    """The user's groups: a text file with the words of one group on a line, separated by commas.

    Raises:
        DataError: the file cannot be read, or a line holds a single word.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"views.synonyms: {path} cannot be read as UTF-8 text ({error})") from None
    for number, line in enumerate(lines, 1):
        words = [word.strip() for word in line.split("#")[0].split(",") if word.strip()]
        if len(words) == 1:
            raise DataError(
                f"line {number} of {path} (views.synonyms) holds one word; give those that mean the same, "
                "separated by commas: street, st"
            )
        if words:
            yield words


def from_wordnet(folder: str | Path) -> Iterator[list[str]]:
    """The words of every synset of a WordNet database folder (``data.noun`` ...); phrases are left out.

    Raises:
        DataError: no such files.
    """
    files = sorted(Path(folder).expanduser().glob("data.*"))
    if not files:
        raise DataError(f"views.wordnet: {folder} holds no WordNet files (data.noun, data.verb ...)")
    for file in files:
        for line in file.read_text(encoding="latin-1").splitlines():
            fields = line.split(" ")
            if line.startswith("  ") or len(fields) < 6:
                continue
            words = [word.split("(")[0] for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
            group = [word for word in words if "_" not in word]
            if len(group) > 1:
                yield group
