"""The brain encoder of Defossez et al. (arXiv 2208.12266): attention over sensor positions, a layer a
subject, dilated convolutions; and a tower that gives features as they are."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Grid
from ssl_domains.core.registry import encoder
from ssl_domains.crossmodal.signals import SignalSpec

MARGIN, PERIOD = 0.2, 1.4


def fourier(positions: Tensor, width: int) -> Tensor:
    """``[..., 2]`` places in the unit square as ``[..., width]``: cosines and sines of ``2 pi (k u + l v) /
    1.4`` for k and l below ``sqrt(width / 2)``, u and v moved by 0.2 (section 2.2)."""
    n = math.isqrt(width // 2)
    rate = 2 * math.pi / PERIOD * torch.arange(n, device=positions.device, dtype=torch.float32)
    moved = positions.float() + MARGIN
    u, v = moved[..., 0:1] * rate, moved[..., 1:2] * rate
    angle = (u[..., :, None] + v[..., None, :]).flatten(-2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class SpatialAttention(nn.Module):
    """Sensors of any number and place to a fixed number of virtual channels.

    Args:
        outputs: virtual channels; 270 in the paper.
        width: of the Fourier code of a place, ``2 n^2``; 2048 in the paper.
        radius: in training, sensors within this distance of a random point are left out (one point a step);
            0.2.
    """

    def __init__(self, outputs: int, width: int, radius: float) -> None:
        super().__init__()
        self.width, self.radius = width, radius
        self.queries = nn.Parameter(torch.randn(outputs, width) / math.sqrt(width))

    def weights(self, positions: Tensor, valid: Tensor) -> Tensor:
        """``[B, outputs, C]`` weights over the sensors; rows sum to 1, sensors that are not valid have 0."""
        scores = torch.einsum("bcw,ow->boc", fourier(positions, self.width), self.queries.float())
        if self.training and self.radius > 0:
            point = torch.rand(2, device=positions.device)
            near = ((positions - point).norm(dim=-1) <= self.radius) & valid
            left = valid & ~near
            valid = torch.where(left.any(1, keepdim=True), left, valid)  # one sensor must remain
        return scores.masked_fill(~valid[:, None], -torch.inf).softmax(-1)

    def forward(self, x: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """``[B, C, T] -> [B, outputs, T]``."""
        return torch.einsum("boc,bct->bot", self.weights(positions, valid).to(x.dtype), x)


class SubjectLayer(nn.Module):
    """A square matrix for each subject, without bias; subjects that training has not seen get the mean
    matrix.

    Args:
        subjects: how many.
        width: channels.
    """

    def __init__(self, subjects: int, width: int) -> None:
        super().__init__()
        self.matrices = nn.Parameter(torch.randn(subjects, width, width) / math.sqrt(width))

    def forward(self, x: Tensor, subject: Tensor) -> Tensor:
        """``[B, W, T] -> [B, W, T]``."""
        chosen = self.matrices[subject.clamp(min=0)]
        known = (subject >= 0)[:, None, None]
        chosen = (
            torch.where(known, chosen, self.matrices.mean(0, keepdim=True)) if not self.training else chosen
        )
        return torch.einsum("bij,bjt->bit", chosen, x)


class DilatedBlock(nn.Module):
    """Two dilated convolutions with batch norm and GELU, each around a residual, and a gated one."""

    def __init__(self, width_in: int, width: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        widths = (width_in, width)
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv1d(w, width, 3, padding=d, dilation=d), nn.BatchNorm1d(width), nn.GELU())
            for w, d in zip(widths, dilations, strict=True)
        )
        self.gate = nn.Conv1d(width, 2 * width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T] -> [B, width, T]``."""
        for conv in self.convs:
            out = conv(x)
            x = out + x if out.shape == x.shape else out
        return F.glu(self.gate(x), dim=1)


@encoder("brain_conv")
class BrainConv(Encoder):
    """From M/EEG to features of speech, sample by sample (arXiv 2208.12266, section 2.2).

    ``pooled`` is the whole output, ``[B, features * T]``: the paper compares all of it, nothing is averaged
    over time or normalised. Tokens ``[B, T, features]``.

    Args:
        spec: the data.
        features: channels of the output; those of the speech features. Default 1024 (wav2vec 2.0 XLSR).
        hidden: width of the convolutions; 320.
        merger: virtual channels of the spatial attention; 270. 0: none, then sensors go in as they are.
        embedding: width of the Fourier code; 2048.
        radius: of the spatial dropout; 0.2.
        subject_layer: a matrix for each subject.
        depth: convolutions, an even number; 10, with dilations 2^(k mod 5).

    Raises:
        ValueError: an odd depth, an embedding that is not twice a square, or sensors without positions where
            attention needs them.
    """

    drops_hidden: ClassVar[bool] = False

    def __init__(
        self,
        spec: SignalSpec,
        features: int = 1024,
        hidden: int = 320,
        merger: int = 270,
        embedding: int = 2048,
        radius: float = 0.2,
        subject_layer: bool = True,
        depth: int = 10,
    ) -> None:
        super().__init__()
        if depth < 2 or depth % 2:
            raise ValueError(f"encoder.depth must be even and at least 2, got {depth}")
        if 2 * math.isqrt(embedding // 2) ** 2 != embedding:
            raise ValueError(
                f"encoder.embedding must be twice a square number (2048 is 2 * 32^2), got {embedding}"
            )
        if merger and not spec.positioned:
            raise ValueError(
                "encoder.merger: the recordings have no sensor positions; add an array positions "
                "[sensors, 2], or "
                "set encoder.merger=0"
            )
        self.spec, self.width = spec, features
        inner = merger or spec.channels
        self.attention = SpatialAttention(merger, embedding, radius) if merger else None
        self.mix = nn.Conv1d(inner, inner, 1)
        self.subjects = SubjectLayer(len(spec.subjects), inner) if subject_layer and spec.subjects else None
        dilations = [2 ** (k % 5) for k in range(depth)]
        widths = [inner, *[hidden] * (depth // 2 - 1)]
        self.blocks = nn.Sequential(
            *(DilatedBlock(w, hidden, (dilations[2 * i], dilations[2 * i + 1])) for i, w in enumerate(widths))
        )
        self.head = nn.Sequential(
            nn.Conv1d(hidden, 2 * hidden, 1), nn.GELU(), nn.ConvTranspose1d(2 * hidden, features, 1)
        )

    @property
    def pooled_width(self) -> int:
        """features * T."""
        return self.width * self.spec.length

    def forward(self, x: dict[str, Tensor], mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """See the class."""
        z = x["signal"]
        z = self.attention(z, x["positions"], x["valid"]) if self.attention is not None else z
        z = self.mix(z)
        z = self.subjects(z, x["subject"]) if self.subjects is not None else z
        out = self.head(self.blocks(z))
        return Encoded(Tokens(out.transpose(1, 2), self.layout(x)), out.flatten(1))

    def layout(self, x: Any) -> Grid:
        """Samples in time."""
        return Grid((self.spec.length,))


@encoder("as_is")
class AsIs(Encoder):
    """Signals as they are: the frozen target when the features of speech were computed before.

    ``pooled`` ``[B, C * T]``.

    Args:
        spec: the data.
    """

    drops_hidden: ClassVar[bool] = False

    def __init__(self, spec: SignalSpec) -> None:
        super().__init__()
        self.spec, self.width = spec, spec.channels
        self.register_buffer("nothing", torch.zeros(1), persistent=False)

    @property
    def pooled_width(self) -> int:
        """C * T."""
        return self.width * self.spec.length

    def forward(self, x: dict[str, Tensor], mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """See the class."""
        z = x["signal"]
        return Encoded(Tokens(z.transpose(1, 2), self.layout(x)), z.flatten(1))

    def layout(self, x: Any) -> Grid:
        """Samples in time."""
        return Grid((self.spec.length,))
