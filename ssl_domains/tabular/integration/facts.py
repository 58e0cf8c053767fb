"""What the whole table says about its values: which are the same, how often they occur, what tells what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssl_domains.tabular.convert import supported, to_number
from ssl_domains.tabular.integration.chars import normalised

SAMPLE_ROWS = 10_000
BINS = 10


class TableFacts:
    """Every column of a table as codes of its values.

    Two cells hold the same value when their normalised texts are equal (``1999.0`` and ``1999``,
    ``Main  St`` and ``main st``).

    Args:
        table: all columns.

    Attributes:
        names: of the columns.
        codes: ``[n, M]`` int32 value of each cell, -1 missing.
        texts: normalised texts of each column's values, by code.
        counts: how often each value occurs.
    """

    def __init__(self, table: pa.Table) -> None:
        self.names = list(table.column_names)
        self.codes = np.empty((len(table), len(self.names)), dtype=np.int32)
        self.texts: list[pa.Array] = []
        self.counts: list[np.ndarray] = []
        for j, name in enumerate(self.names):
            coded = _as_texts(table.column(name)).dictionary_encode()
            self.codes[:, j] = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            self.texts.append(coded.dictionary)
            known = self.codes[:, j][self.codes[:, j] >= 0]
            self.counts.append(np.bincount(known, minlength=len(coded.dictionary)))
        self._binned: np.ndarray | None = None
        self._weights: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.codes)

    def text(self, column: int, code: int) -> str:
        """Normalised text of a value."""
        return str(self.texts[column][int(code)].as_py())

    def sample(self) -> np.ndarray:
        """Row numbers of at most 10,000 rows, spread evenly."""
        return np.linspace(0, len(self) - 1, min(len(self), SAMPLE_ROWS)).astype(np.int64)

    def weights(self, target: int) -> np.ndarray:
        """``[M]`` mutual information in nats of each column with the target column, 0 for the target itself.

        Over the sampled rows in which both are known; numbers in 10 quantiles (arXiv 2412.00324).
        """
        if target not in self._weights:
            if self._binned is None:
                rows = self.sample()
                self._binned = np.stack([self._bins(j, rows) for j in range(len(self.names))], axis=1)
            columns = self._binned.T
            found = [mutual_information(column, columns[target]) for column in columns]
            found[target] = 0.0
            self._weights[target] = np.array(found)
        return self._weights[target]

    def _bins(self, j: int, rows: np.ndarray) -> np.ndarray:
        """Codes of a column; numbers of many values by quantile."""
        codes = self.codes[rows, j]
        if len(self.counts[j]) <= BINS:
            return codes
        values = np.array([to_number(text) for text in self.texts[j].to_pylist()])
        if np.isnan(values).any():
            return codes
        known = values[codes[codes >= 0]]
        if not len(known):
            return codes
        edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))
        return np.where(codes >= 0, np.searchsorted(edges, values[codes], side="right"), -1)


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """In nats, over the places where neither code is negative; 0 when there are none."""
    known = (a >= 0) & (b >= 0)
    if not known.any():
        return 0.0
    _, a = np.unique(a[known], return_inverse=True)
    _, b = np.unique(b[known], return_inverse=True)
    joint, counts = np.unique(a.astype(np.int64) * (int(b.max()) + 1) + b, return_counts=True)
    n = len(a)
    p_a, p_b = np.bincount(a) / n, np.bincount(b) / n
    first, second = joint // (int(b.max()) + 1), joint % (int(b.max()) + 1)
    p = counts / n
    return float(max((p * np.log(p / (p_a[first] * p_b[second]))).sum(), 0.0))


def _as_texts(column: pa.ChunkedArray) -> pa.Array:
    """Normalised texts, also of lists and other types that are not compared."""
    array = column.combine_chunks()
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), pa.string())
    if not supported(array.type):
        values: Sequence[object] = array.to_pylist()
        array = pa.array([None if value is None else str(value) for value in values], pa.string())
    out = normalised(array)
    return pc.cast(out, pa.string())
