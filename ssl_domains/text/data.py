"""The source: texts as token numbers, fetched a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.text.readers import Labels, Texts, read_labels
from ssl_domains.text.spec import TextSpec
from ssl_domains.text.tokenise import encode, make_spec

RAW_FEATURES = 512
SHOWN = 120


class TextSource:
    """Texts as batches ``{"ids": [B, L] int64, "length": [B] int64}``, L is ``spec.length``; padded with
    ``spec.pad``.

    Implements :class:`ssl_domains.core.interfaces.Source`.
    """

    full_batch = False

    def __init__(
        self, spec: TextSpec, texts: list[str], ids: list[Any], labels: Labels, splits: dict[str, np.ndarray],
        name: str, notes: list[str], groups: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.spec, self._ids, self.splits = spec, ids, splits
        self.texts = pa.array(texts, pa.large_string())  # one buffer, not an object a text
        self.labels, self.task, self.class_names = labels.values, labels.task, labels.names
        self.name, self.notes, self.groups = name, notes, groups
        self.tokens, self.offsets, self.cut = encode(spec, texts)

    def __len__(self) -> int:
        return len(self.texts)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The texts with these row numbers, in this order, on the CPU."""
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row numbers must lie in [0, {len(self)}), got {rows.min()} to {rows.max()}")
        start = self.offsets[rows]
        length = self.offsets[rows + 1] - start
        place = np.arange(self.spec.length)
        real = place < length[:, None]
        at = np.where(real, start[:, None] + place, 0)
        ids = np.where(real, self.tokens[at] if len(self.tokens) else 0, self.spec.pad)
        label = None if self.labels is None else torch.from_numpy(np.asarray(self.labels[rows]))
        x = {"ids": torch.from_numpy(ids.astype(np.int64)), "length": torch.from_numpy(length)}
        return Batch(x, torch.from_numpy(rows), label)

    def raw_features(self, indices: np.ndarray) -> np.ndarray:
        """``[n, F]`` float32: how often each of the 512 most frequent train tokens stands in a text, as
        log(1 + count)."""
        train = self.splits["train"]
        counts = np.bincount(self._flat(train)[1], minlength=self.spec.size)
        counts[list(self.spec.special)] = 0
        kept = np.argsort(-counts, kind="stable")[:RAW_FEATURES]
        place = np.full(self.spec.size, -1)
        place[kept] = np.arange(len(kept))
        row, token = self._flat(np.asarray(indices))
        column = place[token]
        out = np.zeros((len(indices), len(kept)), dtype=np.float32)
        np.add.at(out, (row[column >= 0], column[column >= 0]), 1.0)
        return np.log1p(out)

    def _flat(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places within ``rows`` and tokens, one after another."""
        counts = self.offsets[rows + 1] - self.offsets[rows]
        row = np.repeat(np.arange(len(rows)), counts)
        inside = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return row, self.tokens[self.offsets[rows][row] + inside]

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """The user's ids, or row numbers."""
        return [self._ids[int(i)] for i in indices]

    def describe(self, row: int) -> str:
        """The beginning of the text."""
        text = " ".join(self.texts[row].as_py().split())
        return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"

    def card(self) -> dict[str, Any]:
        """Counts, lengths, vocabulary, what was cut or left out."""
        length = np.diff(self.offsets)
        unknown = self.tokens == _unknown(self.spec)
        found: dict[str, Any] = {
            "source": self.name,
            "texts": len(self),
            "splits": {name: len(rows) for name, rows in self.splits.items()},
            "vocabulary": self.spec.size,
            "context": self.spec.length,
            "tokens a text": {
                "shortest": int(length.min()),
                "median": float(np.median(length)),
                "longest": int(length.max()),
            },
            "cut to the context": self.cut,
            "unknown tokens": round(float(unknown.mean()), 5) if len(unknown) else 0.0,
            "different texts": pc.count_distinct(self.texts).as_py(),
        }
        if self.class_names is not None:
            found["classes"] = len(self.class_names)
        return found | ({"notes": "; ".join(self.notes)} if self.notes else {})


def _unknown(spec: TextSpec) -> int:
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(spec.tokeniser).token_to_id("[UNK]")
    return -1 if found is None else int(found)


def open_texts(
    found: Texts, *, tokeniser: str = "wordpiece", vocabulary: int = 8192, lower: bool = True,
    length: int | None = None, task: str | None = None, rare: int = 0, valid: float = 0.1, test: float = 0.1,
    seed: int = 0, limit: int | None = None, strict: bool = False, spec: TextSpec | None = None,
) -> TextSource:  # fmt: skip
    """A source of texts that were read; arguments as of ``TextDomain.open``.

    Raises:
        DataError: no text at all, or an empty one with ``strict``.
    """
    kept = [i for i, text in enumerate(found.texts) if text.strip()]
    notes = list(found.notes)
    if len(kept) < len(found.texts):
        first = next(i for i, text in enumerate(found.texts) if not text.strip())
        words = f"{len(found.texts) - len(kept)} of {len(found.texts)} texts are empty"
        words += f" (the first: {found.ids[first]!r})"
        if strict:
            raise DataError(f"{found.name}: {words}; fill them, or leave out data.strict")
        notes.append(f"{words} and were left out")
    if not kept:
        raise DataError(f"{found.name}: holds no text; every row is empty")
    if limit is not None and limit < len(kept):
        kept = [kept[int(i)] for i in np.linspace(0, len(kept) - 1, limit)]
    texts, ids = [found.texts[i] for i in kept], [found.ids[i] for i in kept]
    columns = (found.label, found.split, found.group)
    label, split, group = (None if v is None else [v[i] for i in kept] for v in columns)
    if split is not None:
        splits = _given(split, found.name)
    else:
        splits = draw_splits(len(texts), valid, test, seed, group)
    if spec is None:
        spec = make_spec(tokeniser, [texts[i] for i in splits["train"]], vocabulary, lower, length)
    codes = None if group is None else np.unique([str(g) for g in group], return_inverse=True)[1]
    return TextSource(spec, texts, ids, read_labels(label, task, rare), splits, found.name, notes, codes)


def _given(split: Sequence[Any], name: str) -> dict[str, np.ndarray]:
    words = np.array([str(s).lower() for s in split])
    rows = {key: np.flatnonzero(words == key) for key in ("train", "valid", "test")}
    if not len(rows["train"]):
        raise DataError(f"{name}: data.split: no row is marked train (the marks are train, valid, test)")
    return rows


def draw_splits(
    n: int, valid: float, test: float, seed: int, group: Sequence[Any] | None = None
) -> dict[str, np.ndarray]:
    """Rows by split; rows of one group stay together.

    Raises:
        DataError: shares out of range, or no row is left to train on.
    """
    for key, share in (("valid", valid), ("test", test)):
        if not 0.0 <= share < 1.0:
            raise DataError(f"data.{key} is a share of the texts and must lie in [0, 1), got {share}")
    codes = np.arange(n) if group is None else np.unique([str(g) for g in group], return_inverse=True)[1]
    sizes = np.bincount(codes)
    order = np.random.default_rng([seed, 5]).permutation(len(sizes))
    ends = np.cumsum(sizes[order]) / n
    which = np.zeros(len(sizes), dtype=np.int8)
    which[order[ends <= valid + 1e-9]] = 1
    which[order[(ends > valid + 1e-9) & (ends <= valid + test + 1e-9)]] = 2
    split = which[codes]
    if not (split == 0).any():
        raise DataError(f"data.valid and data.test leave none of {n} texts to train on; lower them")
    return {name: np.flatnonzero(split == i) for i, name in enumerate(("train", "valid", "test"))}
