"""Statistics over the global batch: collectives that carry gradient.

**The convention.** Every process holds an equal share of one joined batch. An objective
returns on every process *the value of the joined batch*, and data-parallel wrappers (DDP,
FSDP2) *average* gradients over the processes. After that average each parameter must hold
exactly the gradient of one process with the joined batch.

With ``L`` the joined loss, ``z_r`` the activations of process ``r`` and ``W`` processes, the
average turns a local gradient ``g_r`` into ``(1/W) sum_r J_r^T g_r``; so ``g_r`` must be
``W dL/dz_r``. Both collectives below deliver that, because their backward *sums* what all
processes send back:

* every process computes the whole ``L`` from :func:`all_gather_rows` or
  :func:`all_reduce_sum` statistics: ``W`` equal gradients are summed;
* every process computes its share ``L_r`` only, with ``L = sum_r L_r``, and returns
  ``all_reduce_sum(L_r)``: the backward of that sum multiplies each share by ``W``.

Parameters inside an objective (a learned temperature) come out right in both forms.

Without ``torch.distributed``, or with one process, all functions return their input.
All processes must call them in the same order, and agree on which inputs need gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssl_domains.core.errors import DataError


def world_size() -> int:
    """Number of processes; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_gather_rows(x: Tensor) -> Tensor:
    """Joins the rows of all processes, in the order of their ranks.

    Args:
        x: ``[B, ...]``, of one shape on every process.

    Returns:
        ``[W * B, ...]``. The backward sums the gradients of all processes and hands each
        its own rows.

    Raises:
        DataError: the processes hold different numbers of rows (on an accelerator the same
            check runs without synchronisation and surfaces as a device-side assertion).
    """
    return x if world_size() == 1 else _GatherRows.apply(x)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of ``x`` over the processes; the backward sums the gradients over the processes."""
    return x if world_size() == 1 else _ReduceSum.apply(x)


def all_reduce_mean(x: Tensor) -> Tensor:
    """Mean of ``x`` over the processes, with gradient (see :func:`all_reduce_sum`)."""
    return x if world_size() == 1 else all_reduce_sum(x) / world_size()


@torch.no_grad()
def gather_no_grad(x: Tensor) -> Tensor:
    """:func:`all_gather_rows` for what needs no gradient: ids, labels, masks, queue entries.

    Args:
        x: ``[B, ...]`` of any dtype, bool included.

    Returns:
        ``[W * B, ...]``, detached.
    """
    return x.detach() if world_size() == 1 else _gather(x.detach())


@torch.no_grad()
def broadcast(x: Tensor, source: int = 0) -> Tensor:
    """The value that process ``source`` holds, on every process; a new tensor, detached."""
    if world_size() == 1:
        return x.detach()
    copy = _plain(x.detach()).clone()
    dist.broadcast(copy, src=source)
    return copy.to(x.dtype)


def _plain(x: Tensor) -> Tensor:
    """Contiguous, and bytes for bool, which not every backend sends."""
    return (x.to(torch.uint8) if x.dtype == torch.bool else x).contiguous()


def _gather(x: Tensor) -> Tensor:
    """All rows, without gradient."""
    _check_rows(x)
    plain = _plain(x)
    joined = plain.new_empty((world_size() * x.shape[0], *x.shape[1:]))
    dist.all_gather_into_tensor(joined, plain)
    return joined.to(x.dtype)


def _check_rows(x: Tensor) -> None:
    """Refuses unequal shares, which would hang or mix rows."""
    if x.dim() == 0:
        raise ValueError("all_gather_rows needs rows [B, ...], got a scalar")
    mine = torch.tensor([x.shape[0]], device=x.device)
    rows = mine.new_empty(world_size())
    dist.all_gather_into_tensor(rows, mine)
    if x.is_cpu:
        if (rows != mine).any():
            raise DataError(
                f"The processes hold unequal shares of the batch (rows: {rows.tolist()}); use a sampler that "
                "gives each process the same number of rows, or drop the last incomplete batch."
            )
    else:
        torch._assert_async((rows == mine).all(), "the processes hold unequal shares of the batch")


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        return _gather(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _scatter_sum(grad.contiguous(), ctx.rows)


def _scatter_sum(grad: Tensor, rows: int) -> Tensor:
    """Sum over the processes of ``grad [W * B, ...]``, and of it the rows of this process."""
    if grad.is_cpu:  # gloo: not every version offers reduce-scatter
        total = grad.clone()
        dist.all_reduce(total)
        return total[rank() * rows : (rank() + 1) * rows]
    own = grad.new_empty((rows, *grad.shape[1:]))
    dist.reduce_scatter_tensor(own, grad)
    return own


class _ReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _sum(grad)


def _sum(x: Tensor) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
