"""The recurrent encoder of HaLP, CMD and their relatives."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Grid
from ssl_domains.core.registry import encoder
from ssl_domains.skeleton.encoders.base import BodyEncoder, covered, hidden_of
from ssl_domains.skeleton.spec import BodySpec


class PairedGRU(nn.Module):
    """Layers of two GRUs side by side, whose outputs are joined: ``[B, T, F] -> [B, T, 2 H]``.

    ``backward`` False lets both halves run forward in time. That is what a bidirectional GRU does when
    it is stepped one frame at a time, and what the released code of CMD and HaLP does. True is
    the usual bidirectional GRU.
    """

    def __init__(self, features: int, hidden: int, layers: int, backward: bool) -> None:
        super().__init__()
        self.backward = backward
        widths = [features] + [2 * hidden] * (layers - 1)
        self.first = nn.ModuleList(nn.GRU(width, hidden, batch_first=True) for width in widths)
        self.second = nn.ModuleList(nn.GRU(width, hidden, batch_first=True) for width in widths)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)  # as the released code asks for 2-d weights
            else:
                assert "bias" in name

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.first, self.second, strict=True):
            if self.backward:
                other = second(x.flip(1))[0].flip(1)
            else:
                other = second(x)[0]
            x = torch.cat([first(x)[0], other], dim=-1)
        return x


@encoder("bigru")
class BiGRU(BodyEncoder):
    """Bidirectional GRU over frames (CMD, Mao et al., ECCV 2022; HaLP, Shah et al., CVPR 2023).

    A frame is one vector of V * C * M values, batch-normalised; ``pooled`` is the output of the last
    frame (with ``backward`` the backward half's of the first frame). Tokens are frames.

    Args:
        spec: the data.
        hidden: width of each direction. Default 1024, ``layers`` 3: both papers.
        layers: GRU layers.
        backward: let the second half read backward in time. Default False: the papers' released code steps
            the GRU frame by frame, so that both halves run forward.
        stream: see :class:`BodyEncoder`.
        confidence: see :class:`BodyEncoder`.
        centre: see :class:`BodyEncoder`.
    """

    drops_hidden: ClassVar[bool] = False

    def __init__(
        self,
        spec: BodySpec,
        hidden: int = 1024,
        layers: int = 3,
        backward: bool = False,
        stream: str = "joint",
        confidence: bool = False,
        centre: float = 1.0,
    ) -> None:
        super().__init__(spec, stream, confidence, centre)
        self.width, self.grid = 2 * hidden, (self.frames,)
        self.features = self.points * self.channels * self.persons
        self.norm = nn.BatchNorm1d(self.features)
        self.gru = PairedGRU(self.features, hidden, layers, backward)
        self.mask_token = nn.Parameter(torch.zeros(self.features))

    def forward(self, x: Any, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens ``[B, T, 2 H]``; hidden frames are replaced by a learned vector."""
        frames = self.targets(x).values
        frames = self.norm(frames.transpose(1, 2)).transpose(1, 2)
        if mask is not None:
            frames = covered(hidden_of(mask, self.frames), self.mask_token, frames)  # type: ignore[arg-type]
        states = self.gru(frames)
        pooled = states[:, -1]
        if self.gru.backward:
            half = self.width // 2
            pooled = torch.cat([states[:, -1, :half], states[:, 0, half:]], dim=-1)
        return Encoded(Tokens(states, Grid(self.grid)), pooled, [states] if layers else None)

    def targets(self, x: Any) -> Tokens:
        """``[B, T, V * C * M]``, in the order V, C, M."""
        clip = self.clip(x)
        return Tokens(clip.permute(0, 2, 3, 1, 4).flatten(2), Grid(self.grid))

    @property
    def target_width(self) -> int:
        """V * C * M."""
        return self.features
