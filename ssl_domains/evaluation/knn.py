"""Weighted k nearest neighbours by cosine similarity."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.registry import register
from ssl_domains.evaluation.data import Prediction, ProbeData
from ssl_domains.evaluation.probes import Probe


def nearest(
    query: Tensor, bank: Tensor, k: int, *, chunk: int = 4096, skip: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k most similar rows of ``bank`` for each row of ``query``, by cosine.

    Memory is ``chunk * chunk`` similarities, whatever the sizes.

    Args:
        query: ``[n, D]``.
        bank: ``[m, D]``, ``m >= k``.
        k: neighbours a query.
        chunk: rows of either side at a time.
        skip: ``[n]`` a row of the bank that each query must not find (itself).

    Returns:
        Similarities ``[n, k]`` in falling order and rows of the bank ``[n, k]``.
    """
    query, bank = F.normalize(query.float(), dim=1), F.normalize(bank.float(), dim=1)
    parts = [
        _nearest_chunk(q, bank, k, chunk, None if skip is None else skip[i * chunk : i * chunk + len(q)])
        for i, q in enumerate(query.split(chunk))
    ]
    return torch.cat([s for s, _ in parts]), torch.cat([j for _, j in parts])


def _nearest_chunk(q: Tensor, bank: Tensor, k: int, chunk: int, skip: Tensor | None) -> tuple[Tensor, Tensor]:
    best = q.new_full((len(q), 0), 0.0)
    rows = torch.zeros(len(q), 0, dtype=torch.int64, device=q.device)
    for start in range(0, len(bank), chunk):
        similarity = q @ bank[start : start + chunk].T
        number = torch.arange(start, start + similarity.shape[1], device=q.device).expand_as(similarity)
        if skip is not None:
            similarity = similarity.masked_fill(number == skip[:, None], -torch.inf)
        best, rows = torch.cat([best, similarity], 1), torch.cat([rows, number], 1)
        best, at = best.topk(min(k, best.shape[1]), dim=1)
        rows = rows.gather(1, at)
    return best, rows


@register("probe", "knn")
class KNNProbe(Probe):
    """Vote of the k nearest training rows, each weighted ``exp(cosine / temperature)``.

    Instance discrimination (Wu et al. 2018, section 3.4) and DINO (Caron et al. 2021, section
    4.1) use k = 20 (or 200) and temperature 0.07. Regression takes the weighted mean of the
    neighbours' targets; multi-label takes it of their labels and predicts from 1/2 on. Nothing
    is fitted, so the validation rows are not used.

    Args:
        k: neighbours; never more than there are training rows.
        temperature: of the weights.
        chunk: rows at a time.
        device: where the similarities are computed.
    """

    def __init__(
        self, k: int = 20, temperature: float = 0.07, chunk: int = 4096, device: str = "cpu"
    ) -> None:
        if k < 1 or not temperature > 0 or chunk < 1:
            raise ValueError("k and chunk must be at least 1 and temperature above 0")
        self.k, self.temperature, self.chunk, self.device = k, temperature, chunk, device

    def predict(self, data: ProbeData, seed: int) -> Prediction:
        bank, query = (torch.as_tensor(data.x[s], device=self.device) for s in ("train", "test"))
        similarity, rows = nearest(query, bank, min(self.k, len(bank)), chunk=self.chunk)
        # A common factor of the weights changes nothing, and without it exp(1 / T) overflows for small T.
        weight = ((similarity - similarity[:, :1]) / self.temperature).exp().double().cpu().numpy()
        found = data.y["train"][rows.cpu().numpy()]  # [n, k] or [n, k, L]
        if data.task == "classification":
            votes = np.zeros((len(weight), data.n_classes))
            np.add.at(votes, (np.arange(len(weight))[:, None], found), weight)
            votes /= votes.sum(1, keepdims=True)
            return Prediction(votes.argmax(1), votes)
        mean = np.einsum("nk,nk...->n...", weight, found.astype(np.float64))
        mean /= weight.sum(1).reshape(-1, *[1] * (mean.ndim - 1))
        return Prediction(mean) if data.task == "regression" else Prediction(mean >= 0.5, mean)
