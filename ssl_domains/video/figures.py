"""Pictures of what an encoder of clips does: what it fills in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Tokens
from ssl_domains.core.interfaces import Encoder, Figure
from ssl_domains.core.random import Draw
from ssl_domains.video.data import VideoSource
from ssl_domains.video.encoders.base import cubes, uncube

SHOWN, FRAMES, SIDE, GAP = 3, 4, 96, 3


@torch.no_grad()
def figures(encoder: Encoder, source: VideoSource, method: nn.Module | None) -> list[Figure]:
    """Reconstructions of a method that fills in pixels; none of other methods."""
    parts = getattr(method, "reconstruction_parts", None)
    if parts is not None:
        encoder_, predictor, masker, normalized = parts()
    elif getattr(method, "registered_name", "") == "masked_reconstruction":
        held: Any = method
        encoder_, predictor, masker = held.encoder, held.predictor, held.masker
        normalized = getattr(held.objective, "normalize_target", False)
    else:
        return []
    assert method is not None
    rows = source.splits["test"] if len(source.splits["test"]) else np.arange(len(source))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(np.int64))]
    batch = source.fetch(rows)
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    try:
        return [_reconstruction(encoder_, predictor, masker, normalized, batch.x, batch.index)]
    finally:
        for module, training in modes:
            module.training = training


def _reconstruction(
    encoder: Any, predictor: Any, masker: Any, normalized: bool, x: Tensor, index: Tensor
) -> Figure:
    """Clips, what the encoder saw of them, and what the method fills in: three strips for each."""
    device = next(encoder.parameters()).device
    x, index = x.to(device), index.to(device)
    layout = encoder.layout(x)
    mask = masker(layout, Draw(0, 0, index))
    prediction = predictor(encoder(x, mask), mask, x).float()
    cube = encoder.cube_of(x)
    pixels = cubes(encoder.prepare(x).float(), cube)  # [B, N, t, h * w, C]
    shown = getattr(encoder, "target_frames", cube[0])
    held = pixels[:, :, :shown].flatten(2, 3)  # [B, N, pixels, C]
    kind = getattr(encoder, "normalize_target", "none")
    filled = held.clone()
    found = prediction.unflatten(1, held.shape[2:])
    if kind != "none" or normalized:  # the cube's own mean and scale, as MAE shows it
        axes = (1,) if kind == "channel" else (1, 2)
        own = Tokens(held.flatten(2)).select(mask).unflatten(1, held.shape[2:])
        found = found * own.std(dim=axes, keepdim=True) + own.mean(dim=axes, keepdim=True)
    filled[mask.hidden] = found
    hidden = mask.hidden[..., None, None]
    grid = (layout.shape[0], layout.shape[1], layout.shape[2])
    pictures = []
    for values in (held, torch.where(hidden, torch.zeros_like(held), held), filled):
        clip = uncube(values.flatten(2), grid, (shown, *cube[1:]))
        pictures.append((clip * encoder.std + encoder.mean).clamp(0, 1).cpu())
    caption = (
        "Test clips, a few frames of each: as they are, what the encoder sees of them, and what is predicted "
        "for the hidden cubes."
    )
    return Figure("Reconstructions", caption, sheet(pictures))


def sheet(rows: list[Tensor]) -> np.ndarray:
    """``[H, W, 3]`` uint8: for each clip a line of its frames in each of the tensors ``[n, C, T, h, w]``."""
    n, _, t, height, width = rows[0].shape
    times = torch.linspace(0, t - 1, min(FRAMES, t)).long().unique()
    factor = max(SIDE // max(height, width), 1)
    lines = []
    for clip in range(n):
        for values in rows:
            tiles = values[clip][:, times].transpose(0, 1)  # [F, C, h, w]
            tiles = tiles.repeat(1, 3 // tiles.shape[1], 1, 1)
            tiles = F.interpolate(tiles, scale_factor=factor, mode="nearest")
            longest = max(height, width)
            if longest > SIDE:
                small = (max(SIDE * height // longest, 1), max(SIDE * width // longest, 1))
                tiles = F.interpolate(tiles, size=small, mode="area")
            tiles = F.pad(tiles, (GAP, GAP, GAP, GAP), value=1.0)
            lines.append(torch.cat(list(tiles), dim=2))
        lines.append(torch.ones(3, GAP, lines[-1].shape[2]))
    whole = torch.cat(lines[:-1], dim=1).permute(1, 2, 0)
    return np.asarray((whole.numpy() * 255).round().astype(np.uint8))
