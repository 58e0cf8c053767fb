"""Who chose which item, and when: rows to train on, held-out rows, and the question that retrieval asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ssl_domains.core.batch import Batch
from ssl_domains.core.errors import DataError
from ssl_domains.core.random import hash_ints
from ssl_domains.core.retrieval import Lists, RetrievalTask
from ssl_domains.tabular.convert import is_date, is_text, looks_like_date, numbers, texts
from ssl_domains.tabular.labels import read_split
from ssl_domains.tabular.plan import require
from ssl_domains.tabular.readers import Reader
from ssl_domains.tabular.recommendation.entities import EntitySource
from ssl_domains.tabular.recommendation.spec import RecommendationSpec

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class InteractionOptions:
    """How the interaction table is read; see :meth:`Tabular.open`."""

    user: str
    item: str
    time: str | None = None
    split: str | None = None
    valid: float = 0.1
    test: float = 0.1
    unknown: str = "error"
    head: float = 0.1
    seed: int = 0
    limit: int | None = None


@dataclass
class Interactions:
    """Interactions as numbers.

    Attributes:
        user, item: ``[n]`` int32 rows of both sides.
        time: ``[n]`` float64 seconds or whatever the column counts; None without one.
        split: ``[n]`` int8: 0 train, 1 valid, 2 test.
        dropped: interactions that named unknown users or items and were left out.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None
    split: np.ndarray
    dropped: int = 0


class InteractionSource:
    """Interactions as batches ``{"user": features, "item": features}`` (see :class:`EntitySource`).

    ``Batch.meta`` holds ``user`` and ``item``, the row numbers ``[B]`` of both sides. Implements
    :class:`ssl_domains.core.interfaces.Source`; what is embedded and probed after training are
    the items.

    Attributes:
        users, items: both sides as sources.
        item_counts: ``[items]`` int64, training interactions of each item.
    """

    full_batch = False
    labels: np.ndarray | None = None
    task: str | None = None
    class_names: list[str] | None = None

    def __init__(
        self,
        spec: RecommendationSpec,
        users: EntitySource,
        items: EntitySource,
        rows: Interactions,
        options: InteractionOptions,
        name: str,
    ) -> None:
        self.spec, self.users, self.items, self.name = spec, users, items, name
        self._rows, self._options = rows, options
        self.splits = {word: np.flatnonzero(rows.split == i) for i, word in enumerate(SPLITS)}
        train = rows.item[self.splits["train"]]
        self.item_counts = np.bincount(train, minlength=len(items)).astype(np.int64)
        items.retrieval = self.retrieval

    @property
    def evaluation_source(self) -> EntitySource:
        """The items."""
        return self.items

    def __len__(self) -> int:
        return len(self._rows.user)

    def fetch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The interactions with these row numbers, in this order, on the CPU."""
        rows = np.asarray(indices, dtype=np.int64)
        user, item = self._rows.user[rows].astype(np.int64), self._rows.item[rows].astype(np.int64)
        x = {**self.users.fetch(user).x, **self.items.fetch(item).x}
        meta = {"user": torch.from_numpy(user), "item": torch.from_numpy(item)}
        return Batch(x, torch.from_numpy(rows), None, meta)

    def raw_features(self, indices: np.ndarray) -> np.ndarray | None:
        """None: interactions are not probed."""
        return None

    def ids(self, indices: np.ndarray) -> Sequence[Any]:
        """Row numbers."""
        return np.asarray(indices).tolist()

    def head(self) -> np.ndarray:
        """``[items]`` bool: the most frequent items of training, a share ``head`` of the catalogue."""
        order = np.argsort(-self.item_counts, kind="stable")
        found = np.zeros(len(self.items), bool)
        found[order[: max(round(self._options.head * len(order)), 1)]] = True
        return found

    def retrieval(self, split: str) -> RetrievalTask:
        """Users of a split against all items.

        What a user chose in training (for ``test`` also in validation) is left out of his
        ranking and of what is looked for. Slices: ``head``, the most frequent items of training,
        and ``tail``, all others, never chosen ones among them.
        """
        number = SPLITS.index(split)
        n_users, n_items = len(self.users), len(self.items)
        before, wanted = self._rows.split < number, self._rows.split == number
        user, item = self._rows.user.astype(np.int64), self._rows.item.astype(np.int64)
        seen = Lists.group(user[before], item[before], n_users)
        pairs = np.unique(user[wanted] * n_items + item[wanted])
        known = np.unique(user[before] * n_items + item[before])
        pairs = pairs[~np.isin(pairs, known)]
        asked = np.unique(pairs // n_items)
        relevant = Lists.group(np.searchsorted(asked, pairs // n_items), pairs % n_items, len(asked))
        head = self.head()
        return RetrievalTask(
            self.users, asked, self.items, relevant, Lists.group(*seen.flat(asked), len(asked)),
            self.item_counts, {"head": head, "tail": ~head},
        )  # fmt: skip

    def card(self) -> dict[str, Any]:
        """Counts of interactions, users and items, how uneven they are, and the features of both sides."""
        per_user = np.bincount(self._rows.user, minlength=len(self.users))
        head = self.head()
        counts = self.item_counts
        found = {
            "source": self.name,
            "interactions": len(self),
            "splits": {name: len(rows) for name, rows in self.splits.items()},
            "users": len(self.users),
            "items": len(self.items),
            "users without an interaction": int((per_user == 0).sum()),
            "users with one interaction (never tested)": int((per_user == 1).sum()),
            "items never chosen in training": int((counts == 0).sum()),
            "head": f"{int(head.sum())} items with {counts[head].sum() / max(counts.sum(), 1):.1%} of the "
            "training interactions",
            "user features": self.users.card()["columns"],
            "item features": self.items.card()["columns"],
            "dropped": {**self.users.card()["dropped"], **self.items.card()["dropped"]},
        }
        return found | ({"dropped interactions": self._rows.dropped} if self._rows.dropped else {})


def distinct(reader: Reader, name: str) -> pa.Array:
    """Values of an id column of the interaction table, as text, each once, sorted.

    Raises:
        DataError: a row without a value.
    """
    found, start = pa.array([], pa.string()), 0
    for batch in reader.batches([name]):
        values = texts(batch.column(name))
        if values.null_count:
            row = start + pc.index(pc.is_null(values), True).as_py()
            raise DataError(
                f"{reader.where(row)}: {name!r} is empty; every interaction needs a user and an item"
            )
        found = pc.unique(pa.concat_arrays([found, values.unique()]))
        start += len(batch)
    return found.take(pc.sort_indices(found))


def read_interactions(
    reader: Reader, options: InteractionOptions, users: pa.Array, items: pa.Array
) -> Interactions:
    """The interactions, with users and items as row numbers of their tables.

    Args:
        reader: the interaction table.
        options: see :class:`InteractionOptions`.
        users, items: the known ids, as text.

    Raises:
        DataError: a user or item that its table does not hold (unless ``unknown: drop``), an
            unreadable time, or nothing that could be held out.
    """
    n = reader.n_rows if options.limit is None else min(reader.n_rows, options.limit)
    sides = ((options.user, users, "user"), (options.item, items, "item"))
    codes = {name: np.empty(n, np.int32) for name in ("user", "item")}
    time = None if options.time is None else np.empty(n)
    columns = list(dict.fromkeys([options.user, options.item, *([options.time] if options.time else [])]))
    start = 0
    for batch in reader.batches(columns):
        batch = batch.slice(0, n - start)
        at = slice(start, start + len(batch))
        for column, known, side in sides:
            codes[side][at] = _places(
                batch.column(column), known, reader, start, column, side, options.unknown
            )
        if time is not None and options.time is not None:
            time[at] = _times(batch.column(options.time), reader, start, options.time)
        start += len(batch)
        if start >= n:
            break
    kept = (codes["user"] >= 0) & (codes["item"] >= 0)
    user, item = codes["user"][kept], codes["item"][kept]
    time = None if time is None else time[kept]
    if not len(user):
        raise DataError(
            f"{reader.name}: no interaction names a known user and a known item; check the id columns"
        )
    split = read_split(reader, options.split, n)[kept] if options.split else hold_out(user, time, options)
    _check_split(split, user, options, reader)
    return Interactions(user, item, time, split, int(n - kept.sum()))


def _places(
    column: pa.Array, known: pa.Array, reader: Reader, start: int, name: str, side: str, unknown: str
) -> np.ndarray:
    """``[n]`` int32 rows of the ids, -1 for unknown ones where these are dropped."""
    values = texts(column)
    place = pc.index_in(values, value_set=known).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    odd = np.flatnonzero(place < 0)
    if len(odd) and unknown == "error":
        value = values[int(odd[0])].as_py()
        what = "is empty" if value is None else f"is {value!r}, which data.{side}s does not hold"
        raise DataError(
            f"{reader.where(start + int(odd[0]))}: {name!r} {what}; add a row for it there, or set "
            "data.unknown: drop to leave such interactions out"
        )
    return place


def _times(column: pa.Array, reader: Reader, start: int, name: str) -> np.ndarray:
    """``[n]`` float64."""
    textual = is_text(column.type)
    first = next((value for value in column.to_pylist() if value), "") if textual else ""
    dated = is_date(column.type) or (textual and looks_like_date(first))
    values = numbers(column, "time" if dated else None)
    odd = np.flatnonzero(~np.isfinite(values))
    if len(odd):
        raise DataError(
            f"{reader.where(start + int(odd[0]))}: {name!r} is {column[int(odd[0])].as_py()!r}, expected a "
            "number or a date; correct it, or leave data.time out"
        )
    return values


def hold_out(user: np.ndarray, time: np.ndarray | None, options: InteractionOptions) -> np.ndarray:
    """``[n]`` int8: each user's last interactions are test, those before them valid, the others train.

    Without times the order is random. A share that is wanted gives at least one interaction,
    test before valid, as long as one is left to train on; so users with one are never tested.
    """
    for key in ("valid", "test"):
        share = getattr(options, key)
        if not 0.0 <= share < 1.0:
            raise DataError(
                f"data.{key} is a share of each user's interactions and must lie in [0, 1), got {share}"
            )
    if options.valid + options.test >= 1.0:
        raise DataError("data.valid and data.test together leave no interaction to train on; lower them")
    rng = np.random.default_rng(hash_ints(options.seed, 9))
    shuffled = rng.permutation(len(user))  # ties in time are broken at random, too
    keys = (user[shuffled],) if time is None else (time[shuffled], user[shuffled])
    order = shuffled[np.lexsort(keys)]
    counts = np.bincount(user)
    starts = np.cumsum(counts) - counts
    owner = user[order]
    back = counts[owner] - 1 - (np.arange(len(user)) - starts[owner])  # 0: the user's last
    n_test = _share(counts, options.test, counts - 1)
    n_valid = _share(counts, options.valid, counts - 1 - n_test)
    part = np.where(back < n_test[owner], 2, np.where(back < (n_test + n_valid)[owner], 1, 0))
    split = np.empty(len(user), np.int8)
    split[order] = part
    return split


def _share(counts: np.ndarray, share: float, most: np.ndarray) -> np.ndarray:
    """``round(share * counts)``, at least 1 where a share is wanted, at most ``most``."""
    if not share:
        return np.zeros_like(counts)
    return np.minimum(np.maximum(np.round(share * counts).astype(counts.dtype), 1), np.maximum(most, 0))


def _check_split(split: np.ndarray, user: np.ndarray, options: InteractionOptions, reader: Reader) -> None:
    if not (split == 0).any():
        raise DataError(f"{reader.name}: no interaction is left to train on; lower data.valid and data.test")
    if options.test and not (split == 2).any() and options.split is None:
        raise DataError(
            f"{reader.name}: each of the {len(np.unique(user)):,} users has a single interaction, so none "
            "can be held out; check data.user, or set data.valid and data.test to 0"
        )


def check_columns(reader: Reader, options: InteractionOptions) -> None:
    """Refuses an empty table, missing columns, and words that mean nothing.

    Raises:
        DataError: one sentence.
    """
    if reader.n_rows == 0:
        raise DataError(f"{reader.name} holds no interactions; give at least two")
    for key in ("user", "item", "time", "split"):
        name = getattr(options, key)
        if name is not None:
            require(name, f"data.{key}", reader)
    if options.user == options.item:
        raise DataError(f"data.user and data.item are both {options.user!r}; they must be two columns")
    if options.unknown not in ("error", "drop"):
        raise DataError(f"data.unknown is {options.unknown!r}; use error or drop")
    if not 0.0 < options.head < 1.0:
        raise DataError(f"data.head is a share of the items and must lie between 0 and 1, got {options.head}")
    if options.limit is not None and options.limit < 1:
        raise DataError(f"data.limit must be at least 1, got {options.limit}")
