"""From a listing to a source: headers, windows, labels, splits."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.speech.data import Facts, SpeechSource
from ssl_domains.speech.decode import BrokenSound, Header, quiet_cuts, read_header
from ssl_domains.speech.labels import encode_labels, make_splits, symbols_of
from ssl_domains.speech.listing import Listing, Utterance
from ssl_domains.speech.spec import SpeechSpec
from ssl_domains.speech.store import Decoded, InMemory, Store, Stretches, cached

SLACK = 0.05
"""Seconds that a stretch may end after its file, since manifests round."""
SHOWN = 3


@dataclass(frozen=True)
class BuildOptions:
    """The recipe's ``data`` section, but for what readers take. Names as in the domain's ``open``."""

    task: str | None = None
    group: str = "auto"
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    limit: int | None = None
    strict: bool = False
    cache: bool = False


@dataclass
class _Piece:
    """One row while it is made: an utterance, or a window of one."""

    row: Utterance
    start: float
    end: float
    name: str


def build_source(
    found: Listing, spec: SpeechSpec, options: BuildOptions, fitted: bool = False
) -> SpeechSource:
    """A source of recordings; only headers are read (and long files once, where they are cut at silences).

    Args:
        found: what a reader gave.
        spec: rate, channel and lengths; classes, phones and symbols too when ``fitted``.
        options: see :class:`BuildOptions`.
        fitted: the spec is an encoder's, and new data are opened with it.

    Raises:
        DataError: no recording can be used, or one cannot and ``strict``; one sentence that names it.
    """
    bad: list[str] = []
    headers = _headers(found, bad)
    pieces, short, long = _pieces(found, headers, spec, bad)
    _refuse(found, bad, bool(pieces), options.strict, short, spec)
    if options.limit is not None and options.limit < len(pieces):
        keep = np.unique(np.linspace(0, len(pieces) - 1, options.limit).astype(np.int64))
        pieces = [pieces[int(i)] for i in keep]
    stretches = _stretches(pieces, headers, spec.rate)
    rows = [piece.row for piece in pieces]
    labels, task, classes = encode_labels([row.label for row in rows], options.task, spec.classes)
    splits = make_splits(
        [row.split for row in rows], _units(rows, options), options.valid, options.test, options.seed
    )
    train = [rows[int(i)] for i in splits["train"]]
    if not fitted:
        phones = sorted({name for s in found.segments or () if s is not None for name in s.names})
        symbols = symbols_of([row.text for row in train])
        spec = replace(spec, classes=tuple(classes or ()), phones=tuple(phones), symbols=symbols)
    notes = list(found.notes)
    notes += [f"{short} recordings shorter than {spec.min_seconds:g} s left out"] if short else []
    notes += [f"{long} recordings longer than {spec.max_seconds:g} s cut into windows"] if long else []
    facts = Facts(
        found.name, [p.name for p in pieces], [row.speaker for row in rows], [row.text for row in rows],
        [None if found.segments is None else found.segments[row.file] for row in rows],
        [headers[row.file] for row in rows], notes, bad,
    )  # fmt: skip
    store = _store(found, stretches, spec, options)
    return SpeechSource(spec, store, stretches, facts, splits, labels, task, classes)


def _headers(found: Listing, bad: list[str]) -> list[Header | None]:
    if found.arrays is not None:
        return [Header(len(a), found.rate, 1, "generated") if len(a) else None for a in found.arrays]
    headers: list[Header | None] = []
    for number in range(len(found.files)):
        try:
            headers.append(read_header(found.files[number]))
        except BrokenSound as error:
            headers.append(None)
            bad.append(f"{found.names[number]}: {error}")
    return headers


def _pieces(
    found: Listing, headers: list[Header | None], spec: SpeechSpec, bad: list[str]
) -> tuple[list[_Piece], int, int]:
    """Rows that can be used; how many were too short, and how many were cut."""
    pieces: list[_Piece] = []
    short = long = 0
    cuts: dict[int, list[float]] = {}
    for row in found.rows:
        header = headers[row.file]
        if header is None:
            continue
        end = header.seconds if row.end is None else row.end
        if end > header.seconds + SLACK or row.start >= header.seconds or end <= row.start:
            bad.append(
                f"{row.id}: it is from {row.start:g} to {end:g} s, and the file has {header.seconds:.2f} s"
            )
            continue
        end = min(end, header.seconds)
        if end - row.start < spec.min_seconds:
            short += 1
            continue
        if end - row.start <= spec.max_seconds * 1.0001:
            pieces.append(_Piece(row, row.start, end, row.id))
            continue
        long += 1
        if spec.cut == "silence" and found.arrays is None and row.file not in cuts:
            cuts[row.file] = quiet_cuts(found.files[row.file], header, spec.max_seconds)
        edges = _edges(row.start, end, spec.max_seconds, cuts.get(row.file, []))
        for number, (a, b) in enumerate(pairwise(edges)):
            if b - a >= spec.min_seconds:
                pieces.append(_Piece(replace(row, text=None), a, b, f"{row.id}#{number}"))
    return pieces, short, long


def _edges(start: float, end: float, longest: float, cuts: list[float]) -> list[float]:
    """Where a long stretch is cut: at the given places, and evenly where these are too far apart."""
    inner = [c for c in cuts if start < c < end]
    edges = [start]
    for place in [*inner, end]:
        gap = place - edges[-1]
        parts = max(int(np.ceil(gap / longest - 1e-6)), 1)
        # Fixed windows are full but for the last; between silences the pieces are even.
        step = gap / parts if inner else longest
        edges += [edges[-1] + step * i for i in range(1, parts)] + [place]
    return edges


def _refuse(found: Listing, bad: list[str], usable: bool, strict: bool, short: int, spec: SpeechSpec) -> None:
    if bad and (strict or not usable):
        more = f" ({len(bad)} such recordings in all)" if len(bad) > 1 else ""
        remedy = "mend or remove it" if strict else "none can be used"
        raise DataError(f"{found.name}: {bad[0]}{more}; {remedy}")
    if not usable:
        why = f"all {short} recordings are shorter than data.min_seconds ({spec.min_seconds:g} s); lower it"
        raise DataError(f"{found.name}: {why if short else 'no recording is there'}")
    if bad:
        listed = "; ".join(bad[:SHOWN]) + ("; ..." if len(bad) > SHOWN else "")
        warnings.warn(f"{found.name}: {len(bad)} recordings left out ({listed})", stacklevel=4)


def _stretches(pieces: list[_Piece], headers: list[Header | None], rate: int) -> Stretches:
    file = np.array([piece.row.file for piece in pieces], dtype=np.int64)
    own = np.array([header.rate if header else rate for header in headers], dtype=np.int64)[file]
    total = np.array([header.frames if header else 0 for header in headers], dtype=np.int64)[file]
    start = np.array([piece.start for piece in pieces])
    first = np.round(start * own).astype(np.int64)
    last = np.minimum(np.round(np.array([piece.end for piece in pieces]) * own).astype(np.int64), total)
    frames = np.maximum(last - first, 1)
    return Stretches(file, first, frames, np.maximum(frames * rate // own, 1), start)


def _units(rows: list[Utterance], options: BuildOptions) -> list[str]:
    """What stays on one side of a split: the speaker, unless that is the label; else the file."""
    speakers = [row.speaker for row in rows]
    by = options.group
    if by not in ("auto", "speaker", "file", "label"):
        raise DataError(f"data.group is {by!r}; use auto, speaker or file")
    if by == "speaker" and not any(speakers):
        raise DataError(
            "data.group: speaker, but no speaker is known; name a column or expression (data.speaker)"
        )
    if by == "auto":
        named = [row for row in rows if row.speaker is not None and row.label is not None]
        told = Counter((row.speaker, str(row.label)) for row in named)
        # A label that says no more than the speaker needs all speakers on both sides.
        same = bool(named) and len(told) <= len({row.speaker for row in named})
        by = "speaker" if len({s for s in speakers if s is not None}) >= 3 and not same else "file"
    return [
        f"speaker {row.speaker}" if by == "speaker" and row.speaker else f"file {row.file}" for row in rows
    ]


def _store(found: Listing, stretches: Stretches, spec: SpeechSpec, options: BuildOptions) -> Store:
    if found.arrays is not None:
        return InMemory(found.arrays, stretches, found.rate, spec.rate)
    store = Decoded(found.files, found.names, stretches, spec.rate, spec.channel, options.strict)
    return cached(store) if options.cache else store
