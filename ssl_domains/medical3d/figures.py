"""Pictures of volumes: slices with masks in colour, and what a method fills in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Mask, Tokens
from ssl_domains.core.interfaces import Encoder, Figure
from ssl_domains.core.random import Draw
from ssl_domains.medical3d.data import VolumeSource
from ssl_domains.medical3d.encoders.base import VolumeEncoder, unpatch

SHOWN = 6
SIDE = 112
GAP = 4
CAVEAT = " Not for clinical use."
COLOURS = np.array(
    [(230, 80, 60), (60, 140, 220), (90, 190, 90), (240, 190, 60), (170, 100, 200), (70, 200, 200),
     (240, 130, 190), (150, 150, 60)], dtype=np.float32,
)  # fmt: skip


def coloured(grey: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    """``[H, W, 3]`` uint8: a grey slice in 0 to 1, structures tinted; rows are turned so that anterior is up.

    Args:
        grey: ``[H, W]``, H from posterior to anterior.
        classes: ``[H, W]`` class numbers, 0 background; None: no tint.
    """
    rgb = np.repeat(np.asarray(grey, np.float32)[..., None], 3, axis=2) * 255
    if classes is not None:
        inside = classes > 0
        tint = COLOURS[(np.asarray(classes)[inside] - 1) % len(COLOURS)]
        rgb[inside] = 0.6 * rgb[inside] + 0.4 * tint
    return np.ascontiguousarray(rgb[::-1].round().clip(0, 255).astype(np.uint8))


@torch.no_grad()
def figures(encoder: Encoder, source: VolumeSource, method: nn.Module | None) -> list[Figure]:
    """Samples with masks; reconstructions of masked and restoring methods."""
    rows = source.splits["test"] if len(source.splits["test"]) else np.arange(len(source))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(np.int64))]
    plane = "Slices" if source.spec.axis else "Middle axial slices of patches"
    marked = ", structures of the masks in colour" if source.dense_classes else ""
    tiles = [source.picture(int(r)) for r in rows]
    found = [Figure("Samples", f"{plane} of the test split{marked}.{CAVEAT}", _sheet([tiles]))]
    if method is None or not isinstance(encoder, VolumeEncoder):
        return found
    name = getattr(method, "registered_name", "")
    if name == "masked_reconstruction":
        found.append(_masked(method, source, rows))
    elif hasattr(method, "restore"):
        found.append(_restored(method, source, rows))
    return found


@contextmanager
def _still(module: nn.Module) -> Iterator[torch.device]:
    """Eval mode; every part gets its mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield next(module.parameters()).device
    finally:
        for part, training in modes:
            part.training = training


def _masked(method: Any, source: VolumeSource, rows: np.ndarray) -> Figure:
    """Samples, what the encoder sees of them, what the method fills in."""
    encoder: VolumeEncoder = method.encoder
    with _still(method) as device:
        batch = source.fetch(rows).to(device)
        mask: Mask = method.masker(encoder.layout(batch.x), Draw(0, 0, batch.index))
        prediction = method.predictor(encoder(batch.x, mask), mask, batch.x).float()
    whole = encoder.targets(batch.x).values.float()
    if getattr(method.objective, "normalize_target", False):  # a cube's own mean and scale, as MAE shows it
        own = Tokens(whole).select(mask)
        prediction = prediction * own.std(dim=1, keepdim=True) + own.mean(dim=1, keepdim=True)
    hidden = mask.hidden
    filled = whole.clone()
    filled[hidden] = prediction
    grid, patch = encoder.layout(batch.x).shape, encoder.patch_of(batch.x)
    seen = torch.where(hidden[..., None], torch.zeros_like(whole), whole)
    if len(grid) != source.spec.dims:  # tokens that are whole slices
        maps = [v.view(len(v), -1, 1, *source.spec.size[1:]).transpose(1, 2) for v in (whole, seen, filled)]
    else:
        maps = [unpatch(v, grid, patch) for v in (whole, seen, filled)]
    lines = [_tiles(m * encoder.std + encoder.mean, source) for m in maps]
    caption = "Test samples, what the encoder sees of them, and what is predicted for the hidden part."
    return Figure("Reconstructions", caption + CAVEAT, _sheet(lines))


def _restored(method: Any, source: VolumeSource, rows: np.ndarray) -> Figure:
    """Samples, the same spoilt, and what the method makes of these."""
    with _still(method) as device:
        batch = source.fetch(rows).to(device)
        spoilt, restored = method.restore(batch, Draw(0, 0, batch.index))
    clean = batch.x if len(batch.x) == len(spoilt) else batch.x[: len(spoilt)]
    lines = [_tiles(value.float(), source) for value in (clean, spoilt, restored)]
    caption = "Test samples, the same with parts hidden or spoilt, and what the decoder makes of these."
    return Figure("Restorations", caption + CAVEAT, _sheet(lines))


def _tiles(x: Tensor, source: VolumeSource) -> list[np.ndarray]:
    """Middle slices of ``[B, C, ...]`` as grey pictures, on one scale."""
    flat = x[:, 0].cpu()
    if flat.ndim == 4:
        flat = flat[:, flat.shape[1] // 2]
    low, high = 0.0, 1.0
    if source.spec.preparation.window in ("zscore", "none"):
        low = source.spec.mean[0] - 2.5 * source.spec.std[0]
        high = source.spec.mean[0] + 2.5 * source.spec.std[0]
    return [coloured(((f - low) / (high - low)).clamp(0, 1).numpy(), None) for f in flat]


def _sheet(lines: list[list[np.ndarray]]) -> np.ndarray:
    """``[H, W, 3]`` uint8: rows of equally many pictures of one shape, on white."""
    out = []
    for tiles in lines:
        x = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float()
        longest = max(x.shape[2:])
        if longest * 2 <= SIDE:
            x = F.interpolate(x, scale_factor=SIDE // longest, mode="nearest")
        elif longest > SIDE:
            size = [max(SIDE * s // longest, 1) for s in x.shape[2:]]
            x = F.interpolate(x, size=size, mode="area")
        out.append(torch.cat(list(F.pad(x, (GAP, GAP, GAP, GAP), value=255.0)), dim=2))
    return np.asarray(torch.cat(out, dim=1).permute(1, 2, 0).round().byte().numpy())
