"""What encoders and views need to know of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSpec:
    """Facts about a set of images; travels with an encoder.

    Attributes:
        size: height and width of the pixels that a batch holds.
        channels: 1 (grey) or 3 (RGB).
        mean, std: of each channel on a scale of 0 to 1, over train images; encoders normalise with them.
        fit: how images of other shapes get this size (:class:`~ssl_domains.image.decode.Decoding`).
        background: grey value under transparent pixels.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: str = "crop"
    background: int = 255

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageSpec:
        """Reads :meth:`to_dict` back."""
        return cls(
            size=(int(values["size"][0]), int(values["size"][1])),
            channels=int(values["channels"]),
            mean=tuple(float(v) for v in values["mean"]),
            std=tuple(float(v) for v in values["std"]),
            fit=str(values["fit"]),
            background=int(values["background"]),
        )
