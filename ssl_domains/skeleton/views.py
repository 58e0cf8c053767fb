"""Views of skeletons and sensor windows, as batched tensor operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.skeleton.spec import BodySpec, axes_in
from ssl_domains.skeleton.temporal import lengths_of, resample, whole

Clip = dict[str, Any]
Operation = Callable[[Clip, Draw], Clip]


def turn(points: Tensor, matrix: Tensor, vectors: tuple[tuple[int, ...], ...]) -> Tensor:
    """Every vector of ``points [B, C, T, V, M]`` times its sample's matrix ``[B, V or 1, k, k]``.

    Vectors of 2 axes take the upper left 2 x 2 of a 3 x 3 matrix.
    """
    out = points.clone()
    for axes in vectors:
        small = matrix[..., : len(axes), : len(axes)].to(points.dtype)
        places = list(axes)
        out[:, places] = torch.einsum(
            "bvij,bjtvm->bitvm", small.expand(-1, points.shape[3], -1, -1), points[:, places]
        )
    return out


def rotation_matrices(angles: Tensor) -> Tensor:
    """``[..., 3, 3]`` rotations about x, then y, then z by ``angles [..., 3]`` radians."""
    c, s = angles.cos(), angles.sin()
    zero, one = torch.zeros_like(c[..., 0]), torch.ones_like(c[..., 0])

    def matrix(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)

    about_x = matrix((one, zero, zero), (zero, c[..., 0], -s[..., 0]), (zero, s[..., 0], c[..., 0]))
    about_y = matrix((c[..., 1], zero, s[..., 1]), (zero, one, zero), (-s[..., 1], zero, c[..., 1]))
    about_z = matrix((c[..., 2], -s[..., 2], zero), (s[..., 2], c[..., 2], zero), (zero, zero, one))
    return about_z @ about_y @ about_x


def pick(choose: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Rows of ``yes`` where ``choose [B]``, else of ``no``."""
    return torch.where(choose.view(-1, *[1] * (yes.dim() - 1)), yes, no)


@views("body_augment")
class BodyAugment(Views):
    """Temporal crop-resize, then rotation, shear, scale, jitter, corruption and mirroring.

    The defaults are those of HaLP and CMD (Mao et al., ECCV 2022): a crop, then for each sample
    either shear or the corruption of 15 of 25 joints.

    A 3-d skeleton turns as a whole, 2-d ones in their plane; each body-worn device turns by itself, all
    its vectors (accelerometer, gyroscope) alike, as if it were worn differently.

    Records ``corrupted [B, V]`` (which points were), which a pretext task can predict.

    Args:
        spec: the data.
        crop: (low, high) share of a clip's real frames that is cut out and resized to the encoder's
            length; None: the whole clip.
        min_frames: a crop is never shorter, unless the clip is. Default 64.
        rotate: largest angle about each axis, in degrees; 2-d data turn about the axis of sight.
        shear: off-diagonal entries of the shear are uniform within this of 0. Default 1.
        scale: (low, high) factor of all values, uniform; None: off.
        jitter: standard deviation of noise on every value, in units of the scaled data.
        corrupt: share of the points that are corrupted: for half of the samples set to 0, for the others
            multiplied by one random matrix with entries uniform in [-1, 1]. Default 0.6.
        flip: probability of the mirror image, left and right exchanged. Skeletons only.
        combine: ``one``: each sample gets one of the operations from rotate to flip that are on, all
            equally likely; ``all``: it gets all of them, in that order.
        n_views: number of views.

    Raises:
        ValueError: a value out of range, or a mirror image of sensors or of a layout without pairs.
    """

    def __init__(
        self,
        spec: BodySpec | None = None,
        crop: tuple[float, float] | None = (0.1, 1.0),
        min_frames: int = 64,
        rotate: float = 0.0,
        shear: float = 1.0,
        scale: tuple[float, float] | None = None,
        jitter: float = 0.0,
        corrupt: float = 0.6,
        flip: float = 0.0,
        combine: Literal["one", "all"] = "one",
        n_views: int = 2,
    ) -> None:
        if crop is not None and not 0.0 < crop[0] <= crop[1] <= 1.0:
            raise ValueError(f"views.crop must be [low, high] with 0 < low <= high <= 1, got {list(crop)}")
        if scale is not None and not 0.0 < scale[0] <= scale[1]:
            raise ValueError(f"views.scale must be [low, high] with 0 < low <= high, got {list(scale)}")
        if not 0.0 <= corrupt <= 1.0 or not 0.0 <= flip <= 1.0:
            raise ValueError(f"views.corrupt and views.flip must lie in [0, 1], got {corrupt} and {flip}")
        if min(rotate, shear, jitter) < 0 or min_frames < 1 or n_views < 1:
            raise ValueError(
                "views.rotate, shear and jitter cannot be negative, min_frames and n_views at least 1"
            )
        if combine not in ("one", "all"):
            raise ValueError(f"views.combine must be one or all, got {combine!r}")
        self.spec, self.crop, self.min_frames, self.n_views = spec, crop, min_frames, n_views
        self.rotate, self.shear, self.scale, self.jitter = math.radians(rotate), shear, scale, jitter
        self.corrupt, self.flip, self.combine = corrupt, flip, combine
        self.mirror = self._mirror() if flip else []
        on = {
            "rotate": rotate,
            "shear": shear,
            "scale": scale,
            "jitter": jitter,
            "corrupt": corrupt,
            "flip": flip,
        }
        self.operations = [name for name, value in on.items() if value]

    def _mirror(self) -> list[int]:
        spec = self.spec
        if spec is None or spec.kind == "sensors" or not spec.layout.pairs:
            what = (
                "body-worn sensors"
                if spec is not None and spec.kind == "sensors"
                else "a layout without pairs"
            )
            raise ValueError(f"views.flip: there is no mirror image of {what}; set it to 0")
        return spec.layout.mirror()

    def target_width(self, name: str, spec: BodySpec) -> int:
        """V of ``corrupted``."""
        if name != "corrupted":
            raise KeyError(f"body_augment records corrupted, not {name!r}")
        return spec.points

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """``n_views`` independent views of clips ``{"points", "confidence"}`` of one length."""
        return [self._view(batch.x, draw) for _ in range(self.n_views)]

    def _view(self, x: Clip, draw: Draw) -> View:
        clip = self._cropped(x, draw)
        points = clip["points"]
        corrupted = torch.zeros(len(points), points.shape[3], dtype=torch.bool, device=points.device)
        chosen = draw.randint(max(len(self.operations), 1)) if self.combine == "one" else None
        for number, name in enumerate(self.operations):
            takes = torch.ones_like(corrupted[:, 0]) if chosen is None else chosen == number
            if name == "corrupt":
                which = self._which(clip, draw) & takes[:, None]
                clip, corrupted = self._corrupted(clip, which, draw), which
                continue
            changed = getattr(self, f"_{name}")(clip, draw)
            clip = {key: pick(takes, changed[key], value) for key, value in clip.items()}
        role = "corrupted" if "corrupt" in self.operations else "global"
        return View(clip, role, {"corrupted": corrupted})

    def _cropped(self, x: Clip, draw: Draw) -> Clip:
        frames = self.spec.frames if self.spec is not None else x["points"].shape[2]
        if self.crop is None:
            return dict(whole(x, frames))
        length = lengths_of(x)
        share = draw.uniform(low=self.crop[0], high=self.crop[1])
        span = (length * share).long().clamp_min(self.min_frames)
        span = torch.minimum(span, length)
        start = (draw.uniform() * (length - span + 1)).long()
        return resample(x, start, span, frames)

    def _vectors(self, clip: Clip) -> tuple[tuple[int, ...], ...]:
        return self.spec.vectors if self.spec is not None else axes_in(clip["points"].shape[1])

    def _turns(self, clip: Clip) -> int:
        """How many points turn by themselves: all devices, or the body as one."""
        return clip["points"].shape[3] if self.spec is not None and self.spec.kind == "sensors" else 1

    def _rotate(self, clip: Clip, draw: Draw) -> Clip:
        vectors = self._vectors(clip)
        angles = draw.uniform(self._turns(clip), 3, low=-self.rotate, high=self.rotate)
        if vectors and len(vectors[0]) == 2:
            angles = angles * torch.tensor([0.0, 0.0, 1.0], device=angles.device)
        return clip | {"points": turn(clip["points"], rotation_matrices(angles), vectors)}

    def _shear(self, clip: Clip, draw: Draw) -> Clip:
        off = draw.uniform(self._turns(clip), 3, 3, low=-self.shear, high=self.shear)
        eye = torch.eye(3, device=off.device)
        return clip | {"points": turn(clip["points"], off * (1 - eye) + eye, self._vectors(clip))}

    def _scale(self, clip: Clip, draw: Draw) -> Clip:
        assert self.scale is not None
        factor = draw.uniform(low=self.scale[0], high=self.scale[1])
        return clip | {"points": clip["points"] * factor.view(-1, 1, 1, 1, 1)}

    def _jitter(self, clip: Clip, draw: Draw) -> Clip:
        points = clip["points"]
        noise = self.jitter * draw.normal(*points.shape[1:]).to(points.dtype)
        return clip | {"points": points + noise * (clip["confidence"] > 0)[:, None]}

    def _flip(self, clip: Clip, draw: Draw) -> Clip:
        chosen = draw.bernoulli(self.flip)
        points = clip["points"][:, :, :, self.mirror].clone()
        points[:, 0] = -points[:, 0]
        mirrored = {"points": points, "confidence": clip["confidence"][:, :, self.mirror]}
        return {key: pick(chosen, mirrored[key], value) for key, value in clip.items()}

    def _which(self, clip: Clip, draw: Draw) -> Tensor:
        """``[B, V]``: ``round(corrupt * V)`` random points a sample, at least 1 of them, and never all."""
        v = clip["points"].shape[3]
        n = min(max(round(self.corrupt * v), 1), max(v - 1, 1))
        order = draw.permutation(v)[:, :n]
        return torch.zeros(len(order), v, dtype=torch.bool, device=order.device).scatter_(1, order, True)

    def _corrupted(self, clip: Clip, which: Tensor, draw: Draw) -> Clip:
        points, confidence = clip["points"], clip["confidence"]
        gone = draw.bernoulli(0.5)
        matrix = draw.uniform(1, 3, 3, low=-1.0, high=1.0)
        mixed = turn(points, matrix, self._vectors(clip))
        at = which[:, None, None, :, None]
        points = torch.where(at, pick(gone, torch.zeros_like(points), mixed), points)
        lost = which[:, None, :, None] & gone.view(-1, 1, 1, 1)
        return {"points": points, "confidence": confidence.masked_fill(lost, 0.0)}
