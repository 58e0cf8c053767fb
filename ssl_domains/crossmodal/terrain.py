"""Sounds embedded by triplets that pictures of the same places mine (Zuern, Burgard, Valada, arXiv
1912.03227)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Encoder, Source
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.crossmodal.caching import tower_features
from ssl_domains.crossmodal.data import PairSource
from ssl_domains.crossmodal.encoders import Towers

CHUNK = 1 << 22


def nearest_others(
    features: np.ndarray, groups: np.ndarray | None = None, places: np.ndarray | None = None, apart: int = 0
) -> np.ndarray:
    """``[n]`` the nearest other row of each by Euclidean distance, in chunks.

    Args:
        features: ``[n, D]``.
        groups: ``[n]`` numbers of runs, or None.
        places: ``[n]`` place in the run.
        apart: rows of one run that are so many places apart, or fewer, are not neighbours.
    """
    x = torch.from_numpy(np.ascontiguousarray(features)).float()
    square = x.square().sum(1)
    run, at = (None if v is None else torch.from_numpy(v) for v in (groups, places))
    out = np.empty(len(x), dtype=np.int64)
    step = max(CHUNK // max(len(x), 1), 1)
    for start in range(0, len(x), step):
        rows = torch.arange(start, min(start + step, len(x)))
        distance = square[rows][:, None] + square[None] - 2 * x[rows] @ x.T
        distance[torch.arange(len(rows)), rows] = torch.inf
        if run is not None and at is not None:
            close = (at[rows][:, None] - at[None]).abs() <= apart
            distance[close & (run[rows][:, None] == run[None])] = torch.inf
        out[start : start + step] = distance.argmin(1).numpy()
    return out


def _places(groups: np.ndarray | None) -> np.ndarray | None:
    """``[n]`` how many rows of a row's group stand before it."""
    if groups is None:
        return None
    order = np.argsort(groups, kind="stable")
    begin = np.searchsorted(groups[order], groups[order])
    places = np.empty(len(groups), dtype=np.int64)
    places[order] = np.arange(len(groups)) - begin
    return places


@method("visual_triplets")
class VisualTriplets(Method):
    """Triplets of one modality from neighbours in another: sounds of terrain, mined by what the ground looks
    like.

    Before training the second part's tower, which is frozen, embeds all train items once (cached on disk);
    k-means puts them into clusters. For an anchor clip the positive is the clip whose picture is nearest to
    the anchor's, the negative a random clip whose picture lies in another cluster. Beside the triplet loss a
    decoder reconstructs the anchors', positives' and negatives' spectrograms, so that what the noisy
    triplets would throw away is
    kept: ``L = L_triplet + reconstruction * L_rec``. The margin, the weight and the size of z are not
    confirmed for the paper; the defaults are ours.

    Args:
        encoder: the towers; only the first part's is trained, by its own vector (no projection).
        objective: a triplet loss on given negatives, such as ``triplet``.
        anchor: the part that is embedded.
        miner: the part whose frozen tower finds the triplets.
        clusters: K: the number of terrains, the only thing that is known beforehand.
        reconstruction: weight of the reconstruction; 0: there is no decoder.
        triplet: weight of the triplets; 0: an autoencoder alone.
        rule: ``neighbours`` (the paper's), or ``random`` (a control: any other clip is the positive).
        apart: pairs of one group (data.group) that lie so many rows from one another, or fewer, are never
            positives: windows that overlap would make the triplet trivial. 0: all may be.

    Raises:
        ValueError: parts that there are not, or a tower without a decoder where one is wanted.
    """

    encoder: Towers

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        anchor: str = "a",
        miner: str = "b",
        clusters: int = 5,
        reconstruction: float = 1.0,
        triplet: float = 1.0,
        rule: Literal["neighbours", "random"] = "neighbours",
        apart: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, Towers):
            raise ValueError("method 'visual_triplets' wants encoder: towers")
        for name in (anchor, miner):
            if name not in encoder.names:
                raise ValueError(f"there is no part {name!r} (there are: {', '.join(encoder.names)})")
        if (
            clusters < 2
            or apart < 0
            or rule not in ("neighbours", "random")
            or min(reconstruction, triplet) < 0
        ):
            raise ValueError("method: clusters is at least 2, apart and the weights are not negative")
        self.encoder, self.objective = encoder, objective
        self.anchor, self.miner, self.clusters = anchor, miner, clusters
        self.reconstruction, self.triplet, self.rule, self.apart = reconstruction, triplet, rule, apart
        encoder.requires_grad_(False)
        self.tower: Any = encoder.part(anchor).requires_grad_(True)
        self.decoder: Any = None
        if reconstruction:
            make = getattr(self.tower, "decoder", None)
            if make is None:
                raise ValueError(
                    f"the tower of part {anchor} has no decoder; use spectrogram_conv, or "
                    "method.reconstruction=0"
                )
            self.decoder = make()
        self.embedding_width = int(self.tower.pooled_width)
        self.train(self.training)

    def train(self, mode: bool = True) -> VisualTriplets:
        """All towers but the anchor's stay in eval mode."""
        super().train(mode)
        for name in self.encoder.names:
            if name != self.anchor:
                self.encoder.part(name).eval()
        return self

    def before_training(self, source: Source) -> None:
        """Features, clusters and neighbours of the train pairs.

        Raises:
            UserError: fewer different pictures than clusters.
        """
        from sklearn.cluster import KMeans

        assert isinstance(source, PairSource)
        self.source = source.part(self.anchor)
        train = source.splits["train"]
        matrix = tower_features(self.encoder.part(self.miner), source, self.miner)
        features = matrix.rows(source.links.rows[self.miner][train]).reshape(len(train), -1)
        if len(np.unique(features, axis=0)) < self.clusters:
            raise UserError(
                f"method.clusters is {self.clusters}, and the train pairs have fewer different "
                "pictures; lower it"
            )
        found = KMeans(self.clusters, n_init=10, random_state=0).fit_predict(features)
        groups = None if source.groups is None else source.groups[train].astype(np.int64)
        positive = nearest_others(features, groups, _places(groups), self.apart)
        n = len(source)
        self.positive = torch.full((n,), -1, dtype=torch.int64)
        self.positive[train] = torch.from_numpy(train[positive])
        self.cluster = torch.full((n,), -1, dtype=torch.int64)
        self.cluster[train] = torch.from_numpy(found.astype(np.int64))
        order = np.argsort(found, kind="stable")
        self.order = torch.from_numpy(train[order])
        self.counts = torch.from_numpy(np.bincount(found, minlength=self.clusters))
        source.replaced[self.miner] = matrix

    def triplets(self, index: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Rows of the positives and negatives of anchors ``[B]``, on the CPU."""
        cpu = Draw(draw.seed, draw.step, index.cpu(), draw.stream)
        own = self.cluster[index.cpu()]
        if self.rule == "random":
            return self.order[cpu.randint(len(self.order))], self.order[cpu.randint(len(self.order))]
        begin = self.counts.cumsum(0) - self.counts
        others = len(self.order) - self.counts[own]
        pick = (cpu.uniform() * others).long().clamp(max=len(self.order) - 1)
        pick = torch.where(
            pick >= begin[own], pick + self.counts[own], pick
        )  # skips the anchor's own cluster
        return self.positive[index.cpu()], self.order[pick]

    def forward(self, batch: Batch, draw: Draw) -> Output:
        device = batch.index.device
        positive, negative = self.triplets(batch.index, draw.fork("triplets"))
        others = [self.source.fetch(rows.numpy()).to(device).x for rows in (positive, negative)]
        x = [batch.x[self.anchor], *others]
        n = len(batch.index)
        joined = (
            {key: torch.cat([part[key] for part in x]) for key in x[0]}
            if isinstance(x[0], dict)
            else torch.cat(x)
        )
        if self.decoder is not None:
            image = self.tower.spectrogram(joined)
            z = self.tower.encode(image).pooled
        else:
            z = self.tower(joined).pooled
        terms = self.objective(z[:n], z[n : 2 * n], negatives=z[2 * n :])
        loss, parts, trivial = (
            self.triplet * terms.total,
            {**terms.parts, "triplet": terms.total.detach()},
            terms.trivial,
        )
        if self.decoder is not None:
            rebuilt = F.mse_loss(self.decoder(z), image.detach())
            loss = loss + self.reconstruction * rebuilt
            parts["reconstruction"] = rebuilt.detach()
            trivial = {}
        return Output(loss, parts, {"encoder": z[:n].detach()}, trivial)
