"""Views whose making is the task: turned volumes, and puzzles of their parts."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.medical3d.spec import VolumeSpec
from ssl_domains.medical3d.views import VolumeAugment


@views("volume_rotation")
class VolumeRotation(Views):
    """Turned by quarters about one axis; ``params["rotation"]`` says how: 10 classes in 3-D, 4 on slices.

    The 3-D rotation task of Taleb et al. (NeurIPS 2020, "3D self-supervised methods for medical imaging",
    section 3): not at all, or 90, 180, 270 degrees about D, H or W. On slices RotNet's (Gidaris et al., ICLR
    2018). Every sample has its own turn.

    Args:
        spec: of the data; its sides must be alike.
        scale: (low, high) side of the random crop before the turn.
        copies: views, each with another turn.

    Raises:
        ValueError: oblong samples, or copies out of range.
    """

    def __init__(self, spec: VolumeSpec, scale: tuple[float, float] = (0.75, 1.0), copies: int = 1) -> None:
        if len(set(spec.size)) > 1:
            raise ValueError(f"volume_rotation wants sides that are alike, samples are {list(spec.size)}")
        self.classes = 10 if spec.dims == 3 else 4
        if not 1 <= copies <= self.classes:
            raise ValueError(f"views.copies must be 1 to {self.classes}, got {copies}")
        self.base = VolumeAugment(spec, "none", n_views=1, scale=scale)
        self.n_views = copies

    def target_width(self, name: str, spec: Any) -> int:
        """Number of turns.

        Raises:
            KeyError: another name than ``rotation``.
        """
        if name != "rotation":
            raise KeyError(f"these views record 'rotation', not {name!r}")
        return self.classes

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        start = draw.fork("rotation").randint(self.classes)
        made = []
        for i in range(self.n_views):
            base = self.base(batch, draw.fork(f"copy{i}"))[0]
            turn = (start + i) % self.classes
            made.append(View(turned(base.x, turn), "global", base.params | {"rotation": turn}))
        return made


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """``x [B, C, S, S(, S)]`` turned by class ``turn [B]``: 0 not at all, then 1 to 3 quarters an axis."""
    dims = x.ndim - 2
    planes = [(2, 3)] if dims == 2 else [(3, 4), (2, 4), (2, 3)]
    out = x
    shape = (-1, *[1] * (x.ndim - 1))
    for i, plane in enumerate(planes):
        for quarters in range(1, 4):
            number = 3 * i + quarters
            chosen = (turn == number).view(shape)
            out = torch.where(chosen, torch.rot90(x, quarters, plane), out)
    return out


@views("volume_jigsaw")
class VolumeJigsaw(Views):
    """Puzzle: the parts of a volume change places; ``params["permutation"]`` says which of P orders it is.

    3-D jigsaw of Taleb et al. (NeurIPS 2020, section 3), after Noroozi and Favaro (ECCV 2016): the P orders
    are chosen so that any two differ in as many places as possible. Here the encoder sees the shuffled volume
    as a whole, where those papers encode part by part; a gap of ``gap`` voxels around each part is set to
    background, so that broken edges do not give the order away.

    Args:
        spec: of the data.
        parts: a side. Default 2 (8 parts in 3-D); Taleb et al. take 3 with 100 orders.
        orders: P. Default 100.
        gap: voxels.
        scale: (low, high) side of the random crop before.

    Raises:
        ValueError: sides that the parts do not divide.
    """

    def __init__(
        self,
        spec: VolumeSpec,
        parts: int = 2,
        orders: int = 100,
        gap: int = 1,
        scale: tuple[float, float] = (0.75, 1.0),
    ) -> None:
        if parts < 2 or any(s % parts for s in spec.size):
            raise ValueError(f"views.parts {parts} does not divide samples of {list(spec.size)}")
        if orders < 2 or gap < 0 or 2 * gap >= min(spec.size) // parts:
            raise ValueError("views.orders must be at least 2, and views.gap less than half a part")
        self.n_views, self.parts, self.gap = 1, parts, gap
        self.spec = spec
        self.base = VolumeAugment(spec, "none", n_views=1, scale=scale)
        self.orders = permutations(parts**spec.dims, orders)

    def target_width(self, name: str, spec: Any) -> int:
        """P.

        Raises:
            KeyError: another name than ``permutation``.
        """
        if name != "permutation":
            raise KeyError(f"these views record 'permutation', not {name!r}")
        return len(self.orders)

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        base = self.base(batch, draw.fork("base"))[0]
        number = draw.fork("permutation").randint(len(self.orders))
        order = self.orders.to(base.x.device)[number]  # [B, K]
        return [View(self.shuffled(base.x, order), "global", base.params | {"permutation": number})]

    def shuffled(self, x: Tensor, order: Tensor) -> Tensor:
        """``[B, C, ...]`` with part ``order[b, k]`` at place k."""
        from ssl_domains.medical3d.encoders.base import patches, unpatch

        side = [s // self.parts for s in x.shape[2:]]
        cut = patches(x, side)  # [B, K, V]
        if self.gap:
            keep = torch.zeros(side, dtype=torch.bool, device=x.device)
            keep[tuple(slice(self.gap, s - self.gap) for s in side)] = True
            level = torch.tensor(self.spec.background, device=x.device).repeat(keep.numel())
            inside = keep.flatten().repeat_interleave(x.shape[1])
            cut = torch.where(inside, cut, level.to(cut.dtype))
        moved = torch.gather(cut, 1, order[..., None].expand_as(cut))
        return unpatch(moved, [self.parts] * (x.ndim - 2), side)


def permutations(n: int, count: int, seed: int = 0, tries: int = 256) -> Tensor:
    """``[P, n]`` int64 orders of n parts, each the farthest (in Hamming distance) from those before it among
    ``tries`` drawn ones; all n! where there are fewer."""
    if n <= 5:
        every = torch.tensor(list(itertools.permutations(range(n))))
        if len(every) <= count:
            return every
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.arange(n)[None]
    while len(chosen) < count:
        drawn = torch.stack([torch.randperm(n, generator=generator) for _ in range(tries)])
        distance = (drawn[:, None] != chosen[None]).sum(dim=2).amin(dim=1)
        best = drawn[int(distance.argmax())][None]
        if int(distance.max()) == 0:
            break
        chosen = torch.cat([chosen, best])
    return chosen
