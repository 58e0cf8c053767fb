"""Views of images: the families of crops and colours that the papers use, one batch at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Views
from ssl_domains.core.parts.colour import Jitter, blur, colour_jitter, solarise, to_grey
from ssl_domains.core.parts.resample import resample
from ssl_domains.core.parts.style import (
    BYOL,
    BYOL_2,
    MOCO,
    SIMCLR,
    Family,
    Style,
    changed,
    draw_style,
    in_pieces,
    pair,
    recorded,
)
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.image.spec import ImageSpec

FAMILIES = {
    # SimCLR (Chen et al., ICML 2020, appendix A), strength 1.
    "simclr": Family((SIMCLR,)),
    # SimCLR on CIFAR (appendix B.9): strength 0.5 and no blur.
    "simclr_small": Family((replace(SIMCLR, jitter=(0.4, 0.4, 0.4, 0.1), blur=0.0),)),
    # MoCo v2 (Chen et al. 2020, code) and SimSiam.
    "moco": Family((MOCO,)),
    # BYOL (Grill et al., NeurIPS 2020, appendix B), Barlow Twins, VICReg, MoCo v3: a pair of unlike views.
    "byol": Family((BYOL, BYOL_2), interpolation="bicubic"),
    # SwAV (Caron et al., NeurIPS 2020, appendix A.1): 2 global and 6 local crops.
    "swav": Family((replace(SIMCLR, scale=(0.14, 1.0)),), replace(SIMCLR, scale=(0.05, 0.14)), 6),
    # DINO (Caron et al., ICCV 2021, appendix C and code): 2 global and 8 local crops.
    "dino": Family(
        (replace(BYOL, scale=(0.4, 1.0)), replace(BYOL_2, scale=(0.4, 1.0))),
        replace(BYOL, scale=(0.05, 0.4), blur=0.5),
        8,
        "bicubic",
    ),
    # MSN (Assran et al., ECCV 2022, code): a target view and random views, then 10 small focal ones.
    "msn": Family((replace(SIMCLR, scale=(0.3, 1.0)),), replace(SIMCLR, scale=(0.05, 0.3)), 10, "bicubic"),
    # MAE (He et al., CVPR 2022, appendix A.1): crop and flip alone.
    "mae": Family((Style((0.2, 1.0)),), interpolation="bicubic"),
    # I-JEPA (Assran et al., CVPR 2023, appendix A.1): a crop, no flip.
    "ijepa": Family((Style((0.3, 1.0), flip=0.0),), interpolation="bicubic"),
    # The customary augmentation of a linear probe.
    "crop_flip": Family((Style(),)),
}
Name = Literal["simclr", "simclr_small", "moco", "byol", "swav", "dino", "msn", "mae", "ijepa", "crop_flip"]


@views("image_augment")
class ImageAugment(Views):
    """Random crops, mirroring, colours, blur: SimCLR, MoCo, BYOL, SwAV, DINO and others by ``family``.

    All of it is batched arithmetic on the batch's device; every image has parameters of its own, the
    order of the colour changes included. Recorded for each view, ``[B, ...]``: ``crop`` (top, left,
    height, width as shares of the image), ``flip``, ``jitter`` (brightness, contrast and saturation factors,
    hue shift in turns; neutral where none), ``grey``, ``blur`` (sigma in pixels, 0: none), ``solarise``.

    Args:
        spec: of the data.
        family: whose views, with its numbers.
        n_views: global views.
        size: side of a view; None: the data's.
        local_views: small crops after them, of role ``local``; None: the family's number.
        local_size: side of a local view; None: 96 / 224 of a view's, at least 4.
        scale: (low, high) share of the area in a global crop; None: the family's.
        local_scale: the same of a local crop.
        strength: factor on the strengths of the colour changes.
        grey, blur, solarise, flip: shares of the images, for all views alike; None: the family's.
        sigma: (low, high) of the blur, in pixels of a 224-pixel view (smaller views get less of it).
        ratio: (low, high) width over height of a crop.
    """

    def __init__(
        self,
        spec: ImageSpec,
        family: Name = "simclr",
        n_views: int = 2,
        size: int | None = None,
        local_views: int | None = None,
        local_size: int | None = None,
        scale: tuple[float, float] | None = None,
        local_scale: tuple[float, float] | None = None,
        strength: float = 1.0,
        grey: float | None = None,
        blur: float | None = None,
        solarise: float | None = None,
        flip: float | None = None,
        sigma: tuple[float, float] = (0.1, 2.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        if family not in FAMILIES:
            raise ValueError(f"views.family must be one of {', '.join(FAMILIES)}, got {family!r}")
        found = FAMILIES[family]
        own = {"grey": grey, "blur": blur, "solarise": solarise, "flip": flip}
        self.size = spec.size if size is None else (size, size)
        self.local_size = (local_size, local_size) if local_size else _small(self.size)
        n_local = (found.n_local if local_views is None else local_views) if n_views else 0
        if n_views < 1 or n_local < 0:
            raise ValueError(
                f"views.n_views must be at least 1 and local_views at least 0, got {n_views}, {n_local}"
            )
        if n_local and found.local is None and local_scale is None:
            raise ValueError(f"views.family {family!r} has no local views; give views.local_scale")
        styles = [changed(found.views[i % len(found.views)], own, scale, strength) for i in range(n_views)]
        local = changed(found.local or found.views[0], own, local_scale, strength)
        self.styles = [*styles, *[local] * n_local]
        self.n_global, self.n_views = n_views, n_views + n_local
        self.ratio, self.interpolation = pair(ratio, "ratio"), found.interpolation
        self.sigma = pair(sigma, "sigma")

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """The global views, then the local ones."""
        made = []
        for i, style in enumerate(self.styles):
            is_local = i >= self.n_global
            size = self.local_size if is_local else self.size
            made.append(
                self.view(batch, style, size, draw.fork(f"view{i}"), "local" if is_local else "global")
            )
        return made

    def view(
        self, batch: Batch, style: Style, size: tuple[int, int], draw: Draw, role: str = "global"
    ) -> View:
        """One view of a batch."""
        shape = (batch.x.shape[2], batch.x.shape[3])
        true_shape = batch.meta.get("shape")
        params = draw_style(
            draw, style, shape, size, ratio=self.ratio, sigma=self.sigma, true_shape=true_shape
        )
        make = partial(self._apply, style=style, size=size)
        x = in_pieces(make, batch.x, params, (batch.x.shape[1], *size))
        return View(x, role, recorded(params))

    def _apply(self, x: Tensor, p: dict[str, Tensor], style: Style, size: tuple[int, int]) -> Tensor:
        out = resample(x, p["box"], p["flip"], size, self.interpolation)
        if any(style.jitter):
            colour_jitter(out, Jitter(p["factors"], p["hue"], p["order"]), p["jittered"])
        if style.grey:
            to_grey(out, p["grey"])
        if style.blur:
            radius = math.ceil(3 * self.sigma[1] * max(size) / 224)
            blur(out, p["sigma"], p["blurred"], radius)
        if style.solarise:
            solarise(out, p["solarise"])
        return out


@views("image_rotation")
class ImageRotation(Views):
    """Turned by 0, 90, 180 or 270 degrees, each image by its own; ``params["rotation"]`` says by which.

    RotNet (Gidaris et al., ICLR 2018) predicts it. With ``copies: 4`` every image comes once in each
    rotation, as in the paper, and each view still mixes all four: batch norm cannot tell them.

    Args:
        spec: of the data; its pixels must be square.
        copies: views, 1 to 4.
        scale: (low, high) share of the area in the random crop before the turn.
        flip: share of the images that are mirrored.
    """

    def __init__(
        self, spec: ImageSpec, copies: int = 4, scale: tuple[float, float] = (0.6, 1.0), flip: float = 0.5
    ) -> None:
        if not 1 <= copies <= 4:
            raise ValueError(f"views.copies must be 1 to 4, got {copies}")
        if spec.size[0] != spec.size[1]:
            raise ValueError(f"image_rotation needs square images, these are {spec.size[0]} x {spec.size[1]}")
        self.n_views = copies
        self.base = ImageAugment(spec, "crop_flip", n_views=1, scale=scale, flip=flip)

    def target_width(self, name: str, spec: Any) -> int:
        """4 for ``rotation``.

        Raises:
            KeyError: another name.
        """
        if name != "rotation":
            raise KeyError(f"these views record 'rotation', not {name!r}")
        return 4

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """Views whose rotations differ for each image."""
        start = draw.fork("rotation").randint(4)
        made = []
        for i in range(self.n_views):
            base = self.base(batch, draw.fork(f"copy{i}"))[0]
            turns = (start + i) % 4
            made.append(View(rotate(base.x, turns), "global", base.params | {"rotation": turns}))
        return made


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Images ``[B, C, S, S]`` turned counter-clockwise by ``turns [B]`` quarters."""
    turns = turns[:, None, None, None]
    x = torch.where(turns >= 2, x.flip(2, 3), x)
    return torch.where(turns % 2 == 1, x.transpose(2, 3).flip(2), x)


def _small(size: tuple[int, int]) -> tuple[int, int]:
    """Local views in the papers' proportion, 96 of 224."""
    return max(round(size[0] * 96 / 224), 4), max(round(size[1] * 96 / 224), 4)
