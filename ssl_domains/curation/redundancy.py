"""Redundancy within a recording: neighbouring slices, frames or windows that show nearly the same.

"Less is More" (Wolf et al., Computers in Biology and Medicine 183, 2024): of each volume only slices are
kept that differ from one another; what is removed are false negatives of a contrast, and work. Recordings
are looked at one by one: two patients may look alike, and both stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source, pretrain_rows
from ssl_domains.curation.curate import Curation
from ssl_domains.curation.duplicates import near_duplicates
from ssl_domains.curation.filter import write_filter
from ssl_domains.curation.hashing import BITS, difference_hash, grey_pictures, perceptual_hash_of
from ssl_domains.curation.information import information_duplicates

DEFAULTS = {
    "dhash": 6.0,
    "phash": 6.0,
    "embedding": 0.98,
    "raw": 0.98,
    "mutual_information": 0.5,
    "every": 10.0,
}
"""By rule: most differing bits of 64 (``dhash``; 6 is the paper's best, "Hash-6") or 63 (``phash``); least
cosine of embeddings or of the centred plain features (``raw``); least normalised mutual information; and
``every``: one row of so many, the naive way."""
_RULE = re.compile(r"^(\w+)(?::([0-9.eE+-]+))?$")


@dataclass(frozen=True)
class Reduction:
    """What stays of some rows.

    Attributes:
        rows: ``[n]`` global row numbers.
        kept: ``[n]`` bool.
        of: ``[n]`` int64: place (in ``rows``) of the row that stays for it; its own for rows that stay.
        similarity: ``[n]`` float32 to that row, 1 for rows that stay; NaN where no similarity was computed.
        recording: ``[n]`` int64.
    """

    rows: np.ndarray
    kept: np.ndarray
    of: np.ndarray
    similarity: np.ndarray
    recording: np.ndarray

    def sizes(self) -> np.ndarray:
        """Rows that each kept row stands for, itself included, in the order of the kept rows."""
        return np.bincount(self.of, minlength=len(self.rows))[self.kept]


def recordings_of(source: Source, rows: np.ndarray) -> np.ndarray:
    """``[n]`` int64 recording of each row: ``source.recordings`` (volume, video, session), else
    ``source.groups``.

    Raises:
        DataError: the source has neither.
    """
    found = getattr(source, "recordings", None)
    found = getattr(source, "groups", None) if found is None else found
    if found is None:
        raise DataError(
            "these data do not say which rows are of one recording; set data.group, or compare all rows "
            "with ssl-domains curate without --within"
        )
    return np.asarray(found)[rows]


def reduce_rows(
    source: Source,
    rows: np.ndarray,
    rule: str = "dhash",
    threshold: float | None = None,
    embed: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Reduction:
    """Goes through each recording in order: the first row stays, and takes with it all rows that are alike;
    of the rest the first stays, and so on (greedy leader clustering).

    So no two rows that stay in a recording are alike, and every row left out is like one that stays. The
    order of recordings plays no part, the order within one does.

    Args:
        source: any domain's.
        rows: ``[n]`` global row numbers, in the order of time or place.
        rule: ``dhash``, ``phash``, ``embedding``, ``raw``, ``mutual_information`` or ``every``.
        threshold: see :data:`DEFAULTS`; alike is what reaches it (bits: at most so many differ; below 0
            nothing is alike).
        embed: ``embed(rows) -> [n, D]``, for ``embedding``.

    Raises:
        DataError: no recordings, or no pictures to hash.
        ValueError: an unknown rule, or a threshold out of range.
    """
    if rule not in DEFAULTS:
        raise ValueError(f"the rule must be one of {', '.join(DEFAULTS)}, got {rule!r}")
    limit = DEFAULTS[rule] if threshold is None else float(threshold)
    rows = np.asarray(rows, dtype=np.int64)
    recording = recordings_of(source, rows)
    n = len(rows)
    kept, of = np.ones(n, dtype=bool), np.arange(n, dtype=np.int64)
    similarity = np.ones(n, dtype=np.float32)
    for number in np.unique(recording):
        own = np.flatnonzero(recording == number)
        k, o, s = _within(source, rows[own], rule, limit, embed)
        kept[own], of[own], similarity[own] = k, own[o], s
    return Reduction(rows, kept, of, similarity, recording)


Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def _within(
    source: Source,
    rows: np.ndarray,
    rule: str,
    limit: float,
    embed: Callable[[np.ndarray], np.ndarray] | None,
) -> Found:
    """(kept, of, similarity) of one recording."""
    n = len(rows)
    own = np.arange(n)
    if rule == "every":
        step = int(limit)
        if step < 1 or step != limit:
            raise ValueError(f"the threshold of 'every' is a whole number from 1 on, got {limit:g}")
        kept = own % step == 0
        return kept, own - own % step, np.where(kept, 1.0, np.nan).astype(np.float32)
    if rule == "mutual_information":
        if not 0 < limit <= 1:
            raise ValueError(f"normalised mutual information lies in (0, 1], got {limit:g}")
        return information_duplicates(grey_pictures(source, rows), limit)
    if rule in ("dhash", "phash"):
        bits = 64 if rule == "dhash" else BITS
        if limit < 0:  # nothing differs in fewer than 0 bits
            return np.ones(n, dtype=bool), own, np.ones(n, dtype=np.float32)
        grey = grey_pictures(source, rows)
        features = difference_hash(grey) if rule == "dhash" else perceptual_hash_of(grey)
        cosine = 1 - 2 * min(int(limit), bits) / bits
    else:
        features, cosine = _vectors(source, rows, rule, embed), limit
    if cosine <= -1:  # everything is alike
        found_of = np.zeros(n, dtype=np.int64)
        return own == 0, found_of, np.where(own == 0, 1.0, -1.0).astype(np.float32)
    found = near_duplicates(features, cosine)
    of = np.where(found.kept, own, found.of)
    return found.kept, of, np.where(found.kept, 1.0, found.similarity).astype(np.float32)


def _vectors(
    source: Source, rows: np.ndarray, rule: str, embed: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    if rule == "embedding":
        if embed is None:
            raise DataError("the rule 'embedding' wants an encoder: ssl-domains curate --encoder RUN")
        return embed(rows)
    found = source.raw_features(rows)
    if found is None:
        raise DataError("these data have no plain features to compare; use another rule")
    return np.asarray(found - found.mean(axis=0))


def reduce_recordings(
    source: Source,
    out: str | Path,
    rule: str = "dhash",
    threshold: float | None = None,
    embed: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Curation:
    """Reduces the rows that pretraining goes over, and writes which stay, for ``train.rows``.

    Args:
        source: any domain's.
        out: ``.parquet`` or ``.csv``: row, id, split, kept, duplicate_of, similarity.
        rule, threshold, embed: as of :func:`reduce_rows`.

    Raises:
        DataError, ValueError: as of :func:`reduce_rows`; or the file cannot be written.
    """
    found = reduce_rows(source, pretrain_rows(source), rule, threshold, embed)
    ids = [str(value) for value in source.ids(found.rows)]
    split = {int(r): name for name, part in source.splits.items() for r in part}
    gone = np.flatnonzero(~found.kept)
    number = np.where(np.isnan(found.similarity), 0.0, found.similarity)
    columns: dict[str, list[object]] = {
        "row": [int(r) for r in found.rows],
        "id": list(ids),
        "split": [split.get(int(r), "") for r in found.rows],
        "kept": [bool(k) for k in found.kept],
        "duplicate_of": ["" if k else ids[o] for k, o in zip(found.kept, found.of, strict=True)],
        "similarity": [
            None if k or np.isnan(s) else round(float(s), 6)
            for k, s in zip(found.kept, found.similarity, strict=True)
        ],
    }
    path = write_filter(Path(out), columns)
    closest = sorted(gone, key=lambda i: -number[i])[:10]
    examples = [(ids[i], ids[found.of[i]], float(found.similarity[i])) for i in closest]
    return Curation(path, len(ids), int(found.kept.sum()), 0, examples)


def parse_rule(text: str) -> tuple[str, float | None] | None:
    """``dhash:6`` as (rule, threshold); None for what is no rule but a file."""
    found = _RULE.match(text)
    if found is None or found[1] not in DEFAULTS:
        return None
    return found[1], None if found[2] is None else float(found[2])
