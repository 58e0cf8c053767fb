"""SelfTask's pretext tasks tied to the labels: regional context, guessed and corrected."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.objectives.base import Terms
from ssl_domains.core.objectives.numerics import at_least_float32
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import register
from ssl_domains.graph.augment import rank_within
from ssl_domains.graph.selftask_base import Step, Task, mean_square
from ssl_domains.graph.selftask_guess import GUESSERS, context_matrix, guess, labelled_distances
from ssl_domains.graph.selftask_targets import Known
from ssl_domains.graph.spec import GraphSpec


class LabelTask(Task):
    """Base of the tasks whose targets come from the labels of the train split."""

    needs_labels = True
    unlabelled: Tensor
    target: Tensor

    def __init__(self, spec: GraphSpec, width: int) -> None:
        super().__init__()
        if not spec.classes:
            raise ValueError("its targets come from class labels; give data.label, or choose another task")
        self.n_classes = len(spec.classes)
        self.head = nn.Linear(width, self.n_classes)

    def prepare(self, known: Known) -> None:
        self.keep("unlabelled", known.labels < 0)


@register("task", "distance_to_labeled")
class DistanceToLabeled(LabelTask):
    """The mean of ``1 / hops`` from each node to the labelled nodes of each class.

    Args:
        spec: of the data.
        width: D.
        per_class: at most so many labelled nodes of a class are measured from. Default 100.
    """

    weight = 100.0

    def __init__(self, spec: GraphSpec, width: int, per_class: int = 100) -> None:
        super().__init__(spec, width)
        if per_class < 1:
            raise ValueError(f"per_class must be at least 1, got {per_class}")
        self.per_class = per_class

    def prepare(self, known: Known) -> None:
        super().prepare(known)
        self.keep("target", labelled_distances(known, self.per_class))

    def loss(self, step: Step) -> Terms:
        out = self.head(step.dropped[step.seeds])
        return mean_square(out, self.target[step.index], self.unlabelled[step.index][:, None])


@register("task", "context_label")
class ContextLabel(LabelTask):
    """The shares of the classes among the nodes one and two hops away, with guessed labels for most.

    A guesser fills in the labels of all nodes from those of the train split, once. The loss is the
    squared error of probabilities (the authors' choice over a cross-entropy), on unlabelled nodes
    that have neighbours.

    Args:
        spec: of the data.
        width: D.
        guesser: ``label_propagation`` (30 iterations), ``ica`` (10) or ``ensemble``.
        hops: 2, or 1 for graphs whose hubs join everything.
        dropout: before the head. Default 0.5.
    """

    has_context: Tensor
    cells: Tensor
    share: Tensor
    labels: Tensor

    def __init__(
        self,
        spec: GraphSpec,
        width: int,
        guesser: str = "label_propagation",
        hops: int = 2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(spec, width)
        if guesser not in GUESSERS:
            raise ValueError(f"guesser must be one of {', '.join(GUESSERS)}, got {guesser!r}")
        if hops not in (1, 2) or not 0.0 <= dropout < 1.0:
            raise ValueError(f"hops must be 1 or 2 and dropout lie in [0, 1), got {hops} and {dropout}")
        self.guesser, self.hops, self.dropout = guesser, hops, dropout
        self.weight = 50.0 if guesser == "label_propagation" else 10.0  # the paper's, for Cora

    def prepare(self, known: Known) -> None:
        super().prepare(known)
        matrix = context_matrix(known, self.hops)
        matrix.sort_indices()
        rows = np.repeat(np.arange(known.n), np.diff(matrix.indptr))
        self.keep("cells", np.stack([rows, matrix.indices.astype(np.int64)]))
        self.keep("share", matrix.data)
        self.keep("labels", guess(known, self.guesser))
        self.keep("target", self.context(self.labels))
        self.keep("has_context", np.diff(matrix.indptr) > 0)

    def context(self, labels: Tensor) -> Tensor:
        """``[N, C]`` shares of the labels ``[N]`` in the context of every node."""
        with torch.autocast(labels.device.type, enabled=False):
            n = len(labels)
            matrix = torch.sparse_coo_tensor(
                self.cells, self.share, (n, n), is_coalesced=True, check_invariants=False
            )
            return matrix @ F.one_hot(labels, self.n_classes).float()

    def probabilities(self, h: Tensor) -> Tensor:
        """``[B, C]`` of the head."""
        return at_least_float32(self.head(F.dropout(h, self.dropout, self.training))).softmax(dim=1)

    def loss(self, step: Step) -> Terms:
        out = self.probabilities(step.h[step.seeds])
        counts = self.unlabelled[step.index] & self.has_context[step.index]
        return mean_square(out, self.target[step.index], counts[:, None])


@register("task", "ensemble_label")
class EnsembleLabel(ContextLabel):
    """Context labels from both guessers together.

    Args:
        spec: of the data.
        width: D.
        hops: 2, or 1 for graphs whose hubs join everything.
        dropout: before the head. Default 0.5.
    """

    def __init__(self, spec: GraphSpec, width: int, hops: int = 2, dropout: float = 0.5) -> None:
        super().__init__(spec, width, "ensemble", hops, dropout)


@register("task", "corrected_label")
class CorrectedLabel(ContextLabel):
    """Context labels, guessed once and corrected in each step by what the embeddings say.

    ``loss = context(guessed) + alpha * context(corrected)``. In each step ``sampled`` unlabelled nodes
    get the class whose prototypes they are closest to (:func:`correct`); all others keep the first
    guess, to which every step goes back. The second term is on the sampled nodes.

    Args:
        spec: of the data.
        width: D.
        guesser: ``label_propagation``, ``ica`` or ``ensemble``. Default: the ensemble.
        hops: 2, or 1 for graphs whose hubs join everything.
        dropout: before the head. Default 0.5.
        alpha: weight of the corrected targets. Default 1.5 (Cora; Citeseer and PubMed: 1).
        sampled: nodes corrected in a step. Default 1,000 (Cora; Citeseer 3,000, PubMed 10,000).
        candidates: nodes of each class that prototypes are chosen from. Default 320.
        prototypes: of each class. Default 8.
        quantile: of the similarities, above which a neighbour counts as near. Default 0.4.
        too_close: a node this similar to a denser one is no prototype. Default 0.95.
    """

    whole_graph = True

    def __init__(
        self,
        spec: GraphSpec,
        width: int,
        guesser: str = "ensemble",
        hops: int = 2,
        dropout: float = 0.5,
        alpha: float = 1.5,
        sampled: int = 1000,
        candidates: int = 320,
        prototypes: int = 8,
        quantile: float = 0.4,
        too_close: float = 0.95,
    ) -> None:
        super().__init__(spec, width, guesser, hops, dropout)
        if min(sampled, candidates, prototypes) < 1 or not 0.0 < quantile < 1.0:
            raise ValueError("sampled, candidates and prototypes must be at least 1, quantile in (0, 1)")
        self.alpha, self.sampled, self.candidates, self.prototypes = alpha, sampled, candidates, prototypes
        self.quantile, self.too_close = quantile, too_close
        self.weight = 10.0

    def loss(self, step: Step) -> Terms:
        first = super().loss(step).total
        rows = self._rows(step.draw.fork("rows"))
        fresh = self.labels.clone()
        fresh[rows] = self.correct(step.h, rows, step.draw.fork("candidates"))
        out = self.probabilities(step.h[rows])
        second = mean_square(out, self.context(fresh)[rows], self.has_context[rows][:, None]).total
        changed = (fresh != self.labels)[rows].float().mean()
        parts = {"first_guess": first.detach(), "corrected": second.detach(), "changed": changed}
        return Terms(first + self.alpha * second, parts)

    def _rows(self, draw: Draw) -> Tensor:
        """Unlabelled nodes of this step; labelled ones come last in the order they are drawn in."""
        keys = draw.at(torch.arange(len(self.labels), device=self.labels.device)).bits() >> 1
        keys = torch.where(self.unlabelled, keys, torch.iinfo(torch.int64).max)
        return keys.argsort()[: min(self.sampled, self.n_unlabelled)]

    def prepare(self, known: Known) -> None:
        super().prepare(known)
        self.n_unlabelled = int((known.labels < 0).sum())

    @torch.no_grad()
    def correct(self, h: Tensor, rows: Tensor, draw: Draw) -> Tensor:
        """``[n]`` classes of nodes by a vote of prototypes.

        Args:
            h: ``[N, D]`` embeddings of all nodes; no gradient passes.
            rows: ``[n]`` nodes to correct.
            draw: chooses the candidates of each class among the nodes guessed to be of it.
        """
        with torch.autocast(h.device.type, enabled=False):
            unit = F.normalize(at_least_float32(h), dim=1)
            members, real = self._candidates(draw)
            chosen, there = choose_prototypes(
                unit[members], real, self.prototypes, self.quantile, self.too_close
            )
            vectors = unit[members.gather(1, chosen)] * there[..., None]
            center = vectors.sum(dim=1) / there.sum(dim=1).clamp_min(1)[:, None]
            votes = unit[rows] @ center.T  # the mean cosine to each class's prototypes
            return votes.masked_fill(~there.any(dim=1), -torch.inf).argmax(dim=1)

    def _candidates(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """``[C, m]`` nodes by guessed class, and which of the places are filled."""
        n, device = len(self.labels), self.labels.device
        keys = draw.at(torch.arange(n, device=device)).bits()
        sizes = torch.zeros(self.n_classes, dtype=torch.int64, device=device)
        sizes.index_add_(0, self.labels, torch.ones_like(self.labels))
        rank = rank_within(keys, self.labels, sizes)
        m = min(self.candidates, n)
        table = torch.full((self.n_classes * m + 1,), -1, dtype=torch.int64, device=device)
        place = torch.where(rank < m, self.labels * m + rank, self.n_classes * m)
        table[place] = torch.arange(n, device=device)
        members = table[:-1].view(self.n_classes, m)
        return members.clamp_min(0), members >= 0


def choose_prototypes(
    unit: Tensor, real: Tensor, count: int, quantile: float, too_close: float
) -> tuple[Tensor, Tensor]:
    """Density peaks of each class (Han et al., ICCV 2019, section 3.2), for all classes at once.

    With S the cosines within a class and ``S_c`` their quantile, ``rho_i = sum_j sign(S_ij - S_c)``
    is a node's density, and ``eta_i`` its similarity to the closest denser node (for the densest
    node: to the least similar one). Where ``eta >= too_close`` the density is set to 0; the ``count``
    nodes of highest density are the prototypes; of equal ones those with a smaller eta.

    Args:
        unit: ``[C, m, D]`` unit vectors.
        real: ``[C, m]`` bool.
        count: prototypes a class.
        quantile: in (0, 1).
        too_close: a cosine.

    Returns:
        Places ``[C, count]`` among the m, and which of them are prototypes.
    """
    cosine = unit @ unit.transpose(1, 2)  # [C, m, m]
    both = real[:, :, None] & real[:, None, :]
    ranked = cosine.masked_fill(~both, torch.inf).flatten(1).sort(dim=1).values
    at = (both.flatten(1).sum(dim=1) - 1).clamp_min(0) * quantile
    low, high = (ranked.gather(1, p.long()[:, None]) for p in (at.floor(), at.ceil()))
    threshold = low + (at - at.floor())[:, None] * (high - low)  # [C, 1]
    threshold = torch.where(torch.isfinite(threshold), threshold, torch.zeros_like(threshold))
    rho = ((cosine - threshold[..., None]).sign() * both).sum(dim=2)
    denser = both & (rho[:, None, :] > rho[:, :, None])
    eta = cosine.masked_fill(~denser, -torch.inf).amax(dim=2)
    least = cosine.masked_fill(~both, torch.inf).amin(dim=2)
    eta = torch.where(torch.isinf(eta), least, eta)
    rho = torch.where(eta >= too_close, torch.zeros_like(rho), rho).masked_fill(~real, -torch.inf)
    rho = rho - 1e-3 * eta.clamp(-1.0, 1.0)  # densities are whole numbers: of equals, the one more apart
    best = rho.topk(min(count, rho.shape[1]), dim=1)
    return best.indices, torch.isfinite(best.values)
