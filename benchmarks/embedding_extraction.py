"""Embedding extraction against the bare forward pass of the same encoder.

    python benchmarks/embedding_extraction.py [--rows 20000] [--repeats 7]

Prints time ratios measured in one run, alternating the sides and taking the best of each (the least
disturbed); on the CPU it is processor time, which other programs disturb less. The bare side has
the batches ready on the device, runs the model under ``no_grad`` and keeps nothing; so the ratio
holds everything that extraction adds: reading rows from memory, moving them, copying the embeddings
into the result. The last line adds writing a Parquet file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Batch, Encoded, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.evaluation import embed_to_file, extract

COLUMNS, WIDTH, BATCH = 16, 64, 1024


class Rows:
    """A table in memory."""

    spec, splits, labels, task, class_names, full_batch = None, {}, None, None, None, False

    def __init__(self, n: int) -> None:
        self.x = torch.randn(n, COLUMNS, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)

    def fetch(self, indices: Any) -> Batch:
        rows = torch.as_tensor(np.asarray(indices))
        return Batch(self.x[rows], rows)

    def ids(self, indices: np.ndarray) -> list[int]:
        return indices.tolist()


class ColumnTransformer(Encoder):
    """A token a column, two transformer blocks, mean."""

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(COLUMNS, WIDTH))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True, norm_first=True)
            for _ in range(2)
        )

    def forward(self, x: Tensor, mask: Any = None, *, layers: bool = False) -> Encoded:
        h = x[:, :, None] * self.scale
        for block in self.blocks:
            h = block(h)
        return Encoded(Tokens(h), h.mean(1))


def timed(work: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.process_time()
        work()
        return time.process_time() - begin
    begin = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source, encoder = Rows(options.rows), ColumnTransformer().to(device)
    index = np.arange(options.rows)
    ready = [part.to(device) for part in source.x.split(BATCH)]

    def bare() -> None:
        encoder.eval()
        with torch.no_grad():
            for part in ready:
                encoder(part)

    def write(folder: str) -> None:
        embed_to_file(encoder, source, Path(folder) / "z.parquet", batch_size=BATCH)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        sides: dict[str, Callable[[], Any]] = {
            "bare forward": bare,
            "extract": lambda: extract(encoder, source, index, batch_size=BATCH),  # type: ignore[arg-type]
            "embed to Parquet": lambda: write(folder),
        }
        for work in sides.values():
            work()
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.repeats):
            for name, work in sides.items():
                times[name].append(timed(work, device))
    base = min(times["bare forward"])
    print(f"{options.rows:,} rows of {COLUMNS} columns, batches of {BATCH}, {device}")
    for name, values in times.items():
        best = min(values)
        print(f"{name:<18}{options.rows / best:>12,.0f} rows/s   ratio {best / base:.3f}")


if __name__ == "__main__":
    main()
