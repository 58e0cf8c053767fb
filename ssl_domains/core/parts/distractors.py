"""Distractors: other masked tokens of the same sample."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_domains.core.random import Draw


def token_draw(draw: Draw, sample: Tensor, place: Tensor) -> Draw:
    """Random numbers of single tokens: they depend on a token's sample and place, not on the batch around it.

    Args:
        draw: of the batch.
        sample: ``[M]`` row of the batch that each token is of.
        place: ``[M]`` its place in the sample.
    """
    return draw.at(draw.index[sample] * 1_000_003 + place)


def in_sample(sample: Tensor, count: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """``count`` distractors for each of M tokens, uniform among the other tokens of its sample, with repeats
    (wav2vec 2.0, section 3.2; w2v-BERT).

    Args:
        sample: ``[M]`` sample of each token, in order (equal numbers stand together).
        count: K.
        draw: of the tokens, see :func:`token_draw`.

    Returns:
        ``[M, K]`` int64 rows among the M tokens, and ``[M]`` bool: False where a sample has one token only,
        so that there is no distractor (its rows are then the token itself).
    """
    n = int(sample[-1]) + 1 if len(sample) else 0
    size = torch.bincount(sample, minlength=n)
    first = size.cumsum(0) - size
    own = torch.arange(len(sample), device=sample.device) - first[sample]
    others = (size[sample] - 1).clamp_min(1)
    u = (draw.uniform(count).double() * others[:, None]).long()
    picked = u + (u >= own[:, None]).long()
    there = size[sample] > 1
    picked = torch.where(there[:, None], picked, 0)
    return first[sample][:, None] + picked, there
