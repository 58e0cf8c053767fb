"""Pairs of crops that show one part of the body of two patients."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Source, Views, pretrain_rows
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.medical3d.correspondence import EmbeddingOracle, ExactOracle, Oracle
from ssl_domains.medical3d.data import VolumeSource
from ssl_domains.medical3d.spec import VolumeSpec
from ssl_domains.medical3d.views import Name, VolumeAugment

Kind = Literal["exact", "embedding", "random", "same"]


@views("anatomical_pairs")
class AnatomicalPairs(Views):
    """Query and anchor of Alice (Jiang et al., ICCV 2023, section 3.1): a crop around a drawn point of the
    body, and a crop around the corresponding point of another patient.

    The other volume is drawn from the training volumes of other patients (the authors' code takes that of
    the previous batch, which is as random and would tie a sample's views to the order of batches). Of
    ``tries`` drawn points in the body the first whose match scores above ``score`` is taken, else the best.
    Crops are zero-padded (with background) at the borders.

    These views read volumes in the training process; they go by the batch's ``volume``, not by its voxels.

    Recorded, ``[B, ...]``: ``volume``, ``point`` (voxels), ``score``.

    Args:
        spec: of the data; a crop has the size of a sample.
        oracle: ``exact`` (phantoms), ``embedding`` (scans); ``random``: any point of the other patient's
            body; ``same``: the same point of the same volume (both for comparison).
        embedding: run or folder of the encoder that ``embedding`` uses.
        score: least score of a match. Default 0.7 (the paper's).
        tries: points drawn a sample. Default 16 (the code tries up to about 100, one after the other).
        augment: family of ``volume_augment`` for both crops. Default none (the authors' code computes
            rotations and noise, and uses neither).

    Raises:
        ValueError: slices instead of patches, or settings out of range.
    """

    n_views = 2

    def __init__(
        self,
        spec: VolumeSpec,
        oracle: Kind = "exact",
        embedding: str | None = None,
        score: float = 0.7,
        tries: int = 16,
        augment: Name = "none",
    ) -> None:
        if spec.dims != 3:
            raise ValueError(
                "views 'anatomical_pairs' crops volumes, the data are slices; leave out data.axis"
            )
        if oracle not in ("exact", "embedding", "random", "same"):
            raise ValueError(f"views.oracle must be exact, embedding, random or same, got {oracle!r}")
        if (oracle == "embedding") != (embedding is not None):
            raise ValueError("views.oracle: embedding and views.embedding=RUN go together")
        if tries < 1:
            raise ValueError(f"views.tries must be at least 1, got {tries}")
        self.spec, self.kind, self.folder, self.score, self.tries = spec, oracle, embedding, score, tries
        self.augment = None if augment == "none" else VolumeAugment(spec, augment, n_views=1)
        self.source: VolumeSource | None = None
        self.oracle: Oracle | None = None
        self.trained = np.zeros(0, dtype=np.int64)

    def prepare(self, source: Source) -> None:
        """Keeps the volumes at hand, and the oracle.

        Raises:
            DataError: another domain's data, or a single patient.
        """
        if not isinstance(source, VolumeSource):
            raise DataError("views 'anatomical_pairs' needs medical volumes")
        self.source = source
        self.trained = np.unique(source.samples.volume[pretrain_rows(source)])
        if self.kind != "same" and len(np.unique(source.cohort.patient[self.trained])) < 2:
            raise DataError("views 'anatomical_pairs' needs training volumes of at least two patients")
        if self.kind == "exact":
            self.oracle = ExactOracle(source)
        elif self.kind == "embedding":
            assert self.folder is not None
            self.oracle = EmbeddingOracle(source, self.folder)

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """Query and anchor."""
        assert self.source is not None, "prepare was not called"
        first = batch.meta["volume"].cpu().numpy()
        u = draw.fork("points").uniform(self.tries, 3).cpu().numpy().astype(np.float64)
        v = draw.fork("other").uniform(self.tries, 3).cpu().numpy().astype(np.float64)
        w = draw.fork("partner").uniform().cpu().numpy()
        second = first if self.kind == "same" else np.array([self._partner(f, s) for f, s in zip(first, w)])
        points = [self._pair(*args) for args in zip(first, second, u, v)]
        made = []
        for number, volume in ((0, first), (1, second)):
            point = np.stack([p[number] for p in points])
            corner = np.round(point - (np.array(self.spec.size) - 1) / 2).astype(np.int64)
            x = torch.from_numpy(self.source.cut(volume, corner)).to(batch.index.device)
            params = {
                "volume": torch.from_numpy(volume),
                "point": torch.from_numpy(point.astype(np.float32)),
                "score": torch.tensor([p[2] for p in points], dtype=torch.float32),
            }
            view = View(x, "global", {k: p.to(batch.index.device) for k, p in params.items()})
            if self.augment is not None:
                view.x = self.augment(batch.with_x(view.x), draw.fork(f"augment{number}"))[0].x
            made.append(view)
        return made

    def _partner(self, volume: int, share: float) -> int:
        """A training volume of somebody else."""
        assert self.source is not None
        patient = self.source.cohort.patient
        others = self.trained[patient[self.trained] != patient[volume]]
        return int(others[min(int(share * len(others)), len(others) - 1)])

    def _body(self, volume: int, u: np.ndarray) -> np.ndarray:
        """``[n, 3]`` voxels of the body among the drawn places, at least one."""
        assert self.source is not None
        fact = self.source.volumes.facts[volume]
        at = np.floor(u * np.array(fact.shape)).astype(np.int64)
        level = self.source.volumes.image(volume)[0][at[:, 0], at[:, 1], at[:, 2]]
        inside = at[np.asarray(level, np.float32) > fact.threshold]
        return inside if len(inside) else np.array(fact.shape, dtype=np.int64)[None] // 2

    def _pair(
        self, first: int, second: int, u: np.ndarray, v: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """(point in the first volume, in the second, score)."""
        points = self._body(int(first), u).astype(np.float64)
        if self.kind == "same":
            return points[0], points[0], 1.0
        if self.oracle is None:
            return points[0], self._body(int(second), v)[0].astype(np.float64), 0.0
        found, scores = self.oracle.match(int(first), points, int(second))
        good = scores > self.score
        best = int(good.argmax()) if good.any() else int(scores.argmax())
        return points[best], found[best], float(scores[best])
