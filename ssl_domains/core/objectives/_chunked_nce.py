"""InfoNCE in blocks of rows, with the gradient formed in the same pass as the value.

For a block of anchors: logits against all candidates, log-sum-exp, the derivative with
respect to the logits (written over them), and from it at once the gradients of anchors and
candidates. What is kept for the backward is as large as the inputs, so memory grows with
the number of rows and not with the number of pairs; the backward multiplies by the incoming
scalar.

Columns, here and everywhere below, are ``[in-batch | negatives | own]``: the in-batch
candidates (``tiles`` copies of the global batch), the shared negatives, and the explicit
candidates that each anchor has of its own (first its positives, then its negatives).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Form = Literal["out", "in", "own", "decoupled", "decoupled_in"]

# Logits in a block: they stay in the cache of a CPU, and keep an accelerator busy.
_BLOCK_CPU, _BLOCK_ACCELERATOR, _MIN_ROWS = 2**22, 2**25, 128


@dataclass
class Pairs:
    """What is known about the pairs of ``[R]`` anchors and ``[C]`` columns.

    The tensors ``[R, c]`` cover the first ``c`` columns of a layout in which the in-batch
    part is not tiled (width ``in_batch``).
    """

    columns: int
    in_batch: int = 0
    tiles: int = 1
    explicit: tuple[int, int] = (0, 0)
    """Columns of the explicit positives, from - to."""
    positive: Tensor | None = None
    """``[R]`` the in-batch (or explicit) column of the one positive."""
    itself: Tensor | None = None
    """``[R]`` the column of the anchor itself."""
    row_ids: Tensor | None = None
    column_ids: Tensor | None = None
    positive_mask: Tensor | None = None
    negative_mask: Tensor | None = None
    ignore_mask: Tensor | None = None
    weights: Tensor | None = None
    soft_targets: Tensor | None = None

    @property
    def single(self) -> bool:
        """One positive per anchor, at a known column: no mask over the pairs is needed."""
        others = (self.row_ids, self.positive_mask, self.soft_targets)
        alone = self.positive is not None and all(o is None for o in others)
        return alone and (self.explicit[0] == self.explicit[1] or self.in_batch == 0)

    @property
    def complete(self) -> bool:
        """All columns but the anchor itself stand in the denominator with weight 1."""
        return self.negative_mask is None and self.ignore_mask is None and self.weights is None

    def spread(self, values: Tensor, rows: slice, fill: float | bool) -> Tensor:
        """Rows of a ``[R, c]`` tensor over all columns: tiled, and filled where it says nothing."""
        part = values[rows]
        blocks = [part[:, : self.in_batch]] * self.tiles + [part[:, self.in_batch :]]
        missing = self.columns - sum(block.shape[1] for block in blocks)
        if missing:
            blocks.append(part.new_full((1, 1), fill).expand(part.shape[0], missing))
        return torch.cat(blocks, dim=1)

    def positives(self, rows: slice, like: Tensor) -> Tensor:
        """Bool ``[r, C]``: the positives of a block of anchors."""
        if self.positive_mask is not None:
            found = self.spread(self.positive_mask, rows, False)
        else:
            found = torch.zeros_like(like, dtype=torch.bool)
        if self.row_ids is not None and self.column_ids is not None:
            found[:, : len(self.column_ids)] |= self.row_ids[rows, None] == self.column_ids
        elif self.positive_mask is None and self.positive is not None:
            found.scatter_(1, self.positive[rows, None], True)
        found[:, self.explicit[0] : self.explicit[1]] = True
        if self.itself is not None:
            found.scatter_(1, self.itself[rows, None], False)
        return found

    def drop(self, logits: Tensor, rows: slice, positives: Tensor | None) -> None:
        """Writes -inf over the pairs that take no part, and adds the logarithm of the weights."""
        if self.weights is not None:
            logits += self.spread(self.weights, rows, 1.0).to(logits.dtype).log()
        if self.negative_mask is not None:
            absent = ~self.spread(self.negative_mask, rows, True)
            if positives is not None:
                absent &= ~positives
            elif self.positive is not None:
                absent.scatter_(1, self.positive[rows, None], False)
            logits.masked_fill_(absent, -torch.inf)
        if self.ignore_mask is not None:
            logits.masked_fill_(self.spread(self.ignore_mask, rows, False), -torch.inf)
        if self.itself is not None:
            logits.scatter_(1, self.itself[rows, None], -torch.inf)


class RowLoss(NamedTuple):
    """Value per anchor. The logits are overwritten by dloss/dlogits up to ``factor``."""

    loss: Tensor  # [r, 1]
    factor: Tensor  # [r, 1]; 0 where the anchor has no loss
    valid: Tensor  # [r, 1] bool: the anchor has a positive and a denominator
    correct: Tensor  # [r, 1] bool: a positive is ranked before every negative
    similarity: Tensor  # [r, 1] mean logit of the positives


def solve(
    rows: Tensor, shared: list[Tensor | None], own: Tensor | None, scale: float | Tensor, pairs: Pairs,
    form: Form, row_weights: Tensor | None, chunk: int | None, needs: tuple[bool, bool, bool, bool],
) -> tuple[Tensor, Tensor, list[Tensor | None]]:  # fmt: skip
    """Value and gradients over all blocks.

    Args:
        rows: anchors ``[R, D]``.
        shared: in-batch candidates ``[N, D]`` and shared negatives ``[K, D]``.
        own: ``[R, E, D]``.
        scale: inverse temperature.
        pairs: positives, masks, weights.
        form: which formula, see :func:`row_loss`.
        row_weights: ``[R]``.
        chunk: anchors in a block; None chooses.
        needs: whether ``rows``, the two of ``shared`` and ``own`` get a gradient.

    Returns:
        Sum of the losses; ``[anchors, correct, sum of positive logits]``, weighted; the four gradients.
    """
    inputs = [rows, *shared, own]
    grads = [torch.zeros_like(t) if n and t is not None else None for t, n in zip(inputs, needs, strict=True)]
    step = chunk or _rows_per_block(pairs.columns, rows)
    buffer = rows.new_empty(min(step, len(rows)), pairs.columns)
    sums = rows.new_zeros(4)
    for start in range(0, len(rows), step):
        at = slice(start, min(start + step, len(rows)))
        anchors = rows[at] * scale
        own_at = None if own is None else own[at]
        logits = _logits(anchors, shared, own_at, buffer[: len(anchors)])
        value = row_loss(logits, pairs, at, form)
        weight = value.valid if row_weights is None else value.valid * row_weights[at, None]
        columns = [value.loss, weight, value.correct * weight, value.similarity]
        kept = torch.where(value.valid, torch.cat([column.to(rows.dtype) for column in columns], 1), 0.0)
        kept[:, ::3] *= weight
        sums += kept.sum(0)
        if any(needs):
            factor = value.factor if row_weights is None else value.factor * row_weights[at, None]
            _add_gradients(grads, logits, anchors * factor, factor * scale, shared, own_at, at)
    return sums[0], sums[1:], grads


def _rows_per_block(columns: int, like: Tensor) -> int:
    block = _BLOCK_CPU if like.device.type == "cpu" else _BLOCK_ACCELERATOR
    return max(_MIN_ROWS, block // max(columns, 1))


def _logits(anchors: Tensor, shared: list[Tensor | None], own: Tensor | None, out: Tensor) -> Tensor:
    """``[r, C]`` into the buffer."""
    start = 0
    for block in shared:
        if block is not None:
            torch.mm(anchors, block.t(), out=out[:, start : start + len(block)])
            start += len(block)
    if own is not None:
        torch.bmm(own, anchors[:, :, None], out=out[:, start:, None])
    return out


def _add_gradients(
    grads: list[Tensor | None], slope: Tensor, weighted: Tensor, factor: Tensor,
    shared: list[Tensor | None], own: Tensor | None, at: slice,
) -> None:  # fmt: skip
    """Adds a block's share; ``slope [r, C]`` is dloss/dlogits before its factor per anchor."""
    start, anchors = 0, grads[0]
    for block, grad in zip(shared, grads[1:3], strict=True):
        if block is None:
            continue
        part = slope[:, start : start + len(block)]
        if anchors is not None:
            anchors[at].addmm_(part, block)
        if grad is not None:
            grad.addmm_(part.t(), weighted)
        start += len(block)
    if own is not None:
        part = slope[:, start:]
        if anchors is not None:
            anchors[at] += torch.bmm(part[:, None], own)[:, 0]
        if grads[3] is not None:
            torch.mul(part[:, :, None], weighted[:, None], out=grads[3][at])
    if anchors is not None:
        anchors[at] *= factor


def row_loss(logits: Tensor, pairs: Pairs, at: slice, form: Form) -> RowLoss:
    """Loss of a block of anchors; ``logits [r, C]`` are overwritten by the derivative.

    With ``l`` the logits plus the logarithm of the pair weights, ``P`` the positives, ``N``
    the negatives of an anchor:

    * ``out``: ``mean_P [log sum_{P,N} exp l - l_p]`` (SupCon's L_out; soft targets replace the mean);
    * ``in``: ``log sum_{P,N} exp l - log sum_P exp l``;
    * ``own``: ``mean_P [log(exp l_p + sum_N exp l) - l_p]``;
    * ``decoupled``, ``decoupled_in``: ``out`` and ``in`` with ``sum_N`` alone.
    """
    if pairs.single:
        pairs.drop(logits, at, None)
        assert pairs.positive is not None
        return _one_positive(logits, pairs.positive[at, None], form.startswith("decoupled"))
    if pairs.soft_targets is not None:
        targets = pairs.spread(pairs.soft_targets, at, 0.0).to(logits.dtype)
        pairs.drop(logits, at, targets > 0)
        return _soft(logits, targets)
    positives = pairs.positives(at, logits)
    pairs.drop(logits, at, positives)
    positives &= logits != -torch.inf
    return _several(logits, positives, form)


def _one_positive(logits: Tensor, column: Tensor, decoupled: bool) -> RowLoss:
    """One positive at ``column [r, 1]``. Leaves the unnormalised derivative; factor ``1 / Z``."""
    positive = logits.gather(1, column)
    rival = logits.scatter_(1, column, -torch.inf).amax(1, keepdim=True)
    highest = rival
    if not decoupled:
        logits.scatter_(1, column, positive)
        highest = torch.maximum(rival, positive)
    highest = highest.clamp_min(torch.finfo(logits.dtype).min)
    total = logits.sub_(highest).exp_().sum(1, keepdim=True)
    loss = total.log() + highest - positive
    valid = (positive != -torch.inf) & (total != 0)  # NaN stays valid: it has to be seen
    logits.scatter_add_(1, column, -total)
    return RowLoss(loss, torch.where(valid, 1 / total, 0.0), valid, positive > rival, positive)


def _several(logits: Tensor, positives: Tensor, form: Form) -> RowLoss:
    """Any number of positives, ``positives [r, C]`` bool."""
    count = positives.sum(1, keepdim=True)
    mean = positives.to(logits.dtype) / count.clamp_min(1)
    similarity = _dot(mean, logits)
    top = logits.masked_fill(~positives, -torch.inf)
    rivals = logits.masked_fill(positives, -torch.inf)
    correct = top.amax(1, keepdim=True) > rivals.amax(1, keepdim=True)
    if form == "own":
        loss = _own_denominator(logits, positives, mean, _softmax_(rivals), rivals)
        valid = count > 0
    else:
        if form.startswith("decoupled"):
            logits.masked_fill_(positives, -torch.inf)
        inside = form in ("in", "decoupled_in")
        numerator = _softmax_(top) if inside else similarity
        loss = _softmax_(logits) - numerator
        logits -= top if inside else mean
        valid = (count > 0) & (loss.abs() != torch.inf)
    return RowLoss(loss, valid.to(logits.dtype), valid, correct, similarity)


def _own_denominator(logits: Tensor, positives: Tensor, mean: Tensor, rest: Tensor, shares: Tensor) -> Tensor:
    """Each positive against the negatives, with their log-sum-exp ``rest [r, 1]`` and softmax ``shares``."""
    gap = torch.where(positives, rest - logits, -torch.inf)
    loss = _dot(mean, torch.nn.functional.softplus(gap))
    pull = mean * gap.sigmoid()
    torch.sub(shares * pull.sum(1, keepdim=True), pull, out=logits)
    return loss


def _soft(logits: Tensor, targets: Tensor) -> RowLoss:
    """Cross-entropy against ``targets [r, C]``, made to sum to one over what takes part."""
    targets = targets.masked_fill(logits == -torch.inf, 0.0)
    total = targets.sum(1, keepdim=True)
    targets = targets / torch.where(total > 0, total, 1.0)
    similarity = _dot(targets, logits)
    correct = logits.argmax(1, keepdim=True) == targets.argmax(1, keepdim=True)
    loss = _softmax_(logits) - similarity
    logits -= targets
    valid = total > 0
    return RowLoss(loss, valid.to(logits.dtype), valid, correct, similarity)


def _softmax_(logits: Tensor) -> Tensor:
    """Log-sum-exp ``[r, 1]``; the logits become their softmax, zeros where all are -inf."""
    highest = logits.amax(1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)
    total = logits.sub_(highest).exp_().sum(1, keepdim=True)
    logits /= torch.where(total == 0, 1.0, total)
    return total.log() + highest


def _dot(weights: Tensor, values: Tensor) -> Tensor:
    """``sum_c w v`` per row, where a weight of zero wins over an infinite value."""
    return torch.where(weights == 0, 0.0, weights * values).sum(1, keepdim=True)


class ChunkedNCE(torch.autograd.Function):
    """Sum of the row losses with its gradients; see :func:`solve`.

    Inputs ``rows, in_batch, negatives, own, scale`` may need gradient. Returns the sum, and
    without gradient ``[anchors, correct, sum of positive logits]``.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, in_batch: Tensor | None, negatives: Tensor | None, own: Tensor | None,
        scale: float | Tensor, pairs: Pairs, form: Form, row_weights: Tensor | None, chunk: int | None,
        enabled: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        wanted = ctx.needs_input_grad[:5] if enabled else (False,) * 5
        needs = (wanted[0] or wanted[4], *wanted[1:4])
        value, stats, grads = solve(
            rows, [in_batch, negatives], own, scale, pairs, form, row_weights, chunk, needs
        )
        slope = None
        if wanted[4]:
            # logits = scale * rows . columns, so the derivative by the scale needs no second sum over pairs.
            slope = (rows * grads[0]).sum() / scale  # type: ignore[operator]
        ctx.save_for_backward(grads[0] if wanted[0] else None, *grads[1:], slope)
        ctx.mark_non_differentiable(stats)
        return value.clone(), stats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        saved = [None if g is None else g * grad for g in ctx.saved_tensors]
        return (*saved, None, None, None, None, None)
