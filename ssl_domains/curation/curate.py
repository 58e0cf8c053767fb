"""Near-duplicate removal of a whole source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_domains.core.interfaces import Source, pretrain_rows
from ssl_domains.curation.duplicates import near_duplicates
from ssl_domains.curation.filter import write_filter
from ssl_domains.curation.hashing import BITS, source_hashes

HASH_DISTANCE = 4
"""Bits of 63 in which two pictures that look alike may differ."""
COSINE = 0.98
"""Least cosine of two embeddings of near-duplicates."""


@dataclass(frozen=True)
class Curation:
    """Result of :func:`remove_duplicates`.

    Attributes:
        path: the file, for ``train.rows``.
        rows: pretraining rows looked at.
        kept: of them.
        of_held_out: left out because of a validation or test row.
        examples: (id left out, id that stays, similarity), the most alike first.
    """

    path: Path
    rows: int
    kept: int
    of_held_out: int
    examples: list[tuple[str, str, float]]


def remove_duplicates(
    source: Source,
    out: str | Path,
    *,
    embed: Callable[[np.ndarray], np.ndarray] | None = None,
    threshold: float | None = None,
    held_out: bool = True,
    device: str = "cpu",
) -> Curation:
    """Finds near-duplicates among the rows that pretraining goes over, and writes which stay.

    Args:
        source: any domain's.
        out: ``.parquet`` or ``.csv``: row, id, split, kept, duplicate_of, similarity.
        embed: ``embed(rows) -> [n, D]``: compare embeddings; None: perceptual hashes of pictures.
        threshold: least cosine of embeddings, or most differing bits of hashes; None: the defaults above.
        held_out: rows that are nearly a validation or test row leave, too, so that none of those is known.
        device: where rows are compared.

    Raises:
        DataError: no pictures to hash, or the file cannot be written.
        ValueError: a threshold out of range.
    """
    rows = pretrain_rows(source)
    others = np.concatenate([source.splits.get(name, np.empty(0, np.int64)) for name in ("valid", "test")])
    fixed = np.setdiff1d(others, rows) if held_out else np.empty(0, dtype=np.int64)
    every = np.concatenate([fixed, rows]).astype(np.int64)
    features = source_hashes(source, every) if embed is None else embed(every)
    found = near_duplicates(features, _cosine(threshold, embed is None), len(fixed), device)
    ids = [str(value) for value in source.ids(every)]
    split = {int(r): name for name, part in source.splits.items() for r in part}
    mine = np.arange(len(fixed), len(every))
    columns: dict[str, list[object]] = {
        "row": [int(every[i]) for i in mine],
        "id": [ids[i] for i in mine],
        "split": [split.get(int(every[i]), "") for i in mine],
        "kept": [bool(found.kept[i]) for i in mine],
        "duplicate_of": ["" if found.of[i] < 0 else ids[found.of[i]] for i in mine],
        "similarity": [None if found.of[i] < 0 else round(float(found.similarity[i]), 6) for i in mine],
    }
    path = write_filter(Path(out), columns)
    gone = sorted((i for i in mine if not found.kept[i]), key=lambda i: -found.similarity[i])
    examples = [(ids[i], ids[found.of[i]], float(found.similarity[i])) for i in gone[:10]]
    leaked = int(sum(found.of[i] < len(fixed) for i in gone))
    return Curation(path, len(mine), int(found.kept[mine].sum()), leaked, examples)


def _cosine(threshold: float | None, hashes: bool) -> float:
    """The threshold as a cosine; two hashes that differ in d of 63 bits have the cosine 1 - 2 d / 63."""
    if not hashes:
        return COSINE if threshold is None else threshold
    distance = HASH_DISTANCE if threshold is None else threshold
    if distance < 0 or distance != int(distance):
        raise ValueError(
            f"threshold counts differing bits of {BITS} and must be a whole number, got {distance}"
        )
    return 1 - 2 * distance / BITS
