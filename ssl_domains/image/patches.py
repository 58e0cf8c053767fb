"""Patches of images, and the head that reads hidden tokens where they stand."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask


def patches(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """``[B, C, H, W]`` as ``[B, N, ph * pw * C]``, row by row; within a patch pixels, then channels."""
    b, c, height, width = x.shape
    rows, columns = height // patch[0], width // patch[1]
    cut = x[:, :, : rows * patch[0], : columns * patch[1]]
    cut = cut.reshape(b, c, rows, patch[0], columns, patch[1])
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(b, rows * columns, patch[0] * patch[1] * c)


def unpatch(values: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """Undoes :func:`patches`."""
    b, (rows, columns) = len(values), grid
    cut = values.view(b, rows, columns, patch[0], patch[1], -1).permute(0, 5, 1, 3, 2, 4)
    return cut.reshape(b, -1, rows * patch[0], columns * patch[1])


class HiddenHead(nn.Module):
    """``p(encoded, mask, x) -> [M, output_width]`` for encoders that keep a token at every place: one linear
    layer (SimMIM, Xie et al., CVPR 2022, section 3.3)."""

    def __init__(self, width: int, output_width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, output_width)

    def forward(self, encoded: Encoded, mask: Mask, x: Any = None) -> Tensor:
        """Rows in the order of ``Tokens.select(mask)``."""
        return self.out(encoded.tokens.select(mask))
