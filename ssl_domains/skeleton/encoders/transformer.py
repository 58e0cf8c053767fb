"""A transformer over joints and time."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Grid
from ssl_domains.core.parts.grid_predictor import gather_tokens
from ssl_domains.core.parts.transformer import Transformer, init_xavier, sincos
from ssl_domains.core.registry import encoder
from ssl_domains.skeleton.encoders.base import BodyEncoder
from ssl_domains.skeleton.encoders.stgcn import patches
from ssl_domains.skeleton.spec import BodySpec
from ssl_domains.skeleton.temporal import motion


@encoder("space_time_transformer")
class SpaceTimeTransformer(BodyEncoder):
    """Joint attention over space and time (the encoder of MAMP, Mao et al., ICCV 2023, section 3.2).

    A token is ``patch`` frames of one joint or device; ``Grid((T / patch, V))``. Hidden tokens are dropped
    before the blocks, as in MAE and SkeletonMAE. Codes: sines of the time, a learned vector a joint.
    Persons share a token, side by side.

    Args:
        spec: the data.
        patch: frames of a token. Default 4 (MAMP).
        width: D. Default 256, ``depth`` 8, ``heads`` 8: MAMP.
        depth: blocks.
        heads: attention heads.
        ffn: hidden width of the feed-forward parts; None: four times ``width``.
        dropout: in the blocks.
        target: what a token held for masked reconstruction: ``joint`` (the values; SkeletonMAE) or
            ``motion`` (their differences in time; MAMP).
        normalize_target: each token's target to mean 0 and deviation 1 (MAE, MAMP).
        stream: see :class:`BodyEncoder`.
        confidence: see :class:`BodyEncoder`.
        centre: see :class:`BodyEncoder`.

    Raises:
        ValueError: ``patch`` does not divide the number of frames, or an unknown target.
    """

    drops_hidden: ClassVar[bool] = True
    time: Tensor

    def __init__(
        self,
        spec: BodySpec,
        patch: int = 4,
        width: int = 256,
        depth: int = 8,
        heads: int = 8,
        ffn: int | None = None,
        dropout: float = 0.0,
        target: str = "joint",
        normalize_target: bool = False,
        stream: str = "joint",
        confidence: bool = False,
        centre: float = 1.0,
    ) -> None:
        super().__init__(spec, stream, confidence, centre)
        if patch < 1 or self.frames % patch:
            raise ValueError(f"encoder.patch {patch} does not divide the {self.frames} frames of data.frames")
        if target not in ("joint", "motion"):
            raise ValueError(f"encoder.target must be joint or motion, got {target!r}")
        self.patch, self.width, self.target = patch, width, target
        self.normalize_target = normalize_target
        self.grid = (self.frames // patch, self.points)
        self.embed = nn.Linear(self.target_width, width)
        self.joint = nn.Parameter(torch.empty(self.points, width))
        codes = sincos(torch.arange(self.grid[0])[:, None], width)
        self.register_buffer("time", codes, persistent=False)
        self.blocks = Transformer(width, depth, heads, ffn or 4 * width, dropout, "pre", "gelu")
        self.norm = nn.LayerNorm(width)
        init_xavier(self)
        nn.init.trunc_normal_(self.joint, std=0.02, a=-0.04, b=0.04)

    def forward(self, x: Any, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens ``[B, N, D]``, with a mask those of the context; pooled is their mean."""
        tokens = self.embed(patches(self.clip(x), self.patch))
        tokens = tokens + (self.time[:, None, :] + self.joint[None]).flatten(0, 1).to(tokens.dtype)
        if mask is not None:
            tokens = gather_tokens(tokens, mask.context_index())
        states = self.blocks(tokens)
        out = self.norm(states[-1])
        return Encoded(Tokens(out, Grid(self.grid)), out.mean(dim=1), states if layers else None)

    def targets(self, x: Any) -> Tokens:
        """``[B, N, patch * C * M]``."""
        clip = self.clip(x)
        if self.target == "motion":
            clip = motion(clip)
        values = patches(clip, self.patch)
        if self.normalize_target:
            values = torch.nn.functional.layer_norm(values, values.shape[-1:], eps=1e-6)
        return Tokens(values, Grid(self.grid))

    @property
    def target_width(self) -> int:
        """patch * C * M."""
        return self.patch * self.channels * self.persons

    def input_parameters(self) -> list[nn.Parameter]:
        """Of the tokeniser."""
        return [*self.embed.parameters(), self.joint]
