"""Pictures of what a speech encoder does: what it fills in, and how alike its frames are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ssl_domains.core.interfaces import Encoder, Figure
from ssl_domains.core.random import Draw
from ssl_domains.speech.data import SpeechSource
from ssl_domains.speech.picture import coloured, spectrogram

SHOWN = 4
WIDE = 360


@torch.no_grad()
def figures(encoder: Encoder, source: SpeechSource, method: nn.Module | None) -> list[Figure]:
    """Similarity of frames; and, of a masked method that rebuilds features, what it saw and filled in."""
    rows = source.splits["test"] if len(source.splits["test"]) else np.arange(len(source))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(np.int64))]
    found = [_likeness(encoder, source, rows)]
    if method is not None and getattr(method, "registered_name", "") == "masked_reconstruction":
        found += _rebuilt(method, source, rows)
    return found


def _likeness(encoder: Encoder, source: SpeechSource, rows: np.ndarray) -> Figure:
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    encoded = encoder(source.fetch(rows).x.to(next(encoder.parameters()).device))
    for module, training in modes:
        module.training = training
    tokens, parts = encoded.tokens, []
    for i in range(len(rows)):
        z = tokens.values[i] if tokens.padding is None else tokens.values[i][~tokens.padding[i]]
        z = nn.functional.normalize(z.float() - z.float().mean(dim=0), dim=1)
        at = torch.linspace(0, len(z) - 1, 150).long()
        parts.append(coloured((z @ z.T)[at][:, at].clamp(-0.2, 1).add(0.2).div(1.2).cpu().numpy()))
    caption = (
        "Cosine between the frames of a recording (mean taken off), time to the right and down, for "
        f"{', '.join(map(str, source.ids(rows)))}: squares on the diagonal are stretches that the "
        "encoder holds for one sound."
    )
    return Figure("Frames that are alike", caption, _beside(parts))


def _rebuilt(method: Any, source: SpeechSource, rows: np.ndarray) -> list[Figure]:
    encoder, masker, predictor = method.encoder, method.masker, method.predictor
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    batch = source.fetch(rows).to(next(method.parameters()).device)
    mask = masker(encoder.layout(batch.x), Draw(0, 0, batch.index))
    whole = encoder.targets(batch.x)
    values = predictor(encoder(batch.x, mask), mask, batch.x)
    for module, training in modes:
        module.training = training
    if values.shape[1] != whole.values.shape[2] or mask.hidden.shape != whole.values.shape[:2]:
        return []
    hidden = mask.hidden if whole.padding is None else mask.hidden & ~whole.padding
    filled = whole.values.float().clone()
    filled[hidden] = values.float()
    seen = whole.values.float().masked_fill(hidden[..., None], 0.0)
    if mask.alteration is not None:
        seen = mask.alteration.apply(whole.values.float())
        filled = torch.where(mask.alteration.counted, filled, whole.values.float())
    parts = []
    for i in range(len(rows)):
        n = int((~whole.padding[i]).sum()) if whole.padding is not None else len(filled[i])
        bands = min(80, filled.shape[2])
        column = [t[i, :n, :bands].cpu().numpy() for t in (whole.values, seen, filled)]
        parts.append(np.concatenate([spectrogram(c, (80, WIDE)) for c in column], axis=0))
    caption = "From top to bottom: features of test recordings, what the encoder saw, what it filled in."
    return [Figure("Filled in", caption, _beside(parts))]


def _beside(parts: list[np.ndarray]) -> np.ndarray:
    gap = np.full((parts[0].shape[0], 6, 3), 255, dtype=np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=1)
