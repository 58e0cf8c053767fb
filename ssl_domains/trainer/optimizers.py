"""Optimizers of the recipe's ``optimizer`` section.

A class holds the recipe's keys; :meth:`OptimizerConfig.build` makes the torch optimizer from
the groups of :meth:`Method.parameter_groups` (``params``, ``decay``, optional ``lr_scale``).
Each torch group then has ``initial_lr``, which schedules multiply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from ssl_domains.core.errors import UserError
from ssl_domains.core.registry import optimizer


@dataclass(kw_only=True)
class OptimizerConfig:
    """Keys that all optimizers share.

    Attributes:
        lr: peak learning rate.
        weight_decay: of the groups with ``decay``; biases, norms and other 1-d tensors have none.
        weight_decay_end: where a ramp of the weight decay ends (DINO: 0.04 to 0.4); None: no ramp.
        weight_decay_ramp: shape of that ramp over the run.
        lr_batch: batch size that ``lr`` is meant for: it is scaled linearly to the run's
            (Goyal et al. 2017). None: ``lr`` as it is.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    weight_decay_end: float | None = None
    weight_decay_ramp: Literal["cosine", "linear"] = "cosine"
    lr_batch: int | None = None

    def __post_init__(self) -> None:
        """Raises UserError for values out of range."""
        name = getattr(self, "registered_name", type(self).__name__)
        for key in ("lr", "weight_decay"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"optimizer {name}: {key} is {value}, expected a finite number from 0")
        if self.lr_batch is not None and self.lr_batch < 1:
            raise UserError(f"optimizer {name}: lr_batch is {self.lr_batch}, expected at least 1")

    def build(self, groups: list[dict[str, Any]], *, batch_size: int | None = None) -> Optimizer:
        """The torch optimizer.

        Args:
            groups: as :meth:`Method.parameter_groups` gives them; empty ones are left out.
            batch_size: of a step over all processes; read when ``lr_batch`` is set.

        Raises:
            UserError: nothing to train.
        """
        scale = batch_size / self.lr_batch if self.lr_batch and batch_size else 1.0
        ready = [group for group in (self._group(g, scale) for g in groups) if group["params"]]
        if not ready:
            raise UserError("the method has no parameters to train; is everything frozen?")
        return self._make(ready)

    def set_weight_decay(self, optimizer: Optimizer, fraction: float) -> None:
        """Moves the weight decay along its ramp; ``fraction`` of the run in [0, 1]."""
        if self.weight_decay_end is None:
            return
        share = 0.5 - 0.5 * math.cos(math.pi * fraction) if self.weight_decay_ramp == "cosine" else fraction
        value = self.weight_decay + (self.weight_decay_end - self.weight_decay) * share
        for group in optimizer.param_groups:
            if group["decay"]:
                group["weight_decay"] = value

    def _group(self, group: dict[str, Any], scale: float) -> dict[str, Any]:
        decay = bool(group.get("decay", True))
        rate = self._rate(decay) * scale * float(group.get("lr_scale", 1.0))
        return {
            "params": list(group["params"]),
            "decay": decay,
            "weight_decay": self.weight_decay if decay else 0.0,
            "lr": rate,
            "initial_lr": rate,
        }

    def _rate(self, decay: bool) -> float:
        return self.lr

    def _make(self, groups: list[dict[str, Any]]) -> Optimizer:
        raise TypeError(f"{type(self).__name__} does not define _make(groups) -> Optimizer")


def fused_possible(groups: Iterable[dict[str, Any]]) -> bool:
    """True when all parameters sit on one device that has fused kernels for their types."""
    parameters = [p for group in groups for p in group["params"]]
    devices = {p.device.type for p in parameters}
    return (
        len(devices) == 1
        and devices <= {"cpu", "cuda", "mps"}
        and all(p.is_floating_point() for p in parameters)
    )


@optimizer("adamw")
@dataclass(kw_only=True)
class AdamW(OptimizerConfig):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); torch's defaults, fused where possible.

    Attributes:
        weight_decay: default 0.01.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
    """

    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def _make(self, groups: list[dict[str, Any]]) -> Optimizer:
        fused = fused_possible(groups)
        return torch.optim.AdamW(
            groups, betas=(self.betas[0], self.betas[1]), eps=self.eps, fused=fused or None
        )


@optimizer("adam")
@dataclass(kw_only=True)
class Adam(OptimizerConfig):
    """Adam (Kingma & Ba 2015); weight decay is added to the gradient. Fused where possible.

    Attributes:
        betas: decay of the two moments.
        eps: added to the root of the second moment.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def _make(self, groups: list[dict[str, Any]]) -> Optimizer:
        fused = fused_possible(groups)
        return torch.optim.Adam(
            groups, betas=(self.betas[0], self.betas[1]), eps=self.eps, fused=fused or None
        )


@optimizer("sgd")
@dataclass(kw_only=True)
class SGD(OptimizerConfig):
    """Stochastic gradient descent with momentum.

    Attributes:
        lr: default 0.03 (MoCo).
        momentum: default 0.9.
        nesterov: look ahead.
        weight_decay: default 1e-4 (MoCo).
    """

    lr: float = 0.03
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = False

    def _make(self, groups: list[dict[str, Any]]) -> Optimizer:
        sharded = any(hasattr(p, "full_tensor") for group in groups for p in group["params"])
        fused = fused_possible(groups) and not sharded  # torch shards no fused SGD
        return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov, fused=fused or None)


@optimizer("lars")
@dataclass(kw_only=True)
class LARS(OptimizerConfig):
    """Layer-wise adaptive rates (You et al. 2017), with the defaults of Barlow Twins (Zbontar et al. 2021).

    Attributes:
        lr: of the weights, for a batch of ``lr_batch``; default 0.2.
        lr_vectors: of biases, norms and other groups without decay; default 0.0048.
        lr_batch: default 256.
        weight_decay: default 1e-6 (the authors' code).
        momentum: default 0.9.
        trust: trust coefficient, default 0.001.
    """

    lr: float = 0.2
    lr_vectors: float = 0.0048
    lr_batch: int | None = 256
    weight_decay: float = 1e-6
    momentum: float = 0.9
    trust: float = 0.001

    def _rate(self, decay: bool) -> float:
        return self.lr if decay else self.lr_vectors

    def _make(self, groups: list[dict[str, Any]]) -> Optimizer:
        return Lars(groups, momentum=self.momentum, trust=self.trust)


class Lars(Optimizer):
    """LARS as a torch optimizer: ``v <- m v + q (g + w p)``, ``p <- p - lr v``, with
    ``q = trust |p| / |g + w p|`` (1 where a norm is 0).

    Groups with ``decay`` False get neither weight decay nor ``q``.

    Args:
        params: groups; each may have ``lr``, ``weight_decay`` and ``decay``.
        lr: default of the groups.
        momentum: m.
        trust: coefficient of ``q``.
    """

    def __init__(self, params: Any, lr: float = 0.2, momentum: float = 0.9, trust: float = 0.001) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0, "decay": True}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        updates = [p.grad for p in parameters if p.grad is not None]
        if group["decay"]:
            updates = list(torch._foreach_add(updates, parameters, alpha=group["weight_decay"]))
            for parameter, update in zip(parameters, updates, strict=True):
                update.mul_(_trust_ratio(parameter, update, group["trust"]))
        for parameter in parameters:
            self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        velocity = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_mul_(velocity, group["momentum"])
        torch._foreach_add_(velocity, updates)
        torch._foreach_add_(parameters, velocity, alpha=-group["lr"])


def _trust_ratio(parameter: Tensor, update: Tensor, trust: float) -> Tensor:
    """``trust |p| / |u|``, 1 where either is 0; stays on the device."""
    size, change = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(update)
    ratio = trust * size / change
    return torch.where((size > 0) & (change > 0), ratio, torch.ones_like(ratio))
