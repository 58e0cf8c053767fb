"""Encoders of images: ResNets with the stem for small images, and any timm model by its name."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Grid
from ssl_domains.core.registry import encoder
from ssl_domains.core.weights import load_weights
from ssl_domains.image.patches import HiddenHead, patches
from ssl_domains.image.spec import ImageSpec

SMALL_STEM = 64
"""Images with a shorter side up to this get the stem for small images."""
_RESNETS: dict[int, tuple[str, tuple[int, ...]]] = {
    10: ("basic", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
}


class ImageEncoder(Encoder):
    """Base of the image encoders: pixels in, normalised by the data's means.

    A batch is ``[B, C, H, W]`` uint8 (0 to 255) or float (0 to 1, as views give it).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.spec = spec
        shape = (1, spec.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(shape), persistent=False)

    def prepare(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` float, mean 0 and deviation 1 over the train images.

        Raises:
            ValueError: another number of channels.
        """
        if x.ndim != 4 or x.shape[1] != self.spec.channels:
            raise ValueError(f"the encoder wants images [B, {self.spec.channels}, H, W], got {list(x.shape)}")
        if x.dtype == torch.uint8:
            x = x.to(self.mean.dtype) / 255
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)

    def patch_of(self, x: Tensor) -> tuple[int, int]:
        """Height and width of the pixels of one token."""
        grid = self.layout(x).shape
        return x.shape[2] // grid[0], x.shape[3] // grid[1]

    def layout(self, x: Tensor) -> Grid:
        """The grid of tokens of these images."""
        raise TypeError(f"{type(self).__name__} does not define layout")

    def targets(self, x: Tensor) -> Tokens:
        """Pixels of each token, ``[B, N, patch * patch * C]``, normalised by the data's means."""
        return Tokens(patches(self.prepare(x), self.patch_of(x)), self.layout(x))


class ConvEncoder(ImageEncoder):
    """A network that gives a map ``[B, D, h, w]``; its places are the tokens, their mean is ``pooled``.

    A mask cannot take places away from a convolution: the pixels of hidden tokens become 0, the data's
    mean (as SimMIM does it on such networks, Xie et al., CVPR 2022).
    """

    drops_hidden: ClassVar[bool] = False

    def __init__(self, spec: ImageSpec, body: nn.Module, width: int, grid: tuple[int, int]) -> None:
        super().__init__(spec)
        self.body, self.width, self.grid = body, width, grid

    def features(self, x: Tensor) -> Tensor:
        """``[B, D, h, w]`` of prepared images."""
        return self.body(x)

    def forward(self, x: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        pixels = self.prepare(x)
        if mask is not None:
            grid = self.layout(x).shape
            hidden = mask.hidden.view(len(x), 1, *grid).to(pixels.dtype)
            pixels = pixels * (1 - F.interpolate(hidden, x.shape[2:]))
        # Convolutions are faster in this memory order, on CPUs and on GPUs alike.
        found = self.features(pixels.contiguous(memory_format=torch.channels_last))
        tokens = found.flatten(2).transpose(1, 2)
        return Encoded(
            Tokens(tokens, Grid(tuple(found.shape[2:]))), tokens.mean(dim=1), [tokens] if layers else None
        )

    def layout(self, x: Tensor) -> Grid:
        """The map's grid; measured anew for images of another size than the spec's."""
        if tuple(x.shape[2:]) == tuple(self.spec.size):
            return Grid(self.grid)
        return Grid(_map_size(self.body, self.spec.channels, (int(x.shape[2]), int(x.shape[3])))[1])

    @property
    def target_width(self) -> int:
        """Numbers in a token's pixels."""
        height, width = (s // g for s, g in zip(self.spec.size, self.grid, strict=True))
        return height * width * self.spec.channels

    def predictor(self, output_width: int) -> nn.Module:  # type: ignore[override]
        """A linear head on the hidden places (SimMIM, section 3.3)."""
        return HiddenHead(self.width, output_width)

    def input_parameters(self) -> list[nn.Parameter]:
        """The first convolution."""
        first = next(m for m in self.body.modules() if isinstance(m, nn.Conv2d))
        return list(first.parameters())


@encoder("image_resnet")
class ImageResNet(ConvEncoder):
    """ResNet (He et al., CVPR 2016), timm's, without the classifier.

    Args:
        depth: 10, 18, 34, 50 or 101.
        width: channels of the first stage; the following have 2, 4 and 8 times as many. Default 64.
        stem: ``small``: a 3 x 3 convolution of stride 1 and no pooling (SimCLR, appendix B.9, for CIFAR);
            ``large``: the 7 x 7 one of stride 2 and a pooling; ``auto``: small up to 64 pixels.
        zero_init: the last norm of every block starts at 0, as in the code of Barlow Twins and SimSiam. Off
        by
            default: an untrained network of this kind tells little, and is no fair baseline.
        weights: a file of weights (.safetensors, or .pt read without unpickling code); None: random.
    """

    def __init__(
        self,
        spec: ImageSpec,
        depth: Literal[10, 18, 34, 50, 101] = 18,
        width: int = 64,
        stem: Literal["auto", "small", "large"] = "auto",
        zero_init: bool = False,
        weights: str | None = None,
    ) -> None:
        from timm.models.resnet import BasicBlock, Bottleneck, ResNet

        if depth not in _RESNETS:
            raise ValueError(f"encoder.depth must be one of {', '.join(map(str, _RESNETS))}, got {depth}")
        if width < 1:
            raise ValueError(f"encoder.width must be at least 1, got {width}")
        kind, layers = _RESNETS[depth]
        channels = tuple(width * 2**i for i in range(4))
        body = ResNet(
            BasicBlock if kind == "basic" else Bottleneck,  # type: ignore[arg-type]
            layers,
            num_classes=0,
            in_chans=spec.channels,
            stem_width=width,
            channels=channels,
            zero_init_last=zero_init,
        )
        small = stem == "small" or (stem == "auto" and min(spec.size) <= SMALL_STEM)
        if width != 64 or small:
            _restem(body, spec.channels, width, small)
        body.global_pool = nn.Identity()
        load_weights(body, weights)
        features = _Features(body)
        out, grid = _map_size(features, spec.channels, spec.size)
        super().__init__(spec, features, out, grid)


class _Features(nn.Module):
    """timm's features without its head."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net.forward_features(x)
        return found


def _restem(body: Any, channels: int, width: int, small: bool) -> None:
    """The first convolution with ``width`` channels, in its small or large form."""
    kernel, stride = (3, 1) if small else (7, 2)
    body.conv1 = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
    body.bn1 = nn.BatchNorm2d(width)
    if small:
        body.maxpool = nn.Identity()
    first = body.layer1[0]
    if first.conv1.in_channels != width:
        first.conv1 = _with_inputs(first.conv1, width)
    out = (first.conv3 if hasattr(first, "conv3") else first.conv2).out_channels
    if out == width:
        first.downsample = None
    else:
        shortcut = nn.Conv2d(width, out, 1, bias=False)
        nn.init.kaiming_normal_(shortcut.weight, mode="fan_out", nonlinearity="relu")
        first.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out))


def _with_inputs(old: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The same convolution on another number of channels."""
    kernel, stride, padding = old.kernel_size, old.stride, old.padding
    new = nn.Conv2d(channels, old.out_channels, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


@torch.no_grad()
def _map_size(body: nn.Module, channels: int, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """(D, (h, w)) of the map that images of this size give."""
    training, device = body.training, next(body.parameters()).device
    found = body.eval()(torch.zeros(1, channels, *size, device=device))
    body.train(training)
    return int(found.shape[1]), (int(found.shape[2]), int(found.shape[3]))
