"""A 2-D network over stacks of slices."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Grid
from ssl_domains.core.registry import encoder
from ssl_domains.medical3d.encoders.base import HiddenHead, VolumeEncoder
from ssl_domains.medical3d.encoders.unet import MonaiResNet
from ssl_domains.medical3d.spec import VolumeSpec


@encoder("slice_stack")
class SliceStack(VolumeEncoder):
    """A 2-D ResNet on every axial slice of a patch; slices are the tokens, pooled by attention or their mean.

    The inner network's weights are those of a 2-D encoder: pretrain it on slices (``data.axis``) and load it,
    or take it out afterwards (``encoder.inner``).

    Args:
        spec: of patches.
        depth, width: of the ResNet; see ``monai_resnet``. Default 18 and 64.
        pooling: ``mean``, or ``attention`` (gated attention over slices, Ilse et al., ICML 2018, eq. 9).

    Raises:
        ValueError: the data are slices already, or sides that are no multiples of 16.
    """

    drops_hidden: ClassVar[bool] = False

    def __init__(
        self,
        spec: VolumeSpec,
        depth: Literal[10, 18, 34, 50, 101] = 18,
        width: int = 64,
        pooling: Literal["mean", "attention"] = "attention",
    ) -> None:
        super().__init__(spec)
        if spec.dims != 3:
            raise ValueError("encoder 'slice_stack' wants patches; the data are slices, use monai_resnet")
        self.inner = MonaiResNet(replace(spec, size=spec.size[1:], axis="axial"), depth, width)
        self.width, self.pooling = self.inner.width, pooling
        if pooling == "attention":
            hidden = max(self.width // 2, 8)
            self.value, self.gate = nn.Linear(self.width, hidden), nn.Linear(self.width, hidden)
            self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        voxels = self.prepare(x)
        b, c, d = voxels.shape[:3]
        if mask is not None:  # a hidden slice becomes the data's mean
            voxels = voxels * (~mask.hidden).view(b, 1, d, 1, 1).to(voxels.dtype)
        flat = voxels.transpose(1, 2).reshape(b * d, c, *voxels.shape[3:])
        tokens = self.inner.encoded(self.inner.stages(flat)[-1]).pooled.view(b, d, -1)
        pooled = tokens.mean(dim=1)
        if self.pooling == "attention":
            score = self.score(torch.tanh(self.value(tokens)) * torch.sigmoid(self.gate(tokens)))
            pooled = (score.softmax(dim=1) * tokens).sum(dim=1)
        return Encoded(Tokens(tokens, self.layout(x)), pooled, [tokens] if layers else None)

    def layout(self, x: Tensor) -> Grid:
        """One token a slice."""
        return Grid((int(x.shape[2]),))

    def targets(self, x: Tensor) -> Tokens:
        """Voxels of each slice, ``[B, D, C * H * W]``."""
        return Tokens(self.prepare(x).transpose(1, 2).flatten(2), self.layout(x))

    @property
    def target_width(self) -> int:
        """Numbers in a slice."""
        return self.spec.channels * self.spec.size[1] * self.spec.size[2]

    def predictor(self, output_width: int) -> nn.Module:  # type: ignore[override]
        """A linear head on the hidden slices."""
        return HiddenHead(self.width, output_width)
