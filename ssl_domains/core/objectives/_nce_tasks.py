"""From the arguments of InfoNCE to anchors, candidates and what is known of their pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ssl_domains.core import collectives
from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives._chunked_nce import Form, Pairs


@dataclass
class Inputs:
    """Normalised vectors of this process, and statements about pairs.

    Attributes:
        q: ``[B, D]``.
        k: ``[B, D]`` in-batch keys, or None.
        bank: ``[K, D]`` shared negatives.
        own: ``[B, M + S, D]`` explicit candidates, positives first.
        n_own: (M, S).
        ids: ``[B]``.
        given: masks, weights and soft targets ``[B, C]`` by name.
        weights: ``[B]``.
        gather: whether the batch is that of all processes.
    """

    q: Tensor
    k: Tensor | None
    bank: Tensor | None = None
    own: Tensor | None = None
    n_own: tuple[int, int] = (0, 0)
    ids: Tensor | None = None
    given: dict[str, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None
    gather: bool = True

    @property
    def world(self) -> int:
        return collectives.world_size() if self.gather else 1

    @property
    def offset(self) -> int:
        """First row of this process in the global batch."""
        return len(self.q) * collectives.rank() if self.world > 1 else 0

    def joined(self, x: Tensor) -> Tensor:
        """Rows of all processes, with gradient."""
        return collectives.all_gather_rows(x) if self.world > 1 else x


@dataclass
class Task:
    """One call of the chunked loss: anchors ``[R, D]`` against in-batch, shared and own candidates."""

    rows: Tensor
    in_batch: Tensor | None
    bank: Tensor | None
    own: Tensor | None
    pairs: Pairs
    weights: Tensor | None

    @property
    def plain(self) -> bool:
        """One positive, everything else a negative of weight 1: means follow from sums of vectors."""
        return self.pairs.single and self.pairs.complete and self.weights is None and self.candidates > 1

    @property
    def candidates(self) -> int:
        """Candidates of an anchor, without itself."""
        return self.pairs.columns - (self.pairs.itself is not None)


def tasks(x: Inputs, symmetric: bool, intra: bool) -> list[Task]:
    """One task, or two when queries and keys as anchors have different candidates."""
    both = symmetric and x.k is not None
    x = replace(x, given={name: value.expand(len(x.q), -1) for name, value in x.given.items()})
    all_q = x.joined(x.q) if intra or both else None
    all_k = x.joined(x.k) if x.k is not None else None
    if not both or x.k is None or all_q is None:
        return [_task(x, [x.q], [all_q, all_k] if intra else [all_k], intra)]
    turned = {name: _transpose(x, value) for name, value in x.given.items()}
    if intra:
        return [_task(_doubled(x, turned), [x.q, x.k], [all_q, all_k], intra)]
    width = len(all_q)
    turned = {name: value[:, :width] for name, value in turned.items()}
    reverse = replace(x, bank=None, own=None, n_own=(0, 0), given=turned)
    return [_task(x, [x.q], [all_k], intra), _task(reverse, [x.k], [all_q], intra)]


def _transpose(x: Inputs, values: Tensor) -> Tensor:
    """The in-batch part ``[B, G]`` with keys as anchors; explicit columns stay with their sample."""
    width = len(x.q) * x.world
    whole = collectives.gather_no_grad(values[:, :width]) if x.world > 1 else values[:, :width]
    return torch.cat([whole[:, x.offset : x.offset + len(x.q)].t(), values[:, width:]], dim=1)


def _doubled(x: Inputs, turned: dict[str, Tensor]) -> Inputs:
    """Queries and keys as anchors in one task: what goes with an anchor stands twice."""
    return replace(
        x,
        own=None if x.own is None else torch.cat([x.own, x.own]),
        weights=None if x.weights is None else torch.cat([x.weights, x.weights]),
        given={name: torch.cat([value, turned[name]]) for name, value in x.given.items()},
    )


def _task(x: Inputs, anchors: list[Tensor], candidates: list[Tensor | None], intra: bool) -> Task:
    sides = [side for side in candidates if side is not None]
    in_batch = torch.cat(sides) if len(sides) > 1 else sides[0] if sides else None
    if len(anchors) == 1:
        rows = anchors[0]
    else:  # both views are anchors; on one process they are the candidates, too
        rows = in_batch if x.world == 1 and in_batch is not None else torch.cat(anchors)
    pairs = _pairs(x, len(anchors), [len(side) for side in sides], intra)
    return Task(rows, in_batch, x.bank, x.own, pairs, x.weights)


def _pairs(x: Inputs, anchors: int, sides: list[int], intra: bool) -> Pairs:
    """Where each anchor finds itself and its positive; ``sides`` are the sizes of the in-batch blocks."""
    group = sides[0] if sides else 0
    shared = sum(sides) + (0 if x.bank is None else len(x.bank))
    pairs = Pairs(
        columns=shared + sum(x.n_own), in_batch=group, tiles=max(len(sides), 1),
        explicit=(shared, shared + x.n_own[0]), **x.given,
    )  # fmt: skip
    number = torch.arange(x.offset, x.offset + len(x.q), device=x.q.device)
    if intra:
        pairs.itself = torch.cat([number + side * group for side in range(anchors)])
    if len(sides) == 2:
        pairs.positive = torch.cat([number + (1 - side) * group for side in range(anchors)])
    elif sides and not intra:
        pairs.positive = number
    elif not sides and x.n_own[0] == 1:
        pairs.positive = torch.full_like(number, shared)
    if x.ids is not None:
        joined = collectives.gather_no_grad(x.ids) if x.world > 1 else x.ids
        pairs.row_ids, pairs.column_ids = x.ids.repeat(anchors), joined.repeat(max(len(sides), 1))
    return pairs


def check(x: Inputs, form: Form, intra: bool, key: bool) -> None:
    """Raises one sentence for what does not fit or cannot be meant; ``key``: a key was given."""
    rows, width, in_batch = len(x.q), x.q.shape[1], x.k is not None or intra
    if x.bank is not None and (x.bank.dim() != 2 or x.bank.shape[1] != width):
        raise UserError(f"negatives must be [K, {width}], got {list(x.bank.shape)}.")
    if x.ids is not None and (x.ids.shape != (rows,) or not in_batch):
        raise UserError(f"positive_ids must be [{rows}] beside in-batch keys, got {list(x.ids.shape)}.")
    if x.weights is not None and x.weights.shape != (rows,):
        raise UserError(f"query_weights must be [{rows}], got {list(x.weights.shape)}.")
    named = x.ids is not None or "positive_mask" in x.given
    if "soft_targets" in x.given and (form != "out" or named):
        raise UserError("soft_targets stand in place of positives; leave out what else names or treats them.")
    if not (key or x.n_own[0] or named or "soft_targets" in x.given):
        raise UserError("InfoNCE without a key needs positives, positive_ids, positive_mask or soft_targets.")
    widths = [rows * x.world * in_batch]
    for more in (0 if x.bank is None else len(x.bank), *x.n_own):
        widths.append(widths[-1] + more)
    for name, value in x.given.items():
        if value.dim() != 2 or value.shape[0] not in (1, rows) or value.shape[1] not in widths:
            allowed = " or ".join(str(w) for w in sorted(set(widths)) if w)
            raise UserError(f"{name} must be [queries {rows}, candidates {allowed}], got {[*value.shape]}.")


def uniform(task: Task, form: Form) -> float | None:
    """The loss when all similarities are equal, where shapes alone decide it."""
    pairs, n = task.pairs, task.candidates
    if not pairs.complete:
        return None
    if form == "out":
        return math.log(n)
    if pairs.row_ids is not None or pairs.positive_mask is not None:
        return None
    positive = pairs.explicit[1] - pairs.explicit[0] + (pairs.in_batch > 0 and pairs.positive is not None)
    negative = n - positive
    if form.startswith("decoupled") and negative < 1:
        return None
    if form == "own":
        return math.log(1 + negative)
    total = negative if form.startswith("decoupled") else n
    return math.log(total / positive if form in ("in", "decoupled_in") else total)


@torch.no_grad()
def negative_similarity(task: Task, positive: Tensor) -> Tensor:
    """Sum over anchors of the mean similarity to their negatives; ``positive``: sum over the positives."""
    total = -positive
    for shared in (task.in_batch, task.bank):
        if shared is not None:
            total = total + task.rows.sum(0) @ shared.sum(0)
    if task.own is not None:
        total = total + (task.rows * task.own.sum(1)).sum()
    if task.pairs.itself is not None:
        total = total - task.rows.square().sum()
    return total / (task.candidates - 1)
