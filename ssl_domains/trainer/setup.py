"""What happens once before the loop: device, seeds, wrapping, optimizers."""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from ssl_domains.core.errors import UserError
from ssl_domains.core.random import hash_ints
from ssl_domains.trainer.checkpoint import random_state, set_random_state
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.distributed import rank, world_size
from ssl_domains.trainer.optimizers import OptimizerConfig

FSDP_BLOCK = 1_000_000
"""Parameters from which on a block of a ``ModuleList`` is gathered by itself under FSDP2."""


def device_for(config: TrainConfig) -> torch.device:
    """The device of this process; joins the other processes when ``accelerate launch`` or
    ``torchrun`` started several.

    Raises:
        UserError: the wanted device is not there, cannot do the wanted precision, or
            ``accelerate launch --cpu`` started one process where several were asked for.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        raise UserError(f"train.device is {name}, but torch sees none here; set it to auto or cpu")
    if config.precision == "fp16" and (name != "cuda" or config.fsdp):
        raise UserError("train.precision fp16 needs a CUDA device without fsdp; use bf16")
    wanted = _processes_wanted()
    if wanted is None:
        raise UserError(
            "accelerate launch --cpu starts a single process, however many are asked for; use "
            "accelerate launch --multi_gpu --num_processes N (with train.device=cpu it needs no GPU)"
        )
    if wanted > 1 or dist.is_initialized():
        from accelerate import PartialState

        return PartialState(cpu=name == "cpu").device
    return torch.device(name)


def _processes_wanted() -> int | None:
    """How many processes the launcher started; None when it dropped some.

    ``accelerate launch --cpu --num_processes N`` without MPI sets an address to meet at, but
    starts one process and says nothing.
    """
    names = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    found = [int(os.environ[name]) for name in names if name in os.environ]
    if not found and "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ:
        return None
    return max(found, default=1)


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seeds dropout and whatever else draws from global generators; another seed on each process."""
    own = hash_ints(seed, rank(), 3)
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards modes and random states are as before."""
    state, modes = random_state(), {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        set_random_state(state)


def wrap(method: nn.Module, fsdp: bool) -> nn.Module:
    """The module to call: the method itself, in DDP, or sharded in place by FSDP2.

    DDP looks for unused parameters, since methods freeze parts for a while (prototypes, mask
    tokens without a mask), and does not send buffers in every step (queues and banks are
    large, and equal on all processes anyway; running statistics are those of process 0).
    """
    if world_size() == 1:
        return method
    if not fsdp:
        from torch.nn.parallel import DistributedDataParallel

        trainable = any(p.requires_grad for p in method.parameters())
        if not trainable:
            return method
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {name: False}
        return DistributedDataParallel(method, find_unused_parameters=True, **options)
    return shard(method)


@torch.no_grad()
def shard(method: nn.Module, block_size: int = FSDP_BLOCK) -> nn.Module:
    """FSDP2 in place: large blocks of module lists by themselves, all the rest with the root."""
    from torch.distributed.fsdp import fully_shard

    for value in [*method.parameters(), *method.buffers()]:
        dist.broadcast(value.data, src=0)
    for part in list(method.modules()):
        if isinstance(part, nn.ModuleList):
            for block in part:
                if sum(p.numel() for p in block.parameters()) >= block_size:
                    fully_shard(block)
    fully_shard(method)
    return method


def make_optimizers(method: Any, config: OptimizerConfig, batch_size: int) -> dict[str, Optimizer]:
    """The method's own optimizers, or one over its parameter groups.

    A method that wants several defines ``optimizers(build) -> dict[str, Optimizer]``, where
    ``build(groups)`` makes one of the recipe's kind; it then owns ``training_step`` as well.
    """

    def build(groups: list[dict[str, Any]]) -> Optimizer:
        return config.build(groups, batch_size=batch_size)

    own: Callable[..., Mapping[str, Optimizer]] | None = getattr(method, "optimizers", None)
    return dict(own(build)) if own is not None else {"main": build(method.parameter_groups())}
