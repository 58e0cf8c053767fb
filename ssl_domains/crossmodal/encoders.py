"""A tower for each modality, and the projections into the space that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssl_domains.core import registry
from ssl_domains.core.batch import Encoded, Mask
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.registry import encoder
from ssl_domains.crossmodal.spec import PairSpec


@encoder("towers")
class Towers(Encoder):
    """Any encoder for each modality, and a linear map of its pooled vector into a shared space (CLIP,
    Radford et al. 2021, section 2.3: linear, without bias).

    ``pooled`` holds the unit vectors of the modalities that a batch brings, side by side.

    Args:
        spec: of the pairs; names domain, encoder and options of each tower.
        width: of the shared space; default 512 (CLIP with ViT-B/32). 0: no projection, towers must then give
            vectors of one width, which are compared as they are.
        hidden: widths of hidden layers of the projections; default none (linear).
    """

    drops_hidden: ClassVar[bool] = False

    def __init__(self, spec: PairSpec, width: int = 512, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.spec = spec
        self.towers = nn.ModuleDict()
        self.projections = nn.ModuleDict()
        for name, part in spec.parts.items():
            registry.load_domain(part.domain)
            try:
                tower = registry.get("encoder", part.encoder)(part.spec, **part.options)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{name}.{error}") from error
            self.towers[name] = tower
            if not width:
                self.projections[name] = nn.Identity()
            elif hidden:
                self.projections[name] = mlp(
                    tower.pooled_width, [*hidden, width], norm="none", last_bias=False
                )
            else:
                self.projections[name] = nn.Linear(tower.pooled_width, width, bias=False)
        widths = {name: int(self.part(name).pooled_width) for name in self.towers}
        if not width and len(set(widths.values())) > 1:
            raise ValueError(f"encoder.width: 0 wants towers of one width, they have {widths}; set a width")
        self.width = width or next(iter(widths.values()))
        self.projected = bool(width)

    @property
    def pooled_width(self) -> int:
        """The shared width times the number of modalities."""
        return self.width * len(self.towers)

    def as_saved(self, options: Mapping[str, Any], spec: Any) -> tuple[dict[str, Any], Any]:
        """Each tower's own, too."""
        kept, spec = super().as_saved(options, spec)
        parts = {}
        for name, part in spec.parts.items():
            own, data = self.part(name).as_saved(part.options, part.spec)
            parts[name] = replace(part, options=own, spec=data)
        return kept, replace(spec, parts=parts)

    @property
    def names(self) -> list[str]:
        """The modalities."""
        return list(self.spec.parts)

    def part(self, name: str) -> Encoder:
        """A tower."""
        tower: Any = self.towers[name]
        return tower

    def project(self, name: str, pooled: Tensor) -> Tensor:
        """``[B, W]`` a tower's pooled vectors in the shared space, not normalised."""
        out: Tensor = self.projections[name](pooled)
        return out

    def forward(self, x: Mapping[str, Any], mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """``pooled [B, n * W]`` of the n modalities of ``x``, each of unit length where it is projected;
        ``extra["towers"]``: what each tower gave."""
        encoded = {name: self.towers[name](value) for name, value in x.items()}
        joint = [self.project(name, e.pooled) for name, e in encoded.items()]
        if self.projected:
            joint = [nn.functional.normalize(z.float(), dim=-1) for z in joint]
        first = next(iter(encoded.values()))
        return Encoded(first.tokens, torch.cat(joint, dim=-1), None, {"towers": encoded})


class Tower(Encoder):
    """One tower with its projection, over batches of its own domain: for retrieval and caches.

    Args:
        towers: all of them.
        name: which.
        projected: into the shared space; else the tower's own pooled vector.
    """

    def __init__(self, towers: Towers, name: str, projected: bool = True) -> None:
        super().__init__()
        self.inner, self.name, self.projected = towers, name, projected
        self.width = towers.width if projected else towers.part(name).pooled_width

    def forward(self, x: Any, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """The tower's tokens, and ``pooled`` as asked."""
        encoded: Encoded = self.inner.part(self.name)(x)
        if not self.projected:
            return encoded
        return Encoded(encoded.tokens, self.inner.project(self.name, encoded.pooled))
