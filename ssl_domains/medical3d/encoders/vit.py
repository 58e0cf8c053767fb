"""Vision transformers of volumes: the core's own, and MONAI's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Grid
from ssl_domains.core.parts.grid_predictor import GridPredictor, gather_tokens, grid_codes
from ssl_domains.core.parts.transformer import Transformer, init_xavier
from ssl_domains.core.registry import encoder
from ssl_domains.core.weights import load_weights, read_weights
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

    ``monai_state()`` loads into ``monai.networks.nets.ViT`` of the same sizes, and into ``UNETR(...).vit``.

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
        self.pos_embed: Literal["learnable", "sincos"] = positions
        self.body: Any = ViT(
            spec.channels, spec.size, self.patch, width, ffn or 4 * width, depth, heads,
            pos_embed_type=positions, spatial_dims=spec.dims,
        )  # fmt: skip
        load_weights(self.body, weights)
        for name, parameter in self.body.named_parameters():
            if "cross_attn" in name or "norm_cross_attn" in name:
                parameter.requires_grad_(False)  # blocks come with parts that only text models use

    @property
    def vit(self) -> Any:
        """MONAI's ViT."""
        return self.body

    def embed(self, x: Tensor) -> Tensor:
        return self.vit.patch_embedding.patch_embeddings(x).flatten(2).transpose(1, 2)

    def positions(self) -> Tensor:
        return self.vit.patch_embedding.position_embeddings

    def run(self, tokens: Tensor) -> list[Tensor]:
        states = []
        for block in self.vit.blocks:
            tokens = block(tokens)
            states.append(tokens)
        return states

    def last_norm(self, tokens: Tensor) -> Tensor:
        return self.vit.norm(tokens)

    def monai_state(self) -> dict[str, Tensor]:
        """Weights by MONAI's own names."""
        return {name: value.detach().clone() for name, value in self.body.state_dict().items()}

    def input_parameters(self) -> list[nn.Parameter]:
        """The projection of the cubes."""
        return list(self.vit.patch_embedding.patch_embeddings.parameters())

    def with_decoder(self, feature_size: int = 16) -> MonaiUNETR:
        """UNETR with this transformer's weights and a decoder that is freshly drawn, for segmentation.

        Raises:
            ValueError: cubes of another side than UNETR's 16, or fewer than 4 blocks.
        """
        ffn = int(self.vit.blocks[0].mlp.linear1.out_features)
        heads = int(self.vit.blocks[0].attn.num_heads)
        depth, where = len(self.vit.blocks), next(self.parameters()).device
        net = MonaiUNETR(
            self.spec, self.patch, self.width, depth, heads, ffn, self.pos_embed,
            "drop" if self.hidden == "drop" else "replace", feature_size,
        )  # fmt: skip
        net.load_state_dict({**net.state_dict(), **self._as_unetr()})
        return net.to(where)

    def _as_unetr(self) -> dict[str, Tensor]:
        own = self.state_dict()
        return {name.replace("body.", "body.vit.", 1): value for name, value in own.items()}


@encoder("monai_unetr")
class MonaiUNETR(MonaiViT):
    """UNETR (Hatamizadeh et al., WACV 2022), MONAI's: its transformer with a convolutional way up.

    For methods that train a decoder (restoration) and for segmentation. Methods of the encoder alone are
    better given ``monai_vit``, on which the probe ``segmentation`` with ``decoder: true`` puts this decoder.
    The states after a quarter, a half and three quarters of the blocks (the 4th, 7th and 10th of 12) and the
    voxels are the decoder's skips. The weights load into ``monai.networks.nets.UNETR`` (12 blocks there).

    Args:
        spec: of the data.
        patch: sides of a cube; UNETR's 16.
        width, depth, heads, ffn, positions, hidden: as of ``monai_vit``; UNETR has learnable positions.
        feature_size: channels of the finest map. Default 16.
        out_channels: of the last layer, which is left to fine-tuning.
        weights: a file of weights of a UNETR or of its ViT by MONAI's names.

    Raises:
        ValueError: another patch, or fewer than 4 blocks.
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
        feature_size: int = 16,
        out_channels: int = 2,
        weights: str | None = None,
    ) -> None:
        from monai.networks.nets.unetr import UNETR

        super().__init__(spec, patch, width, depth, heads, ffn, positions, hidden)
        if set(self.patch) != {16} or depth < 4:
            raise ValueError(
                "UNETR's decoder wants encoder.patch=16 and encoder.depth of 4 or more, got "
                f"{list(self.patch)} and {depth}"
            )
        vit, self.depth = self.body, depth
        self.body = UNETR(
            spec.channels, out_channels, spec.size, feature_size, width, ffn or 4 * width, heads,
            spatial_dims=spec.dims,
        )  # fmt: skip
        self.body.vit = vit  # its own has 12 blocks
        self.body.out.requires_grad_(False)  # segmentation's own: no method trains it
        self.stage_widths, self.strides = (width,) * 4, (16,) * 4
        self.decoder_widths = tuple(feature_size * f for f in (8, 4, 2, 1))
        if weights is not None:
            names = read_weights(Path(weights).expanduser())
            load_weights(self.body if any("vit." in name for name in names) else vit, weights)

    @property
    def vit(self) -> Any:
        body = self.body
        return body.vit if hasattr(body, "vit") else body  # the latter while it is made

    @property
    def has_decoder(self) -> bool:
        """There is one."""
        return True

    def need_decoder(self) -> None:
        """There is one."""

    def stages(self, x: Tensor) -> list[Tensor]:
        """``[B, D, d, h, w]`` states of prepared voxels after a quarter, a half, three quarters and all of
        the blocks."""
        tokens = self.embed(x)
        states = self.run(tokens + self.positions().to(tokens.dtype))
        chosen = [states[self.depth * i // 4] for i in (1, 2, 3)] + [self.last_norm(states[-1])]
        return [s.transpose(1, 2).unflatten(2, self.grid) for s in chosen]

    def decode(self, x: Tensor, stages: Sequence[Tensor], blocks: int | None = None) -> list[Tensor]:
        """Maps of the first ``blocks`` decoder stages (None: all four), coarse to fine; the last has the
        voxels' resolution. ``x`` are the prepared voxels."""
        body = self.body
        skips = [
            lambda: body.encoder4(stages[2]),
            lambda: body.encoder3(stages[1]),
            lambda: body.encoder2(stages[0]),
            lambda: body.encoder1(x),
        ]
        out: list[Tensor] = []
        for i, skip in enumerate(skips[:blocks]):
            out.append(getattr(body, f"decoder{5 - i}")(out[-1] if out else stages[3], skip()))
        return out

    def decoder_modules(self) -> list[nn.Module]:
        """Parts that only the decoder uses, coarse to fine."""
        body = self.body
        pairs = ((4, 5), (3, 4), (2, 3), (1, 2))
        return [nn.ModuleList([getattr(body, f"encoder{a}"), getattr(body, f"decoder{b}")]) for a, b in pairs]
