"""What all encoders of clips do alike: pixels, their normalisation, and cubes of them as targets."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Grid
from ssl_domains.video.spec import VideoSpec


def cubes(x: Tensor, cube: tuple[int, int, int]) -> Tensor:
    """``[B, C, T, H, W]`` as ``[B, N, t, h * w, C]``: the pixels of each token, in the order of ``Grid((T,
    H, W))``."""
    b, c = x.shape[:2]
    counts = [n // k for n, k in zip(x.shape[2:], cube, strict=True)]
    cut = x[:, :, : counts[0] * cube[0], : counts[1] * cube[1], : counts[2] * cube[2]]
    cut = cut.reshape(b, c, counts[0], cube[0], counts[1], cube[1], counts[2], cube[2])
    cut = cut.permute(0, 2, 4, 6, 3, 5, 7, 1)
    return cut.reshape(b, counts[0] * counts[1] * counts[2], cube[0], cube[1] * cube[2], c)


def uncube(values: Tensor, grid: tuple[int, int, int], cube: tuple[int, int, int]) -> Tensor:
    """Undoes :func:`cubes`: values ``[B, N, t * h * w * C]`` to ``[B, C, T, H, W]``."""
    b, (times, rows, columns), (t, h, w) = len(values), grid, cube
    cut = values.reshape(b, times, rows, columns, t, h, w, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return cut.reshape(b, -1, times * t, rows * h, columns * w)


class HiddenHead(nn.Module):
    """``p(encoded, mask, x) -> [M, output_width]`` for encoders that keep a token at every place: one linear
    layer (SimMIM, Xie et al., CVPR 2022, section 3.3)."""

    def __init__(self, width: int, output_width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, output_width)

    def forward(self, encoded: Encoded, mask: Mask, x: Any = None) -> Tensor:
        """Rows in the order of ``Tokens.select(mask)``."""
        return self.out(encoded.tokens.select(mask))


class VideoEncoder(Encoder):
    """Base of the encoders of clips: pixels in, normalised by the data's means.

    A batch is ``[B, C, T, H, W]`` uint8 (0 to 255) or float (0 to 1, as views give it). Where it holds more
    frames than a clip (``data.window``), the ones in the middle count.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: VideoSpec) -> None:
        super().__init__()
        self.spec = spec
        shape = (1, spec.channels, 1, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(shape), persistent=False)

    def clip(self, x: Tensor) -> Tensor:
        """The frames that count.

        Raises:
            ValueError: no clips, or another number of channels.
        """
        if x.ndim != 5 or x.shape[1] != self.spec.channels:
            raise ValueError(
                f"the encoder wants clips [B, {self.spec.channels}, T, H, W], got {list(x.shape)}"
            )
        spare = x.shape[2] - self.spec.frames
        if x.shape[2] == self.spec.window and spare > 0:
            return x[:, :, spare // 2 : spare // 2 + self.spec.frames]
        return x

    def prepare(self, x: Tensor) -> Tensor:
        """``[B, C, T, H, W]`` float, mean 0 and deviation 1 over the train clips."""
        x = self.clip(x)
        if x.dtype == torch.uint8:
            x = x.to(self.mean.dtype) / 255
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)

    def cube_of(self, x: Tensor) -> tuple[int, int, int]:
        """Frames, height and width of the pixels of one token."""
        grid = self.layout(x).shape
        sizes = self.clip(x).shape[2:]
        return sizes[0] // grid[0], sizes[1] // grid[1], sizes[2] // grid[2]

    def layout(self, x: Tensor) -> Grid:
        """The grid of tokens of these clips."""
        raise TypeError(f"{type(self).__name__} does not define layout")

    def targets(self, x: Tensor) -> Tokens:
        """Pixels of each token, ``[B, N, t * h * w * C]``, normalised by the data's means."""
        return Tokens(cubes(self.prepare(x), self.cube_of(x)).flatten(2), self.layout(x))


class ConvEncoder(VideoEncoder):
    """A network that gives a map ``[B, D, t, h, w]``; its places are the tokens, their mean is ``pooled``.

    A mask cannot take places away from a convolution: the pixels of hidden tokens become 0, the data's mean
    (as SimMIM does it on such networks, Xie et al., CVPR 2022).
    """

    drops_hidden: ClassVar[bool] = False

    def __init__(self, spec: VideoSpec, body: nn.Module, width: int | None = None) -> None:
        super().__init__(spec)
        self.body = body
        found, self.grid = self._measure((spec.frames, *spec.size))
        self.width = found if width is None else width

    @torch.no_grad()
    def _measure(self, size: tuple[int, int, int]) -> tuple[int, tuple[int, int, int]]:
        """(D, (t, h, w)) of the map that clips of this size give."""
        training, device = self.body.training, next(self.body.parameters()).device
        found = self.body.eval()(torch.zeros(1, self.spec.channels, *size, device=device))
        self.body.train(training)
        return int(found.shape[1]), (int(found.shape[2]), int(found.shape[3]), int(found.shape[4]))

    def forward(self, x: Tensor, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        pixels = self.prepare(x)
        if mask is not None:
            hidden = mask.hidden.view(len(x), 1, *self.layout(x).shape).to(pixels.dtype)
            pixels = pixels * (1 - F.interpolate(hidden, pixels.shape[2:]))
        found = self.body(pixels.contiguous(memory_format=torch.channels_last_3d))
        tokens = found.flatten(2).transpose(1, 2)
        return Encoded(
            Tokens(tokens, Grid(tuple(found.shape[2:]))), tokens.mean(dim=1), [tokens] if layers else None
        )

    def layout(self, x: Tensor) -> Grid:
        """The map's grid; measured anew for clips of another size than the spec's."""
        size = tuple(int(s) for s in self.clip(x).shape[2:])
        if size == (self.spec.frames, *self.spec.size):
            return Grid(self.grid)
        return Grid(self._measure((size[0], size[1], size[2]))[1])

    @property
    def target_width(self) -> int:
        """Numbers in a token's pixels."""
        sizes = (self.spec.frames, *self.spec.size)
        t, h, w = (s // g for s, g in zip(sizes, self.grid, strict=True))
        return t * h * w * self.spec.channels

    def predictor(self, output_width: int) -> nn.Module:  # type: ignore[override]
        """A linear head on the hidden places (SimMIM, section 3.3)."""
        return HiddenHead(self.width, output_width)

    def input_parameters(self) -> list[nn.Parameter]:
        """The first convolution."""
        first = next(m for m in self.body.modules() if isinstance(m, nn.Conv3d | nn.Conv2d))
        return list(first.parameters())
