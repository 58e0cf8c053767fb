"""Node features that are kept as small integers and spread to one-hot rows when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class CodedFeatures:
    """``[N, F]`` float32 features, held as one array a column: codes of categories, or numbers.

    A batch is spread to one-hot rows when it is fetched, so that a million molecules cost a few
    bytes an atom instead of some hundred floats. ``features[rows]`` and ``numpy.asarray`` give the
    dense form.

    Args:
        columns: ``[N]`` each; integer columns hold codes (-1: an unknown category, a row of
            zeros), float columns one number.
        widths: features that each column becomes; 1 for numbers.
    """

    def __init__(self, columns: Sequence[np.ndarray], widths: Sequence[int]) -> None:
        self.columns, self.widths = list(columns), tuple(widths)
        self.starts = np.concatenate([[0], np.cumsum(self.widths)]).astype(np.int64)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F)."""
        return (len(self.columns[0]) if self.columns else 0, int(self.starts[-1]))

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: np.ndarray) -> CodedFeatures:
        """The same columns for some rows."""
        return CodedFeatures([column[rows] for column in self.columns], self.widths)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """``[n, F]`` float32."""
        picked = [column[rows] for column in self.columns]
        n = len(picked[0]) if picked else 0
        out = np.zeros((n, self.shape[1]), dtype=np.float32)
        for values, start in zip(picked, self.starts):
            if values.dtype.kind == "f":
                out[:, start] = values
            else:
                known = np.flatnonzero(values >= 0)
                out[known, start + values[known].astype(np.int64)] = 1.0
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        dense = self[:]
        return dense if dtype is None else dense.astype(dtype)

    def sparsity(self) -> float:
        """Share of zeros."""
        n, width = self.shape
        filled = sum(
            int((c != 0).sum()) if c.dtype.kind == "f" else int((c >= 0).sum()) for c in self.columns
        )
        return 1.0 - filled / max(n * width, 1)


def code_type(width: int) -> type[np.signedinteger]:
    """The smallest signed integer that holds the codes of ``width`` categories."""
    return np.int8 if width < 128 else np.int16 if width < 32768 else np.int32
