"""U-Nets of MONAI's blocks, and 3-D ResNets with the same decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from ssl_domains.core.registry import encoder
from ssl_domains.core.weights import load_weights
from ssl_domains.medical3d.encoders.base import StagedEncoder
from ssl_domains.medical3d.spec import VolumeSpec

Layer = tuple[str, dict[str, Any]]
LEAKY: Layer = ("LeakyReLU", {"negative_slope": 0.1, "inplace": True})
INSTANCE: Layer = ("instance", {"affine": True})


class UNetBody(nn.Module):
    """MONAI's ``BasicUNet`` with any number of levels, and the same names: with five levels its weights are a
    ``BasicUNet``'s. Without a decoder ``upcat_*`` and ``final_conv`` are not there."""

    def __init__(
        self,
        dims: int,
        channels: int,
        features: Sequence[int],
        last: int,
        act: Layer,
        norm: Layer,
        upsample: str,
        decoder: bool,
        out_channels: int,
    ) -> None:
        from monai.networks.layers.factories import Conv
        from monai.networks.nets.basic_unet import Down, TwoConv, UpCat

        super().__init__()
        common = (act, norm, True, 0.0)
        self.depth = len(features)
        self.conv_0 = TwoConv(dims, channels, features[0], *common)
        for i in range(1, self.depth):
            setattr(self, f"down_{i}", Down(dims, features[i - 1], features[i], *common))
        if decoder:
            below = features[-1]
            for i in range(self.depth - 1, 0, -1):
                out = features[i - 1] if i > 1 else last
                block = UpCat(dims, below, features[i - 1], out, *common, upsample, halves=i > 1)
                setattr(self, f"upcat_{i}", block)
                below = out
            self.final_conv = Conv["conv", dims](last, out_channels, kernel_size=1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Maps fine to coarse."""
        maps = [self.conv_0(x)]
        for i in range(1, self.depth):
            maps.append(getattr(self, f"down_{i}")(maps[-1]))
        return maps

    def decode(self, maps: Sequence[Tensor], blocks: int) -> list[Tensor]:
        """Maps coarse to fine."""
        out, x = [], maps[-1]
        for i in range(self.depth - 1, self.depth - 1 - blocks, -1):
            x = getattr(self, f"upcat_{i}")(x, maps[i - 1])
            out.append(x)
        return out


@encoder("monai_unet")
class MonaiUNet(StagedEncoder):
    """U-Net of MONAI's blocks (``BasicUNet``; Falk et al., Nature Methods 2019), for volumes and slices.

    Args:
        spec: of the data.
        features: channels of each level. Default MONAI's five; with five levels the weights load into
            ``monai.networks.nets.BasicUNet``. Six levels of 16 to 128 are those of 2006.10511.
        last: channels of the finest decoder map. Default: that of the first level.
        decoder: with the way up (segmentation, restoration, local contrast); its last layer ``final_conv``
            is left to fine-tuning.
        norm: ``instance`` (MONAI's) or ``batch``.
        act: ``leaky`` (MONAI's) or ``relu``.
        upsample: ``deconv`` (MONAI's) or ``nontrainable`` (interpolation).
        out_channels: of ``final_conv``, 2 in MONAI.
        weights: a file of weights by MONAI's names (.safetensors, or .pt read without unpickling code).

    Raises:
        ValueError: fewer than two levels, or sides that cannot be halved so often.
    """

    def __init__(
        self,
        spec: VolumeSpec,
        features: Sequence[int] = (32, 32, 64, 128, 256),
        last: int | None = None,
        decoder: bool = False,
        norm: Literal["instance", "batch"] = "instance",
        act: Literal["leaky", "relu"] = "leaky",
        upsample: Literal["deconv", "nontrainable"] = "deconv",
        out_channels: int = 2,
        weights: str | None = None,
    ) -> None:
        super().__init__(spec)
        if len(features) < 2 or min(features) < 1:
            raise ValueError(f"encoder.features must be at least two widths above 0, got {list(features)}")
        last = features[0] if last is None else last
        self.strides = tuple(2**i for i in range(len(features)))
        self.check_size("monai_unet", 2 if norm == "instance" else 1)
        acts: dict[str, Layer] = {"leaky": LEAKY, "relu": ("relu", {"inplace": True})}
        norms: dict[str, Layer] = {"instance": INSTANCE, "batch": ("batch", {})}
        self.body: Any = UNetBody(
            spec.dims, spec.channels, features, last, acts[act], norms[norm], upsample, decoder, out_channels
        )
        load_weights(self.body, weights)
        self.width = features[-1]
        self.stage_widths = tuple(features)
        self.decoder_widths = (*reversed(features[1:-1]), last) if decoder else ()
        if decoder:
            self.body.final_conv.requires_grad_(False)  # segmentation's own: no method trains it

    def stages(self, x: Tensor) -> list[Tensor]:
        return self.body.encode(x)

    def decode(self, x: Tensor, stages: Sequence[Tensor], blocks: int | None = None) -> list[Tensor]:
        self.need_decoder()
        return self.body.decode(stages, len(self.decoder_widths) if blocks is None else blocks)

    def decoder_modules(self) -> list[nn.Module]:
        if not self.has_decoder:
            return []
        return [getattr(self.body, f"upcat_{i}") for i in range(self.body.depth - 1, 0, -1)]


_BLOCKS: dict[int, tuple[str, list[int]]] = {
    10: ("basic", [1, 1, 1, 1]),
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
    101: ("bottleneck", [3, 4, 23, 3]),
}


@encoder("monai_resnet")
class MonaiResNet(StagedEncoder):
    """3-D ResNet (2-D on slices), MONAI's (Hara et al., ICCV Workshops 2017; Med3D, Chen et al. 2019).

    The weights load into ``monai.networks.nets.ResNet`` of the same depth. The decoder is one of MONAI's
    ``UpCat`` blocks over the ResNet's maps, and has no namesake there.

    Args:
        spec: of the data.
        depth: 10, 18, 34, 50 or 101.
        width: channels of the first stage; the following have 2, 4 and 8 times as many (four times that with
            bottlenecks). Default 64.
        decoder: with a way up.
        weights: a file of weights by MONAI's names (.safetensors, or .pt read without unpickling code).

    Raises:
        ValueError: an unknown depth, or sides that are no multiples of 16.
    """

    def __init__(
        self,
        spec: VolumeSpec,
        depth: Literal[10, 18, 34, 50, 101] = 18,
        width: int = 64,
        decoder: bool = False,
        weights: str | None = None,
    ) -> None:
        from monai.networks.nets.basic_unet import UpCat
        from monai.networks.nets.resnet import ResNet

        super().__init__(spec)
        if depth not in _BLOCKS:
            raise ValueError(f"encoder.depth must be one of {', '.join(map(str, _BLOCKS))}, got {depth}")
        kind, layers = _BLOCKS[depth]
        planes = [width * 2**i for i in range(4)]
        self.strides = (1, 2, 4, 8, 16)
        self.check_size("monai_resnet")
        self.body: Any = ResNet(
            kind, layers, planes, spatial_dims=spec.dims, n_input_channels=spec.channels, feed_forward=False,
            bias_downsample=False, shortcut_type="B",
        )  # fmt: skip
        load_weights(self.body, weights)
        factor = 4 if kind == "bottleneck" else 1
        self.stage_widths = (width, *(p * factor for p in planes))
        self.width = self.stage_widths[-1]
        self.up = nn.ModuleList()
        self.decoder_widths = ()
        if decoder:
            below, out = self.width, []
            act, norm = (
                ("LeakyReLU", {"negative_slope": 0.1, "inplace": True}),
                ("instance", {"affine": True}),
            )
            for skip in reversed(self.stage_widths[:-1]):
                self.up.append(
                    UpCat(spec.dims, below, skip, skip, act, norm, True, 0.0, "deconv", halves=False)
                )
                below = skip
                out.append(skip)
            self.decoder_widths = tuple(out)

    def stages(self, x: Tensor) -> list[Tensor]:
        body = self.body
        first = body.act(body.bn1(body.conv1(x)))
        maps = [first, body.layer1(body.maxpool(first))]
        for name in ("layer2", "layer3", "layer4"):
            maps.append(getattr(body, name)(maps[-1]))
        return maps

    def decode(self, x: Tensor, stages: Sequence[Tensor], blocks: int | None = None) -> list[Tensor]:
        self.need_decoder()
        out, below = [], stages[-1]
        for block, skip in zip(list(self.up)[:blocks], list(stages[:-1])[::-1], strict=False):
            below = block(below, skip)
            out.append(below)
        return out

    def decoder_modules(self) -> list[nn.Module]:
        return list(self.up)
