"""Cells as numbers: normalised texts, code points, and hashed n-grams of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ssl_domains.tabular.convert import texts

SPACE = 32
BUCKETS = 1024
"""Buckets of hashed n-grams. Fixed, because their weights are fitted and travel with the spec."""
NGRAMS = (2, 3, 4)
_EDGE = 2  # stands before the first and after the last character of a cell, and for a space
_PRIMES = (1_000_003, 73_856_093, 19_349_663, 83_492_791)
_A, _B = 0x7FEB352D, 0x846CA68B


def normalised(array: pa.Array) -> pa.Array:
    """Cells of any type as the encoder reads them: NFKC, lower case, single spaces, whole numbers
    without a fraction (``1999.0`` is ``1999``). What is empty then is missing."""
    out = pc.utf8_lower(pc.utf8_normalize(texts(array).cast(pa.string()), form="NFKC"))
    out = pc.utf8_trim_whitespace(pc.replace_substring_regex(out, r"\s+", " "))
    out = pc.replace_substring_regex(out, r"^([+-]?\d+)\.0+$", r"\1")
    return pc.if_else(pc.equal(out, ""), pa.scalar(None, pa.string()), out)


class Flat(NamedTuple):
    """The cells of a column, end to end.

    Attributes:
        points: ``[characters]`` uint16 or uint32 code points.
        offsets: ``[n + 1]`` int64; cell i is ``points[offsets[i]:offsets[i + 1]]``.
        missing: ``[n]`` bool.
        longest: characters of the longest cell before it was cut.
        cut: number of cells that were.
        total: characters of all cells before.
    """

    points: np.ndarray
    offsets: np.ndarray
    missing: np.ndarray
    longest: int
    cut: int
    total: int

    def texts(self, rows: np.ndarray) -> list[str]:
        """The cells of these rows as texts; missing ones are empty."""
        spans = zip(self.offsets[rows].tolist(), self.offsets[rows + 1].tolist(), strict=True)
        return [self.points[i:j].astype("<u4").tobytes().decode("utf-32-le") for i, j in spans]


def flatten(array: pa.ChunkedArray, max_chars: int) -> Flat:
    """Code points of a column, each cell cut to ``max_chars``."""
    cells = normalised(_whole(array))
    lengths = pc.utf8_length(cells).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    kept = pc.utf8_slice_codeunits(cells, 0, max_chars).fill_null("")
    joined = "".join(kept.to_pylist())
    points = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
    if not len(points) or points.max() < 1 << 16:
        points = points.astype(np.uint16)
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, max_chars))])
    missing = cells.is_null().to_numpy(zero_copy_only=False)
    longest = int(lengths.max()) if len(lengths) else 0
    return Flat(points, offsets, missing, longest, int((lengths > max_chars).sum()), int(lengths.sum()))


def _whole(array: pa.ChunkedArray) -> pa.Array:
    array = array.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def gather_cells(columns: list[Flat], rows: np.ndarray) -> np.ndarray:
    """``[B, m, L]`` int32 code points, 0 after the end; L is the longest cell of these rows, at least 1."""
    sizes = [column.offsets[rows + 1] - column.offsets[rows] for column in columns]
    longest = max([1, *(int(size.max()) for size in sizes if len(size))])
    out = np.zeros((len(rows), len(columns), longest), dtype=np.int32)
    place = np.arange(longest)
    for j, (column, size) in enumerate(zip(columns, sizes, strict=True)):
        real = place < size[:, None]
        out[:, j][real] = column.points[(column.offsets[rows][:, None] + place)[real]]
    return out


def hashed_ngrams(chars: Tensor) -> Tensor:
    """Counts of hashed character n-grams, with signs.

    Every cell is framed and its spaces count as frames, so that ``(ab`` and ``b)`` mark the ends
    of words; n is 2 to 4. A bucket adds +1 or -1 by a second bit of the hash, so that collisions
    cancel in the mean (Weinberger et al., ICML 2009).

    Args:
        chars: ``[..., L]`` code points, 0 after the end.

    Returns:
        ``[..., BUCKETS]`` float32.
    """
    shape = chars.shape[:-1]
    flat = chars.reshape(-1, chars.shape[-1]).to(torch.int64)
    length = (flat > 0).sum(dim=1, keepdim=True)
    flat = torch.where(flat == SPACE, _EDGE, flat)
    frame = flat.new_full((len(flat), 1), _EDGE)
    framed = torch.cat([frame, flat, torch.zeros_like(frame)], dim=1)
    framed.scatter_(1, length + 1, _EDGE)
    framed = torch.where(length > 0, framed, 0)  # a missing cell has no n-gram
    out = torch.zeros(len(flat), BUCKETS, device=chars.device)
    for n in NGRAMS:
        if framed.shape[1] < n:
            break
        windows = framed.unfold(1, n, 1)  # [C, L + 3 - n, n]
        key = (windows * torch.tensor(_PRIMES[:n], device=chars.device)).sum(dim=-1) + n * 0x9E3779B1
        key = ((key ^ (key >> 15)) * _A) & 0x7FFFFFFFFFFF
        key = ((key ^ (key >> 17)) * _B) & 0x7FFFFFFFFFFF
        key = key ^ (key >> 21)
        sign = 1.0 - 2.0 * ((key >> 12) & 1).to(torch.float32)
        real = windows[..., -1] > 0
        out.scatter_add_(1, key % BUCKETS, sign * real)
    return out.view(*shape, BUCKETS)
