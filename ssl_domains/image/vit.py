"""Vision transformers: patches that a mask hides never enter the blocks."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Grid
from ssl_domains.core.parts.grid_predictor import GridPredictor, gather_tokens, grid_codes
from ssl_domains.core.parts.transformer import init_xavier
from ssl_domains.core.registry import encoder
from ssl_domains.core.weights import create_timm, load_weights
from ssl_domains.image.encoders import ConvEncoder, ImageEncoder, _Features, _map_size
from ssl_domains.image.patches import HiddenHead
from ssl_domains.image.spec import ImageSpec

SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
"""Width, depth and heads (Dosovitskiy et al., ICLR 2021, table 1; tiny and small of DeiT)."""


class VisionTransformer(ImageEncoder):
    """A timm vision transformer as an encoder; see :class:`ImageViT` for what the arguments mean."""

    def __init__(
        self, spec: ImageSpec, body: Any, pooling: str, hidden: str, freeze_patches: bool = False
    ) -> None:
        super().__init__(spec)
        self.body = body
        self.width = int(body.embed_dim)
        self.pooling, self.hidden = pooling, hidden
        self.patch = tuple(int(p) for p in body.patch_embed.patch_size)
        self.grid = (spec.size[0] // self.patch[0], spec.size[1] // self.patch[1])
        self.prefix = int(body.num_prefix_tokens)
        if pooling == "cls" and body.cls_token is None:
            raise ValueError("encoder.pooling: cls needs a class token; use mean")
        if hidden == "replace":
            self.mask_token = nn.Parameter(torch.zeros(self.width))
            nn.init.trunc_normal_(self.mask_token, std=0.02)
        if freeze_patches:
            for parameter in self.input_parameters():
                parameter.requires_grad_(False)

    @property
    def drops_hidden(self) -> bool:  # type: ignore[override]
        """Whether a mask takes tokens away or puts the mask token in their place."""
        return self.hidden == "drop"

    def embed(self, x: Tensor, mask: Mask | None) -> Tensor:
        """``[B, P + n, D]``: prefix tokens and visible patches with their positions."""
        body = self.body
        tokens = body.patch_embed(self.prepare(x))  # [B, h, w, D]
        if mask is not None and self.hidden == "replace":
            hidden = mask.hidden.view(tokens.shape[:3])[..., None]
            tokens = torch.where(hidden, self.mask_token.to(tokens.dtype), tokens)
        tokens = body._pos_embed(tokens)
        if mask is not None and self.hidden == "drop":
            kept = gather_tokens(tokens[:, self.prefix :], mask.context_index())
            tokens = torch.cat([tokens[:, : self.prefix], kept], dim=1)
        return body.norm_pre(tokens)

    def forward(self, x: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        states = []
        tokens = self.embed(x, mask)
        for block in self.body.blocks:
            tokens = block(tokens)
            if layers:
                states.append(tokens[:, self.prefix :])
        tokens = self.body.norm(tokens)
        patch_tokens = tokens[:, self.prefix :]
        pooled = self.body.fc_norm(tokens[:, 0] if self.pooling == "cls" else patch_tokens.mean(dim=1))
        extra = {"prefix": tokens[:, : self.prefix]} if self.prefix else {}
        return Encoded(Tokens(patch_tokens, self.layout(x)), pooled, states if layers else None, extra)

    def layout(self, x: Tensor) -> Grid:
        """The grid of patches."""
        return Grid((int(x.shape[2]) // self.patch[0], int(x.shape[3]) // self.patch[1]))

    @property
    def target_width(self) -> int:
        """Numbers in a patch."""
        return self.patch[0] * self.patch[1] * self.spec.channels

    def predictor(  # type: ignore[override]
        self, output_width: int, width: int = 512, depth: int = 8, heads: int = 16, ffn: int | None = None
    ) -> nn.Module:
        """From visible patches to hidden ones.

        Args:
            output_width: P.
            width, depth, heads, ffn: of the transformer (MAE's decoder; I-JEPA has 384, 12, 12). ``depth: 0``
            is one
                linear layer on the mask tokens (SimMIM), for ``hidden: replace``.

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
        """The projection of the patches."""
        return list(self.body.patch_embed.parameters())

    @torch.no_grad()
    def attention(self, x: Tensor) -> Tensor | None:
        """``[B, heads, h, w]``: where the class token of the last block looks; None without a class token."""
        if self.body.cls_token is None:
            return None
        tokens = self.embed(x, None)
        for block in self.body.blocks[:-1]:
            tokens = block(tokens)
        last = self.body.blocks[-1]
        part = last.attn
        b, n, _ = tokens.shape
        q, k, _ = part.qkv(last.norm1(tokens)).view(b, n, 3, part.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = part.q_norm(q), part.k_norm(k)
        weights = ((q[:, :, :1] * part.scale) @ k.transpose(2, 3)).softmax(dim=3)[:, :, 0, self.prefix :]
        return weights.view(b, part.num_heads, *self.layout(x).shape)


@encoder("image_vit")
class ImageViT(VisionTransformer):
    """ViT (Dosovitskiy et al., ICLR 2021), timm's body; hidden patches are dropped before the blocks.

    The blocks begin with Glorot's weights, as the authors' and MAE's do, which suit narrow networks as well.

    Args:
        variant: tiny, small, base, large or huge: width, depth and heads together.
        patch: side of a patch; the image's sides must be multiples of it. Default 16.
        width, depth, heads: instead of the variant's.
        positions: ``sincos``: fixed (MAE, MoCo v3, I-JEPA); ``learned``: (DINO, data2vec).
        pooling: ``cls``: the class token; ``mean``: of the patches.
        class_token: whether there is one.
        registers: further tokens that stand for no patch (Darcet et al., ICLR 2024).
        hidden: ``drop`` hidden patches (MAE, I-JEPA), or ``replace`` them by a learned token (SimMIM, iBOT,
        data2vec).
        drop_path: largest share of dropped residual branches (stochastic depth).
        layer_scale: start value of the scales of the branches; None: no such scales.
        freeze_patches: the projection of the patches stays as it was drawn (MoCo v3, section 4.2).
        weights: a file of weights; None: random.

    Raises:
        ValueError: sides that are no multiples of the patch, or heads that do not divide the width.
    """

    def __init__(
        self,
        spec: ImageSpec,
        variant: Literal["tiny", "small", "base", "large", "huge"] = "small",
        patch: int = 16,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        positions: Literal["sincos", "learned"] = "sincos",
        pooling: Literal["cls", "mean"] = "cls",
        class_token: bool = True,
        registers: int = 0,
        hidden: Literal["drop", "replace"] = "drop",
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        freeze_patches: bool = False,
        weights: str | None = None,
    ) -> None:
        from timm.models.vision_transformer import VisionTransformer as Body

        _check_sizes(spec.size, patch)
        d, n, h = SIZES[variant]
        d, n, h = width or d, depth or n, heads or h
        if d % h:
            raise ValueError(f"encoder.width {d} is no multiple of encoder.heads {h}")
        body = Body(
            img_size=spec.size,
            patch_size=patch,
            in_chans=spec.channels,
            num_classes=0,
            global_pool="",
            embed_dim=d,
            depth=n,
            num_heads=h,
            init_values=layer_scale,
            class_token=class_token,
            reg_tokens=registers,
            dynamic_img_size=True,
            drop_path_rate=drop_path,
        )
        init_xavier(body.blocks)
        grid = (spec.size[0] // patch, spec.size[1] // patch)
        if positions == "sincos":
            codes = grid_codes(grid, d)
            fixed = nn.functional.pad(codes, (0, 0, int(body.num_prefix_tokens), 0))[None]
            body.pos_embed = nn.Parameter(fixed, requires_grad=False)
        load_weights(body, weights)
        super().__init__(spec, body, pooling, hidden, freeze_patches)


def _check_sizes(size: tuple[int, int], patch: int) -> None:
    if patch < 1 or size[0] % patch or size[1] % patch:
        fits = [p for p in range(1, min(size) + 1) if size[0] % p == 0 and size[1] % p == 0]
        near = min(fits, key=lambda p: abs(p - patch))
        raise ValueError(
            f"encoder.patch {patch} does not divide images of {size[0]} x {size[1]}; use {near}, "
            "or another data.size"
        )


@encoder("timm")
class TimmModel(ImageEncoder):
    """Any timm model by its name: ``resnet50``, ``vit_small_patch16_224``, ``convnext_tiny``, ``swin_...``.

    Vision transformers skip hidden patches; in all other models the pixels of hidden places become the mean.

    Args:
        model: the name; ``ssl-domains`` does not list them, ``timm.list_models()`` does.
        pretrained: fetch the weights that timm has for the name (needs a network the first time).
        weights: a file of weights instead.
        pooling: ``cls`` or ``mean`` for vision transformers; None: the model's own.
        hidden: as of ``image_vit``.
        options: further arguments of ``timm.create_model`` (``drop_path_rate`` ...).
    """

    def __init__(
        self,
        spec: ImageSpec,
        model: str = "resnet50",
        pretrained: bool = False,
        weights: str | None = None,
        pooling: Literal["cls", "mean"] | None = None,
        hidden: Literal["drop", "replace"] = "drop",
        options: dict[str, Any] | None = None,
    ) -> None:
        from timm.models.vision_transformer import VisionTransformer as Body

        super().__init__(spec)
        given: dict[str, Any] = {"in_chans": spec.channels, "num_classes": 0, **(options or {})}
        kind = model.split(".")[0]
        if kind.startswith(("vit_", "deit", "eva", "beit", "swin", "flexivit")):
            given.setdefault("img_size", tuple(spec.size))
        if kind.startswith(("vit_", "deit", "flexivit")):
            given.setdefault("dynamic_img_size", True)
        body = create_timm(model, pretrained, **given)
        load_weights(body, weights)
        self.inner: ImageEncoder
        if isinstance(body, Body):
            own = "cls" if body.global_pool == "token" else "mean"
            body.global_pool = ""
            self.inner = VisionTransformer(spec, body, pooling or own, hidden)
        else:
            self.inner = _conv(spec, body)
        self.width = self.inner.width

    @property
    def drops_hidden(self) -> bool:  # type: ignore[override]
        """As the model does it."""
        return bool(self.inner.drops_hidden)

    def forward(self, x: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        return self.inner(x, mask, layers=layers)

    def layout(self, x: Tensor) -> Grid:
        """The grid of the model's tokens."""
        return self.inner.layout(x)

    @property
    def target_width(self) -> int:
        """Numbers in a token's pixels."""
        return self.inner.target_width

    def predictor(  # type: ignore[override]
        self, output_width: int, width: int = 512, depth: int = 8, heads: int = 16, ffn: int | None = None
    ) -> nn.Module:
        """As of ``image_vit`` for vision transformers; one linear layer on all other models."""
        if isinstance(self.inner, VisionTransformer):
            return self.inner.predictor(output_width, width, depth, heads, ffn)
        return self.inner.predictor(output_width)

    def input_parameters(self) -> list[nn.Parameter]:
        """Of the tokeniser or the first convolution."""
        return self.inner.input_parameters()

    def attention(self, x: Tensor) -> Tensor | None:
        """See :meth:`VisionTransformer.attention`; None for other models."""
        return self.inner.attention(x) if isinstance(self.inner, VisionTransformer) else None


def _conv(spec: ImageSpec, body: Any) -> ConvEncoder:
    """A model that gives a map, in either order of axes."""
    features = _Map(body)
    width, grid = _map_size(features, spec.channels, spec.size)
    return ConvEncoder(spec, features, width, grid)


class _Map(_Features):
    """A timm model's features as ``[B, D, h, w]``, its last norm included."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net.forward_features(x)
        if found.ndim == 3:  # tokens without a grid of their own
            side = int(found.shape[1] ** 0.5)
            found = found[:, found.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))
        elif found.shape[-1] == self.net.num_features and found.shape[1] != self.net.num_features:
            found = found.permute(0, 3, 1, 2)
        return found.contiguous()
