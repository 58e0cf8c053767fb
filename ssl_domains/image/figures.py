"""Pictures of what an image encoder does: where it looks, what it fills in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Mask, Tokens
from ssl_domains.core.interfaces import Encoder, Figure
from ssl_domains.core.random import Draw
from ssl_domains.image.data import ImageSource
from ssl_domains.image.encoders import ImageEncoder
from ssl_domains.image.patches import unpatch

SHOWN = 8
SIDE = 112
GAP = 4


@torch.no_grad()
def figures(encoder: Encoder, source: ImageSource, method: nn.Module | None) -> list[Figure]:
    """Attention of a vision transformer, and reconstructions of a masked method; fewer where there is no
    such."""
    rows = source.splits["test"] if len(source.splits["test"]) else np.arange(len(source))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(np.int64))]
    batch = source.fetch(rows)
    found = []
    attention = _of(encoder, "attention", batch.x)
    if attention is not None:
        found.append(_attention(batch.x, attention))
    if method is not None and getattr(method, "registered_name", "") == "masked_reconstruction":
        found.append(_reconstruction(method, batch.x, batch.index))
    return found


def _of(encoder: Encoder, name: str, x: Tensor) -> Any:
    """Calls a function of an encoder in eval mode; None where it has none."""
    function = getattr(encoder, name, None)
    if function is None:
        return None
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    found = function(x.to(next(encoder.parameters()).device))
    for module, training in modes:
        module.training = training
    return None if found is None else found.float().cpu()


def _attention(x: Tensor, attention: Tensor) -> Figure:
    """Images, and under each where the class token looks: bright much, dark little."""
    mean = attention.mean(dim=1, keepdim=True)
    low, high = mean.amin(dim=(2, 3), keepdim=True), mean.amax(dim=(2, 3), keepdim=True)
    light = F.interpolate((mean - low) / (high - low).clamp_min(1e-9), x.shape[2:], mode="nearest")
    shown = x.float() / 255
    caption = (
        "Test images, and where the class token of the last block looks (mean over its heads): "
        "bright where it looks most."
    )
    return Figure("Attention", caption, _sheet([shown, shown * (0.15 + 0.85 * light)]))


def _reconstruction(method: Any, x: Tensor, index: Tensor) -> Figure:
    """Images, what the encoder saw of them, and what the method fills in."""
    encoder: ImageEncoder = method.encoder
    device = next(encoder.parameters()).device
    x, index = x.to(device), index.to(device)
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    layout = encoder.layout(x)
    mask: Mask = method.masker(layout, Draw(0, 0, index))
    prediction = method.predictor(encoder(x, mask), mask, x).float()
    for module, training in modes:
        module.training = training
    whole = encoder.targets(x).values.float()
    if getattr(
        method.objective, "normalize_target", False
    ):  # the patch's own mean and scale, as MAE shows it
        own = Tokens(whole).select(mask)
        prediction = prediction * own.std(dim=1, keepdim=True) + own.mean(dim=1, keepdim=True)
    hidden = mask.hidden
    filled = whole.clone()
    filled[hidden] = prediction
    patch = encoder.patch_of(x)
    grid = (layout.shape[0], layout.shape[1])
    pictures = []
    for values in (whole, torch.where(hidden[..., None], torch.zeros_like(whole), whole), filled):
        image = unpatch(values, grid, patch)
        pictures.append((image * encoder.std + encoder.mean).clamp(0, 1).cpu())
    caption = "Test images, what the encoder sees of them, and what is predicted for the hidden patches."
    return Figure("Reconstructions", caption, _sheet(pictures))


def _sheet(rows: list[Tensor]) -> np.ndarray:
    """``[H, W, 3]`` uint8: rows of equally many images ``[n, C, h, w]`` in [0, 1], on white."""
    height, width = rows[0].shape[2:]
    factor = max(SIDE // max(height, width), 1)
    lines = []
    for images in rows:
        tiles = images.repeat(1, 3 // images.shape[1], 1, 1)
        tiles = F.interpolate(tiles, scale_factor=factor, mode="nearest")
        longest = max(height, width)
        if longest > SIDE:
            small = (max(SIDE * height // longest, 1), max(SIDE * width // longest, 1))
            tiles = F.interpolate(tiles, size=small, mode="area")
        tiles = F.pad(tiles, (GAP, GAP, GAP, GAP), value=1.0)
        lines.append(torch.cat(list(tiles), dim=2))
    sheet = torch.cat(lines, dim=1).permute(1, 2, 0)
    return np.asarray((sheet.numpy() * 255).round().astype(np.uint8))
