"""Running statistics of one column: what a pass over the train rows leaves behind."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssl_domains.core.errors import DataError
from ssl_domains.tabular.convert import looks_like_date, number_text, numbers, texts, to_number
from ssl_domains.tabular.readers import Reader
from ssl_domains.tabular.spec import ColumnSpec

N_QUANTILES = 65
MAX_COUNTED = 200_000
ID_SHARE = 0.95
MIN_ROWS_FOR_ID = 20
MIXED_SHARE = 0.9


@dataclass
class Rows:
    """Which rows of a batch count.

    Attributes:
        start: number of the batch's first row.
        train: ``[n]`` bool, rows that statistics are taken from.
        sample: ``[n]`` bool, the train rows that quantiles are taken from.
    """

    start: int
    train: np.ndarray
    sample: np.ndarray


def finite(values: np.ndarray, start: int, name: str, reader: Reader, inf: str) -> np.ndarray:
    """Numbers with infinities made missing, or refused.

    Raises:
        DataError: an infinite value, and ``inf`` is ``error``.
    """
    odd = np.isinf(values)
    if odd.any():
        if inf == "error":
            row = start + int(odd.argmax())
            raise DataError(
                f"{reader.where(row)}: column {name!r} is infinite; correct it, or set data.inf: missing to "
                "take infinite values as missing"
            )
        values[odd] = np.nan
    return values


@dataclass
class NumberFit:
    """Mean and variance (Chan's pairwise update), range, quantiles; is it a flag, a row number?"""

    source: str
    part: str | None = None
    keep_numeric: bool = False
    n: int = 0
    n_missing: int = 0
    mean: float = 0.0
    square: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    few: dict[float, int] | None = field(default_factory=dict)
    counts_up: bool = True
    last: float = math.nan
    samples: list[np.ndarray] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the token."""
        return self.source if self.part is None else f"{self.source}:{self.part}"

    def update(self, array: pa.Array, rows: Rows, reader: Reader, inf: str) -> None:
        """Takes in one batch."""
        values = finite(numbers(array, self.part), rows.start, self.source, reader, inf)
        if self.counts_up:
            self._follow(values)
        train = values[rows.train]
        real = train[~np.isnan(train)]
        self.n_missing += len(train) - len(real)
        sample = values[rows.sample]
        self.samples.append(sample[~np.isnan(sample)])
        if len(real):
            self._merge(real)

    def _follow(self, values: np.ndarray) -> None:
        """Is it 0, 1, 2 ... or any other count upwards by one?"""
        steps = np.diff(np.concatenate([[self.last], values]) if not math.isnan(self.last) else values)
        self.counts_up = bool((steps == 1.0).all())
        self.last = float(values[-1]) if len(values) else self.last

    def _merge(self, real: np.ndarray) -> None:
        count, mean = len(real), float(real.mean())
        delta, total = mean - self.mean, self.n + count
        self.square += float(np.square(real - mean).sum()) + delta * delta * self.n * count / total
        self.mean += delta * count / total
        self.n = total
        self.low, self.high = min(self.low, float(real.min())), max(self.high, float(real.max()))
        if self.few is not None:
            values, counts = np.unique(real, return_counts=True)
            for value, count in zip(values[:3], counts[:3], strict=True):
                self.few[float(value)] = self.few.get(float(value), 0) + int(count)
            if len(self.few) > 2:
                self.few = None

    def result(self) -> ColumnSpec | str:
        """The column, or why it is none."""
        if self.n == 0:
            return "all missing"
        if self.few is not None and len(self.few) == 1 and not self.n_missing:
            return "constant"
        if self.counts_up and self.part is None and not self.keep_numeric and self.n >= MIN_ROWS_FOR_ID:
            return "counts the rows"
        missing = self.n_missing / (self.n + self.n_missing)
        if self.few is not None and self.part is None and not self.keep_numeric and self._is_flag():
            known = {number_text(value) or "": count for value, count in sorted(self.few.items())}
            counts = (self.n_missing, 0, *known.values())
            return ColumnSpec(
                self.name, "categorical", self.source, categories=tuple(known), counts=counts, missing=missing
            )
        quantiles = np.quantile(np.concatenate(self.samples), np.linspace(0, 1, N_QUANTILES))
        std = math.sqrt(self.square / self.n)
        return ColumnSpec(
            self.name,
            "numeric",
            self.source,
            self.part,
            mean=self.mean,
            std=std or 1.0,
            min=self.low,
            max=self.high,
            quantiles=tuple(map(float, quantiles)),
            missing=missing,
        )

    def _is_flag(self) -> bool:
        """Two whole numbers, such as 0 and 1; or a single value that is sometimes missing."""
        assert self.few is not None
        return len(self.few) == 1 or all(value.is_integer() for value in self.few)


@dataclass
class TextFit:
    """Counts of values, cut to the frequent ones; notes on numbers and dates in disguise.

    At most :data:`MAX_COUNTED` values are counted at a time: when more appear, the rarer half
    is forgotten, so that memory stays bounded and frequent values are kept.
    """

    source: str
    max_categories: int
    forced: bool = False
    counter: Counter[str] = field(default_factory=Counter)
    n: int = 0
    n_missing: int = 0
    n_new: int = 0
    n_numbers: int = 0
    n_all: int = 0
    dates: bool = True
    zeros: bool = False
    odd: tuple[int, str] | None = None

    @property
    def name(self) -> str:
        """Name of the token."""
        return self.source

    def update(self, array: pa.Array, rows: Rows, reader: Reader, inf: str) -> None:
        """Takes in one batch."""
        strings = texts(array)
        train = strings.filter(pa.array(rows.train))
        self.n_missing += train.null_count
        self.n += len(train) - train.null_count
        if not self.forced:
            self._inspect(strings, rows.start)
        for item in pc.value_counts(train.drop_null()).to_pylist():
            self.n_new += item["values"] not in self.counter
            self.counter[item["values"]] += item["counts"]
        if len(self.counter) > MAX_COUNTED:
            self.counter = Counter(dict(self.counter.most_common(MAX_COUNTED // 2)))

    def _inspect(self, strings: pa.Array, start: int) -> None:
        """How many are numbers, whether all are dates, and the first that is no number."""
        counted = pc.value_counts(strings.drop_null()).to_pylist()
        self.n_all += sum(item["counts"] for item in counted)
        for item in counted:
            value = item["values"]
            if self.dates:
                self.dates = looks_like_date(value)
            if not math.isnan(to_number(value)):
                self.n_numbers += item["counts"]
                self.zeros = self.zeros or (value[:1] == "0" and value[1:2].isdigit())
            elif self.odd is None:
                self.odd = (start + pc.index(strings, value).as_py(), value)

    def disguise(self, reader: Reader) -> str | None:
        """``date`` or ``numeric`` when that is what the texts are, else None.

        Raises:
            DataError: most values are numbers, and some are not.
        """
        if self.forced or not self.n_all:
            return None
        if self.dates:
            return "date"
        if self.n_numbers == self.n_all:
            return "numeric" if not self.zeros and len(self.counter) > 30 else None
        if self.odd is not None and self.n_numbers >= MIXED_SHARE * self.n_all:
            row, value = self.odd
            raise DataError(
                f"{reader.where(row)}: column {self.source!r} holds numbers but here the text {value!r}; "
                f"correct it, or set data.columns: {{{self.source}: numeric}} to take such texts as missing, "
                f"or {{{self.source}: categorical}}"
            )
        return None

    def result(self) -> ColumnSpec | str:
        """The column, or why it is none."""
        if self.n == 0:
            return "all missing"
        if len(self.counter) == 1 and not self.n_missing:
            return "constant"
        if not self.forced and self.n >= MIN_ROWS_FOR_ID and self.n_new >= ID_SHARE * self.n:
            return "nearly every value is different (an id or free text)"
        kept = self._frequent()
        rare = self.n - sum(self.counter[value] for value in kept)
        counts = (self.n_missing, rare, *(self.counter[value] for value in kept))
        missing = self.n_missing / (self.n + self.n_missing)
        return ColumnSpec(
            self.name, "categorical", self.source, categories=tuple(kept), counts=counts, missing=missing
        )

    def _frequent(self) -> list[str]:
        """Sorted categories: all of them, or the most frequent among those seen twice."""
        if len(self.counter) <= self.max_categories and self.n_new <= MAX_COUNTED:
            return sorted(self.counter)
        ranked = sorted(self.counter.items(), key=lambda item: (-item[1], item[0]))
        return sorted(value for value, count in ranked[: self.max_categories] if count > 1)
