"""D-SLA: a graph singled out among edited copies, and distances as long as the edit paths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Mask, Output
from ssl_domains.core.collectives import all_gather_rows, rank
from ssl_domains.core.interfaces import Encoder, Views
from ssl_domains.core.methods.base import Method
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.numerics import at_least_float32, full_precision, global_mean, positive
from ssl_domains.core.parts.heads import mlp
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method, objective
from ssl_domains.graph.spec import GraphSpec
from ssl_domains.graph.structure import join_graphs


@objective("discrepancy")
class Discrepancy(Objective):
    """Discrepancy learning (D-SLA, NeurIPS 2022, equations 3 to 6), on a graph and its C - 1 copies.

    With ``h`` the embeddings, ``s`` the scores, ``g`` the edit distances, candidate 0 the original
    and ``d(a, b) = |a - b|`` (neither squared nor of unit vectors):

    - discrimination: ``CE(softmax_c s_c, class 0)``, one C-way choice a graph;
    - edit: ``mean over pairs i < j of (d(h_0, h_i) / g_i - d(h_0, h_j) / g_j)^2``;
    - margin: ``mean over copies i and other graphs b' of max(0, m + d(h_0, h_i) - d(h_0, h_0^b'))``,
      without the strong copy; b' runs over the batches of all processes.

    Candidates at distance 0 are no copies: they are left out, and so is a graph that has no others.

    Args:
        edit_weight: of the second term. Default 0.7.
        margin_weight: of the third. Default 0.5; 0: not computed (social networks).
        margin: m. Default 5 (molecules; proteins: 10).

    Worked values: equal scores of 4 candidates: ``ln 4``. ``d = (2, 2, 2)``, ``g = (1, 2, 4)``: edit
    1.166667. Two originals 3 apart, copies at 1, m = 5: margin 3. Trivial value "constant" (all
    embeddings the same): ``ln C + margin_weight * m``.

    Raises:
        UserError: a weight is negative, or the margin not above 0.
    """

    def __init__(self, edit_weight: float = 0.7, margin_weight: float = 0.5, margin: float = 5.0) -> None:
        super().__init__()
        positive("discrepancy", margin=margin)
        if edit_weight < 0 or margin_weight < 0:
            positive("discrepancy", edit_weight=edit_weight, margin_weight=margin_weight)
        self.edit_weight, self.margin_weight, self.margin = edit_weight, margin_weight, margin

    def forward(self, scores: Tensor, embeddings: Tensor, distance: Tensor, weak: Sequence[bool]) -> Terms:
        """Loss of the global batch.

        Args:
            scores: ``[B, C]``.
            embeddings: ``[B, C, D]``.
            distance: ``[B, C]`` edit distances to the original; the first column is not read.
            weak: of length C: which candidates the margin holds for.

        Returns:
            Terms with the parts ``discrimination``, ``edit``, ``margin``, and ``accuracy``: how often
            the original has the highest score.
        """
        with full_precision(scores.device):
            scores, embeddings = at_least_float32(scores), at_least_float32(embeddings)
            distance = distance.to(embeddings.dtype)
            real = distance[:, 1:] > 0  # [B, C - 1]
            away = torch.linalg.vector_norm(embeddings[:, 1:] - embeddings[:, :1], dim=2)  # gradient 0 at 0
            told, accuracy = self._discrimination(scores, real)
            edit = self._edit(away, distance[:, 1:], real)
            total = told + self.edit_weight * edit
            parts = {"discrimination": told.detach(), "edit": edit.detach(), "accuracy": accuracy}
            if self.margin_weight:
                kept = [c - 1 for c, is_weak in enumerate(weak) if is_weak and c > 0]
                margin = self._margin(embeddings[:, 0], away[:, kept], real[:, kept])
                total = total + self.margin_weight * margin
                parts["margin"] = margin.detach()
        constant = math.log(scores.shape[1]) + self.margin_weight * self.margin
        return Terms(total, parts, {"constant": constant})

    @staticmethod
    def _discrimination(scores: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        candidates = torch.cat([torch.ones_like(real[:, :1]), real], dim=1)
        logits = scores.masked_fill(~candidates, -torch.inf)
        rows = -F.log_softmax(logits, dim=1)[:, 0]
        hits = (logits.detach().argmax(dim=1) == 0).to(rows.dtype)
        some = real.any(dim=1).to(rows.dtype)
        return global_mean(rows, some), global_mean(hits, some)

    @staticmethod
    def _edit(away: Tensor, distance: Tensor, real: Tensor) -> Tensor:
        slope = away / torch.where(real, distance, torch.ones_like(distance))
        i, j = torch.triu_indices(away.shape[1], away.shape[1], 1, device=away.device)
        difference = (slope[:, i] - slope[:, j]).square()
        return global_mean(difference.flatten(), (real[:, i] & real[:, j]).flatten())

    def _margin(self, originals: Tensor, away: Tensor, real: Tensor) -> Tensor:
        """Mean over the triples (graph, its weak copy, another graph) of all processes."""
        others = all_gather_rows(originals)  # [W * B, D]
        apart = torch.cdist(originals, others, compute_mode="donot_use_mm_for_euclid_dist")
        own = torch.arange(len(originals), device=apart.device) + rank() * len(originals)
        foreign = own[:, None] != torch.arange(len(others), device=apart.device)
        losses = [
            (((self.margin + a[:, None] - apart).clamp_min(0.0)), foreign & ok[:, None])
            for a, ok in zip(away.unbind(1), real.unbind(1), strict=True)
        ]
        if not losses:
            return apart.sum() * 0.0
        return global_mean(
            torch.cat([v.flatten() for v, _ in losses]), torch.cat([w.flatten() for _, w in losses])
        )

    def remedies(self) -> dict[str, str]:
        cause = (
            "copies and other graphs all get one vector, which costs nothing but the margin; lower the "
            "learning rate, or raise objective.margin_weight or objective.margin"
        )
        return {"point": cause, "constant": cause}

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        found = []
        if views < 3:
            found.append(
                f"objective 'discrepancy' compares copies of a graph, got {views - 1}; set views.copies to 2 "
                "or more"
            )
        if self.margin_weight and batch_size < 2:
            found.append(
                "objective 'discrepancy' compares graphs of a batch; set train.batch_size to 2 or more, or "
                "objective.margin_weight to 0"
            )
        return found


@method("d_sla")
class DSLA(Method):
    """D-SLA: what an edit changes is told apart instead of contrasted away (Kim et al., NeurIPS 2022).

    Original and copies pass through the encoder side by side, in one batch (its batch norm sees all
    of them), with hidden nodes' features replaced by the mask token. A scorer says which of them is
    the original; see ``discrepancy`` for the loss.

    Args:
        encoder: of graphs.
        objective: ``discrepancy``.
        views: ``graph_edits``, or others that put the original first and record ``distance``.
        spec: of the data; samples must be graphs.
        scorer: hidden widths of the scorer; default two layers as wide as the encoder.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        views: Views,
        spec: GraphSpec,
        scorer: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if spec.level != "graph":
            raise ValueError(
                "method 'd_sla' compares graphs, but the data are one graph; "
                "give data.graph, the column of the node table with each node's graph"
            )
        self.encoder, self.objective, self.views = encoder, objective, views
        width = self.embedding_width = encoder.pooled_width
        self.scorer: nn.Module = mlp(width, [*((width, width) if scorer is None else scorer), 1], norm="none")

    def forward(self, batch: Batch, draw: Draw) -> Output:
        views = self.views(batch, draw.fork("views"))
        if any("distance" not in view.params for view in views):
            raise ValueError("method 'd_sla' needs views that record the edit distance, such as graph_edits")
        hidden = [view.params.get("hidden_nodes") for view in views]
        mask = (
            None if any(h is None for h in hidden) else Mask(torch.cat([h for h in hidden if h is not None]))
        )
        encoded = self.encoder(join_graphs([view.x for view in views]), mask)
        candidates = encoded.pooled.unflatten(0, (len(views), -1)).transpose(0, 1)  # [B, C, D]
        scores = self.scorer(candidates).squeeze(2)
        distance = torch.stack([view.params["distance"] for view in views], dim=1)
        weak = [view.role != "strong" for view in views]
        terms = self.objective(scores, candidates, distance, weak)
        seen = {"tokens": encoded.tokens.flat().detach(), "encoder": candidates[:, 0].detach()}
        return Output(terms.total, terms.parts, seen, terms.trivial)
