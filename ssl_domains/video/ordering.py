"""Views whose time was changed: in another order, or at another speed. A pretext task predicts which."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.video.spec import VideoSpec
from ssl_domains.video.views import ClipAugment, Name


class _Retimed(Views):
    """A clip of chosen frames in one crop, and the class number of how they were chosen."""

    recorded = ""

    def __init__(
        self,
        spec: VideoSpec,
        family: Name,
        scale: tuple[float, float] | None,
        flip: float | None,
        strength: float,
    ) -> None:
        self.frames = spec.frames
        self.base = ClipAugment(spec, family, 1, scale=scale, flip=flip, strength=strength)

    @property
    def n_classes(self) -> int:
        """Number of classes that the parameter has."""
        raise TypeError(f"{type(self).__name__} does not define n_classes")

    def target_width(self, name: str, spec: Any) -> int:
        """Number of classes of the recorded parameter.

        Raises:
            KeyError: another name.
        """
        if name != self.recorded:
            raise KeyError(f"these views record {self.recorded!r}, not {name!r}")
        return self.n_classes

    def times(self, window: int, draw: Draw) -> tuple[Tensor, Tensor]:
        """Frames of the window ``[B, F]``, and the class ``[B]``."""
        raise TypeError(f"{type(self).__name__} does not define times")

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        made = []
        for i in range(self.n_views):
            time, number = self.times(batch.x.shape[2], draw.fork(f"time{i}"))
            view = self.base.view(batch, self.base.styles[0], time, draw.fork(f"view{i}"), picked=True)
            view.params[self.recorded] = number
            made.append(view)
        return made


@views("clip_order")
class ClipOrder(_Retimed):
    """A clip cut into parts that come in another order; ``params["order"]`` says in which of all orders.

    Temporal order as a pretext task: clip order prediction (Xu et al., CVPR 2019) tells the permutation of
    3 parts, here read by one encoder from the joined parts. ``reverse: true`` plays the clip forwards or
    backwards instead (the arrow of time, Wei et al., CVPR 2018).

    Args:
        spec: of the data; the parts divide its frames.
        parts: number of parts; 2 to 4 (2, 6 or 24 orders). Default 3.
        gap: frames of the window left out between parts, so that the seams do not tell the order; the batch
            must hold ``frames + gap * (parts - 1)`` frames (``data.window``).
        reverse: two classes, forwards and backwards, instead of parts.
        n_views: clips a sample, each with an order of its own.
        family, scale, flip, strength: crop and colours of :class:`ClipAugment`.
    """

    recorded = "order"

    def __init__(
        self,
        spec: VideoSpec,
        parts: int = 3,
        gap: int = 0,
        reverse: bool = False,
        n_views: int = 1,
        family: Name = "cross",
        scale: tuple[float, float] | None = None,
        flip: float | None = None,
        strength: float = 1.0,
    ) -> None:
        super().__init__(spec, family, scale, flip, strength)
        if not 2 <= parts <= 4 or gap < 0 or n_views < 1:
            raise ValueError(
                f"views.parts must be 2 to 4, views.gap 0 or more and views.n_views 1 or more, "
                f"got {parts}, {gap} and {n_views}"
            )
        if spec.frames < (2 if reverse else parts):
            raise ValueError(
                f"clips of {spec.frames} frames have no order of {2 if reverse else parts} parts"
            )
        self.n_views, self.reverse, self.gap = n_views, reverse, 0 if reverse else gap
        self.orders = torch.tensor([(0, 1), (1, 0)] if reverse else list(permutations(range(parts))))
        self.need = spec.frames + self.gap * (parts - 1)
        if self.need > spec.window:
            raise ValueError(
                f"views.gap {gap} wants {self.need} frames, the data hold {spec.window}; set "
                f"data.window={self.need}"
            )
        # The first parts are a frame longer where they do not divide the clip; every order keeps its length.
        cuts = torch.tensor_split(torch.arange(spec.frames), parts)
        self.parts = [cut + i * self.gap for i, cut in enumerate(cuts)]

    @property
    def n_classes(self) -> int:
        return len(self.orders)

    def times(self, window: int, draw: Draw) -> tuple[Tensor, Tensor]:
        number = draw.randint(self.n_classes)
        device = number.device
        if self.reverse:
            forward = torch.arange(self.frames, device=device)
            bank = torch.stack([forward, forward.flip(0)])
        else:
            bank = torch.stack([torch.cat([self.parts[p] for p in o]) for o in self.orders.tolist()])
        start = (draw.uniform() * (window - self.need + 1)).long()
        return bank.to(device)[number] + start[:, None], number


@views("clip_speed")
class ClipSpeed(_Retimed):
    """A clip played at one of several speeds; ``params["speed"]`` says at which.

    Playback speed as a pretext task: pace prediction (Wang et al., ECCV 2020), SpeedNet (Benaim et al.,
    CVPR 2020). The batch must hold ``(frames - 1) * max(speeds) + 1`` frames (``data.window``).

    Args:
        spec: of the data.
        speeds: frames of the window from one frame of the clip to the next, one a class. Default 1, 2, 3, 4
            (pace prediction).
        n_views: clips a sample, each with a speed and start of its own.
        family, scale, flip, strength: crop and colours of :class:`ClipAugment`.
    """

    recorded = "speed"

    def __init__(
        self,
        spec: VideoSpec,
        speeds: tuple[int, ...] = (1, 2, 3, 4),
        n_views: int = 1,
        family: Name = "cross",
        scale: tuple[float, float] | None = None,
        flip: float | None = None,
        strength: float = 1.0,
    ) -> None:
        super().__init__(spec, family, scale, flip, strength)
        if len(set(speeds)) < 2 or min(speeds) < 1 or n_views < 1:
            raise ValueError(
                f"views.speeds must be at least two different whole numbers from 1, got {list(speeds)}"
            )
        need = (spec.frames - 1) * max(speeds) + 1
        if need > spec.window:
            raise ValueError(
                f"views.speeds up to {max(speeds)} want {need} frames, the data hold {spec.window}; set "
                f"data.window={need}"
            )
        if spec.frames < 2:
            raise ValueError("clips of one frame have no speed; raise data.frames")
        self.speeds, self.n_views = tuple(speeds), n_views

    @property
    def n_classes(self) -> int:
        return len(self.speeds)

    def times(self, window: int, draw: Draw) -> tuple[Tensor, Tensor]:
        number = draw.randint(self.n_classes)
        speed = torch.tensor(self.speeds, device=number.device)[number]
        free = window - 1 - (self.frames - 1) * speed
        start = (draw.uniform() * (free + 1)).long()
        return start[:, None] + speed[:, None] * torch.arange(self.frames, device=number.device), number
