"""Every transformed copy of an image: rotations, colour permutations, and their products."""

from __future__ import annotations

import copy
from itertools import permutations
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.image.spec import ImageSpec
from ssl_domains.image.views import ImageAugment

Turns = tuple[int, ...]
Colours = tuple[tuple[int, ...], ...]
_CYCLIC: Colours = ((0, 1, 2), (1, 2, 0), (2, 0, 1))  # RGB, GBR, BRG
_ALL: Colours = tuple(permutations(range(3)))
SETS: dict[str, tuple[Turns, Colours]] = {
    "none": ((0,), ((0, 1, 2),)),
    "rotation": ((0, 1, 2, 3), ((0, 1, 2),)),
    "half_turn": ((0, 2), ((0, 1, 2),)),
    "colour": ((0,), _ALL),
    "colour_cyclic": ((0,), _CYCLIC),
    "half_turn_colour_cyclic": ((0, 2), _CYCLIC),
    "rotation_colour_cyclic": ((0, 1, 2, 3), _CYCLIC),
    "rotation_colour": ((0, 1, 2, 3), _ALL),
}
Set = Literal[
    "none",
    "rotation",
    "half_turn",
    "colour",
    "colour_cyclic",
    "half_turn_colour_cyclic",
    "rotation_colour_cyclic",
    "rotation_colour",
]


@views("image_transformations")
class ImageTransformations(Views):
    """All M transformed copies of every image, of ONE random crop; ``params["transformation"]`` says which.

    Number 0 is the image as it is; rotations turn counter-clockwise by quarters, and in products the
    colour permutation counts faster. For label augmentation (SLA, Lee et al., ICML 2020: rotation 4,
    colour 6 and their products, up to 24) and for pretext tasks (rotation prediction).

    Args:
        spec: of the data.
        set: which transformations. Quarter turns want square images, colours three channels.
        shuffled: the copies of each image come in an order of its own, so that each view mixes
            all transformations and its batch norm cannot tell them.
        augment: a crop and a mirroring before the transformation, as classifiers are trained;
            false: the plain image.
        scale: (low, high) share of the area in the crop.
        flip: share of the images that are mirrored.
    """

    def __init__(
        self,
        spec: ImageSpec,
        set: Set = "rotation",
        shuffled: bool = True,
        augment: bool = True,
        scale: tuple[float, float] = (0.6, 1.0),
        flip: float = 0.5,
    ) -> None:
        if set not in SETS:
            raise ValueError(f"views.set must be one of {', '.join(SETS)}, got {set!r}")
        turns, colours = SETS[set]
        if any(t % 2 for t in turns) and spec.size[0] != spec.size[1]:
            raise ValueError(
                f"views.set {set!r} needs square images, these are {spec.size[0]} x {spec.size[1]}; "
                "give data.size one number"
            )
        if len(colours) > 1 and spec.channels != 3:
            raise ValueError(f"views.set {set!r} needs three channels, these images have {spec.channels}")
        self.bank = [(t, c) for t in turns for c in colours]
        self.n_views, self.shuffled = len(self.bank), shuffled
        options = {"n_views": 1, "scale": scale, "flip": flip}
        self.base = ImageAugment(spec, "crop_flip", **options) if augment else None  # type: ignore[arg-type]

    def unaugmented(self) -> ImageTransformations:
        """All copies of the plain image, in the order of the set."""
        views = copy.copy(self)
        views.base, views.shuffled = None, False
        return views

    def target_width(self, name: str, spec: Any) -> int:
        """M for ``transformation``.

        Raises:
            KeyError: another name.
        """
        if name != "transformation":
            raise KeyError(f"these views record 'transformation', not {name!r}")
        return self.n_views

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """M views, in the order of the set unless shuffled."""
        x, params = batch.x, {}
        if self.base is not None:
            made = self.base(batch, draw.fork("crop"))[0]
            x, params = made.x, made.params
        copies = torch.stack([self.transform(x, number) for number in range(self.n_views)], dim=1)
        number = torch.arange(self.n_views, device=x.device).expand(len(x), -1)
        if self.shuffled:
            number = draw.fork("order").permutation(self.n_views)
            copies = copies[torch.arange(len(x), device=x.device)[:, None], number]
        return [
            View(copies[:, v], "global", params | {"transformation": number[:, v]})
            for v in range(self.n_views)
        ]

    def transform(self, x: Tensor, number: int) -> Tensor:
        """Images ``[B, C, H, W]`` under one transformation."""
        turns, colours = self.bank[number]
        if colours != (0, 1, 2):
            x = x[:, list(colours)]
        return torch.rot90(x, turns, (2, 3)) if turns else x
