"""Contrast of whole slices for the encoder, then of regions for the decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.collectives import all_gather_rows, gather_no_grad, world_size
from ssl_domains.core.errors import DataError, UserError
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.base import Terms
from ssl_domains.core.objectives.contrastive import InfoNCE
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.medical3d.encoders.base import StagedEncoder
from ssl_domains.medical3d.regions import Regions, neighbours
from ssl_domains.medical3d.spec import VolumeSpec
from ssl_domains.medical3d.views import VolumeAugment

Variant = Literal["random", "partition", "cross"]


@method("global_local")
class GlobalLocal(Method):
    """Chaitanya et al., NeurIPS 2020 (arXiv 2006.10511): global contrast trains the encoder; then it is
    frozen and local contrast trains the first blocks of the decoder. Fine-tuning is the third stage.

    Global (section 3.1): volumes are roughly aligned, so samples at the same relative depth of different
    patients must not be negatives (``partition``, G^D-) or are positives (``cross``, G^D: recommended);
    ``random`` (G^R) is SimCLR. Only the pair in the numerator stands in the denominator beside the negatives
    (``exclude_positives``). The value is the sum over the pairs of an item, averaged over the items.

    Local (section 3.2, L^R): regions at the same place of two views that differ in intensity only are
    positives; the five nearest regions in both views are negatives.

    Args:
        encoder: a network with a decoder.
        objective: ``info_nce`` with ``intra: true, exclude_positives: true``; its temperature (0.1) serves
            both stages.
        views: of the global stage (``volume_augment``, family ``global_local``).
        spec: of the data.
        variant: see above.
        parts: S, parts of a volume along its depth; that of the sampler ``partitions``. Default 4.
        global_share: share of the run that trains the encoder; 1 and 0 leave out a stage (run the second
            with ``init_from``). Default 0.5 (the paper gives each 10,001 iterations).
        blocks: L, decoder blocks of the local stage. Default 3.
        hidden: width of the hidden layer of g1. Default 1024, and ``width`` 128: the paper's.
        width: of the vectors that are compared, in both stages.
        region: places of a region a side. Default 3.
        negatives: regions that a region is told from, in each view. Default 5.
        local: ``same`` (L^R, recommended): regions of two views of one sample; ``cross`` (L^D): also of the
            same part of the next volume of the batch (of this process), in the pairs of G^D. The paper gives
            it 4 negatives: ``negatives: 2``.

    Raises:
        ValueError: an encoder without a decoder, settings out of range, another objective.
    """

    encoder: Encoder

    def __init__(
        self,
        encoder: Encoder,
        objective: InfoNCE,
        views: Views,
        spec: VolumeSpec,
        variant: Variant = "cross",
        parts: int = 4,
        global_share: float = 0.5,
        blocks: int = 3,
        hidden: int = 1024,
        width: int = 128,
        region: int = 3,
        negatives: int = 5,
        local: Literal["same", "cross"] = "same",
    ) -> None:
        super().__init__()
        if not isinstance(encoder, StagedEncoder):
            raise ValueError("method 'global_local' wants monai_unet, monai_swin_unetr or monai_resnet")
        if not isinstance(objective, InfoNCE) or objective.form != "own" or not objective.intra:
            raise ValueError(
                "method 'global_local' wants objective {name: info_nce, intra: true, exclude_positives: true}"
            )
        if variant not in ("random", "partition", "cross"):
            raise ValueError(f"method.variant must be random, partition or cross, got {variant!r}")
        if local not in ("same", "cross"):
            raise ValueError(f"method.local must be same or cross, got {local!r}")
        if not 0 <= global_share <= 1 or parts < 2:
            raise ValueError("method.global_share must lie in [0, 1] and method.parts be at least 2")
        if global_share < 1:
            encoder.need_decoder()
            if not 1 <= blocks <= len(encoder.decoder_widths):
                raise ValueError(
                    f"method.blocks must be 1 to {len(encoder.decoder_widths)}, the decoder's, got {blocks}"
                )
        self.encoder, self.objective, self.views = encoder, objective, views
        # Masks of pairs speak of the joined batch, so this method gathers before the objective does.
        self.joined, objective.gather = objective.gather, False
        self.variant, self.parts, self.global_share, self.blocks = variant, parts, global_share, blocks
        places = 1
        for side in spec.size:
            places *= side // encoder.strides[-1]
        # g1 flattens the map: pooling it would be another method.
        self.global_head = nn.Sequential(
            nn.Linear(places * encoder.width, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, width, bias=False),
        )
        self.embedding_width, self.local = width, local
        self.local_head: Regions | None = None
        if global_share < 1:
            self.local_head = Regions(encoder.decoder_widths[blocks - 1], spec.dims, region, width)
            self.near = neighbours(self.local_head.centres, negatives)
            self.local_views = VolumeAugment(spec, "intensity", n_views=2)
            self.local_objective = InfoNCE(
                objective.temperature, in_batch=False, exclude_positives=True, gather=self.joined
            )
        self.fraction = 0.0

    # How far the run is decides which stage it is in; a resumed run has to know.
    def get_extra_state(self) -> dict[str, Any]:
        """The share of the run that is done."""
        return {"fraction": self.fraction}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Takes :meth:`get_extra_state` back."""
        self.fraction = float(state["fraction"])

    @property
    def local_stage(self) -> bool:
        """Whether the decoder is trained now."""
        return self.fraction >= self.global_share

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        self.fraction = progress.fraction if progress.step < progress.total_steps else self.fraction

    def forward(self, batch: Batch, draw: Draw) -> Output:
        return self._local(batch, draw) if self.local_stage else self._global(batch, draw)

    # --- global ------------------------------------------------------------------------------

    def _global(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        seen = views[:1] if self.variant == "cross" else views[:2]
        if self.variant != "cross" and len(seen) < 2:
            raise UserError(f"method.variant {self.variant} wants two views; set views.n_views=2")
        xs = [view.x for view in seen] if self.variant == "random" else [batch.x, *(v.x for v in seen)]
        coarse = [self.staged.stages(self.staged.prepare(x))[-1] for x in xs]
        z = [self.global_head(c.flatten(1)) for c in coarse]
        part, volume = self._part(batch), batch.meta.get("volume")
        if self.joined and world_size() > 1:
            z = [all_gather_rows(v) for v in z]
            volume = None if volume is None else gather_no_grad(volume)
            part = gather_no_grad(part)
        terms = self.global_loss(z, part, volume)
        found = stages(self.staged.encoded(coarse[0]), projector=z[0])
        return Output(terms.total, terms.parts, found, terms.trivial)

    @property
    def staged(self) -> StagedEncoder:
        """The encoder, by its type."""
        return self.encoder  # type: ignore[return-value]

    def _part(self, batch: Batch) -> Tensor:
        """``[B]`` part along the depth of each sample."""
        if self.variant == "random":
            return batch.index  # each sample is a part of its own
        if "position" not in batch.meta:
            raise DataError("method 'global_local' goes by the depth in a volume; use it on medical volumes")
        axis = {"": 0, "axial": 0, "coronal": 1, "sagittal": 2}[self.staged.spec.axis]
        depth = batch.meta["position"][:, axis]
        return (depth * self.parts).long().clamp(0, self.parts - 1)

    def global_loss(self, z: Sequence[Tensor], part: Tensor, volume: Tensor | None = None) -> Terms:
        """G^R, G^D- or G^D of embeddings.

        Args:
            z: by set (the samples and their views), each ``[B, D]``.
            part: ``[B]``; items of another part are negatives (G^R: of another sample).
            volume: ``[B]``, for G^D.
        """
        if self.variant == "cross":
            assert volume is not None
            items, part, positive = self._crossed(z, part, volume)
        else:
            n = len(part)
            items = torch.cat(list(z))
            same = torch.arange(n, device=part.device).repeat(len(z))
            positive = same[:, None] == same[None]
            part = part.repeat(len(z))
        negative = part[:, None] != part[None]
        eye = torch.eye(len(items), dtype=torch.bool, device=items.device)
        positive = positive & ~eye
        terms = self.objective(items, positive_mask=positive, negative_mask=negative)
        each = positive.sum() / len(items)  # positives of an item: the paper sums over them
        parts = {**terms.parts, "global": (terms.total * each).detach()}
        # When all embeddings are alike: every part holds as many items, and an item has so many positives.
        others = len(items) - (len(z) if self.variant == "random" else len(items) / self.parts)
        pairs = 2 if self.variant == "cross" else len(z) - 1
        return Terms(terms.total * each, parts, {"uniform": pairs * math.log1p(others)})

    def _crossed(self, z: Sequence[Tensor], part: Tensor, volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quadruples (x_i, view_i, x_j, view_j) of the same part of volumes i and the next one, j, with the
        pairs (0, 1), (0, 2), (2, 3), (1, 3) as positives. Returns items ``[4 Q, D]``, their parts, pairs.

        Raises:
            UserError: no part is there in two volumes.
        """
        own, other = partners(part, volume)
        if not len(own):
            raise UserError("no two volumes of the batch share a part; use the sampler 'partitions'")
        items = torch.cat([z[0][own], z[1][own], z[0][other], z[1][other]])
        q = len(own)
        quad = torch.arange(q, device=part.device)
        positive = torch.zeros(4 * q, 4 * q, dtype=torch.bool, device=part.device)
        for a, b in ((0, 1), (0, 2), (2, 3), (1, 3)):
            positive[quad + a * q, quad + b * q] = True
            positive[quad + b * q, quad + a * q] = True
        return items, part[own].repeat(4), positive

    # --- local -------------------------------------------------------------------------------

    def _local(self, batch: Batch, draw: Draw) -> Output:
        assert self.local_head is not None, "global_share is 1: there is no local stage"
        maps, coarsest = [], None
        for view in self.local_views(batch, draw.fork("local")):
            voxels = self.staged.prepare(view.x)
            with torch.no_grad():  # the encoder is frozen
                found = self.staged.stages(voxels)
            coarsest = found[-1]
            maps.append(self.local_head(self.staged.decode(voxels, found, self.blocks)[-1]))
        assert coarsest is not None
        rows = None
        if self.local == "cross":
            rows = partners(self._part(batch), batch.meta["volume"])
            if not len(rows[0]):
                raise UserError("no two volumes of the batch share a part; use the sampler 'partitions'")
        terms = self.local_loss(maps[0], maps[1], rows)
        found_stages = stages(self.staged.encoded(coarsest), regions=maps[0].flatten(0, 1))
        return Output(terms.total, terms.parts, found_stages, terms.trivial)

    def local_loss(self, first: Tensor, second: Tensor, rows: tuple[Tensor, Tensor] | None = None) -> Terms:
        """L^R of regions ``[B, K, D]`` of two views, in both directions; L^D where ``rows`` names samples and
        their partners (:func:`partners`)."""
        near = self.near.to(first.device)
        pairs = [(first, second)]
        if rows is not None:
            i, j = rows
            pairs = [
                (first[i], second[i]),
                (first[i], first[j]),
                (first[j], second[j]),
                (second[i], second[j]),
            ]
        totals, last = [], None
        for own, other in [both for a, b in pairs for both in ((a, b), (b, a))]:
            b, k, d = own.shape
            others = torch.cat([own[:, near], other[:, near]], dim=2)  # [B, K, 2 * negatives, D]
            last = self.local_objective(
                own.reshape(b * k, d), other.reshape(b * k, d), query_negatives=others.reshape(b * k, -1, d)
            )
            totals.append(last.total)
        assert last is not None
        total = torch.stack(totals).mean()
        return Terms(total, {**last.parts, "local": total.detach()}, last.trivial)


def partners(part: Tensor, volume: Tensor) -> tuple[Tensor, Tensor]:
    """``(own [Q], other [Q])``: each sample and one of the same part in the next volume of the batch.

    Volumes follow one another in a circle; with two there is one pair, not two. Samples whose part the next
    volume lacks have no partner.
    """
    order = torch.unique(volume)
    m = len(order)
    if m < 2:
        empty = torch.zeros(0, dtype=torch.int64, device=part.device)
        return empty, empty
    rank = torch.searchsorted(order, volume)
    following = (rank + 1) % m
    match = (rank[None, :] == following[:, None]) & (part[None, :] == part[:, None])
    has = match.any(dim=1)
    if m == 2:
        has &= rank == 0
    own = torch.nonzero(has)[:, 0]
    return own, match.int().argmax(dim=1)[own]
