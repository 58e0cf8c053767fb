"""Restoration: the decoder makes a spoilt volume whole again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.medical3d.encoders.base import StagedEncoder
from ssl_domains.medical3d.spec import VolumeSpec


@method("restoration")
class Restoration(Method):
    """Models Genesis (Zhou et al., MICCAI 2019): encoder and decoder map the second view to the first.

    The loss is over all voxels, spoilt or not, on the normalised scale (the paper: MSE on 0 to 1). Encoder
    and decoder are both exported, for segmentation.

    Args:
        encoder: with a decoder (``encoder.decoder: true``).
        objective: ``masked_mse`` or ``masked_l1``, on ``[B, voxels]``.
        views: the clean view first, then a spoilt one with the same geometry (``genesis``).
        spec: of the data.

    Raises:
        ValueError: an encoder without a decoder.
    """

    encoder: Encoder

    def __init__(self, encoder: Encoder, objective: Objective, views: Views, spec: VolumeSpec) -> None:
        super().__init__()
        if not isinstance(encoder, StagedEncoder):
            raise ValueError("method 'restoration' wants monai_unet, monai_swin_unetr or monai_resnet")
        encoder.need_decoder()
        self.encoder, self.objective, self.views = encoder, objective, views
        conv = nn.Conv3d if spec.dims == 3 else nn.Conv2d
        self.head = conv(encoder.decoder_widths[-1], spec.channels, 1)
        self.embedding_width = encoder.width

    def forward(self, batch: Batch, draw: Draw) -> Output:
        clean, spoilt = self.views(batch, draw.fork("views"))[:2]
        encoder: StagedEncoder = self.encoder  # type: ignore[assignment]
        maps, prediction = self._filled(spoilt.x)
        target = encoder.prepare(clean.x)
        terms = self.objective(prediction.flatten(1), target.flatten(1))
        return Output(terms.total, terms.parts, stages(encoder.encoded(maps)), terms.trivial)

    def _filled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(coarsest map, voxels on the normalised scale)."""
        encoder: StagedEncoder = self.encoder  # type: ignore[assignment]
        voxels = encoder.prepare(x)
        maps = encoder.stages(voxels)
        return maps[-1], self.head(encoder.decode(voxels, maps)[-1])

    @torch.no_grad()
    def restore(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        """(spoilt, restored), both on the window's scale, for the report."""
        spoilt = self.views(batch, draw.fork("views"))[1].x
        encoder: StagedEncoder = self.encoder  # type: ignore[assignment]
        return spoilt, self._filled(spoilt)[1] * encoder.std + encoder.mean
