"""Views of texts: a stretch of it, words left out, words and spans masked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.text.encoders import content_of
from ssl_domains.text.spec import TextSpec


@views("text_augment")
class TextAugment(Views):
    """Views that each keep a stretch of a text, leave words out, and mask spans.

    With all shares 0 the two views differ by the encoder's dropout alone (SimCSE, Gao et al., EMNLP 2021). At
    least one content token of a text stays. Records ``corrupted [B, L]``: tokens that were masked.

    Args:
        spec: the data.
        drop: share of the words left out; the others move together. Default 0.1.
        mask: share of the words masked, in spans. Default 0.15 (BERT).
        span: mean length of a masked span; starts are drawn so that ``mask`` is met on average. Default 3
            (SpanBERT, Joshi et al., TACL 2020, has 3.8).
        crop: (least, largest) share of the words in the stretch that is kept. Default the whole text.
        n_views: how many views.
    """

    def __init__(
        self,
        spec: TextSpec,
        drop: float = 0.1,
        mask: float = 0.15,
        span: int = 3,
        crop: tuple[float, float] = (1.0, 1.0),
        n_views: int = 2,
    ) -> None:
        for name, value in (("drop", drop), ("mask", mask)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"views.{name} is a share and must lie in [0, 1), got {value}")
        if span < 1 or n_views < 1 or not 0.0 < crop[0] <= crop[1] <= 1.0:
            raise ValueError("views: span and n_views are at least 1, crop is [low, high] within (0, 1]")
        self.spec, self.drop, self.mask, self.span, self.crop = spec, drop, mask, span, crop
        self.n_views = n_views

    def target_width(self, name: str, spec: Any) -> int:
        """L of ``corrupted``."""
        if name != "corrupted":
            raise KeyError(f"text_augment records corrupted, not {name!r}")
        return int(spec.length)

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        return [self._view(batch.x["ids"], draw) for _ in range(self.n_views)]

    def _view(self, ids: Tensor, draw: Draw) -> View:
        spec, length = self.spec, ids.shape[1]
        content = content_of(spec, ids)
        keep = torch.ones_like(content)
        if self.crop != (1.0, 1.0):
            keep &= self._stretch(content, draw)
        if self.drop:
            keep &= ~draw.bernoulli(self.drop, length)
        first = content & (content.cumsum(1) == 1)
        keep = torch.where((keep & content).any(1, keepdim=True), keep, first) | (
            ~content & (ids != spec.pad)
        )
        keep &= ids != spec.pad
        order = (~keep).to(torch.int8).argsort(dim=1, stable=True)  # what stays moves to the front
        n = keep.sum(1)
        there = torch.arange(length, device=ids.device) < n[:, None]
        ids = torch.where(there, ids.gather(1, order), spec.pad)
        corrupted = self._spans(content_of(spec, ids), draw) if self.mask else torch.zeros_like(content)
        ids = torch.where(corrupted, spec.mask, ids)
        return View(
            {"ids": ids, "length": n}, "corrupted" if self.mask else "global", {"corrupted": corrupted}
        )

    def _stretch(self, content: Tensor, draw: Draw) -> Tensor:
        """Consecutive content tokens, a drawn share of a text's."""
        n = content.sum(1)
        wanted = (n * draw.uniform(low=self.crop[0], high=self.crop[1])).round().clamp(min=1)
        start = (draw.uniform() * (n - wanted + 1)).floor()
        place = content.cumsum(1) - 1
        return (place >= start[:, None]) & (place < (start + wanted)[:, None])

    def _spans(self, content: Tensor, draw: Draw) -> Tensor:
        """Spans of ``span`` tokens; one content token stays in each text."""
        rate = 1 - (1 - self.mask) ** (1 / self.span)  # so that a token is in some span with probability mask
        starts = draw.bernoulli(rate, content.shape[1])
        inside = starts.clone()
        for shift in range(1, self.span):
            inside[:, shift:] |= starts[:, :-shift]
        inside &= content
        kept = content & (content.cumsum(1) == 1)
        all_gone = (inside | ~content).all(1, keepdim=True)
        return inside & ~(kept & all_gone)
