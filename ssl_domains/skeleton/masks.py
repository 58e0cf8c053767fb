"""Masks that know the body: whole parts hidden for a while."""

from __future__ import annotations

from typing import ClassVar

import torch

from ssl_domains.core.batch import Mask
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Masker
from ssl_domains.core.layout import Grid, Layout
from ssl_domains.core.masking import share
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import mask
from ssl_domains.skeleton.spec import BodySpec


@mask("body_parts")
class BodyPartMask(Masker):
    """Whole parts of the body (an arm, the trunk) hidden over spans of time.

    Time is cut into spans of ``span`` tokens; (part, span) pairs are hidden in random order until
    ``ratio`` of the tokens is, the last pair in part, so that all samples hide the same number.
    The whole clip as one span hides parts as tubes. Parts come from the layout.

    Args:
        spec: the data.
        ratio: share of hidden tokens. Default 0.5.
        span: tokens of time that a part is hidden for; None: the whole clip.
    """

    layouts: ClassVar[tuple[type, ...]] = (Grid,)

    def __init__(self, spec: BodySpec, ratio: float = 0.5, span: int | None = None) -> None:
        self.ratio = share(ratio, "mask.ratio")
        if span is not None and span < 1:
            raise ValueError(f"mask.span must be at least 1, got {span}")
        self.span = span
        self.part = torch.zeros(spec.points, dtype=torch.int64)
        for number, (_, places) in enumerate(spec.layout.parts):
            self.part[list(places)] = number
        self.n_parts = max(len(spec.layout.parts), 1)

    def __call__(self, layout: Layout, draw: Draw) -> Mask:
        if not isinstance(layout, Grid) or len(layout.shape) != 2 or layout.shape[1] != len(self.part):
            raise DataError("mask 'body_parts' wants tokens on a grid of time and points; use random")
        time, points = layout.shape
        device = draw.index.device
        span = min(self.span or time, time)
        spans = torch.arange(time, device=device) // span
        group = (spans[:, None] * self.n_parts + self.part.to(device)[None]).flatten()  # [N]
        n_groups = int(-(-time // span)) * self.n_parts
        n = time * points
        rank = draw.permutation(n_groups).argsort(dim=1)[:, group]  # [B, N] when its group is hidden
        order = (rank * n + draw.permutation(n)).argsort(dim=1)
        n_hidden = min(max(round(self.ratio * n), 1), n - 1)
        hidden = torch.zeros(len(order), n, dtype=torch.bool, device=device)
        hidden.scatter_(1, order[:, :n_hidden], True)
        return Mask(hidden, context=order[:, n_hidden:].sort(dim=1).values)
