"""An edge table larger than memory: streamed into compressed rows on disk, sampled from there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core import cache
from ssl_domains.core.errors import DataError
from ssl_domains.graph.ids import keys, own_ids, place, unique
from ssl_domains.graph.raw import CleanEdges, RawGraph
from ssl_domains.graph.sampling import Incoming
from ssl_domains.graph.tables import (
    delimited_options,
    edge_columns,
    node_column,
    read_table,
    take_side_columns,
)

BUCKET_EDGES = 8_000_000
"""Directed edges that are sorted in memory at a time (about 0.4 GB with all copies)."""
BLOCK_BYTES = 32 << 20
VERSION = 1
_PAIR = np.dtype([("target", np.int32), ("source", np.int32), ("weight", np.float32)])


class StoredEdges(CleanEdges):
    """Edges in files: ``source`` (and ``edge_weight``) by target, memory-mapped; only ``[N + 1]``
    row starts are in memory. There is no ``edge_index``: batches are sampled."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "meta.json").read_text())
        ptr = np.load(folder / "ptr.npy")
        source = np.memmap(folder / "source.bin", dtype=np.int32, mode="r")
        weight = np.memmap(folder / "weight.bin", dtype=np.float32, mode="r") if facts["weighted"] else None
        super().__init__(
            np.empty((2, 0), dtype=np.int64),
            None,
            weight,
            facts["self_loops"],
            facts["duplicates"],
            facts["isolated"],
        )
        self.incoming = Incoming(ptr, source)


@dataclass
class StreamedTable:
    """An edge table that is read in blocks.

    Attributes:
        path: .csv, .tsv, .txt or .parquet.
        edge_source, edge_target: its id columns, as given, or None.
    """

    path: Path
    edge_source: str | None
    edge_target: str | None

    def blocks(self) -> Iterator[Any]:
        """DataFrames with the columns that are used, one below the other.

        Raises:
            DataError: no table, or a block that cannot be read.
        """
        import pyarrow as pa

        name = str(self.path)
        try:
            for batch in self._batches():
                frame = batch.to_pandas()
                first, second = edge_columns(frame, self.edge_source, self.edge_target, name)
                weight = [c for c in frame.columns if str(c).lower() == "weight"][:1]
                yield frame[[first, second, *weight]]
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{name}: {str(error).splitlines()[0]}") from None

    def _batches(self) -> Iterator[Any]:
        if self.path.suffix == ".parquet":
            import pyarrow.parquet as pq

            yield from pq.ParquetFile(self.path).iter_batches(batch_size=1 << 20)
            return
        from pyarrow import csv

        wanted = [c for c in (self.edge_source, self.edge_target) if c]
        parse, convert = delimited_options(self.path, "edge table", wanted)
        reading = csv.ReadOptions(block_size=BLOCK_BYTES)
        yield from csv.open_csv(self.path, read_options=reading, parse_options=parse, convert_options=convert)


def too_large(edges: Any, on_disk: bool | None) -> bool:
    """Whether an edge table is streamed: as told, or when its file is over an eighth of the free memory
    (reading a table takes several times its size)."""
    if not isinstance(edges, str | Path) or not Path(edges).is_file():
        if on_disk:
            raise DataError("data.on_disk needs data.edges to be a CSV, TSV or Parquet file")
        return False
    if on_disk is not None:
        return on_disk
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return False
    return Path(edges).stat().st_size > free // 8


def read_large(
    nodes: Any,
    edges: Any,
    *,
    node_id: str | None,
    edge_source: str | None,
    edge_target: str | None,
    label: str | None,
    split: str | None,
) -> RawGraph:
    """The node table in memory, the edge table as a stream to convert (``raw.streamed``).

    Without a node table a pass over the edges finds the nodes.
    """
    import pandas as pd

    table = StreamedTable(Path(edges), edge_source, edge_target)
    none = np.empty((2, 0), dtype=np.int64)
    if nodes is not None:
        frame, name = read_table(nodes, "node table", [c for c in (node_id,) if c])
        column = node_column(frame, node_id, name)
        texts = keys(frame[column], name)
        unique(texts, name)
        raw = RawGraph(name, none, own_ids(frame[column], texts), table=frame.drop(columns=column))
        raw = take_side_columns(raw, label, split, None)
    else:
        if label or split:
            raise DataError(f"{table.path}: data.label and data.split need a node table (data.nodes)")
        texts = np.empty(0, dtype=object)
        for block in table.blocks():
            ends = [np.unique(keys(block.iloc[:, side], str(table.path))) for side in (0, 1)]
            texts = np.unique(np.concatenate([texts, *ends]))
        raw = RawGraph(str(table.path), none, own_ids(pd.Series(texts), texts))
    raw.streamed, raw.keys = table, texts
    raw.notes.append("edges are kept on disk and sampled; edge columns besides the weight are left out")
    return raw


def refuse(raw: RawGraph, **options: Any) -> None:
    """Options that want all edges at once; raises DataError for the first that is set."""
    for key, value in options.items():
        if raw.streamed is not None and value:
            raise DataError(
                f"data.{key} is not to be had for an edge table that is kept on disk (data.on_disk)"
            )


def stored(table: StreamedTable, ids: np.ndarray, directed: bool, node_name: str) -> StoredEdges:
    """Converts the table, or opens the conversion that is in the cache folder.

    Self-loops and duplicates go, reverses are added unless ``directed``. Blocks are written to
    buckets of targets, each bucket is sorted by itself: memory does not grow with the edges. The
    folder appears whole or not at all.

    Raises:
        DataError: bad rows; the disk is full.
    """
    key = _key(table, ids, directed)
    found = cache.find("graph", key)
    if found is None:
        with cache.writing("graph", key) as folder:
            _Conversion(table, ids, directed, node_name, folder).run()
        found = folder.path
    return StoredEdges(found)


def _key(table: StreamedTable, ids: np.ndarray, directed: bool) -> str:
    facts = table.path.stat()
    nodes = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    told = [VERSION, str(table.path.resolve()), facts.st_size, facts.st_mtime_ns, table.edge_source]
    return cache.key_of([*told, table.edge_target, nodes, directed])


class _Conversion:
    """One table into one folder."""

    def __init__(
        self, table: StreamedTable, ids: np.ndarray, directed: bool, node_name: str, folder: cache.Folder
    ) -> None:
        import pandas as pd

        self.table, self.ids, self.directed = table, pd.Index(ids), directed
        self.out, self.folder = folder, folder.path
        self.node_name = node_name
        self.rows = self.self_loops = 0
        self.weighted = False

    def run(self) -> None:
        """Count, distribute, sort."""
        counts = np.zeros(len(self.ids), dtype=np.int64)
        pairs = self.folder / "pairs"
        with pairs.open("wb") as file:
            for block in self._pairs():
                counts += np.bincount(block["target"], minlength=len(self.ids))
                block.tofile(file)
        if not counts.any():
            raise DataError(f"{self.table.path}: a graph needs edges between different nodes, found none")
        buckets = np.minimum(np.cumsum(counts) - counts, counts.sum() - 1) // BUCKET_EDGES
        n_buckets = int(buckets[-1]) + 1
        self._distribute(pairs, buckets, n_buckets)
        pairs.unlink()
        self._sort(n_buckets, int(counts.sum()))

    def _pairs(self) -> Iterator[np.ndarray]:
        """Directed edges of each block as numbers, without self-loops."""
        name = str(self.table.path)
        for frame in self.table.blocks():
            ends = [
                place(
                    keys(frame.iloc[:, i], name, self.rows),
                    str(frame.columns[i]),
                    self.ids,
                    name,
                    self.node_name,
                    self.rows,
                )
                for i in (0, 1)
            ]
            weight = np.ones(len(frame), dtype=np.float32)
            if frame.shape[1] > 2:
                self.weighted = True
                weight = frame.iloc[:, 2].to_numpy(dtype=np.float32)
                if not (np.isfinite(weight) & (weight >= 0)).all():
                    bad = int(np.argmin(np.isfinite(weight) & (weight >= 0)))
                    raise DataError(
                        f"{name}: row {self.rows + bad + 1} has the edge weight {weight[bad]}; "
                        f"weights must be numbers >= 0"
                    )
            self.rows += len(frame)
            real = ends[0] != ends[1]
            self.self_loops += int((~real).sum())
            both = [(ends[0][real], ends[1][real])]
            both += [] if self.directed else [(ends[1][real], ends[0][real])]
            for source, target in both:
                block = np.empty(len(source), dtype=_PAIR)
                block["source"], block["target"], block["weight"] = source, target, weight[real]
                yield block

    def _distribute(self, pairs: Path, buckets: np.ndarray, n_buckets: int) -> None:
        """Each edge to the file of its target's bucket."""
        files = [(self.folder / f"bucket-{b}").open("wb") for b in range(n_buckets)]
        try:
            with pairs.open("rb") as file:
                while len(block := np.fromfile(file, dtype=_PAIR, count=BUCKET_EDGES // 4)):
                    of = buckets[block["target"]]
                    block = block[np.argsort(of, kind="stable")]
                    ends = np.cumsum(np.bincount(of, minlength=n_buckets))
                    for part, out in zip(np.split(block, ends[:-1]), files):
                        part.tofile(out)
        finally:
            for out in files:
                out.close()

    def _sort(self, n_buckets: int, total: int) -> None:
        """Buckets by (target, source), duplicates merged (mean weight), one after another."""
        n = len(self.ids)
        counts = np.zeros(n, dtype=np.int64)
        seen = np.zeros(n, dtype=bool)
        with (
            (self.folder / "source.bin").open("wb") as sources,
            (self.folder / "weight.bin").open("wb") as weights,
        ):
            for b in range(n_buckets):
                path = self.folder / f"bucket-{b}"
                block = np.fromfile(path, dtype=_PAIR)
                path.unlink()
                key = block["target"].astype(np.int64) * n + block["source"]
                unique, where, times = np.unique(key, return_inverse=True, return_counts=True)
                target, source = unique // n, unique % n
                counts += np.bincount(target, minlength=n)
                seen[source] = True
                source.astype(np.int32).tofile(sources)
                (np.bincount(where, block["weight"]) / times).astype(np.float32).tofile(weights)
        ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.out.save("ptr", ptr)
        facts = {
            "weighted": self.weighted,
            "self_loops": self.self_loops,
            "duplicates": (total - int(ptr[-1])) // (1 if self.directed else 2),
            "isolated": int((~(seen | (counts > 0))).sum()),
        }
        self.out.meta(facts)
