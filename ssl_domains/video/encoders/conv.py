"""Convolutional encoders of clips: R(2+1)D, slow-only ResNets, and networks of single frames pooled over
time."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Grid
from ssl_domains.core.registry import encoder
from ssl_domains.core.weights import create_timm, load_weights
from ssl_domains.video.encoders.base import ConvEncoder
from ssl_domains.video.spec import VideoSpec

SMALL_STEM = 64
"""Frames with a shorter side up to this keep their size in the first layer."""


class _Body(nn.Module):
    """torchvision's video ResNets as a map ``[B, D, t, h, w]``, without the classifier."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.stem, self.layers = net.stem, nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return x


@encoder("r2plus1d")
class R2Plus1D(ConvEncoder):
    """R(2+1)D (Tran et al., CVPR 2018), torchvision's: each convolution one over space and one over time.

    Args:
        spec: of the data.
        depth: 18 (default), or 10: one block a stage.
        stem: ``large``: the first convolution of stride 2 in space; ``small``: of stride 1; ``auto``: small
            up to 64 pixels.
        weights: a file of torchvision's ``r2plus1d_18``; None: random.
    """

    def __init__(
        self,
        spec: VideoSpec,
        depth: Literal[10, 18] = 18,
        stem: Literal["auto", "small", "large"] = "auto",
        weights: str | None = None,
    ) -> None:
        from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

        if depth not in (10, 18):
            raise ValueError(f"encoder.depth must be 10 or 18, got {depth}")
        blocks = [2, 2, 2, 2] if depth == 18 else [1, 1, 1, 1]
        net = VideoResNet(BasicBlock, [Conv2Plus1D] * 4, blocks, R2Plus1dStem)
        _restem(net, spec, stem)
        net.fc = nn.Identity()
        load_weights(net, weights)
        super().__init__(spec, _Body(net))


def _restem(net: Any, spec: VideoSpec, stem: str) -> None:
    """The first convolution for these channels, and with stride 1 for small frames."""
    small = stem == "small" or (stem == "auto" and min(spec.size) <= SMALL_STEM)
    first = net.stem[0]
    if spec.channels == first.in_channels and not small:
        return
    net.stem[0] = nn.Conv3d(
        spec.channels, first.out_channels, first.kernel_size, (1, 1, 1) if small else first.stride,
        first.padding, bias=False,
    )  # fmt: skip
    nn.init.kaiming_normal_(net.stem[0].weight, mode="fan_out", nonlinearity="relu")


class _SlowBlock(nn.Module):
    """A residual block over space; with ``temporal`` its first convolution looks at 3 times."""

    def __init__(self, inputs: int, width: int, stride: int, temporal: bool, bottleneck: bool) -> None:
        super().__init__()
        out = width * 4 if bottleneck else width
        kernel, pad = (3 if temporal else 1), (1 if temporal else 0)
        space = {"stride": (1, stride, stride), "padding": (0, 1, 1), "bias": False}
        if bottleneck:
            layers = [
                nn.Conv3d(inputs, width, (kernel, 1, 1), padding=(pad, 0, 0), bias=False),
                nn.Conv3d(width, width, (1, 3, 3), **space),  # type: ignore[arg-type]
                nn.Conv3d(width, out, 1, bias=False),
            ]
        else:
            space["padding"] = (pad, 1, 1)
            layers = [
                nn.Conv3d(inputs, width, (kernel, 3, 3), **space),  # type: ignore[arg-type]
                nn.Conv3d(width, out, (1, 3, 3), padding=(0, 1, 1), bias=False),
            ]
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.BatchNorm3d(layer.out_channels) for layer in layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != out:
            self.shortcut = nn.Sequential(
                nn.Conv3d(inputs, out, 1, (1, stride, stride), bias=False), nn.BatchNorm3d(out)
            )
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            out = norm(layer(out))
            if i < len(self.layers) - 1:
                out = out.relu()
        return (out + self.shortcut(x)).relu()


@encoder("slow_resnet")
class SlowResNet(ConvEncoder):
    """Slow-only ResNet (the slow pathway of SlowFast, Feichtenhofer et al., ICCV 2019, table 1), the
    encoder of rho MoCo and rho BYOL: no stride in time, convolutions over time in the last two stages only.

    torchvision has no such network; the blocks are ResNet's (He et al., CVPR 2016).

    Args:
        spec: of the data.
        depth: 50 (default), 34, 18 or 10.
        width: channels of the first stage; the following have 2, 4 and 8 times as many. Default 64.
        stem: ``large``: a 1 x 7 x 7 convolution of stride 2 and a pooling; ``small``: 1 x 3 x 3 of stride 1;
            ``auto``: small up to 64 pixels.
    """

    def __init__(
        self,
        spec: VideoSpec,
        depth: Literal[10, 18, 34, 50] = 50,
        width: int = 64,
        stem: Literal["auto", "small", "large"] = "auto",
    ) -> None:
        sizes = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
        if depth not in sizes:
            raise ValueError(f"encoder.depth must be 10, 18, 34 or 50, got {depth}")
        if width < 1:
            raise ValueError(f"encoder.width must be at least 1, got {width}")
        small = stem == "small" or (stem == "auto" and min(spec.size) <= SMALL_STEM)
        kernel, stride = (3, 1) if small else (7, 2)
        first = nn.Conv3d(
            spec.channels, width, (1, kernel, kernel), (1, stride, stride), (0, kernel // 2, kernel // 2),
            bias=False,
        )  # fmt: skip
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        layers: list[nn.Module] = [first, nn.BatchNorm3d(width), nn.ReLU(inplace=True)]
        if not small:
            layers.append(nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
        inputs, bottleneck = width, depth == 50
        for stage, count in enumerate(sizes[depth]):
            inner = width * 2**stage
            for number in range(count):
                step = 2 if stage and number == 0 else 1
                layers.append(_SlowBlock(inputs, inner, step, stage >= 2, bottleneck))
                inputs = inner * (4 if bottleneck else 1)
        super().__init__(spec, nn.Sequential(*layers))


class _Frames(nn.Module):
    """A network of images over all frames: ``[B, C, T, H, W]`` to ``[B, D, T, h, w]``."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, height, width = x.shape
        images = x.transpose(1, 2).reshape(b * t, c, height, width)
        found: Tensor = self.net.forward_features(images.contiguous(memory_format=torch.channels_last))
        if found.ndim == 3:  # tokens; those that stand for no patch come first
            found = found[:, int(getattr(self.net, "num_prefix_tokens", 0)) :]
            side = int(found.shape[1] ** 0.5)
            found = found.transpose(1, 2).unflatten(2, (side, found.shape[1] // side))
        elif found.shape[-1] == self.net.num_features and found.shape[1] != self.net.num_features:
            found = found.permute(0, 3, 1, 2)
        return found.unflatten(0, (b, t)).transpose(1, 2)


@encoder("frame_encoder")
class FrameEncoder(ConvEncoder):
    """Any timm model on each frame by itself, and its features pooled over time.

    Tokens are the places of each frame's map, on ``Grid((T, h, w))``. Without a pooling that looks at the
    order of
    frames this encoder does not know it: it is a baseline, and what frames alone can tell.

    Args:
        spec: of the data.
        model: of timm; square frames for those that give tokens.
        pooling: of the frames' vectors: ``mean``; ``max``; or ``difference``: their mean beside the mean
            size of the change from frame to frame, twice as wide.
        pretrained: fetch the weights that timm has for the name (needs a network the first time).
        weights: a file of weights instead.
        options: further arguments of ``timm.create_model``.
    """

    def __init__(
        self,
        spec: VideoSpec,
        model: str = "resnet50",
        pooling: Literal["mean", "max", "difference"] = "mean",
        pretrained: bool = False,
        weights: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        if pooling not in ("mean", "max", "difference"):
            raise ValueError(f"encoder.pooling must be mean, max or difference, got {pooling!r}")
        given: dict[str, Any] = {"in_chans": spec.channels, "num_classes": 0, **(options or {})}
        if model.startswith(("vit_", "deit", "eva", "beit", "swin", "flexivit")):
            given.setdefault("img_size", tuple(spec.size))
        body = create_timm(model, pretrained, **given)
        load_weights(body, weights)
        super().__init__(spec, _Frames(body))
        self.pooling = pooling

    @property
    def pooled_width(self) -> int:
        """Twice the tokens' for ``difference``."""
        return self.width * (2 if self.pooling == "difference" else 1)

    def forward(self, x: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        found = super().forward(x, mask, layers=layers)
        grid = found.tokens.layout
        assert isinstance(grid, Grid)
        frames = found.tokens.values.unflatten(1, (grid.shape[0], -1)).mean(dim=2)  # [B, T, D]
        pooled = frames.amax(dim=1) if self.pooling == "max" else frames.mean(dim=1)
        if self.pooling == "difference":
            change = frames.diff(dim=1).abs().mean(dim=1) if frames.shape[1] > 1 else torch.zeros_like(pooled)
            pooled = torch.cat([pooled, change], dim=1)
        return Encoded(Tokens(found.tokens.values, grid), pooled, found.layers)
