"""A small encoder over a fixed set of tokens, and views of vectors: the least that a domain can be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssl_domains.core.batch import Batch, Encoded, Tokens, View
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.layout import Set


class ToyPredictor(nn.Module):
    """Mean of the visible tokens plus a vector for each position."""

    def __init__(self, n_tokens: int, width: int, output_width: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(n_tokens, width))
        self.out = nn.Linear(width, output_width)

    def forward(self, encoded, mask, x):
        everywhere = encoded.tokens.values.mean(1, keepdim=True) + self.position
        return self.out(Tokens(everywhere).select(mask))


class ToyEncoder(Encoder):
    """Tokens ``[B, N, 1]`` scaled by a matrix; drops what a mask hides; mean pooling."""

    def __init__(self, n_tokens: int = 6, width: int = 8) -> None:
        super().__init__()
        self.n_tokens, self.width = n_tokens, width
        self.inside = nn.Linear(1, width)
        self.position = nn.Parameter(torch.randn(n_tokens, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, x, mask=None, *, layers=False):
        tokens = torch.tanh(self.inside(x[..., None]) + self.position)
        if mask is not None:
            index = mask.context_index()[..., None].expand(-1, -1, self.width)
            tokens = tokens.gather(1, index)
        tokens = self.norm(tokens)
        return Encoded(Tokens(tokens, self.layout(x)), tokens.mean(1))

    def layout(self, x):
        return Set(self.n_tokens)

    def targets(self, x):
        return Tokens(x[..., None])

    @property
    def target_width(self):
        return 1

    def predictor(self, output_width, **options):
        return ToyPredictor(self.n_tokens, self.width, output_width)


class ToyViews(Views):
    """Noise on every column, a sign flip of some, recorded."""

    def __init__(self, n_views: int = 2, local: int = 0) -> None:
        self.n_views, self.local = n_views, local

    def target_width(self, name, spec):
        return spec

    def __call__(self, batch, draw):
        views = []
        for i in range(self.n_views):
            flip = draw.bernoulli(0.3, batch.x.shape[1])
            x = torch.where(flip, -batch.x, batch.x) + 0.1 * draw.normal(batch.x.shape[1])
            role = "local" if i >= self.n_views - self.local else "global"
            views.append(View(x, role, {"corrupted": flip}))
        return views


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return ToyEncoder()


@pytest.fixture
def views():
    return ToyViews


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(16, 6, generator=generator), torch.arange(100, 116))
