"""Retrieval of samples of the same class: Rank-k and mean average precision."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import register
from ssl_domains.evaluation.data import LabelledRows
from ssl_domains.evaluation.protocols import Features, ProtocolProbe, Score, plain


@register("probe", "same_class")
class SameClassProbe(ProtocolProbe):
    """Ranks the other test samples for each test sample by cosine; those of its class are the right ones.

    ``rank1`` is the share of queries whose nearest sample is right, ``rank5`` that has one among five,
    ``map`` the mean average precision. Queries whose class has no other sample are left out.

    Args:
        gallery: ``test``: the other test samples; ``train``: the training samples.
        chunk: queries at a time.
    """

    main = "rank1"

    def __init__(self, gallery: str = "test", chunk: int = 512) -> None:
        if gallery not in ("test", "train") or chunk < 1:
            raise ValueError(f"gallery must be test or train and chunk at least 1, got {gallery!r}, {chunk}")
        self.gallery, self.chunk = gallery, chunk

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if labelled is None or labelled.task != "classification":
            return "Retrieval of the same class needs class labels."
        y = labelled.labels
        queries, others = y[labelled.rows["test"]], y[labelled.rows[self.gallery]]
        counts = np.bincount(others, minlength=int(y.max()) + 1)[queries]
        enough = counts > (1 if self.gallery == "test" else 0)
        return "" if enough.any() else "No test sample has another one of its class to be found."

    def measure(self, features: Features, seed: int) -> list[Score]:
        labelled = features.labelled
        assert labelled is not None
        query_rows, bank_rows = labelled.rows["test"], labelled.rows[self.gallery]
        query, bank = (
            F.normalize(torch.as_tensor(features.at(rows)).float(), dim=1) for rows in (query_rows, bank_rows)
        )
        y, others = (torch.as_tensor(labelled.labels[rows]) for rows in (query_rows, bank_rows))
        own = torch.arange(len(y)) if self.gallery == "test" else None
        found: list[torch.Tensor] = []
        for start in range(0, len(y), self.chunk):
            part = slice(start, start + self.chunk)
            similarity = query[part] @ bank.T
            if own is not None:
                similarity.scatter_(1, own[part, None], -torch.inf)
            order = similarity.argsort(dim=1, descending=True, stable=True)
            right = others[order] == y[part, None]
            if own is not None:
                right = right[:, :-1]  # the query itself comes last
            found.append(_scores(right))
        mean = torch.cat(found).mean(dim=0)
        return plain({name: float(v) for name, v in zip(("rank1", "rank5", "map"), mean, strict=True)})


def _scores(right: torch.Tensor) -> torch.Tensor:
    """``[n, 3]`` rank1, rank5 and average precision of the queries that have something to be found."""
    right = right[right.any(dim=1)]
    place = torch.arange(1, right.shape[1] + 1, device=right.device)
    precision = right.cumsum(dim=1) / place
    average = (precision * right).sum(dim=1) / right.sum(dim=1)
    return torch.stack([right[:, 0].float(), right[:, :5].any(dim=1).float(), average.float()], dim=1)
