"""Embeddings into a file, in chunks, whole or not at all."""

from __future__ import annotations

import csv
import errno
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError, UserError
from ssl_domains.core.interfaces import Encoder, Source
from ssl_domains.evaluation.embeddings import stream

SUFFIXES = (".parquet", ".csv", ".npy")
ROW_GROUP = 16_384
"""Rows of a Parquet row group, at least."""
Chunks = Iterator[tuple[list[Any], np.ndarray]]


def embed_to_file(
    encoder: Encoder,
    source: Source,
    path: str | Path,
    *,
    indices: np.ndarray | None = None,
    layout: str = "columns",
    per: str = "row",
    batch_size: int = 1024,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Embeds rows and writes them, never holding more than a row group (16,384 rows).

    The file is written under a temporary name beside ``path`` and renamed at the end: after
    Ctrl-C, an error or a full disk there is either the old file or none.

    Args:
        encoder: any encoder (frozen as in :func:`~ssl_domains.evaluation.embeddings.extract`).
        source: gives batches and ids.
        path: its suffix chooses the format. ``.parquet`` and ``.csv``: a column ``id`` from
            ``source.ids``, then ``e0 .. e{D-1}``; ``.npy``: the ``[n, D]`` float32 array, no ids.
        indices: rows to embed, in this order; None: all rows.
        layout: "columns", or "list": one fixed-size list column ``embedding`` (Parquet only).
        per: "row", or "recording": the mean over the rows of each of ``source.recordings`` (the clips of a
            video, the patches or slices of a volume), in their order, under ``source.recording_ids``.
        batch_size: rows a forward pass.
        device: see :func:`~ssl_domains.evaluation.embeddings.extract`.
        progress: called with (rows done, rows in all).

    Raises:
        UserError: unknown suffix or layout, no recordings to average over, or the disk is full.
        DataError: an embedding is not finite, or the ids have no common type.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the name must end in one of {', '.join(SUFFIXES)}")
    if layout not in ("columns", "list") or (layout == "list" and path.suffix != ".parquet"):
        raise UserError(f"{path}: layout must be 'columns', or 'list' in a .parquet file, not {layout!r}")
    indices = np.arange(len(source)) if indices is None else np.asarray(indices, dtype=np.int64)
    recordings = _recordings(source, per)
    n = len(indices)
    if recordings is not None:
        indices = indices[np.argsort(recordings[indices], kind="stable")]
        n = len(np.unique(recordings[indices]))
    write = {".parquet": _write_parquet, ".csv": _write_csv, ".npy": _write_npy}[path.suffix]
    with _whole_or_nothing(path) as partial:
        embedded = stream(encoder, source, indices, batch_size=batch_size, device=device)
        chunks = _chunks(embedded, source, len(indices), progress, recordings)
        first = list(itertools.islice(chunks, 1))  # towers give as many vectors as a batch has modalities
        width = first[0][1].shape[1] if first else int(encoder.pooled_width)
        write(partial, itertools.chain(first, chunks), n, width, layout)
    return path


@contextmanager
def _whole_or_nothing(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"{path}: the disk is full; nothing was written") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _chunks(
    embedded: Iterator[tuple[np.ndarray, np.ndarray]],
    source: Source,
    total: int,
    progress: Callable[[int, int], None] | None,
    recordings: np.ndarray | None = None,
) -> Chunks:
    done = 0
    held = _Held(source)
    for rows, z in embedded:
        ids = list(source.ids(rows))
        bad = np.flatnonzero(~np.isfinite(z).all(axis=1))
        if len(bad):
            raise DataError(
                f"row {ids[bad[0]]!r}: the embedding is not finite;"
                " check this row's values, or the run's log for NaN"
            )
        if recordings is None:
            yield ids, z
        else:
            yield held.closed(recordings[rows], z)
        done += len(rows)
        if progress is not None:
            progress(done, total)
    if held.number is not None:
        yield held.last()


def _recordings(source: Source, per: str) -> np.ndarray | None:
    """``[len]`` number of each row's recording; None where every row is for itself."""
    if per not in ("row", "recording"):
        raise UserError(f"embed: per is row or recording, not {per!r}")
    if per == "row":
        return None
    found = getattr(source, "recordings", None)
    if found is None or hasattr(source, "pieces"):  # pieces go by length, not by recording
        raise UserError(
            "embed: these data do not say which rows are of one recording (videos and volumes do); "
            "use per=row"
        )
    return np.asarray(found)


class _Held:
    """Sums of the recording that may go on in the next batch; rows come recording by recording.

    Attributes:
        number: of that recording; None at the start.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.number: int | None = None
        self.total, self.count = np.zeros(0), 0

    def closed(self, numbers: np.ndarray, z: np.ndarray) -> tuple[list[Any], np.ndarray]:
        """(ids, means) of the recordings that end before the last one of ``numbers [b]``."""
        keys, start, count = np.unique(numbers, return_index=True, return_counts=True)
        total = np.add.reduceat(z.astype(np.float64), start, axis=0)
        if self.number is not None:
            if keys[0] == self.number:
                total[0] += self.total
                count[0] += self.count
            else:
                keys = np.concatenate([[self.number], keys])
                total = np.concatenate([self.total[None], total])
                count = np.concatenate([[self.count], count])
        self.number, self.total, self.count = int(keys[-1]), total[-1], int(count[-1])
        return self._named(keys[:-1]), (total[:-1] / count[:-1, None]).astype(np.float32)

    def last(self) -> tuple[list[Any], np.ndarray]:
        """The recording that is held."""
        assert self.number is not None
        return self._named(np.array([self.number])), (self.total[None] / self.count).astype(np.float32)

    def _named(self, numbers: np.ndarray) -> list[Any]:
        own = getattr(self.source, "recording_ids", None)
        return numbers.tolist() if own is None else list(own(numbers))


def _write_parquet(partial: Path, chunks: Chunks, n: int, width: int, layout: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if layout == "list":
        fields = [pa.field("embedding", pa.list_(pa.float32(), width))]
    else:
        fields = [pa.field(f"e{d}", pa.float32()) for d in range(width)]
    id_type: Any = None
    writer: Any = None
    try:
        for ids, z in _grouped(chunks):
            id_type = id_type or _id_type(ids)
            schema = pa.schema([pa.field("id", id_type), *fields])
            # Embeddings hardly repeat: a dictionary of their values would only cost time.
            writer = writer or pq.ParquetWriter(partial, schema, compression="zstd", use_dictionary=["id"])
            arrays = [_id_array(ids, id_type), *_arrays(z, layout)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        if writer is None:
            pq.write_table(pa.schema([pa.field("id", pa.string()), *fields]).empty_table(), partial)
    finally:
        if writer is not None:
            writer.close()


def _grouped(chunks: Chunks) -> Chunks:
    """Batches joined to row groups: small ones make a file of many rows slow to open."""
    ids: list[Any] = []
    parts: list[np.ndarray] = []
    for some, z in chunks:
        ids += some
        parts.append(z)
        if len(ids) >= ROW_GROUP:
            yield ids, np.concatenate(parts)
            ids, parts = [], []
    if ids:
        yield ids, np.concatenate(parts)


def _arrays(z: np.ndarray, layout: str) -> list[Any]:
    import pyarrow as pa

    if layout == "list":
        return [pa.FixedSizeListArray.from_arrays(pa.array(z.reshape(-1)), z.shape[1])]
    return [pa.array(column) for column in np.ascontiguousarray(z.T)]


def _id_type(ids: list[Any]) -> Any:
    import pyarrow as pa

    try:
        found = pa.array(ids).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()
    return pa.string() if pa.types.is_null(found) else found


def _id_array(ids: list[Any], id_type: Any) -> Any:
    import pyarrow as pa

    if id_type == pa.string():
        ids = [None if value is None else str(value) for value in ids]
    try:
        return pa.array(ids, type=id_type)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"the ids begin as {id_type} and go on as another type: {error}") from None


def _write_csv(partial: Path, chunks: Chunks, n: int, width: int, layout: str) -> None:
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *(f"e{d}" for d in range(width))])
        for ids, z in chunks:
            # str() of a float32 scalar is the shortest text that reads back to the same value.
            writer.writerows([i, *map(str, row)] for i, row in zip(ids, z))


def _write_npy(partial: Path, chunks: Chunks, n: int, width: int, layout: str) -> None:
    if n == 0:
        with partial.open("wb") as file:
            np.save(file, np.empty((0, width), dtype=np.float32))
        return
    out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(n, width))
    done = 0
    for ids, z in chunks:
        out[done : done + len(ids)] = z
        done += len(ids)
    out.flush()
