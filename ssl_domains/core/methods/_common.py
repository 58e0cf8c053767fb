"""What several methods do alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ssl_domains.core.batch import Batch, Encoded
from ssl_domains.core.interfaces import Views
from ssl_domains.core.random import Draw
from ssl_domains.core.schedules import Ramp


def stages(encoded: Encoded, **others: Tensor) -> dict[str, Tensor]:
    """Detached embeddings for the guard, from the input side to the output side."""
    named = {"tokens": encoded.tokens.flat(), "encoder": encoded.pooled, **others}
    return {name: value.detach() for name, value in named.items()}


def momentum_ramp(values: Sequence[float] | float, kind: Literal["linear", "cosine"]) -> Ramp:
    """EMA momentum over the run.

    Args:
        values: ``[start, end]``, or one number for a constant.
        kind: ``linear`` (I-JEPA, T-JEPA) or ``cosine`` (BYOL, DINO).
    """
    pair = (values, values) if isinstance(values, int | float) else tuple(values)
    if len(pair) != 2 or not all(0.0 <= v <= 1.0 for v in pair):
        raise ValueError(f"method.momentum must be one number or [start, end] within [0, 1], got {values}")
    return Ramp(pair[0], pair[1], kind)


def seen_through(views: Views | None, batch: Batch, draw: Draw) -> Batch:
    """The batch as its first view shows it (images are cropped before they are masked), or as it is."""
    return batch if views is None else batch.with_x(views(batch, draw.fork("views"))[0].x)
