"""What all encoders of this domain do alike: clips of one length, streams, frames as tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Mask
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.parts.grid_predictor import GridPredictor
from ssl_domains.skeleton.spec import BodySpec
from ssl_domains.skeleton.temporal import STREAMS, stream, whole


class BodyEncoder(Encoder):
    """Base of the encoders.

    Args:
        spec: the data.
        stream: ``joint`` (the data as they are), ``bone`` (joint minus parent) or ``motion`` (difference
            of successive frames).
        confidence: the confidence of every point is one more channel.
        centre: share of a clip, around its middle, that is read when it was not cropped by views.

    Raises:
        ValueError: a stream that does not exist or that the layout does not have.
    """

    grid: tuple[int, ...]

    def __init__(
        self, spec: BodySpec, stream: str = "joint", confidence: bool = False, centre: float = 1.0
    ) -> None:
        super().__init__()
        if stream not in STREAMS:
            raise ValueError(f"encoder.stream must be one of {', '.join(STREAMS)}, got {stream!r}")
        if stream == "bone" and not spec.layout.bones:
            raise ValueError(f"encoder.stream: layout {spec.layout.name!r} has no bones; use joint or motion")
        if not 0.0 < centre <= 1.0:
            raise ValueError(f"encoder.centre is a share of the clip and must lie in (0, 1], got {centre}")
        self.spec, self.stream, self.with_confidence, self.centre = spec, stream, confidence, centre
        self.frames, self.points, self.persons = spec.frames, spec.points, spec.persons
        self.channels = len(spec.channels) + int(confidence)

    def clip(self, x: dict[str, Any]) -> Tensor:
        """``[B, C, frames, V, M]``: this encoder's stream of the clips."""
        return self.read(x)[0]

    def read(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The stream ``[B, C, frames, V, M]``, and which persons are there, ``[B, M]`` bool."""
        clip = whole(x, self.frames, self.centre)
        values = stream(clip, self.stream, self.spec.layout.parents)
        known = clip["confidence"]
        if self.with_confidence:
            values = torch.cat([values, known[:, None].to(values.dtype)], dim=1)
        return values, (known > 0).any(dim=1).any(dim=1)

    def layout(self, x: Any) -> Any:
        """The grid of the tokens."""
        from ssl_domains.core.layout import Grid

        return Grid(self.grid)

    def predictor(  # type: ignore[override]
        self,
        output_width: int,
        *,
        width: int = 256,
        depth: int = 3,
        heads: int = 8,
        ffn: int | None = None,
        dropout: float = 0.0,
    ) -> nn.Module:
        """From visible tokens to hidden ones: a transformer over the grid (:class:`GridPredictor`).

        Args:
            output_width: P of a prediction.
            width: of the predictor. Default 256, as MAMP's decoder (Mao et al., ICCV 2023), which has
                depth 5.
            depth: transformer blocks.
            heads: attention heads.
            ffn: hidden width of the feed-forward parts; None: four times ``width``.
            dropout: in the blocks.
        """
        return GridPredictor(
            self.grid, self.width, output_width, width=width, depth=depth, heads=heads, ffn=ffn,
            dropout=dropout,
        )  # fmt: skip


def present_mean(x: Tensor, present: Tensor, dim: int) -> Tensor:
    """Mean over persons that are there; with none, over all.

    Args:
        x: ``[B, ...]`` with persons at ``dim``.
        present: ``[B, M]`` bool.
        dim: of the persons.
    """
    weight = torch.where(present.any(dim=1, keepdim=True), present, True).to(x.dtype)
    weight = weight / weight.sum(dim=1, keepdim=True)
    shape = [len(weight)] + [1] * (x.dim() - 1)
    shape[dim] = weight.shape[1]
    return (x * weight.view(shape)).sum(dim=dim)


def covered(hidden: Tensor, token: Tensor, values: Tensor) -> Tensor:
    """``values [B, N, D]`` with the learned ``token [D]`` where ``hidden [B, N]``."""
    return torch.where(hidden[..., None], token.to(values.dtype), values)


def hidden_of(mask: Mask | None, n_tokens: int) -> Tensor | None:
    """``[B, N]``: what an encoder that replaces tokens must not see: all that is not context."""
    if mask is None:
        return None
    if mask.context is None:
        return mask.hidden
    seen = torch.zeros(len(mask.context), n_tokens, dtype=torch.bool, device=mask.context.device)
    return ~seen.scatter_(1, mask.context, True)
