"""The source of pairs, and one modality of it as a source of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.cache import Matrix
from ssl_domains.core.interfaces import Source
from ssl_domains.crossmodal.spec import PairSpec


@dataclass
class Links:
    """Which rows of the modalities belong together.

    Attributes:
        rows: by part ``[n]`` int64: the row of its source in each pair; -1: the partner is missing.
        splits: by name, rows of pairs; only pairs of at least two partners.
        keys: the user's own name of each pair.
        notes: what was left out, a sentence each.
        missing: by part, how many pairs (or keys of the other side) lack it.
    """

    rows: dict[str, np.ndarray]
    splits: dict[str, np.ndarray]
    keys: Sequence[Any]
    notes: list[str] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)


class PairSource:
    """Pairs as batches ``{part: x}``; implements :class:`ssl_domains.core.interfaces.Source`.

    ``meta`` holds ``rows`` (by part ``[B]`` int64 rows of its source, so that pairs that share an item are
    known),
    ``part`` (the parts' own meta), and, where some pairs lack a partner, ``present`` (by part ``[B]`` bool;
    what stands for a missing ``x`` is another sample's).

    Attributes:
        parts: the modalities' own sources.
        links: which of their rows belong together.
        replaced: by part, features ``[n, D]`` of its rows that stand for its ``x`` (frozen towers).
    """

    full_batch = False

    def __init__(
        self,
        spec: PairSpec,
        parts: Mapping[str, Source],
        links: Links,
        name: str,
        labels: np.ndarray | None = None,
        task: str | None = None,
        class_names: list[str] | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        self.spec, self.parts, self.links, self.name = spec, dict(parts), links, name
        self.splits, self.labels, self.task, self.class_names = links.splits, labels, task, class_names
        self.groups = groups
        self.replaced: dict[str, Matrix] = {}
        if any(hasattr(part, "picture") for part in parts.values()):
            self.picture = self._picture
        if any(hasattr(part, "pieces") for part in parts.values()):
            self.pieces = self._pieces
        known = {name: getattr(part, "lengths", None) for name, part in parts.items()}
        measured = [
            np.where(links.rows[name] >= 0, np.asarray(own)[np.maximum(links.rows[name], 0)], 0.0)
            for name, own in known.items()
            if own is not None
        ]
        if measured:  # for the sampler `bucket`: the longer of two recordings
            self.lengths = np.max(measured, axis=0)
        self.complete = all(bool((rows >= 0).all()) for rows in links.rows.values())

    def __len__(self) -> int:
        return len(self.links.keys)

    def for_pretraining(self) -> PairSource:
        """A copy whose ``x`` may be replaced by cached features."""
        own = copy.copy(self)
        own.replaced = {}
        return own

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The pairs with these numbers, in this order, on the CPU."""
        index = np.asarray(indices, dtype=np.int64)
        if len(index) and (index.min() < 0 or index.max() >= len(self)):
            raise IndexError(f"row numbers must lie in [0, {len(self)}), got {index.min()} to {index.max()}")
        x: dict[str, Any] = {}
        rows: dict[str, torch.Tensor] = {}
        meta: dict[str, Any] = {}
        for name, source in self.parts.items():
            own = self.links.rows[name][index]
            rows[name] = torch.from_numpy(own)
            there = own if self.complete else np.maximum(own, 0)
            if name in self.replaced:
                x[name] = torch.from_numpy(self.replaced[name].rows(there))
            else:
                batch = source.fetch(there)
                x[name], meta[name] = batch.x, batch.meta
        found: dict[str, Any] = {"rows": rows, "part": meta}
        if not self.complete:
            found["present"] = {name: own >= 0 for name, own in rows.items()}
        label = None if self.labels is None else torch.from_numpy(np.asarray(self.labels[index]))
        return Batch(x, torch.from_numpy(index), label, found)

    def _pieces(self, indices: np.ndarray, batch_size: int) -> list[np.ndarray]:
        """How pairs are embedded: positions in ``indices``, so few at a time as the most demanding of the
        modalities whose samples differ in length wants."""
        indices = np.asarray(indices, dtype=np.int64)
        groups = [np.arange(len(indices))]
        for name, source in self.parts.items():
            own = getattr(source, "pieces", None)
            if own is not None:
                rows = np.maximum(self.links.rows[name][indices], 0)
                groups = [group[at] for group in groups for at in own(rows[group], batch_size)]
        return groups

    def shares_items(self) -> bool:
        """True when two train pairs hold one and the same sample of some modality."""
        train = [rows[self.splits["train"]] for rows in self.links.rows.values()]
        return any(len(np.unique(r[r >= 0])) < int((r >= 0).sum()) for r in train)

    def part(self, name: str) -> PartSource:
        """One modality over the same rows."""
        return PartSource(self, name)

    def raw_features(self, indices: np.ndarray) -> np.ndarray | None:
        """``[n, F]``: the plain features of the modalities side by side, of those that have some."""
        parts = [self.part(name).raw_features(indices) for name in self.parts]
        found = [part for part in parts if part is not None]
        return np.concatenate(found, axis=1) if found else None

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """The keys of the pairs."""
        return [self.links.keys[int(i)] for i in indices]

    def describe(self, row: int) -> str:
        """What the modalities say of their samples."""
        parts = [self.part(name).describe(row) for name in self.parts]
        return "; ".join(dict.fromkeys(text for text in parts if text))

    def _picture(self, row: int) -> np.ndarray:
        """The picture of the first modality that has one of this pair, else a white one."""
        for name in self.parts:
            shown = self.part(name).picture(row)
            if shown is not None:
                return shown
        return np.full((16, 16, 3), 255, dtype=np.uint8)

    def card(self) -> dict[str, Any]:
        """Counts of pairs, items and missing partners, and the parts' own cards."""
        rows = self.links.rows
        found: dict[str, Any] = {
            "source": self.name,
            "pairs": len(self),
            "splits": {name: len(r) for name, r in self.splits.items()},
            "different items": {name: len(np.unique(r[r >= 0])) for name, r in rows.items()},
            "missing partners": self.links.missing,
        }
        if self.links.notes:
            found["notes"] = "; ".join(self.links.notes)
        for name, source in self.parts.items():
            found[f"{name} ({self.spec.parts[name].domain})"] = source.card()
        return found


class PartSource:
    """One modality of the pairs, row by row as they are; what it does not have itself is its own source's.

    Implements :class:`ssl_domains.core.interfaces.Source`.
    """

    full_batch = False

    def __init__(self, pairs: PairSource, name: str) -> None:
        self.pairs, self.name, self.base = pairs, name, pairs.parts[name]
        self.rows = pairs.links.rows[name]
        self.spec = self.base.spec
        there = self.rows >= 0
        self.splits = {split: rows[there[rows]] for split, rows in pairs.splits.items()}
        self.labels, self.task, self.class_names = pairs.labels, pairs.task, pairs.class_names
        # What the modality says by its own rows is said by those of the pairs.
        for key in ("lengths", "groups"):
            if getattr(self.base, key, None) is not None:
                setattr(self, key, np.asarray(getattr(self.base, key))[np.maximum(self.rows, 0)])
        if hasattr(self.base, "pieces"):
            self.pieces = self._pieces

    def __len__(self) -> int:
        return len(self.rows)

    def _pieces(self, indices: np.ndarray, batch_size: int) -> list[np.ndarray]:
        """Those of the modality."""
        rows = np.maximum(self.rows[np.asarray(indices, dtype=np.int64)], 0)
        found: list[np.ndarray] = self.base.pieces(rows, batch_size)  # type: ignore[attr-defined]
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """``x`` of the modality, with the numbers of the pairs."""
        index = np.asarray(indices, dtype=np.int64)
        batch = self.base.fetch(np.maximum(self.rows[index], 0))
        label = None if self.labels is None else torch.from_numpy(np.asarray(self.labels[index]))
        return Batch(batch.x, torch.from_numpy(index), label, batch.meta)

    def raw_features(self, indices: np.ndarray) -> np.ndarray | None:
        """The modality's plain features."""
        rows = np.maximum(self.rows[np.asarray(indices, dtype=np.int64)], 0)
        unique, where = np.unique(rows, return_inverse=True)
        found = self.base.raw_features(unique)
        return None if found is None else found[where]

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """The modality's own ids."""
        return self.base.ids(np.maximum(self.rows[np.asarray(indices, dtype=np.int64)], 0))

    def describe(self, row: int) -> str:
        """What the modality says of a sample."""
        own = int(self.rows[row])
        say = getattr(self.base, "describe", None)
        return str(say(own)) if say is not None and own >= 0 else ""

    def picture(self, row: int) -> np.ndarray | None:
        """``[H, W, 3]`` uint8, or None."""
        own = int(self.rows[row])
        draw = getattr(self.base, "picture", None)
        return None if draw is None or own < 0 else draw(own)

    def card(self) -> dict[str, Any]:
        """The modality's card."""
        return self.base.card()
