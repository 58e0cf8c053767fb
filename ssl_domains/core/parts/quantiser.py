"""From vectors to discrete codes: Gumbel product quantiser, random projection."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_domains.core.collectives import all_reduce_sum
from ssl_domains.core.objectives.numerics import global_count


class Quantised(NamedTuple):
    """What the quantiser says of M vectors.

    Attributes:
        values: ``[M, code_width]`` the chosen codes, those of the groups side by side.
        ids: ``[M, G]`` int64 numbers of the chosen codes, without gradient.
        diversity: scalar ``(G V - sum_g exp H(p_g)) / (G V)``, with gradient; 0 when all codes are used
            alike.
        perplexity: scalar ``sum_g exp H`` of the codes that were chosen, without gradient: G when the
            codebook has collapsed, G V at most.
    """

    values: Tensor
    ids: Tensor
    diversity: Tensor
    perplexity: Tensor


class GumbelQuantiser(nn.Module):
    """Product quantisation with a straight-through Gumbel softmax (wav2vec 2.0, Baevski et al., NeurIPS 2020,
    section 2, "Quantization module", and w2v-BERT).

    In training a code is drawn with Gumbel noise and used as it is, its gradient is that of the softmax; in
    evaluation it is the likeliest. ``ids`` are those of the codes in use, drawn ones in training. The
    diversity is of the softmax without noise, averaged over the M vectors of all processes.

    Args:
        width: of the vectors.
        groups: G codebooks. Default 2 (wav2vec 2.0); w2v-BERT has 1.
        codes: V entries each. Default 320; w2v-BERT has 1024.
        code_width: of all groups together, a multiple of G. Default 256 (base model).
        temperature: (start, end, factor a step). Default (2, 0.5, 0.999995), the base model's; the large one
            and w2v-BERT end at 0.1.

    Raises:
        ValueError: options out of range.
    """

    def __init__(
        self,
        width: int,
        groups: int = 2,
        codes: int = 320,
        code_width: int = 256,
        temperature: tuple[float, float, float] = (2.0, 0.5, 0.999995),
    ) -> None:
        super().__init__()
        if groups < 1 or codes < 2 or code_width % groups:
            raise ValueError(
                f"method: code_width {code_width} must be a multiple of groups {groups}, and codes at least 2"
            )
        if not (0 < temperature[1] <= temperature[0] and 0 < temperature[2] <= 1):
            raise ValueError(f"method.temperature must be [start, end, factor], got {list(temperature)}")
        self.groups, self.codes, self.code_width = groups, codes, code_width
        self.start, self.end, self.factor = temperature
        self.scores = nn.Linear(width, groups * codes)
        self.codebook = nn.Parameter(torch.empty(groups, codes, code_width // groups).uniform_())
        nn.init.normal_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)
        self.temperature = self.start

    def at_step(self, step: int) -> None:
        """Sets the temperature: ``max(start * factor ** step, end)``."""
        self.temperature = max(self.start * self.factor**step, self.end)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Quantised:
        """Codes of ``x [M, width]``.

        Args:
            x: vectors.
            noise: ``[M, G * V]`` uniform in [0, 1), which the Gumbel noise is made of; None in training:
                drawn here.
        """
        with torch.autocast(x.device.type, enabled=False):
            logits = self.scores(x.float()).view(len(x), self.groups, self.codes)
            soft = logits.softmax(dim=-1)
            if self.training:
                u = torch.rand_like(logits) if noise is None else noise.view_as(logits)
                gumbel = -torch.log(-torch.log(u.clamp(1e-7, 1 - 1e-7)))
                drawn = ((logits + gumbel) / self.temperature).softmax(dim=-1)
            else:
                drawn = soft
            ids = drawn.argmax(dim=-1)
            hard = torch.zeros_like(drawn).scatter_(-1, ids[..., None], 1.0)
            chosen = hard + (drawn - drawn.detach()) if self.training else hard
            values = torch.einsum("mgv,gvd->mgd", chosen, self.codebook.float()).flatten(1)
            diversity = (self.groups * self.codes - perplexity(soft)) / (self.groups * self.codes)
            with torch.no_grad():
                used = perplexity(hard)
        return Quantised(values, ids, diversity, used)


def perplexity(shares: Tensor) -> Tensor:
    """``sum_g exp H(p_g)`` with p_g the mean of ``shares [M, G, V]`` over the rows of all processes."""
    mean = all_reduce_sum(shares.sum(dim=0)) / global_count(len(shares), shares)
    return torch.exp(-torch.special.xlogy(mean, mean).sum(dim=-1)).sum()


class RandomProjection(nn.Module):
    """Codes by a frozen random projection and a frozen random codebook (BEST-RQ, Chiu et al., ICML 2022,
    section 3.1): the number of the code whose direction is nearest to that of the projected vector.

    Args:
        width: of the vectors; they should have mean 0 and deviation 1, else few codes are used.
        codes: V. Default 8192.
        code_width: of a code. Default 16.
        groups: codebooks with projections of their own. Default 1.
    """

    def __init__(self, width: int, codes: int = 8192, code_width: int = 16, groups: int = 1) -> None:
        super().__init__()
        self.codes, self.groups = codes, groups
        projection = torch.empty(groups, width, code_width)
        for matrix in projection:
            nn.init.xavier_uniform_(matrix)
        self.register_buffer("projection", projection)
        self.register_buffer("codebook", F.normalize(torch.randn(groups, codes, code_width), dim=-1))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """``[..., G]`` int64 of ``x [..., width]``."""
        with torch.autocast(x.device.type, enabled=False):
            flat = x.float().flatten(0, -2)
            found = []
            for rows in flat.split(8192):
                seen = torch.einsum("md,gdk->gmk", rows, self.get_buffer("projection"))
                found.append((seen @ self.get_buffer("codebook").transpose(1, 2)).argmax(dim=-1).T)
            return torch.cat(found).view(*x.shape[:-1], self.groups)
