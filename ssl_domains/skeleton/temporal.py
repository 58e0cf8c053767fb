"""Time of a whole batch: resampling of ragged clips, and the streams bone and motion.

A batch's ``x`` is ``{"points": [B, C, T, V, M], "confidence": [B, T, V, M], "length": [B]}``: only
the first ``length`` frames are real. Views hand on clips that are real throughout and leave
``length`` out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Stream = Literal["joint", "bone", "motion"]
STREAMS: tuple[str, ...] = ("joint", "bone", "motion")


def lengths_of(x: dict[str, Any]) -> Tensor:
    """``[B]`` int64 real frames of each clip."""
    points = x["points"]
    if "length" in x:
        return x["length"]
    return torch.full((len(points),), points.shape[2], dtype=torch.int64, device=points.device)


def resample(x: dict[str, Any], start: Tensor, span: Tensor, frames: int) -> dict[str, Any]:
    """The frames ``start .. start + span`` of every clip, resized to ``frames`` by linear interpolation.

    Corners are not aligned: frame i lies at ``start + (i + 1/2) span / frames - 1/2``, held within the
    span (``torch.nn.functional.interpolate``, ``align_corners=False``). A missing point gives
    its neighbour in time all the weight; where both are missing the result is 0, with confidence 0.

    Args:
        x: a batch's.
        start: ``[B]`` first frame, whole numbers.
        span: ``[B]`` frames, at least 1.
        frames: of the result.

    Returns:
        ``points [B, C, frames, V, M]`` and ``confidence [B, frames, V, M]``.
    """
    points, confidence = x["points"], x["confidence"]
    step = torch.arange(frames, device=points.device, dtype=torch.float32)
    at = (step + 0.5) * (span[:, None].float() / frames) - 0.5  # [B, frames]
    at = torch.minimum(at.clamp_min(0.0), span[:, None].float() - 1.0)
    low = at.floor().long()
    high = torch.minimum(low + 1, span[:, None].long() - 1)
    share = (at - low).to(points.dtype)
    low, high = low + start[:, None].long(), high + start[:, None].long()
    row = torch.arange(len(points), device=points.device)[:, None]
    w_low, w_high = (1.0 - share)[..., None, None], share[..., None, None]
    c_low, c_high = confidence[row, low], confidence[row, high]  # [B, frames, V, M]
    w_low, w_high = w_low * (c_low > 0), w_high * (c_high > 0)
    total = w_low + w_high
    norm = torch.where(total > 0, total, 1.0)
    by_time = points.transpose(1, 2)  # [B, T, C, V, M]
    mixed = by_time[row, low] * (w_low / norm)[:, :, None] + by_time[row, high] * (w_high / norm)[:, :, None]
    known = (c_low * w_low + c_high * w_high) / norm
    return {"points": mixed.transpose(1, 2), "confidence": known}


def whole(x: dict[str, Any], frames: int, centre: float = 1.0) -> dict[str, Any]:
    """The middle of every clip, resampled to ``frames``; a clip that is that long already is left as it is.

    Args:
        x: a batch's or a view's.
        frames: T of the result.
        centre: share of the real frames that is used.
    """
    points = x["points"]
    if "length" not in x and points.shape[2] == frames:
        return x
    length = lengths_of(x)
    span = (length.float() * centre).round().long().clamp_min(1)
    return resample(x, (length - span) // 2, span, frames)


def motion(points: Tensor) -> Tensor:
    """``x[t + 1] - x[t]``, the last frame 0; ``[B, C, T, V, M]``."""
    out = torch.zeros_like(points)
    out[:, :, :-1] = points[:, :, 1:] - points[:, :, :-1]
    return out


def bone(points: Tensor, parents: Sequence[int]) -> Tensor:
    """Joint minus parent; a root's bone is 0. ``[B, C, T, V, M]``."""
    own = [place if parent < 0 else parent for place, parent in enumerate(parents)]
    return points - points[:, :, :, own]


def stream(x: dict[str, Any], kind: str, parents: Sequence[int]) -> Tensor:
    """A stream of a clip, ``[B, C, T, V, M]``; what touches a missing point is 0."""
    points = x["points"]
    if kind == "joint":
        return points
    known = (x["confidence"] > 0)[:, None].to(points.dtype)  # [B, 1, T, V, M]
    if kind == "motion":
        both = known.clone()
        both[:, :, :-1] *= known[:, :, 1:]
        return motion(points) * both
    own = [place if parent < 0 else parent for place, parent in enumerate(parents)]
    return bone(points, parents) * known * known[:, :, :, own]
