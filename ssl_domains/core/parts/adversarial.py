"""Adversarial offsets in an embedding space: small moves that raise a loss, and no parameter's gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def unit(x: Tensor, fallback: Tensor | None = None) -> Tensor:
    """Rows ``[B, ...]`` of length 1 over all axes but the first; where one is zero, that of ``fallback``."""
    shape = (-1, *[1] * (x.ndim - 1))
    norm = torch.linalg.vector_norm(x.flatten(1), dim=1).view(shape)
    scaled = x / norm.clamp_min(1e-30)
    if fallback is None:
        return torch.where(norm > 0, scaled, 0.0)
    return torch.where(norm > 0, scaled, unit(fallback))


def adversarial_offset(
    loss: Callable[[Tensor], Tensor], start: Tensor, epsilon: float, steps: int = 1
) -> Tensor:
    """``argmax_{|d| <= epsilon} loss(d)`` row by row, by the gradient with respect to d alone.

    One step (fast gradient): ``d = epsilon * g / |g|``, g the gradient at ``0.1 epsilon *
    start / |start|``; exactly of length epsilon. More steps (projected gradient): from the same
    place, each moves by ``epsilon / steps`` along the normalised gradient, then d is pulled back into
    the ball. The small start matters where the loss is flat at 0 (two equal inputs). Parameters
    get no gradient.

    Args:
        loss: from an offset ``[B, ...]`` to the losses ``[B]`` of the rows; differentiable.
        start: ``[B, ...]`` random directions; zero where d must stay zero.
        epsilon: length of d, over all axes of a row.
        steps: gradient evaluations.

    Returns:
        d ``[B, ...]`` float32, without gradient; zeros for ``epsilon`` 0.

    Source: Miyato et al. (ICLR 2017, fast gradient on embeddings), Madry et al. (ICLR 2018, PGD).
    """
    begin = unit(start.detach().float())
    if epsilon == 0:
        return torch.zeros_like(begin)
    d = 0.1 * epsilon * begin
    for _ in range(steps):
        with torch.enable_grad():
            at = d.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(at).float().sum(), [at])
        direction = unit(gradient.detach().float(), begin)
        if steps == 1:
            return epsilon * direction
        d = d + epsilon / steps * direction
        length = torch.linalg.vector_norm(d.flatten(1), dim=1).view(-1, *[1] * (d.ndim - 1))
        d = d * (epsilon / length.clamp_min(1e-30)).clamp(max=1.0)
    return d
