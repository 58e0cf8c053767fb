"""EMA teacher: a frozen, slowly moving copy of a student."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn


class Teacher(nn.Module):
    """Exponential moving average of a module: ``theta_t <- m * theta_t + (1 - m) * theta``.

    Args:
        student: the module to copy (the whole net, one tower, or heads).
        buffers: what happens to floating-point buffers (batch-norm statistics) at an update:
            ``copy`` the student's (MoCo v3, BYOL's code), ``ema`` them as well, or ``own``:
            the teacher gathers its own in its forward passes (DINO). Integer buffers are
            always copied unless ``own``.

    The copy never requires gradients. It stays in the train or eval mode that its owner sets.
    State travels in checkpoints like any module's.
    """

    def __init__(self, student: nn.Module, buffers: Literal["copy", "ema", "own"] = "own") -> None:
        super().__init__()
        self.module = copy.deepcopy(student).requires_grad_(False)
        self.buffer_rule = buffers

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float) -> None:
        """One EMA step; after it ``teacher - old == (1 - momentum) * (student - old)``.

        Works shard by shard under FSDP2, as both sides are sharded alike.
        """
        mine, theirs = list(self.module.parameters()), list(student.parameters())
        if len(mine) != len(theirs):
            raise ValueError("teacher and student have different parameters")
        if mine:  # a projector may be empty (BGRL)
            torch._foreach_lerp_([p.data for p in mine], [p.data for p in theirs], 1.0 - momentum)
        if self.buffer_rule == "own":
            return
        for target, value in zip(self.module.buffers(), student.buffers(), strict=True):
            if self.buffer_rule == "ema" and target.is_floating_point():
                target.lerp_(value, 1.0 - momentum)
            else:
                target.copy_(value)
