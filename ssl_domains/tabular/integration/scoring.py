"""The classifier over candidate pairs, in chunks: rows are encoded once, pairs are streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ssl_domains.core.batch import move
from ssl_domains.tabular import store
from ssl_domains.tabular.integration.candidates import Pairs
from ssl_domains.tabular.integration.encoder import TextCells
from ssl_domains.tabular.integration.matcher import Row
from ssl_domains.tabular.integration.source import TextTableSource

IN_MEMORY_BYTES = 512 << 20
Progress = Callable[[int, int], None]


@contextmanager
def frozen(encoder: TextCells, device: torch.device) -> Iterator[TextCells]:
    """The encoder on a device in eval mode; afterwards as it was."""
    training, place = encoder.training, next(encoder.parameters()).device
    try:
        yield encoder.to(device).eval()
    finally:
        encoder.to(place).train(training)


@torch.inference_mode()
def encode_rows(
    encoder: TextCells, source: TextTableSource, batch_size: int = 1024, progress: Progress | None = None
) -> np.ndarray:
    """``[n, m, D]`` float16 tokens of all rows: in memory, or in a temporary file when larger than 512 MB."""
    n, device = len(source), next(encoder.parameters()).device
    shape = (n, encoder.spec.n_columns, encoder.width)
    if 2 * np.prod(shape, dtype=np.int64) <= IN_MEMORY_BYTES:
        out = np.empty(shape, np.float16)
    else:
        with store.writing(None) as folder:
            out = _Kept(folder.array("tokens", shape, np.float16), folder)
    for start in range(0, n, batch_size):
        rows = np.arange(start, min(start + batch_size, n))
        tokens = encoder(move(source.fetch(rows).x, device)).tokens.values
        out[rows[0] : rows[-1] + 1] = tokens.half().cpu().numpy()
        if progress is not None:
            progress(int(rows[-1]) + 1, n)
    return out


class _Kept(np.ndarray):
    """A mapped array that keeps its temporary folder until it is let go."""

    folder: object

    def __new__(cls, array: np.ndarray, folder: object) -> _Kept:
        view = array.view(cls)
        view.folder = folder
        return view

    def __array_finalize__(self, other: object) -> None:
        self.folder = getattr(other, "folder", None)


@torch.inference_mode()
def score_pairs(
    encoder: TextCells,
    tokens: np.ndarray,
    missing: np.ndarray,
    pairs: Pairs,
    chunk: int = 8192,
    progress: Progress | None = None,
) -> np.ndarray:
    """``[P]`` float32 probabilities that the rows of a pair are the same thing.

    Args:
        encoder: in eval mode, on its device.
        tokens: from :func:`encode_rows`.
        missing: ``[n, m]`` bool.
        pairs: which.
        chunk: pairs at a time.
        progress: called with (pairs done, pairs).
    """
    device = next(encoder.parameters()).device
    out = np.empty(len(pairs), np.float32)

    def rows(index: np.ndarray) -> Row:
        values = torch.from_numpy(np.asarray(tokens[index], dtype=np.float32)).to(device)
        return encoder.rows(values, torch.from_numpy(missing[index]).to(device))

    for start in range(0, len(pairs), chunk):
        part = slice(start, start + chunk)
        logits = encoder.match(rows(pairs.left[part]), rows(pairs.right[part]))
        out[part] = logits.float().sigmoid().cpu().numpy()
        if progress is not None:
            progress(min(start + chunk, len(pairs)), len(pairs))
    return out
