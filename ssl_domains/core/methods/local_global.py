"""Local-global agreement: a sample's tokens belong to its own summary, not to another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Batch, Encoded, Output
from ssl_domains.core.collectives import all_gather_rows, rank
from ssl_domains.core.errors import DataError
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.layout import Graph
from ssl_domains.core.methods._common import stages
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method


class _Head(nn.Module):
    """A perceptron beside a linear shortcut (InfoGraph's and Deep InfoMax's projection)."""

    def __init__(self, in_width: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.deep, self.flat = mlp(in_width, widths, norm="none"), nn.Linear(in_width, widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_width] -> [N, widths[-1]]``."""
        return self.deep(x) + self.flat(x)


@method("local_global")
class LocalGlobal(Method):
    """Tokens recognise their own summary: Deep InfoMax, DGI, InfoGraph.

    ``negatives: corrupted`` (DGI): false pairs are the tokens of a corrupted input with the TRUE
    summary. ``negatives: others`` (InfoGraph): false pairs are the tokens of the batch with the
    summaries of other samples, of all processes.

    Args:
        encoder: the domain's encoder.
        objective: ``jensen_shannon``, on scores of true and of false pairs.
        views: the last view is the corrupted input; not used with ``others``.
        negatives: see above.
        summary: ``mean_sigmoid``: sigmoid of the mean of a sample's tokens (DGI); one graph with a
            sample a node has one summary. ``pooled``: the encoder's own pooling (InfoGraph).
        projector: widths of the two heads whose dot product scores a pair (InfoGraph: three layers
            of the encoder's width); empty: a bilinear form ``h W s`` (DGI).
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        negatives: str = "corrupted",
        summary: str = "mean_sigmoid",
        projector: Sequence[int] = (),
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("negatives", negatives, ("corrupted", "others")),
            ("summary", summary, ("mean_sigmoid", "pooled")),
        ):
            if value not in allowed:
                raise ValueError(f"method.{name} must be one of {', '.join(allowed)}, got {value!r}")
        self.encoder, self.objective, self.views = encoder, objective, views
        self.negatives, self.summary = negatives, summary
        wide = encoder.width if summary == "mean_sigmoid" else encoder.pooled_width
        self.embedding_width = projector[-1] if projector else wide
        self.local: nn.Module = _Head(encoder.width, projector) if projector else nn.Identity()
        self.whole: nn.Module = (
            _Head(wide, projector) if projector else nn.Linear(wide, encoder.width, bias=False)
        )

    def forward(self, batch: Batch, draw: Draw) -> Output:
        encoded = self.encoder(batch.x)
        tokens, owner, counted = locals_of(encoded)
        summary = self.whole(self._summary(encoded, tokens, owner, counted))  # [S, P]
        local = self.local(tokens)
        if self.negatives == "corrupted":
            view = self.views(batch, draw.fork("views"))[-1]
            false_tokens, false_owner, false_counted = locals_of(self.encoder(view.x))
            true = (local * summary[owner]).sum(dim=1)
            false = (self.local(false_tokens) * summary[false_owner]).sum(dim=1)
            terms = self.objective(true, false, counted, false_counted)
        else:
            terms = self._against_others(local, summary, owner, counted)
        seen = stages(encoded)
        return Output(terms.total, terms.parts, seen, terms.trivial)

    def _against_others(self, local: Tensor, summary: Tensor, owner: Tensor, counted: Tensor | None) -> Terms:
        every = all_gather_rows(summary)  # [W * S, P]
        if len(every) < 2:
            raise DataError(
                "method 'local_global' with negatives: others compares samples, but the batch has one; "
                "set method.negatives: corrupted, or use many graphs and train.batch_size of at least 2"
            )
        scores = local @ every.T  # [M, W * S]
        own = (owner + rank() * len(summary))[:, None]
        weights = torch.ones_like(scores, dtype=torch.float32).scatter_(1, own, 0.0)
        if counted is not None:
            weights = weights * counted[:, None]
        return self.objective(scores.gather(1, own)[:, 0], scores.flatten(), counted, weights.flatten())

    def _summary(self, encoded: Encoded, tokens: Tensor, owner: Tensor, counted: Tensor | None) -> Tensor:
        """``[S, D]`` one row a sample, or a single row for one graph of many samples."""
        if self.summary == "pooled":
            return encoded.pooled
        weights = tokens.new_ones(len(tokens)) if counted is None else counted.to(tokens.dtype)
        n = n_owners(encoded)
        total = tokens.new_zeros(n, tokens.shape[1]).index_add(0, owner, tokens * weights[:, None])
        count = weights.new_zeros(n).index_add(0, owner, weights).clamp_min(1.0)
        return (total / count[:, None]).sigmoid()


def locals_of(encoded: Encoded) -> tuple[Tensor, Tensor, Tensor | None]:
    """(tokens ``[M, D]``, the sample of each ``[M]``, weight ``[M]`` or None: 0 for nodes that are
    context only)."""
    tokens = encoded.tokens
    if tokens.segment is not None:
        layout = tokens.layout
        seeds = layout.seeds if isinstance(layout, Graph) else None
        return tokens.values, tokens.segment, None if seeds is None else seeds.float()
    flat = tokens.values.flatten(0, 1)
    owner = torch.arange(len(tokens.values), device=flat.device).repeat_interleave(tokens.values.shape[1])
    weights = None if tokens.padding is None else (~tokens.padding).flatten().float()
    return flat, owner, weights


def n_owners(encoded: Encoded) -> int:
    """Number of samples that tokens belong to."""
    layout = encoded.tokens.layout
    return layout.n_segments if isinstance(layout, Graph) else len(encoded.pooled)
