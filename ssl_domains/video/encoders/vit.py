"""Vision transformers of clips: cubes that a mask hides never enter the blocks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Grid
from ssl_domains.core.parts.grid_predictor import GridPredictor, gather_tokens, grid_codes
from ssl_domains.core.parts.transformer import Transformer, init_xavier, sincos
from ssl_domains.core.registry import encoder
from ssl_domains.video.encoders.base import HiddenHead, VideoEncoder, cubes
from ssl_domains.video.encoders.weights import load_vit
from ssl_domains.video.spec import VideoSpec

SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
"""Width, depth and heads (Dosovitskiy et al., ICLR 2021, table 1; tiny and small of DeiT)."""


@encoder("video_vit")
class VideoViT(VideoEncoder):
    """ViT on cubes of space and time (VideoMAE, Tong et al., NeurIPS 2022): joint attention, no class token.

    A mask's hidden cubes are dropped before the blocks, so that with tubes of 0.9 a tenth of the tokens is
    computed. Tokens lie on ``Grid((T / tubelet, H / patch, W / patch))``.

    Args:
        spec: of the data.
        variant: tiny, small, base (VideoMAE's default), large or huge: width, depth and heads together.
        patch: side of a cube; the frames' sides must be multiples of it. Default 16.
        tubelet: frames of a cube; the clip's frames must be a multiple of it. Default 2.
        width, depth, heads: instead of the variant's.
        positions: ``sequence``: fixed sine-cosine codes of the token's number (VideoMAE); ``grid``: of its
            three coordinates (V-JEPA); ``learned``: a learned code of the place and one of the time, added
            (masked autoencoders of space and time, Feichtenhofer et al., NeurIPS 2022; CrossVideoMAE).
        norm: layer norm of the tokens at the end. False where weights come without it (Hugging Face's
            ``use_mean_pooling``).
        hidden: ``drop`` hidden cubes, or ``replace`` them by a learned token (for iBOT, data2vec).
        normalize_target: pixels of a hidden cube as the target of reconstruction: ``channel``: each colour by
            its own mean and deviation over the cube (VideoMAE); ``patch``: all of them together (MAE);
            ``none``.
        target_frames: how many of a cube's frames are predicted, from its first on; None: all (VideoMAE).
            1 of 2 is what masked autoencoders of space and time predict.
        dropout: within the blocks.
        norm_eps: of all layer norms; 1e-6 as in the authors' code (Hugging Face's default is 1e-12).
        weights: a folder that transformers' ``save_pretrained`` wrote, a file of weights with the names of
            the authors' code or timm, or (for single frames) a run of an image transformer; None: random.

    Raises:
        ValueError: sizes that are no multiples, or heads that do not divide the width.
    """

    codes: Tensor

    def __init__(
        self,
        spec: VideoSpec,
        variant: Literal["tiny", "small", "base", "large", "huge"] = "base",
        patch: int = 16,
        tubelet: int = 2,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        positions: Literal["sequence", "grid", "learned"] = "sequence",
        norm: bool = True,
        hidden: Literal["drop", "replace"] = "drop",
        normalize_target: Literal["none", "channel", "patch"] = "channel",
        target_frames: int | None = None,
        dropout: float = 0.0,
        norm_eps: float = 1e-6,
        weights: str | None = None,
    ) -> None:
        super().__init__(spec)
        _check_sizes(spec, patch, tubelet, target_frames)
        d, n, h = SIZES[variant]
        self.width, n, h = width or d, depth or n, heads or h
        if self.width % h:
            raise ValueError(f"encoder.width {self.width} is no multiple of encoder.heads {h}")
        self.heads = h
        self.cube = (tubelet, patch, patch)
        self.grid = (spec.frames // tubelet, spec.size[0] // patch, spec.size[1] // patch)
        self.positions, self.hidden = positions, hidden
        self.normalize_target, self.target_frames = normalize_target, target_frames or tubelet
        self.embed = nn.Conv3d(spec.channels, self.width, self.cube, self.cube)
        self.blocks = Transformer(self.width, n, h, 4 * self.width, dropout)
        self.norm = nn.LayerNorm(self.width) if norm else nn.Identity()
        init_xavier(self)
        nn.init.xavier_uniform_(self.embed.weight.view(self.width, -1))
        nn.init.zeros_(self.embed.bias)  # type: ignore[arg-type]
        if positions == "learned":
            self.place = nn.Parameter(torch.empty(self.grid[1] * self.grid[2], self.width))
            self.time = nn.Parameter(torch.empty(self.grid[0], self.width))
            for code in (self.place, self.time):
                nn.init.trunc_normal_(code, std=0.02)
        else:
            self.register_buffer("codes", self._fixed(self.grid), persistent=False)
        if hidden == "replace":
            self.mask_token = nn.Parameter(torch.zeros(self.width))
            nn.init.trunc_normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = norm_eps
        if weights is not None:
            load_vit(self, weights)

    def _fixed(self, grid: tuple[int, ...]) -> Tensor:
        """``[N, D]`` sine-cosine codes of a grid."""
        if self.positions == "grid":
            return grid_codes(grid, self.width)
        return sincos(torch.arange(grid[0] * grid[1] * grid[2])[:, None], self.width)

    def position_codes(self, grid: tuple[int, ...]) -> Tensor:
        """``[N, D]`` codes of the tokens of a grid.

        Raises:
            ValueError: a grid larger than the one that positions were learned on.
        """
        if self.positions == "learned":
            if grid[1:] != self.grid[1:] or grid[0] > self.grid[0]:
                raise ValueError(
                    f"encoder.positions: learned for a grid of {list(self.grid)}, these clips have "
                    f"{list(grid)}; use positions=grid"
                )
            return (self.time[: grid[0], None] + self.place).flatten(0, 1)
        return self.codes if grid == self.grid else self._fixed(grid).to(self.codes.device)

    @property
    def drops_hidden(self) -> bool:  # type: ignore[override]
        """Whether a mask takes tokens away or puts the mask token in their place."""
        return self.hidden == "drop"

    def forward(self, x: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        layout = self.layout(x)
        codes = self.position_codes(layout.shape)
        pixels = self.prepare(x)
        if mask is not None and self.hidden == "drop":
            # Only the visible cubes are projected: the convolution over all would be the dearest layer.
            index = mask.context_index()
            seen = gather_tokens(cubes(pixels, self.cube).flatten(2), index)
            weight = self.embed.weight.permute(0, 2, 3, 4, 1).flatten(1)
            tokens = nn.functional.linear(seen, weight, self.embed.bias)
            tokens = tokens + codes[index].to(tokens.dtype)
        else:
            tokens = self.embed(pixels).flatten(2).transpose(1, 2)
            if mask is not None:
                token = self.mask_token.to(tokens.dtype)
                tokens = torch.where(mask.hidden[..., None], token, tokens)
            tokens = tokens + codes.to(tokens.dtype)
        states = self.blocks(tokens)
        out = self.norm(states[-1])
        return Encoded(Tokens(out, layout), out.mean(dim=1), states if layers else None)

    def layout(self, x: Tensor) -> Grid:
        """The grid of cubes.

        Raises:
            ValueError: sides that are no multiples of a cube's.
        """
        sizes = [int(s) for s in self.clip(x).shape[2:]]
        if any(s % c for s, c in zip(sizes, self.cube, strict=True)):
            raise ValueError(f"clips of {sizes} are no multiples of cubes of {list(self.cube)}")
        return Grid((sizes[0] // self.cube[0], sizes[1] // self.cube[1], sizes[2] // self.cube[2]))

    def targets(self, x: Tensor) -> Tokens:
        """Pixels of each cube, ``[B, N, target_frames * patch * patch * C]``, normalised as the arguments
        say."""
        found = cubes(self.prepare(x).float(), self.cube)[:, :, : self.target_frames]
        found = found.flatten(2, 3)  # [B, N, pixels, C]
        if self.normalize_target != "none":
            axes = (2,) if self.normalize_target == "channel" else (2, 3)
            mean = found.mean(dim=axes, keepdim=True)
            var = found.var(dim=axes, keepdim=True)
            # VideoMAE adds 1e-6 to the deviation, MAE to the variance.
            scale = var.sqrt() + 1e-6 if self.normalize_target == "channel" else (var + 1e-6).sqrt()
            found = (found - mean) / scale
        return Tokens(found.flatten(2), self.layout(x))

    @property
    def target_width(self) -> int:
        """Numbers in a target."""
        return self.target_frames * self.cube[1] * self.cube[2] * self.spec.channels

    def predictor(  # type: ignore[override]
        self, output_width: int, width: int = 384, depth: int = 4, heads: int = 6, ffn: int | None = None
    ) -> nn.Module:
        """From visible cubes to hidden ones.

        Args:
            output_width: P.
            width, depth, heads, ffn: of the transformer; 384, 4 and 6 are VideoMAE's decoder. ``depth: 0`` is
                one linear layer on the mask tokens, for ``hidden: replace``.

        Raises:
            ValueError: depth 0 without mask tokens.
        """
        if depth == 0:
            if self.hidden != "replace":
                raise ValueError("method.predictor.depth: 0 reads mask tokens; set encoder.hidden=replace")
            return HiddenHead(self.width, output_width)
        return GridPredictor(
            self.grid, self.width, output_width, width=width, depth=depth, heads=heads, ffn=ffn
        )

    def input_parameters(self) -> list[nn.Parameter]:
        """The projection of the cubes."""
        return list(self.embed.parameters())


def _check_sizes(spec: VideoSpec, patch: int, tubelet: int, target_frames: int | None) -> None:
    height, width = spec.size
    if patch < 1 or height % patch or width % patch:
        fits = [p for p in range(1, min(spec.size) + 1) if height % p == 0 and width % p == 0]
        near = min(fits, key=lambda p: abs(p - patch))
        raise ValueError(
            f"encoder.patch {patch} does not divide frames of {height} x {width}; use {near}, "
            "or another data.size"
        )
    if tubelet < 1 or spec.frames % tubelet:
        raise ValueError(
            f"encoder.tubelet {tubelet} does not divide clips of {spec.frames} frames; use 1, or another "
            "data.frames"
        )
    if target_frames is not None and not 1 <= target_frames <= tubelet:
        raise ValueError(f"encoder.target_frames must be 1 to the tubelet's {tubelet}, got {target_frames}")
