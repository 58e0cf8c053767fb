"""What encoders of volumes have in common: normalised voxels in, feature maps by stage, tokens out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Grid
from ssl_domains.medical3d.spec import VolumeSpec


def patches(x: Tensor, patch: Sequence[int]) -> Tensor:
    """``[B, C, *sides]`` as ``[B, N, prod(patch) * C]``, tokens in row-major order; within a token voxels,
    then channels."""
    b, c, *sides = x.shape
    n = len(sides)
    shape = [b, c]
    for side, p in zip(sides, patch, strict=True):
        shape += [side // p, p]
    cut = x.reshape(shape)
    order = [0, *range(2, 2 + 2 * n, 2), *range(3, 3 + 2 * n, 2), 1]
    return cut.permute(order).reshape(b, -1, c * _product(patch))


def unpatch(values: Tensor, grid: Sequence[int], patch: Sequence[int]) -> Tensor:
    """Undoes :func:`patches`."""
    n = len(grid)
    cut = values.reshape(len(values), *grid, *patch, -1)
    order = [0, 2 * n + 1]
    for a in range(n):
        order += [1 + a, 1 + n + a]
    sides = [g * p for g, p in zip(grid, patch, strict=True)]
    return cut.permute(order).reshape(len(values), -1, *sides)


def _product(values: Sequence[int]) -> int:
    out = 1
    for v in values:
        out *= int(v)
    return out


class HiddenHead(nn.Module):
    """``p(encoded, mask, x) -> [M, output_width]``: one linear layer on tokens that stand in hidden places
    (SimMIM, Xie et al., CVPR 2022, section 3.3)."""

    def __init__(self, width: int, output_width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, output_width)

    def forward(self, encoded: Encoded, mask: Mask, x: Any = None) -> Tensor:
        """Rows in the order of ``Tokens.select(mask)``."""
        return self.out(encoded.tokens.select(mask))


class VolumeEncoder(Encoder):
    """Base of encoders: ``[B, C, *sides]`` float on the window's scale, normalised with the data's means."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: VolumeSpec) -> None:
        super().__init__()
        self.spec = spec
        shape = (1, spec.channels, *[1] * spec.dims)
        self.register_buffer("mean", torch.tensor(spec.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(shape), persistent=False)

    def prepare(self, x: Tensor) -> Tensor:
        """Mean 0 and deviation 1 over the train samples.

        Raises:
            ValueError: another number of channels or sides.
        """
        if x.ndim != self.mean.ndim or x.shape[1] != self.spec.channels:
            sides = "D, H, W" if self.spec.dims == 3 else "H, W"
            raise ValueError(f"the encoder wants [B, {self.spec.channels}, {sides}], got {list(x.shape)}")
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)

    def layout(self, x: Tensor) -> Grid:
        """The grid of tokens of these samples."""
        raise TypeError(f"{type(self).__name__} does not define layout")

    def patch_of(self, x: Tensor) -> tuple[int, ...]:
        """Sides in voxels of what one token stands for."""
        return tuple(int(s) // g for s, g in zip(x.shape[2:], self.layout(x).shape, strict=True))

    def targets(self, x: Tensor) -> Tokens:
        """Voxels of each token, ``[B, N, prod(patch) * C]``, normalised by the data's means."""
        return Tokens(patches(self.prepare(x), self.patch_of(x)), self.layout(x))


class StagedEncoder(VolumeEncoder):
    """Base of convolutional and hierarchical networks: feature maps from fine to coarse; the coarsest one's
    places are the tokens, their mean is ``pooled``. With a decoder, maps from coarse to fine, too.

    A mask cannot take places away from a convolution: the voxels of hidden tokens become 0, the data's mean.

    Attributes:
        body: MONAI's network; without a decoder those of its parts are taken out.
        stage_widths: channels of each encoder stage.
        decoder_widths: channels of each decoder stage, coarse to fine; empty without a decoder. The last
            stage has the input's resolution.
        strides: of each encoder stage.
    """

    drops_hidden: ClassVar[bool] = False
    body: nn.Module
    stage_widths: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    strides: tuple[int, ...]

    def stages(self, x: Tensor) -> list[Tensor]:
        """Feature maps ``[B, D_i, *sides_i]`` of prepared voxels, fine to coarse."""
        raise TypeError(f"{type(self).__name__} does not define stages")

    def decode(self, x: Tensor, stages: Sequence[Tensor], blocks: int | None = None) -> list[Tensor]:
        """Maps of the first ``blocks`` decoder stages, coarse to fine (None: all).

        Args:
            x: the prepared voxels.
            stages: of :meth:`stages`.
            blocks: how many; blocks after them are not run.

        Raises:
            ValueError: the encoder was made without a decoder.
        """
        raise TypeError(f"{type(self).__name__} does not define decode")

    def decoder_modules(self) -> list[nn.Module]:
        """Parts of the body that only the decoder uses, coarse to fine."""
        raise TypeError(f"{type(self).__name__} does not define decoder_modules")

    @property
    def has_decoder(self) -> bool:
        """Whether :meth:`decode` is there."""
        return len(self.decoder_widths) > 0

    def need_decoder(self) -> None:
        """Raises where there is no decoder.

        Raises:
            ValueError: says which option gives one.
        """
        if not self.has_decoder:
            raise ValueError("this needs the network's decoder; set encoder.decoder=true")

    def forward(self, x: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        voxels = self.prepare(x)
        if mask is not None:
            grid = self.layout(x).shape
            hidden = mask.hidden.view(len(x), 1, *grid).to(voxels.dtype)
            voxels = voxels * (1 - F.interpolate(hidden, [int(s) for s in x.shape[2:]]))
        return self.encoded(self.stages(voxels)[-1], layers)

    def encoded(self, coarsest: Tensor, layers: bool = False) -> Encoded:
        """Tokens and pooled vector of the last stage."""
        tokens = coarsest.flatten(2).transpose(1, 2)
        layout = Grid(tuple(int(s) for s in coarsest.shape[2:]))
        return Encoded(Tokens(tokens, layout), tokens.mean(dim=1), [tokens] if layers else None)

    def layout(self, x: Tensor) -> Grid:
        """Places of the last stage."""
        return Grid(tuple(max(int(s) // self.strides[-1], 1) for s in x.shape[2:]))

    @property
    def target_width(self) -> int:
        """Numbers in a token's voxels."""
        return self.spec.channels * self.strides[-1] ** self.spec.dims

    def predictor(self, output_width: int) -> nn.Module:  # type: ignore[override]
        """A linear head on the hidden places (SimMIM)."""
        return HiddenHead(self.width, output_width)

    def monai_state(self) -> dict[str, Tensor]:
        """Weights by MONAI's own names: ``network.load_state_dict(encoder.monai_state(), strict=False)``."""
        return {name: value.detach().clone() for name, value in self.body.state_dict().items()}

    def check_size(self, name: str, least: int = 1) -> None:
        """Raises where the data's samples cannot be halved often enough.

        Args:
            name: of the encoder.
            least: places a side that the coarsest map must have (instance norm wants more than one place).

        Raises:
            ValueError: names a size that fits.
        """
        step = self.strides[-1]
        bad = [s for s in self.spec.size if s % step or s < step * least]
        if bad:
            fits = [max(round(s / step), least) * step for s in self.spec.size]
            raise ValueError(
                f"encoder {name!r} wants sides that are multiples of {step} from {step * least} on, samples "
                f"are {list(self.spec.size)}; use data.patch={fits} (slices: data.size)"
            )

    def input_parameters(self) -> list[nn.Parameter]:
        """The first convolution."""
        first = next(m for m in self.body.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
        return list(first.parameters())
