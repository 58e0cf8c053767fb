"""Vision transformers of volumes: the core's own, and MONAI's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Grid
from ssl_domains.core.parts.grid_predictor import GridPredictor, gather_tokens, grid_codes
from ssl_domains.core.parts.transformer import Transformer, init_xavier
from ssl_domains.core.registry import encoder
from ssl_domains.core.weights import load_weights
from ssl_domains.medical3d.encoders.base import HiddenHead, VolumeEncoder, patches
from ssl_domains.medical3d.spec import VolumeSpec


class VolumeTransformer(VolumeEncoder):
    """Base of both: cubes of voxels are tokens; hidden ones never enter the blocks (MAE), or are replaced."""

    mask_token: nn.Parameter

    def __init__(
        self, spec: VolumeSpec, patch: int | Sequence[int], width: int, heads: int, hidden: str
    ) -> None:
        super().__init__(spec)
        sides = [patch] * spec.dims if isinstance(patch, int) else list(patch)
        if len(sides) != spec.dims or any(p < 1 or s % p for s, p in zip(spec.size, sides, strict=False)):
            raise ValueError(
                f"encoder.patch {sides} does not divide samples of {list(spec.size)}; use another patch, or "
                "another data.patch (slices: data.size)"
            )
        if width % heads:
            raise ValueError(f"encoder.width {width} is no multiple of encoder.heads {heads}")
        self.patch, self.width, self.hidden = tuple(sides), width, hidden
        self.grid = tuple(s // p for s, p in zip(spec.size, sides, strict=True))
        if hidden == "replace":
            self.mask_token = nn.Parameter(torch.zeros(width))
            nn.init.trunc_normal_(self.mask_token, std=0.02)

    @property
    def drops_hidden(self) -> bool:  # type: ignore[override]
        """Whether a mask takes tokens away or puts the mask token in their place."""
        return self.hidden == "drop"

    def embed(self, x: Tensor) -> Tensor:
        """``[B, N, D]`` of prepared voxels, without positions."""
        raise TypeError(f"{type(self).__name__} does not define embed")

    def positions(self) -> Tensor:
        """``[N, D]`` or ``[1, N, D]``."""
        raise TypeError(f"{type(self).__name__} does not define positions")

    def run(self, tokens: Tensor) -> list[Tensor]:
        """States after each block."""
        raise TypeError(f"{type(self).__name__} does not define run")

    def last_norm(self, tokens: Tensor) -> Tensor:
        """After the blocks."""
        raise TypeError(f"{type(self).__name__} does not define last_norm")

    def forward(self, x: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        tokens = self.embed(self.prepare(x))
        if mask is not None and self.hidden == "replace":
            tokens = torch.where(mask.hidden[..., None], self.mask_token.to(tokens.dtype), tokens)
        tokens = tokens + self.positions().to(tokens.dtype)
        if mask is not None and self.hidden == "drop":
            tokens = gather_tokens(tokens, mask.context_index())
        states = self.run(tokens)
        out = self.last_norm(states[-1])
        return Encoded(Tokens(out, self.layout(x)), out.mean(dim=1), states if layers else None)

    def layout(self, x: Tensor) -> Grid:
        """The grid of cubes.

        Raises:
            ValueError: samples of another size than the data's: positions are of one grid.
        """
        found = tuple(int(s) // p for s, p in zip(x.shape[2:], self.patch, strict=True))
        if found != self.grid:
            raise ValueError(
                f"this transformer knows samples of {list(self.spec.size)}, got {list(x.shape[2:])}; "
                "views of other sizes need a convolutional encoder"
            )
        return Grid(found)

    @property
    def target_width(self) -> int:
        """Numbers in a cube."""
        width = self.spec.channels
        for p in self.patch:
            width *= p
        return width

    def predictor(  # type: ignore[override]
        self, output_width: int, width: int = 512, depth: int = 8, heads: int = 16, ffn: int | None = None
    ) -> nn.Module:
        """From visible cubes to hidden ones.

        Args:
            output_width: P.
            width, depth, heads, ffn: of the transformer (MAE's decoder). ``depth: 0`` is one linear layer on
                the mask tokens (SimMIM), for ``hidden: replace``.

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


@encoder("volume_vit")
class VolumeViT(VolumeTransformer):
    """Plain ViT (Dosovitskiy et al., ICLR 2021) over cubes of voxels, with fixed sine-cosine positions (MAE).

    Args:
        spec: of the data.
        patch: sides of a cube. Default 16 (UNETR and the 3-D MAEs).
        width, depth, heads: Default 384, 12, 6: ViT-Small.
        hidden: ``drop`` hidden cubes (MAE, I-JEPA) or ``replace`` them by a learned token (SimMIM, iBOT).

    Raises:
        ValueError: sides that are no multiples of the patch, or heads that do not divide the width.
    """

    codes: Tensor

    def __init__(
        self,
        spec: VolumeSpec,
        patch: int | Sequence[int] = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        hidden: Literal["drop", "replace"] = "drop",
    ) -> None:
        super().__init__(spec, patch, width, heads, hidden)
        self.projection = nn.Linear(self.target_width, width)
        self.blocks = Transformer(width, depth, heads, 4 * width)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("codes", grid_codes(self.grid, width), persistent=False)
        init_xavier(self.blocks)
        nn.init.xavier_uniform_(self.projection.weight)  # as MAE does, whatever the patch

    def embed(self, x: Tensor) -> Tensor:
        return self.projection(patches(x, self.patch))

    def positions(self) -> Tensor:
        return self.codes

    def run(self, tokens: Tensor) -> list[Tensor]:
        return self.blocks(tokens)

    def last_norm(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens)

    def input_parameters(self) -> list[nn.Parameter]:
        """The projection of the cubes."""
        return list(self.projection.parameters())


@encoder("monai_vit")
class MonaiViT(VolumeTransformer):
    """MONAI's ViT, the encoder of UNETR (Hatamizadeh et al., WACV 2022); hidden cubes are dropped.

    ``monai_state()`` loads into ``monai.networks.nets.ViT`` of the same sizes, and below ``vit.`` of UNETR.

    Args:
        spec: of the data.
        patch: sides of a cube. Default 16.
        width, depth, heads, ffn: Default 768, 12, 12, 3072: ViT-Base, MONAI's.
        positions: ``learnable`` (MONAI's default) or ``sincos`` (fixed).
        hidden: as of ``volume_vit``.
        weights: a file of weights by MONAI's names (.safetensors, or .pt read without unpickling code).
    """

    def __init__(
        self,
        spec: VolumeSpec,
        patch: int | Sequence[int] = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        ffn: int | None = None,
        positions: Literal["learnable", "sincos"] = "learnable",
        hidden: Literal["drop", "replace"] = "drop",
        weights: str | None = None,
    ) -> None:
        from monai.networks.nets.vit import ViT

        super().__init__(spec, patch, width, heads, hidden)
        self.body: Any = ViT(
            spec.channels, spec.size, self.patch, width, ffn or 4 * width, depth, heads,
            pos_embed_type=positions, spatial_dims=spec.dims,
        )  # fmt: skip
        load_weights(self.body, weights)
        for name, parameter in self.body.named_parameters():
            if "cross_attn" in name or "norm_cross_attn" in name:
                parameter.requires_grad_(False)  # blocks come with parts that only text models use

    def embed(self, x: Tensor) -> Tensor:
        return self.body.patch_embedding.patch_embeddings(x).flatten(2).transpose(1, 2)

    def positions(self) -> Tensor:
        return self.body.patch_embedding.position_embeddings

    def run(self, tokens: Tensor) -> list[Tensor]:
        states = []
        for block in self.body.blocks:
            tokens = block(tokens)
            states.append(tokens)
        return states

    def last_norm(self, tokens: Tensor) -> Tensor:
        return self.body.norm(tokens)

    def monai_state(self) -> dict[str, Tensor]:
        """Weights by MONAI's own names."""
        return {name: value.detach().clone() for name, value in self.body.state_dict().items()}

    def input_parameters(self) -> list[nn.Parameter]:
        """The projection of the cubes."""
        return list(self.body.patch_embedding.patch_embeddings.parameters())
