"""Embeddings of a frozen encoder: eval mode, float32, no gradient, no autocast, in batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Batch
from ssl_domains.core.interfaces import Encoder, Source

Progress = Callable[[int, int], None]


def resolve_device(device: str | torch.device, encoder: nn.Module) -> torch.device:
    """``"auto"`` is where the encoder is, unless that is the CPU and there is a CUDA device."""
    if device != "auto":
        return torch.device(device)
    parameter = next(encoder.parameters(), None)
    here = torch.device("cpu") if parameter is None else parameter.device
    return torch.device("cuda") if here.type == "cpu" and torch.cuda.is_available() else here


def extract(
    encoder: Encoder,
    source: Source,
    indices: Sequence[int] | np.ndarray,
    *,
    batch_size: int = 1024,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> np.ndarray:
    """Pooled embeddings of these rows, in their order.

    Each module gets back the mode (train or eval) it had, and the encoder its device. A
    source with ``full_batch`` is encoded in one forward pass.

    Args:
        encoder: any encoder; parameters in half precision are encoded by a float32 copy.
        source: gives the batches.
        indices: ``[n]`` global row numbers.
        batch_size: rows a forward pass.
        device: a device, or "auto" (see :func:`resolve_device`).
        progress: called with (rows done, rows in all) after each batch.

    Returns:
        ``[n, D]`` float32.
    """
    indices = np.asarray(indices, dtype=np.int64)
    out: Tensor | None = None
    done = 0
    pieces = _pieces(source, indices, batch_size)
    with frozen(encoder, device) as (model, where):
        for at, pooled in zip(pieces, _forward(model, source, [indices[at] for at in pieces], where)):
            if out is None:
                pin = where.type == "cuda"
                out = torch.empty(len(indices), pooled.shape[1], dtype=torch.float32, pin_memory=pin)
            if isinstance(at, slice):
                # Asynchronous into pinned memory: the next batch is read while the GPU works.
                out[at].copy_(pooled, non_blocking=True)
            else:
                out[torch.from_numpy(at)] = pooled.float().cpu()
            done += len(pooled)
            if progress is not None:
                progress(done, len(indices))
        if where.type == "cuda":
            torch.cuda.synchronize(where)
    if out is None:
        return np.empty((0, int(encoder.pooled_width)), dtype=np.float32)
    return out.numpy()


def stream(
    encoder: Encoder,
    source: Source,
    indices: np.ndarray,
    *,
    batch_size: int = 1024,
    device: str | torch.device = "auto",
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (row numbers ``[b]``, embeddings ``[b, D]`` float32), for data larger than memory."""
    chosen = [indices[at] for at in _pieces(source, indices, batch_size)]
    with frozen(encoder, device) as (model, where):
        for rows, pooled in zip(chosen, _forward(model, source, chosen, where)):
            yield rows, pooled.float().cpu().numpy()


@contextmanager
def frozen(encoder: Encoder, device: str | torch.device) -> Iterator[tuple[Encoder, torch.device]]:
    """The encoder in eval mode and float32 on the device; afterwards everything is as before."""
    where = resolve_device(device, encoder)
    half = any(p.is_floating_point() and p.dtype != torch.float32 for p in encoder.parameters())
    parameter = next(encoder.parameters(), None)
    home = where if parameter is None else parameter.device
    model = copy.deepcopy(encoder).float() if half else encoder
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        if home != where:
            model.to(where)
        yield model, where
    finally:
        if model is encoder:
            if home != where:
                model.to(home)
            for module, training in modes:
                module.training = training


def _pieces(source: Source, indices: np.ndarray, batch_size: int) -> list[Any]:
    """Positions in ``indices``, batch by batch: what ``source.pieces(indices, batch_size)`` says where
    samples differ in length (arrays that cover all of them), else slices one after another."""
    own = getattr(source, "pieces", None)
    if own is not None:
        return list(own(indices, batch_size))
    step = max(len(indices), 1) if source.full_batch else batch_size
    return [slice(start, start + step) for start in range(0, len(indices), step)]


def _forward(
    model: Encoder, source: Source, pieces: Sequence[np.ndarray], where: torch.device
) -> Iterator[Tensor]:
    for rows in pieces:
        batch = source.fetch(rows)
        # no_grad, not inference_mode: a position table that the encoder caches now must
        # still be usable when training goes on. The yield stands outside, so that the
        # caller keeps his own gradient mode between two batches.
        with torch.no_grad(), torch.autocast(where.type, enabled=False):
            pooled = model(to_device(batch, where).x).pooled
        yield pooled


def to_device(batch: Batch, where: torch.device) -> Batch:
    """The batch on the device, through pinned memory on CUDA."""
    if where.type == "cuda":
        batch = batch.with_x(_pinned(batch.x))
    return batch.to(where)


def _pinned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _pinned(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "pin_memory"):
        return type(value)(_pinned(item) for item in value)
    return value.pin_memory() if hasattr(value, "pin_memory") else value
