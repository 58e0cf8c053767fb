"""Memory of past embeddings: a FIFO queue, and a bank with a row for each sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.collectives import gather_no_grad


class Queue(nn.Module):
    """FIFO of the last ``size`` keys of the GLOBAL batch, with aligned side columns (MoCo, CVPR 2020).

    Args:
        size: capacity K.
        width: D of the keys.
        columns: side columns by name and dtype, one value a key (sample index, device ...).
            ``index`` is always there; -1 marks rows never written.

    Buffers travel in checkpoints; nothing here has a gradient. A fresh queue holds random
    unit vectors, as in the paper's code.
    """

    keys: Tensor
    index: Tensor
    position: Tensor

    def __init__(self, size: int, width: int, columns: Mapping[str, torch.dtype] | None = None) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a queue needs a size of at least 1, got {size}")
        self.size = size
        self.column_names = tuple(columns or ())
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("keys", F.normalize(torch.randn(size, width, generator=generator), dim=1))
        self.register_buffer("index", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        for name, dtype in (columns or {}).items():
            self.register_buffer(f"column_{name}", torch.zeros(size, dtype=dtype))

    def column(self, name: str) -> Tensor:
        """``[K]`` side column."""
        return self.get_buffer(f"column_{name}")

    def newest(self, n: int) -> Tensor:
        """``[n, D]``: the keys that were pushed last, the newest first."""
        return self.keys[(self.position - 1 - torch.arange(n, device=self.keys.device)) % self.size]

    @torch.no_grad()
    def push(self, keys: Tensor, index: Tensor, **columns: Tensor) -> None:
        """Appends this process's keys ``[B, D]`` and those of all others, dropping the oldest."""
        keys, index = gather_no_grad(keys.detach()), gather_no_grad(index)
        columns = {name: gather_no_grad(value) for name, value in columns.items()}
        if len(keys) > self.size:  # keep the newest
            keys, index = keys[-self.size :], index[-self.size :]
            columns = {name: value[-self.size :] for name, value in columns.items()}
        slots = (self.position + torch.arange(len(keys), device=keys.device)) % self.size
        self.keys[slots] = keys.to(self.keys.dtype)
        self.index[slots] = index
        for name in self.column_names:
            self.column(name)[slots] = columns[name].to(self.column(name).dtype)
        self.position.copy_((self.position + len(keys)) % self.size)


class MemoryBank(nn.Module):
    """One row for each sample, read and written by global index (Wu et al., CVPR 2018).

    Args:
        size: number of samples.
        width: D.
        momentum: share of the old row that stays at an update; rows are kept at unit length.
            0.5 in the paper's code; 0 overwrites.
    """

    rows: Tensor
    written: Tensor

    def __init__(self, size: int, width: int, momentum: float = 0.5) -> None:
        super().__init__()
        self.momentum = momentum
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("rows", F.normalize(torch.randn(size, width, generator=generator), dim=1))
        self.register_buffer("written", torch.zeros(size, dtype=torch.bool))

    @torch.no_grad()
    def update(self, index: Tensor, values: Tensor) -> None:
        """Moves the rows of the samples ``index [B]`` of all processes towards ``values [B, D]``."""
        index, values = gather_no_grad(index), gather_no_grad(values.detach().float())
        old = self.rows[index]
        mixed = torch.where(
            self.written[index, None], old.lerp(F.normalize(values, dim=1), 1 - self.momentum), values
        )
        self.rows[index] = F.normalize(mixed, dim=1).to(self.rows.dtype)
        self.written[index] = True

    def read(self, index: Tensor) -> Tensor:
        """``[B, D]`` rows of these samples."""
        return self.rows[index]
