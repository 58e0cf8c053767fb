"""What a table is: its columns, their scales and vocabularies, fitted on the train split."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

MISSING, UNSEEN, FIRST_CATEGORY = 0, 1, 2
SCALINGS = ("standard", "minmax", "quantile")


@dataclass(frozen=True)
class ColumnSpec:
    """One token of a row.

    Attributes:
        name: name of the token; for a part of a date ``column:month``.
        kind: ``numeric`` or ``categorical``.
        source: name of the column in the file.
        part: ``time``, ``month``, ``weekday`` or ``hour`` of a date; None for other columns.
        mean, std, min, max: of the train rows that are not missing, in the file's units.
        quantiles: evenly spaced quantiles of a sample of the train rows, from the 0th to the
            100th percentile, in the file's units.
        categories: known values; their codes are their places plus :data:`FIRST_CATEGORY`.
            Code 0 is a missing value, code 1 one that is not in the list: unseen, or too
            rare to be kept.
        counts: train rows of each code, ``len(categories) + 2`` numbers.
        missing: share of missing values among the train rows.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    source: str
    part: str | None = None
    mean: float = 0.0
    std: float = 1.0
    min: float = 0.0
    max: float = 0.0
    quantiles: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    missing: float = 0.0

    @property
    def n_codes(self) -> int:
        """Number of codes of a categorical column."""
        return len(self.categories) + FIRST_CATEGORY

    @property
    def median(self) -> float:
        """The middle quantile."""
        return self.quantiles[len(self.quantiles) // 2] if self.quantiles else self.mean

    @property
    def entropy(self) -> float:
        """Entropy in nats of the values that are not missing: the cross-entropy of always
        predicting the train frequencies."""
        seen = [count for count in self.counts[UNSEEN:] if count]
        total = sum(seen)
        return -sum(count / total * math.log(count / total) for count in seen) if total else 0.0


@dataclass(frozen=True)
class TableSpec:
    """Frozen description of a table. Tokens come in the order numeric, then categorical.

    Attributes:
        numeric, categorical: the columns of each kind.
        scaling: what :meth:`scale` makes of standardised numbers: ``standard`` (mean 0 and
            standard deviation 1), ``minmax`` ([0, 1] on the train rows; T-JEPA), or
            ``quantile`` (standard normal by piecewise linear ranks).
        dropped: why columns of the file are no tokens, by name.
        n_train: number of rows that all this was fitted on.
    """

    numeric: tuple[ColumnSpec, ...]
    categorical: tuple[ColumnSpec, ...]
    scaling: str = "standard"
    dropped: dict[str, str] | None = None
    n_train: int = 0

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        """All columns, in token order."""
        return self.numeric + self.categorical

    @property
    def n_columns(self) -> int:
        """Number of tokens a row."""
        return len(self.numeric) + len(self.categorical)

    @property
    def names(self) -> list[str]:
        """Names of the tokens."""
        return [column.name for column in self.columns]

    @property
    def sources(self) -> list[str]:
        """Columns of the file that are read, each once."""
        return list(dict.fromkeys(column.source for column in self.columns))

    @property
    def cardinalities(self) -> list[int]:
        """Number of codes of each categorical column."""
        return [column.n_codes for column in self.categorical]

    def scale(self, z: np.ndarray) -> np.ndarray:
        """``[B, Dn]`` standardised float32 to the table's scaling; missing stays NaN."""
        if self.scaling == "standard" or not self.numeric:
            return z
        if self.scaling == "minmax":
            mean, std, low, high = (self._array(key) for key in ("mean", "std", "min", "max"))
            span = np.where(high > low, high - low, 1.0)
            return (z * (std / span).astype(np.float32) + ((mean - low) / span).astype(np.float32)).astype(
                np.float32
            )
        return np.stack([_to_normal(z[:, j], column) for j, column in enumerate(self.numeric)], axis=1)

    def variances(self) -> np.ndarray:
        """``[Dn]`` variance of each number on the train rows, after scaling."""
        if self.scaling != "minmax":
            return np.ones(len(self.numeric))
        span = self._array("max") - self._array("min")
        return (self._array("std") / np.where(span > 0, span, 1.0)) ** 2

    def _array(self, key: str) -> np.ndarray:
        return np.array([getattr(column, key) for column in self.numeric], dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TableSpec:
        """Reads :meth:`to_dict` back."""
        known = {field.name for field in fields(cls)}
        rest = {key: value for key, value in values.items() if key in known}
        rest["numeric"] = tuple(_column(item) for item in values["numeric"])
        rest["categorical"] = tuple(_column(item) for item in values["categorical"])
        return cls(**rest)


def _column(values: dict[str, Any]) -> ColumnSpec:
    known = {field.name for field in fields(ColumnSpec)}
    kept: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known
    }
    return ColumnSpec(**kept)


def _to_normal(z: np.ndarray, column: ColumnSpec) -> np.ndarray:
    """Ranks by linear interpolation between the quantiles, then the normal's inverse; cut at 5e-4."""
    from scipy.special import ndtri

    knots = (np.array(column.quantiles) - column.mean) / column.std
    # A value that fills several quantiles gets the middle of the ranks it covers.
    unique, first = np.unique(knots, return_index=True)
    last = np.append(first[1:], len(knots)) - 1
    levels = (first + last) / 2 / (len(knots) - 1)
    rank = np.interp(z, unique, levels)
    normal = ndtri(np.clip(rank, 5e-4, 1 - 5e-4)).astype(np.float32)
    return np.where(np.isnan(z), np.float32(np.nan), normal)
