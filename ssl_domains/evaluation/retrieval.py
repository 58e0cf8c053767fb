"""Retrieval over a whole catalogue: Recall, NDCG and MAP at cut-offs, in chunks, and on slices of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.interfaces import Source
from ssl_domains.core.registry import register
from ssl_domains.core.retrieval import Lists, RetrievalTask
from ssl_domains.evaluation.data import LabelledRows
from ssl_domains.evaluation.protocols import Features, ProtocolProbe, Score

CELLS = 1 << 24
"""Scores that are held at a time (64 MiB)."""


def top_candidates(scores: Iterator[Tensor], seen: Lists, k: int) -> Iterator[np.ndarray]:
    """The best candidates of each query.

    Args:
        scores: chunks ``[q, N]`` of the queries' scores, in their order; they are written to.
        seen: candidates that are left out.
        k: how many are wanted.

    Yields:
        ``[q, k]`` int64, best first; -1 where fewer than k candidates are left.
    """
    start = 0
    for chunk in scores:
        query, candidate = seen.flat(np.arange(start, start + len(chunk)))
        chunk[torch.from_numpy(query), torch.from_numpy(candidate.astype(np.int64))] = -torch.inf
        best, found = chunk.topk(min(k, chunk.shape[1]), dim=1)
        yield found.masked_fill(best == -torch.inf, -1).numpy()
        start += len(chunk)


def hits_of(found: np.ndarray, relevant: Lists, n: int) -> np.ndarray:
    """``[Q, k]`` bool: which of the found candidates ``[Q, k]`` (-1: none) of n are relevant."""
    query, value = relevant.flat(np.arange(len(found)))
    keys = query * np.int64(n) + value  # sorted: the lists are
    wanted = np.arange(len(found))[:, None] * np.int64(n) + found
    place = np.searchsorted(keys, wanted).clip(max=max(len(keys) - 1, 0))
    return (found >= 0) & (keys[place] == wanted) if len(keys) else np.zeros(found.shape, bool)


def ranking_scores(hits: np.ndarray, n_relevant: np.ndarray, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    """Scores of each query ``[Q]``, by name.

    With R relevant candidates, of which ``hits [Q, K]`` says where they were ranked:

    * ``recall@k``: hits in the first k, over R;
    * ``ndcg@k``: ``sum 1 / log2(rank + 1)`` over the hits, over the largest possible sum;
    * ``map@k``: mean over ``min(R, k)`` of the precision at each hit.

    Worked value: R = 2, hits at ranks 1 and 3, k = 3: recall 1, MAP (1 + 2/3) / 2 = 0.8333,
    NDCG 1.5 / 1.63093 = 0.91972.
    """
    k_max = max(cutoffs)
    hits = np.pad(hits, [(0, 0), (0, max(k_max - hits.shape[1], 0))])[:, :k_max].astype(np.float64)
    rank = np.arange(1, k_max + 1)
    gain = 1.0 / np.log2(rank + 1.0)
    precision = hits.cumsum(1) / rank * hits
    out: dict[str, np.ndarray] = {}
    for k in cutoffs:
        best = np.minimum(n_relevant, k)
        out[f"recall@{k}"] = hits[:, :k].sum(1) / n_relevant
        out[f"ndcg@{k}"] = (hits * gain)[:, :k].sum(1) / gain.cumsum()[best - 1]
        out[f"map@{k}"] = precision[:, :k].sum(1) / best
    return out


@register("probe", "retrieval")
class RetrievalProbe(ProtocolProbe):
    """Ranks the whole catalogue for each query by the cosine of the embeddings.

    Rows ``retrieval`` (all candidates) and ``retrieval_<slice>`` for each slice of the source
    (``head``, ``tail``): there only the slice's relevant candidates count, and queries that have
    one, while the ranking stays that of the whole catalogue. Beside it stands the ranking by
    popularity, the same for all queries.

    Args:
        cutoffs: k of Recall, NDCG and MAP; tables show Recall at the largest.
        split: whose relevant candidates are looked for: ``test``, or ``valid`` to choose settings by.
        max_queries: at most this many queries, a fixed random subset of them.
    """

    spread: ClassVar[str] = "queries (standard error)"
    tunes_encoder = True

    def __init__(
        self,
        cutoffs: Sequence[int] = (10, 50),
        split: Literal["test", "valid"] = "test",
        max_queries: int = 20_000,
    ) -> None:
        if not cutoffs or min(cutoffs) < 1 or max_queries < 1:
            raise ValueError("cutoffs and max_queries must be at least 1")
        self.cutoffs, self.split, self.max_queries = sorted(cutoffs), split, max_queries
        self.main = f"recall@{max(cutoffs)}"

    def why_not(self, source: Source, labelled: LabelledRows | None) -> str:
        if getattr(source, "retrieval", None) is None:
            return "Retrieval needs interactions to look for (tables: data.user and data.item)."
        if not len(self._task(source).rows):
            return f"The {self.split} split holds no interaction to look for; raise data.{self.split}."
        return ""

    def counts(self, source: Source) -> dict[str, int]:
        return {f"{self.split} queries": len(self._task(source).rows)}

    def measure(self, features: Features, seed: int) -> list[Score]:
        task = self._task(features.source)
        queries, candidates = (
            F.normalize(torch.from_numpy(features.embed(side, rows)), dim=1)
            for side, rows in ((task.queries, task.rows), (task.candidates, np.arange(len(task.candidates))))
        )
        step = max(CELLS // max(len(candidates), 1), 1)
        return self._score(task, (q @ candidates.T for q in queries.split(step)))

    def baselines(self, source: Source) -> dict[str, list[Score]]:
        task = self._task(source)
        # Ties go to the candidate that comes first.
        order = np.argsort(-task.popularity, kind="stable")
        score = torch.empty(len(order)).scatter_(
            0, torch.from_numpy(order), -torch.arange(len(order)).float()
        )
        step = max(CELLS // max(len(order), 1), 1)
        sizes = [min(step, len(task.rows) - i) for i in range(0, len(task.rows), step)]
        return {"popularity": self._score(task, (score.repeat(size, 1) for size in sizes))}

    def _task(self, source: Source) -> RetrievalTask:
        """The source's task, cut to ``max_queries``."""
        task: RetrievalTask = source.retrieval(self.split)  # type: ignore[attr-defined]
        if len(task.rows) <= self.max_queries:
            return task
        kept = np.sort(np.random.default_rng(0).choice(len(task.rows), self.max_queries, replace=False))
        relevant, seen = (Lists.group(*lists.flat(kept), len(kept)) for lists in (task.relevant, task.seen))
        return replace(task, rows=task.rows[kept], relevant=relevant, seen=seen)

    def _score(self, task: RetrievalTask, scores: Iterator[Tensor]) -> list[Score]:
        n = len(task.candidates)
        found = np.concatenate(list(top_candidates(scores, task.seen, max(self.cutoffs))))
        out: list[Score] = []
        for name, members in {"": None, **task.slices}.items():
            relevant = task.relevant if members is None else _within(task.relevant, members)
            asked = relevant.lengths > 0
            if not asked.any():
                continue
            hits = hits_of(found, relevant, n)[asked]
            for metric, values in ranking_scores(hits, relevant.lengths[asked], self.cutoffs).items():
                error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
                out.append(Score(metric, float(values.mean()), error, len(values), name))
        return out


def _within(lists: Lists, members: np.ndarray) -> Lists:
    """The lists without what is no member ``[N]`` bool."""
    query, value = lists.flat(np.arange(len(lists)))
    kept = members[value]
    return Lists.group(query[kept], value[kept], len(lists))
