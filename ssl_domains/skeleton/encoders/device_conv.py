"""The small convolutional encoder of wearable sensors, shared by all devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.layout import Grid
from ssl_domains.core.registry import encoder
from ssl_domains.skeleton.encoders.base import BodyEncoder, covered, hidden_of
from ssl_domains.skeleton.spec import BodySpec


@encoder("device_conv")
class DeviceConv(BodyEncoder):
    """Three convolutions and a maximum over time (Saeed et al., IMWUT 2019; ColloSSL, section 4).

    Every device passes the same network by itself: tokens are devices, ``Grid((V,))``, and ``pooled`` is the
    token of one device, the one that the encoder will be used with; so one device is enough when
    embedding. Unpadded convolutions shorten a window of W values to W - 45 with the default kernels.

    Args:
        spec: the data.
        device: name of the device that ``pooled`` speaks of; None: the first.
        widths: of the layers. Default (32, 64, 96), ``kernels`` (24, 16, 8), ``dropout`` 0.1: both papers.
        kernels: of the layers, in frames.
        dropout: after each layer.
        confidence: see :class:`BodyEncoder`.

    Raises:
        ValueError: no such device, or a window that is too short for the kernels.
    """

    drops_hidden: ClassVar[bool] = False

    def __init__(
        self,
        spec: BodySpec,
        device: str | None = None,
        widths: Sequence[int] = (32, 64, 96),
        kernels: Sequence[int] = (24, 16, 8),
        dropout: float = 0.1,
        confidence: bool = False,
    ) -> None:
        super().__init__(spec, "joint", confidence)
        names = spec.layout.joints
        if device is not None and device not in names:
            raise ValueError(f"encoder.device: there is no device {device!r} (there are: {', '.join(names)})")
        if len(widths) != len(kernels):
            raise ValueError("encoder.widths and encoder.kernels must have the same length")
        shortest = sum(kernels) - len(kernels) + 1
        if spec.frames < shortest:
            raise ValueError(
                f"encoder device_conv: {spec.frames} values are too few for kernels {list(kernels)}; "
                f"it needs {shortest} a window (data.window, data.rate, or encoder.kernels)"
            )
        self.device = 0 if device is None else names.index(device)
        self.width, self.grid = widths[-1], (self.points,)
        self.features = self.channels * self.persons
        layers: list[nn.Module] = []
        for before, after, kernel in zip([self.features, *widths], widths, kernels):
            layers += [nn.Conv1d(before, after, kernel), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.mask_token = nn.Parameter(torch.zeros(self.features))

    def forward(self, x: Any, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens ``[B, V, D]``; hidden devices are read as a learned constant."""
        values = self._devices(x)  # [B, V, C M, T]
        if mask is not None:
            hidden = hidden_of(mask, self.points)
            assert hidden is not None
            flat = covered(hidden.repeat_interleave(self.frames, dim=1), self.mask_token,
                           values.transpose(2, 3).flatten(1, 2))  # fmt: skip
            values = flat.view(len(values), self.points, self.frames, -1).transpose(2, 3)
        states = self.layers(values.flatten(0, 1))
        tokens = states.amax(dim=-1).view(len(values), self.points, -1)
        return Encoded(Tokens(tokens, Grid(self.grid)), tokens[:, self.device], [tokens] if layers else None)

    def _devices(self, x: Any) -> Tensor:
        clip = self.clip(x)
        return clip.permute(0, 3, 1, 4, 2).flatten(2, 3)

    def targets(self, x: Any) -> Tokens:
        """``[B, V, C * M * T]``: a device's whole window."""
        return Tokens(self._devices(x).flatten(2), Grid(self.grid))

    @property
    def target_width(self) -> int:
        """C * M * T."""
        return self.features * self.frames
