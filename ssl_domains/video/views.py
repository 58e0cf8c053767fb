"""Views of clips: the families of crops and colours that the papers use, one batch at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Views
from ssl_domains.core.parts.colour import Jitter
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
from ssl_domains.video.pixels import (
    blur_clips,
    colour_clips,
    grey_clips,
    pick,
    resample_clips,
    solarise_clips,
)
from ssl_domains.video.spec import VideoSpec

FAMILIES = {
    # Masked autoencoders of space and time (Feichtenhofer et al., NeurIPS 2022): crop and flip alone.
    "mae": Family((Style((0.5, 1.0)),), interpolation="bicubic"),
    # V-JEPA (Bardes et al. 2024): crop and flip alone, of less area.
    "vjepa": Family((Style((0.3, 1.0)),)),
    # The photographs' augmentations of the image papers, the same over all frames of a clip.
    "moco": Family((MOCO,)),
    "simclr": Family((SIMCLR,)),
    "byol": Family((BYOL, BYOL_2), interpolation="bicubic"),
    # Crop, flip and colour: CrossVideoMAE's augmented version (arXiv 2502.07811).
    "cross": Family((Style((0.5, 1.0), (0.4, 0.4, 0.4, 0.1)),)),
}
Name = Literal["mae", "vjepa", "moco", "simclr", "byol", "cross"]


@views("clip_augment")
class ClipAugment(Views):
    """Random clips in time, crops, mirroring, colours, blur; the same over all frames of a clip.

    All of it is batched arithmetic on the batch's device; every clip has parameters of its own. Recorded for
    each view, ``[B, ...]``: ``time`` (numbers of the frames within the batch's window), ``step`` (frames from
    one to the next), ``crop`` (top, left, height, width as shares of the frame), ``flip``, ``jitter``
    (brightness, contrast and saturation factors, hue shift in turns; neutral where none), ``grey``, ``blur``
    (sigma in pixels, 0: none), ``solarise``.

    Views come from other times of the same video when the batch holds more frames than a view
    (``data.window``): that is the rho of "A large-scale study on unsupervised spatiotemporal representation
    learning" (Feichtenhofer et al., CVPR 2021), whose n_views is rho.

    Args:
        spec: of the data.
        family: whose views, with its numbers.
        n_views: clips a sample, each of the encoder's number of frames.
        size: side of a view; None: the data's.
        step: (low, high) frames of the window from one frame of a view to the next, drawn for each clip:
            jitter of the stride.
        same_time: all views show the same frames.
        scale: (low, high) share of the area in a crop; None: the family's.
        strength: factor on the strengths of the colour changes.
        grey, blur, solarise, flip: shares of the clips, for all views alike; None: the family's.
        sigma: (low, high) of the blur, in pixels of a 224-pixel view (smaller views get less of it).
        ratio: (low, high) width over height of a crop.
    """

    def __init__(
        self,
        spec: VideoSpec,
        family: Name = "moco",
        n_views: int = 2,
        size: int | None = None,
        step: tuple[int, int] = (1, 1),
        same_time: bool = False,
        scale: tuple[float, float] | None = None,
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
        if n_views < 1:
            raise ValueError(f"views.n_views must be at least 1, got {n_views}")
        found = FAMILIES[family]
        own = {"grey": grey, "blur": blur, "solarise": solarise, "flip": flip}
        self.n_views, self.same_time = n_views, same_time
        self.styles = [
            changed(found.views[i % len(found.views)], own, scale, strength) for i in range(n_views)
        ]
        self.size = spec.size if size is None else (size, size)
        self.frames, self.window = spec.frames, spec.window
        self.step = checked_step(step, self.frames, self.window)
        self.ratio, self.interpolation = pair(ratio, "ratio"), found.interpolation
        self.sigma = pair(sigma, "sigma")

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """Views of role ``global``."""
        made = []
        for i, style in enumerate(self.styles):
            time = self.times(batch, draw.fork("time" if self.same_time else f"time{i}"))
            made.append(self.view(batch, style, time, draw.fork(f"view{i}")))
        return made

    def times(self, batch: Batch, draw: Draw) -> Tensor:
        """``[B, F]`` int64 numbers of frames within the batch's window: a random start and step."""
        window = batch.x.shape[2]
        low, high = checked_step(self.step, self.frames, window)
        step = low + draw.randint(high - low + 1)
        free = window - 1 - (self.frames - 1) * step
        start = (draw.uniform() * (free + 1)).long()
        return start[:, None] + step[:, None] * torch.arange(self.frames, device=start.device)

    def view(
        self, batch: Batch, style: Style, time: Tensor, draw: Draw, role: str = "global", picked: bool = False
    ) -> View:
        """One view of a batch: the frames ``time [B, F]``, in one crop.

        ``picked`` says that they are not what :meth:`times` gives.
        """
        x = batch.x
        shape = (x.shape[3], x.shape[4])
        params = draw_style(draw, style, shape, self.size, ratio=self.ratio, sigma=self.sigma)
        whole = time.shape[1] == x.shape[2] and self.step == (1, 1) and not picked
        make = partial(self._apply, style=style, whole=whole)
        made = in_pieces(make, x, params | {"time": time}, (x.shape[1], time.shape[1], *self.size))
        step = time[:, 1] - time[:, 0] if time.shape[1] > 1 else torch.ones_like(time[:, 0])
        return View(made, role, {"time": time, "step": step} | recorded(params))

    def _apply(self, x: Tensor, p: dict[str, Tensor], style: Style, whole: bool) -> Tensor:
        out = resample_clips(
            x if whole else pick(x, p["time"]), p["box"], p["flip"], self.size, self.interpolation
        )
        if any(style.jitter):
            colour_clips(out, Jitter(p["factors"], p["hue"], p["order"]), p["jittered"])
        if style.grey:
            grey_clips(out, p["grey"])
        if style.blur:
            blur_clips(out, p["sigma"], p["blurred"], math.ceil(3 * self.sigma[1] * max(self.size) / 224))
        if style.solarise:
            solarise_clips(out, p["solarise"])
        return out


@views("clip_and_frames")
class ClipAndFrames(Views):
    """A clip, its augmented version, frames out of it, and their augmented version: four views of a sample.

    The views of CrossVideoMAE (arXiv 2502.07811): roles ``clip``, ``clip``, ``frames``, ``frames``, with x
    ``[B, C, T, H, W]`` and ``[B, C, S, H, W]``. ``params["time"]`` says which frames of the batch's window
    they show: both clips the same ones, both frame views the same S of them. Every view has a crop and a
    flip of its own; the second of each kind has other colours as well.

    Args:
        spec: of the data.
        n_frames: S, frames a clip, at different times.
        step: see :class:`ClipAugment`.
        scale: (low, high) share of the area in a crop; default 0.5 to 1 (masked autoencoders of space and
            time).
        strength: factor on the colour changes of the augmented views.
        flip: share of mirrored clips and frames.
    """

    n_views = 4

    def __init__(
        self,
        spec: VideoSpec,
        n_frames: int = 1,
        step: tuple[int, int] = (1, 1),
        scale: tuple[float, float] = (0.5, 1.0),
        strength: float = 1.0,
        flip: float = 0.5,
    ) -> None:
        if not 1 <= n_frames <= spec.frames:
            raise ValueError(f"views.n_frames must be 1 to the clip's {spec.frames} frames, got {n_frames}")
        self.n_frames = n_frames
        self.base = ClipAugment(spec, "cross", 1, step=step, scale=scale, strength=strength, flip=flip)
        augmented = self.base.styles[0]
        self.plain, self.augmented = replace(augmented, jitter=(0.0, 0.0, 0.0, 0.0)), augmented

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        time = self.base.times(batch, draw.fork("time"))
        order = draw.fork("frames").permutation(time.shape[1])[:, : self.n_frames]
        still = time.gather(1, order.sort(dim=1).values)
        make, styles = self.base.view, (self.plain, self.augmented)
        clips = [make(batch, s, time, draw.fork(f"clip{i}"), "clip") for i, s in enumerate(styles)]
        stills = [
            make(batch, s, still, draw.fork(f"frames{i}"), "frames", picked=True)
            for i, s in enumerate(styles)
        ]
        return [*clips, *stills]


def checked_step(step: Sequence[int], frames: int, window: int) -> tuple[int, int]:
    """(low, high) of a step that fits the window.

    Raises:
        ValueError: it does not; says what window would do.
    """
    low, high = int(step[0]), int(step[1])
    if len(step) != 2 or not 1 <= low <= high:
        raise ValueError(f"views.step must be [low, high] with 1 <= low <= high, got {list(step)}")
    need = (frames - 1) * high + 1
    if need > window:
        raise ValueError(
            f"views of {frames} frames at steps up to {high} want {need} frames, the data hold {window}; set "
            f"data.window={need}, or lower views.step or data.frames"
        )
    return low, high
