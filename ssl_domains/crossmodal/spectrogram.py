"""A convolutional encoder of spectrograms with a decoder beside it (Zuern et al., arXiv 1912.03227)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Grid
from ssl_domains.core.registry import encoder
from ssl_domains.crossmodal.signals import SignalSpec


@encoder("spectrogram_conv")
class SpectrogramConv(Encoder):
    """Short sounds as magnitude spectrograms, one-channel images, through four convolutions of stride 2.

    The paper's layer sizes are not known (only that encoder and decoder are convolutional); these are ours.
    Magnitudes are compressed by log(1 + x) and standardised by running statistics of the train batches.

    Args:
        spec: the data; all channels are averaged to one.
        window: samples of the Fourier window; default 256.
        hop: samples from one window to the next; default a quarter of ``window``.
        width: channels of the first convolution; they double with each, up to 8 times.
        embedding: d of z.

    Raises:
        ValueError: the window is longer than a segment.
    """

    drops_hidden: ClassVar[bool] = False
    taper: Tensor

    def __init__(
        self,
        spec: SignalSpec,
        window: int = 256,
        hop: int | None = None,
        width: int = 32,
        embedding: int = 128,
    ) -> None:
        super().__init__()
        if window > spec.length:
            raise ValueError(f"encoder.window {window} is longer than a segment of {spec.length} samples")
        self.spec, self.width = spec, embedding
        self.window, self.hop = window, hop or window // 4
        self.register_buffer("taper", torch.hann_window(window), persistent=False)
        self.scale = nn.BatchNorm2d(1, affine=False)
        widths = [1, *(width * 2**i for i in range(4))]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(widths)
            )
        )
        bins, frames = window // 2 + 1, 1 + spec.length // self.hop
        self.shape = (bins, frames)
        self.small = (math.ceil(bins / 16), math.ceil(frames / 16))
        self.out = nn.Linear(widths[-1] * self.small[0] * self.small[1], embedding)
        self.widths = widths

    def spectrogram(self, x: dict[str, Tensor]) -> Tensor:
        """``[B, 1, bins, frames]``, standardised."""
        with torch.autocast(x["signal"].device.type, enabled=False):
            mono = x["signal"].float().mean(1)
            found = torch.stft(mono, self.window, self.hop, window=self.taper, return_complex=True)
            return self.scale(torch.log1p(found.abs())[:, None])

    def forward(self, x: dict[str, Tensor], mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens are the last feature map; pooled is z ``[B, embedding]``."""
        return self.encode(self.spectrogram(x))

    def encode(self, image: Tensor) -> Encoded:
        """From spectrograms."""
        grid = self.blocks(image)
        z = self.out(grid.flatten(1))
        tokens = grid.flatten(2).transpose(1, 2)
        return Encoded(Tokens(tokens, Grid(self.small)), z)

    def decoder(self) -> nn.Module:
        """``[B, embedding] -> [B, 1, bins, frames]``."""
        return SpectrogramDecoder(self.width, self.widths, self.small, self.shape)

    def layout(self, x: Any) -> Grid:
        """Places of the last feature map."""
        return Grid(self.small)


class SpectrogramDecoder(nn.Module):
    """The encoder turned round: a linear map, then four transposed convolutions, cut to the spectrogram's
    shape."""

    def __init__(
        self, embedding: int, widths: list[int], small: tuple[int, int], shape: tuple[int, int]
    ) -> None:
        super().__init__()
        self.small, self.shape, self.first = small, shape, widths[-1]
        self.linear = nn.Linear(embedding, widths[-1] * small[0] * small[1])
        back = widths[::-1]
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(back)):
            layers.append(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1))
            if i < len(back) - 2:
                layers += [nn.BatchNorm2d(b), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """See the class."""
        grid = self.linear(z).view(len(z), self.first, *self.small)
        return self.layers(grid)[..., : self.shape[0], : self.shape[1]]
