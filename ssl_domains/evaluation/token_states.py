"""Hidden states of tokens by layer, and the learned weighted sum over layers of SUPERB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder, Source
from ssl_domains.evaluation.embeddings import frozen, to_device
from ssl_domains.evaluation.protocols import Features


@dataclass
class States:
    """What one batch of rows looks like inside.

    Attributes:
        at: ``[B]`` positions among the rows that were asked for.
        layers: ``[B, L, N, D]`` float32; the first layer is the input of the first block.
        lengths: ``[B]`` int64 real tokens.
    """

    at: np.ndarray
    layers: Tensor
    lengths: Tensor


class Reader:
    """Gives the states of rows: of an encoder, frozen and in eval mode, or of the source's plain frames.

    Args:
        source: with ``pieces``, and ``frames`` for plain ones.
        encoder: None: plain frames, as one layer.
        options: ``batch_size`` and ``device`` of the forward passes.
    """

    def __init__(self, source: Source, encoder: Encoder | None, options: Any = None) -> None:
        self.source, self.encoder = source, encoder
        given = dict(options or {})
        self.batch_size, self.device = min(int(given.get("batch_size", 64)), 64), given.get("device", "auto")

    @classmethod
    def of(cls, features: Features) -> Reader:
        """From what a protocol gets."""
        return cls(features.source, features.encoder, features.options)

    def read(self, rows: np.ndarray) -> Iterator[States]:
        """The states of these rows, batch by batch, in any order; on the CPU."""
        rows = np.asarray(rows, dtype=np.int64)
        pieces = self.source.pieces(rows, self.batch_size)  # type: ignore[attr-defined]
        if self.encoder is None:
            for at in pieces:
                values, lengths = self.source.frames(rows[at])  # type: ignore[attr-defined]
                yield States(at, values[:, None].float(), lengths)
            return
        with frozen(self.encoder, self.device) as (model, where):
            for at in pieces:
                batch = to_device(self.source.fetch(rows[at]), where)
                with torch.no_grad(), torch.autocast(where.type, enabled=False):
                    encoded = model(batch.x, layers=True)
                padding = encoded.tokens.padding
                n = encoded.tokens.values.shape[1]
                lengths = (~padding).sum(dim=1) if padding is not None else torch.full((len(at),), n)
                states = [s for s in encoded.layers or [] if s.shape == encoded.tokens.values.shape]
                states = states or [encoded.tokens.values]
                yield States(at, torch.stack(states, dim=1).float().cpu(), lengths.cpu())

    def times(self, n: int) -> np.ndarray:
        """``[n]`` seconds of the middles of tokens."""
        if self.encoder is None:
            return np.asarray(self.source.frame_times(n))  # type: ignore[attr-defined]
        return np.asarray(self.encoder.token_times(n))  # type: ignore[operator]


class Featurizer(nn.Module):
    """``sum_l softmax(w)_l h_l`` over ALL hidden layers, ``[B, L, N, D] -> [B, N, D]`` (SUPERB, Yang et al.,
    Interspeech 2021, section 2). Weights start at 0: the plain mean.

    Args:
        layers: L.
        normalise: layer norm of each layer first, without affine part. SUPERB does not; layers of very
            different size need it.
    """

    def __init__(self, layers: int, normalise: bool = False) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.normalise = normalise

    def forward(self, states: Tensor) -> Tensor:
        """``[..., L, N, D]`` or ``[M, L, D]`` with ``L`` second."""
        if self.normalise:
            states = nn.functional.layer_norm(states, states.shape[-1:])
        return torch.einsum("bl...,l->b...", states, self.weights.softmax(dim=0))


def picked(layers: Tensor, layer: str | int) -> Tensor:
    """``[B, L, N, D]`` all layers (``weighted``), or ``[B, 1, N, D]`` one of them by its number.

    Raises:
        UserError: there is no such layer.
    """
    if isinstance(layer, str):
        return layers
    count = layers.shape[1]
    if not -count <= layer < count:
        raise UserError(
            f"layer {layer}: the encoder gives {count} (0 is the input of the first block, -1 the last)"
        )
    return layers[:, [layer]]


def check_layer(layer: str | int) -> str | int:
    """``weighted`` or a number.

    Raises:
        ValueError: another word.
    """
    if isinstance(layer, str) and layer != "weighted":
        raise ValueError(f"layer must be weighted or a number, got {layer!r}")
    return layer


def long_rows(source: Source, min_seconds: float) -> list[int]:
    """Numbers of the rows that last ``min_seconds`` or longer; all of them for 0."""
    if not min_seconds:
        return list(range(len(source)))
    return np.flatnonzero(np.asarray(source.lengths) >= min_seconds).tolist()  # type: ignore[attr-defined]


def mean_tokens(values: Tensor, lengths: Tensor) -> Tensor:
    """``[B, D]``: the mean of ``values [B, N, D]`` over real tokens."""
    there = (torch.arange(values.shape[1], device=values.device) < lengths[:, None])[..., None]
    return values.masked_fill(~there, 0.0).sum(dim=1) / lengths.clamp_min(1)[:, None]


def has_states(source: Source) -> str:
    """One sentence when a source gives no tokens over time, else an empty string."""
    if not hasattr(source, "pieces") or not hasattr(source, "frames"):
        return "This probe reads tokens over time, which this domain's source does not give."
    return ""


def split_rows(source: Source, usable: np.ndarray, most: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of train, valid and test among ``usable``, at most so many each. Without a test part the valid
    part is scored; without a valid part a fifth of train chooses."""
    rng = np.random.default_rng(seed)
    rows = {name: np.intersect1d(source.splits.get(name, []), usable) for name in ("train", "valid", "test")}
    rows = {name: rng.permutation(found.astype(np.int64))[:most] for name, found in rows.items()}
    if not len(rows["test"]):
        rows["test"], rows["valid"] = rows["valid"], rows["valid"][:0]
    if not len(rows["valid"]):
        cut = max(len(rows["train"]) // 5, 1)
        rows["valid"], rows["train"] = rows["train"][:cut], rows["train"][cut:]
    return rows
