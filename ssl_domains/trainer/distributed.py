"""Processes: who is who, sharded tensors, decisions that all must take together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ssl_domains.core.collectives import rank, world_size

__all__ = [
    "agree", "barrier", "cut_share", "distribute_like", "from_main", "full_tensor", "gather_objects",
    "is_main", "mean_over_processes", "rank", "world_size",
]  # fmt: skip


def is_main() -> bool:
    """True on the process that writes files and speaks."""
    return rank() == 0


def barrier() -> None:
    """Waits for all processes."""
    if world_size() > 1:
        dist.barrier()


def cut_share(indices: np.ndarray, part: int, parts: int) -> np.ndarray:
    """Contiguous equal share number ``part`` of ``parts``; what is left over at the end is dropped."""
    size = len(indices) // parts
    return indices[part * size : (part + 1) * size]


def agree(flags: list[bool], device: torch.device) -> list[bool]:
    """Each flag is True everywhere as soon as it is True on one process. All must call it."""
    if world_size() == 1:
        return flags
    votes = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return [bool(v) for v in votes.tolist()]


def mean_over_processes(values: Tensor) -> Tensor:
    """Mean of a tensor over the processes, without gradient."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather_objects(value: Any) -> list[Any]:
    """The value of every process, by rank; on the main process only, elsewhere ``[]``."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.gather_object(value, found if is_main() else None, dst=0)
    return found if is_main() else []


def from_main(value: Any) -> Any:
    """The main process's value, on every process."""
    if world_size() == 1:
        return value
    found = [value]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def full_tensor(value: Tensor) -> Tensor:
    """The whole of a sharded tensor (a collective call), any other tensor itself."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def distribute_like(value: Tensor, like: Tensor) -> Tensor:
    """``value``, which every process holds whole, sharded as ``like`` is."""
    if not hasattr(like, "placements"):
        return value.to(like.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
