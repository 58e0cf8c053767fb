"""What encoders and views need to know of clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VideoSpec:
    """Facts about a set of clips; travels with an encoder.

    Attributes:
        frames: T that an encoder sees.
        size: height and width of the pixels that a batch holds.
        channels: 1 (grey) or 3 (RGB).
        mean, std: of each channel on a scale of 0 to 1, over train clips; encoders normalise with them.
        window: frames that a batch holds; views cut ``frames`` out of them, encoders take the middle.
        stride: frames of the video from one frame of the clip to the next.
        rate: frames a second that are sampled; None: the video's own.
        fit: how other shapes get this size (:class:`~ssl_domains.video.decode.Decoding`).
    """

    frames: int
    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    window: int
    stride: int = 4
    rate: float | None = None
    fit: str = "crop"

    def of_frames(self) -> VideoSpec:
        """The spec of single frames: clips of length 1."""
        return replace(self, frames=1, window=1)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VideoSpec:
        """Reads :meth:`to_dict` back."""
        rate = values["rate"]
        return cls(
            frames=int(values["frames"]),
            size=(int(values["size"][0]), int(values["size"][1])),
            channels=int(values["channels"]),
            mean=tuple(float(v) for v in values["mean"]),
            std=tuple(float(v) for v in values["std"]),
            window=int(values["window"]),
            stride=int(values["stride"]),
            rate=None if rate is None else float(rate),
            fit=str(values["fit"]),
        )
