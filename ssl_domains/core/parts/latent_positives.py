"""HaLP's latent positives: further along the sphere, as far as the nearest prototype stays the same."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.random import Draw


class LatentPositives(NamedTuple):
    """What :func:`latent_positives` made; nothing in it has a gradient.

    Attributes:
        values: ``[B, M, D]`` unit vectors.
        kept: ``[B, M]`` bool: those whose nearest prototype is still their key's.
    """

    values: Tensor
    kept: Tensor


def slerp(a: Tensor, b: Tensor, omega: Tensor, t: Tensor) -> Tensor:
    """``[..., D]``: the point at share ``t [...]`` of the way from ``a`` to ``b``, an angle ``omega
    [...]`` apart.

    Points that coincide (or are opposite, where the way is not defined) give ``a``.
    """
    sine = torch.sin(omega)
    flat = sine.abs() < 1e-7
    safe = torch.where(flat, torch.ones_like(sine), sine)
    first = torch.where(flat, torch.ones_like(sine), torch.sin((1.0 - t) * omega) / safe)
    second = torch.where(flat, torch.zeros_like(sine), torch.sin(t * omega) / safe)
    return first[..., None] * a + second[..., None] * b


def largest_step(key: Tensor, nearest: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The largest t with ``slerp(t) . nearest >= slerp(t) . target`` on the way from ``key`` to ``target``.

    In closed form (HaLP, section 3.3): with omega the angle of the way and ``K = (1 - p . p0) / (k . (p0 -
    p))``, ``t = atan(sin omega / (K + cos omega)) / omega``. ``K + cos omega`` may be negative, so that
    the angle must be taken by atan2; t is held in [0, 1].

    Args:
        key: ``[..., D]`` unit vectors.
        nearest: ``[..., D]`` prototype p0 that is nearest to the key.
        target: ``[..., D]`` prototype p.

    Returns:
        t ``[...]`` and omega ``[...]``.
    """
    omega = torch.arccos((key * target).sum(-1).clamp(-1.0, 1.0))
    k = (1.0 - (target * nearest).sum(-1)) / ((key * (nearest - target)).sum(-1) + 1e-8)
    t = torch.atan2(torch.sin(omega), k + torch.cos(omega)) / omega.clamp_min(1e-7)
    return t.clamp(0.0, 1.0), omega


@torch.no_grad()
def latent_positives(
    key: Tensor, prototypes: Tensor, draw: Draw, *, count: int = 100, spread: float | None = 0.8
) -> LatentPositives:
    """``count`` positives for every key (Shah et al., HaLP, CVPR 2023, section 3.3).

    For each, another prototype than the key's nearest is drawn with replacement. The key walks towards it by
    ``(1 - u) t_max`` with u from U(0, spread). The rank filter then keeps what still has the key's nearest
    prototype as its own; with more than two prototypes a third may come nearer on the way.

    Args:
        key: ``[B, D]`` unit vectors.
        prototypes: ``[P, D]`` unit vectors, P at least 2.
        draw: one row a key.
        count: M.
        spread: the paper's lambda; None: always ``t_max - 0.01`` (the paper's hardest, section 4.4).

    Returns:
        In float32 at least.
    """
    wide = torch.promote_types(key.dtype, torch.float32)
    key, prototypes = key.to(wide), prototypes.to(wide)
    nearest = (key @ prototypes.T).argmax(dim=1)  # [B]
    other = draw.randint(len(prototypes) - 1, count)  # [B, M]
    other = other + (other >= nearest[:, None])
    start = key[:, None].expand(-1, count, -1)
    target = prototypes[other]
    t, omega = largest_step(start, prototypes[nearest][:, None], target)
    if spread is None:
        t = (t - 0.01).clamp_min(0.0)
    else:
        t = t * (1.0 - draw.uniform(count, high=spread).to(wide))
    values = F.normalize(slerp(start, target, omega, t), dim=-1)
    kept = (values @ prototypes.T).argmax(dim=-1) == nearest[:, None]
    return LatentPositives(values, kept)
