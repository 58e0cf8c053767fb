"""Swin UNETR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ssl_domains.core.registry import encoder
from ssl_domains.core.weights import load_weights
from ssl_domains.medical3d.encoders.base import StagedEncoder
from ssl_domains.medical3d.spec import VolumeSpec

_DECODER = ("encoder1", "encoder2", "encoder3", "encoder4", "encoder10",
            "decoder5", "decoder4", "decoder3", "decoder2", "decoder1", "out")  # fmt: skip


@encoder("monai_swin_unetr")
class MonaiSwinUNETR(StagedEncoder):
    """Swin UNETR (Hatamizadeh et al., BrainLes 2021; pretraining: Tang et al., CVPR 2022), MONAI's.

    Encoder stages are the Swin transformer's maps at strides 2 to 32; the decoder's are those of the five
    up-blocks, at strides 16 to 1. The weights load into ``monai.networks.nets.SwinUNETR``.

    Args:
        spec: of the data.
        feature_size: channels of the first stage, a multiple of 12. Default 48 (the paper's).
        depths: blocks of each stage. Default (2, 2, 2, 2).
        heads: of each stage. Default (3, 6, 12, 24).
        window: sides of the attention windows. Default 7.
        decoder: with the way up.
        drop_path: largest share of dropped residual branches.
        checkpoint: trade time for memory.
        out_channels: of the last layer, which is left to fine-tuning.
        weights: a file of weights by MONAI's names (.safetensors, or .pt read without unpickling code).

    Raises:
        ValueError: sides that are no multiples of 32, or a width that is none of 12.
    """

    def __init__(
        self,
        spec: VolumeSpec,
        feature_size: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        decoder: bool = False,
        drop_path: float = 0.0,
        checkpoint: bool = False,
        out_channels: int = 2,
        weights: str | None = None,
    ) -> None:
        from monai.networks.nets.swin_unetr import SwinUNETR

        super().__init__(spec)
        if feature_size % 12:
            raise ValueError(f"encoder.feature_size must be a multiple of 12, got {feature_size}")
        self.strides = (2, 4, 8, 16, 32)
        self.check_size("monai_swin_unetr", 2 if decoder else 1)
        self.body: Any = SwinUNETR(
            spec.channels, out_channels, depths=depths, num_heads=heads, window_size=window,
            feature_size=feature_size, dropout_path_rate=drop_path, use_checkpoint=checkpoint,
            spatial_dims=spec.dims,
        )  # fmt: skip
        self.stage_widths = tuple(feature_size * 2**i for i in range(5))
        self.width = self.stage_widths[-1]
        if decoder:
            self.decoder_widths = tuple(feature_size * f for f in (8, 4, 2, 1, 1))
            self.body.out.requires_grad_(False)  # segmentation's own: no method trains it
        else:
            self.decoder_widths = ()
            for name in _DECODER:
                delattr(self.body, name)
        load_weights(self.body, weights)

    def stages(self, x: Tensor) -> list[Tensor]:
        return list(self.body.swinViT(x, self.body.normalize))

    def decode(self, x: Tensor, stages: Sequence[Tensor], blocks: int | None = None) -> list[Tensor]:
        self.need_decoder()
        body, blocks = self.body, 5 if blocks is None else blocks
        below = body.encoder10(stages[4])
        skips = [
            lambda: stages[3],
            lambda: body.encoder4(stages[2]),
            lambda: body.encoder3(stages[1]),
            lambda: body.encoder2(stages[0]),
            lambda: body.encoder1(x),
        ]
        out = []
        for i in range(blocks):
            below = getattr(body, f"decoder{5 - i}")(below, skips[i]())
            out.append(below)
        return out

    def decoder_modules(self) -> list[nn.Module]:
        if not self.has_decoder:
            return []
        body = self.body
        return [
            nn.ModuleList([body.encoder10, body.decoder5]),
            nn.ModuleList([body.encoder4, body.decoder4]),
            nn.ModuleList([body.encoder3, body.decoder3]),
            nn.ModuleList([body.encoder2, body.decoder2]),
            nn.ModuleList([body.encoder1, body.decoder1]),
        ]
