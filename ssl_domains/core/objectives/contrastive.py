"""InfoNCE, and NT-Xent, MoCo and CLIP as configurations of it."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_domains.core import collectives
from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives._chunked_nce import ChunkedNCE, Form, Pairs
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.registry import objective


@objective("info_nce")
class InfoNCE(Objective):
    r"""The contrastive loss of van den Oord et al. 2018 (arXiv 1807.03748, eq. 4) and its family.

    For an anchor with positives P and negatives N, and logits ``l = similarity / temperature``::

        L = mean over P of [ log sum over P and N of exp(l) - l_p ]

    averaged over all anchors that have a positive. By hand: two samples, orthonormal keys,
    queries equal to their keys, temperature 1: ``ln(1 + exp(-1)) = 0.313262``.

    Which settings give which paper:

    * NT-Xent / SimCLR (2002.05709): ``symmetric, intra``: :class:`NTXent`
    * MoCo (1911.05722, 2003.04297), MoCHi (2010.01028): ``in_batch=False``: :class:`MoCo`, with
      ``negatives=queue`` and, for MoCHi, ``query_negatives=mixed``
    * CLIP (2103.00020): ``symmetric, learn_temperature``: :class:`CLIP`
    * SupCon (2004.11362, L_out): ``symmetric, intra``, and ``positive_ids=labels``
    * local and position-aware contrast (2006.10511): ``exclude_positives`` with masks
    * ColloSSL (2202.00758): ``key=None, aggregate="in"``, explicit ``positives``, ``query_negatives``, ``weights``
    * brain decoding (2208.12266): ``normalize="key", temperature=1``, and often ``gather=False``
    * DCL (2110.06848): ``decoupled``

    The work is done in blocks of anchors and the gradient is formed with the value, so memory
    does not grow with the square of the batch. Logits are float32 (float64 for float64
    inputs), under autocast too. There is no second derivative.

    With ``gather`` the batch is the joined batch of all processes and the returned total is
    its loss on every process; see :mod:`ssl_domains.core.collectives`.

    Args:
        temperature: fixed, or the initial value of a learned one. Default 0.1 (SupCon, section 4).
            A schedule may set the attribute ``temperature`` when it is not learned.
        learn_temperature: learns ``log(1 / temperature)``, as CLIP does (section 2.4).
        max_scale: largest ``1 / temperature`` when learned. Default 100 (CLIP, section 2.5).
        normalize: which sides are scaled to unit length; explicit vectors are on the key's side.
        symmetric: keys are anchors too, with the queries as their candidates.
        intra: vectors of the anchor's own side are candidates too (never itself).
        in_batch: the keys of other samples are candidates. False: a query sees its own key
            as a positive, and the explicit vectors.
        aggregate: several positives are averaged outside the logarithm (``out``), or summed
            inside it (``in``).
        exclude_positives: other positives do not stand in the denominator of a positive.
        decoupled: no positive stands in a denominator, its own neither.
        gather: use the global batch.
        chunk_size: anchors in a block; by default chosen from the number of candidates.

    Raises:
        UserError: settings that exclude each other.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        learn_temperature: bool = False,
        max_scale: float = 100.0,
        normalize: Literal["both", "query", "key", "none"] = "both",
        symmetric: bool = False,
        intra: bool = False,
        in_batch: bool = True,
        aggregate: Literal["out", "in"] = "out",
        exclude_positives: bool = False,
        decoupled: bool = False,
        gather: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise UserError(f"temperature must be positive, got {temperature}.")
        if normalize not in ("both", "query", "key", "none"):
            raise UserError(f"normalize must be both, query, key or none, got {normalize!r}.")
        if not in_batch and (symmetric or intra):
            raise UserError("in_batch: false leaves no candidates for symmetric or intra; switch those off.")
        self.form = _form(aggregate, exclude_positives, decoupled)
        self.temperature = temperature
        self.max_scale = max_scale
        self.normalize = normalize
        self.symmetric, self.intra, self.in_batch = symmetric, intra, in_batch
        self.gather, self.chunk_size = gather, chunk_size
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature))) if learn_temperature else None

    def scale(self) -> float | Tensor:
        """``1 / temperature``; a tensor with gradient when learned, held below ``max_scale``."""
        if self.log_scale is None:
            return 1.0 / self.temperature
        if self.training:
            # As CLIP: the parameter itself is clamped, so that it can come back from the limit.
            with torch.no_grad():
                self.log_scale.clamp_(max=math.log(self.max_scale))
        return self.log_scale.exp()

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        *,
        negatives: Tensor | None = None,
        query_negatives: Tensor | None = None,
        positives: Tensor | None = None,
        positive_mask: Tensor | None = None,
        negative_mask: Tensor | None = None,
        ignore_mask: Tensor | None = None,
        weights: Tensor | None = None,
        soft_targets: Tensor | None = None,
        positive_ids: Tensor | None = None,
        query_weights: Tensor | None = None,
    ) -> Terms:
        """The loss of a batch of queries.

        Arguments ``[B, C]`` speak of pairs. Their columns are ``[in-batch G | negatives K |
        positives M | query_negatives S]`` and may end after any of the four; G is the global
        batch (0 with ``in_batch=False``; then ``key`` is the first of the positives, M + 1 in
        all). With ``intra`` the in-batch part serves the candidates of both sides. When keys
        are the anchors its transpose is used. A first dimension of 1 means the same for all.

        Args:
            query: ``[B, D]``.
            key: ``[B, D]``; the positive of query b is key b, unless ids, a mask or soft targets say
                otherwise. None: only explicit candidates, and with ``intra`` the other queries.
            negatives: ``[K, D]`` shared by all queries (queue, bank), the same on every process.
            query_negatives: ``[B, S, D]`` of each query.
            positives: ``[B, M, D]`` of each query. The explicit vectors serve keys as anchors only
                with ``intra``, where both sides are of one kind.
            positive_mask: ``[B, C]`` bool: the in-batch positives, in place of key b.
            negative_mask: ``[B, C]`` bool: the negatives; what is neither positive nor negative is
                ignored.
            ignore_mask: ``[B, C]`` bool: pairs left out, even positive ones.
            weights: ``[B, C]`` >= 0, factors of ``exp(l)`` wherever it appears. No gradient.
            soft_targets: ``[B, C]`` >= 0 in place of hard positives; rows are made to sum to one.
                No gradient.
            positive_ids: ``[B]`` integers: equal id, positive pair (labels for SupCon).
            query_weights: ``[B]`` weights of the samples in the mean. No gradient.

        Returns:
            total; parts ``accuracy`` (a positive is ranked before all negatives),
            ``positive_similarity``, ``negative_similarity`` (where cheap), ``temperature`` (when
            learned); trivial ``uniform``: the value when all similarities are equal, where the
            number of candidates is known without looking at masks.

        Raises:
            UserError: shapes that do not fit, or arguments that exclude each other.
        """
        pairs = {
            "positive_mask": positive_mask, "negative_mask": negative_mask, "ignore_mask": ignore_mask,
            "weights": weights, "soft_targets": soft_targets,
        }  # fmt: skip
        given = {name: value.detach() for name, value in pairs.items() if value is not None}
        with torch.autocast(query.device.type, enabled=False):
            q, k, own, n_own = self._vectors(query, key, positives, query_negatives)
            bank = None if negatives is None else self._side(negatives, "key")
            self._check(q, k, bank, positive_ids, given, n_own)
            tasks = self._directions(q, k, bank, own, n_own, positive_ids, given, query_weights)
            return self._terms(tasks)

    def _side(self, x: Tensor, side: str) -> Tensor:
        """Float32 or float64, normalised where this side is."""
        x = x if x.dtype == torch.float64 else x.float()
        return F.normalize(x, dim=-1) if self.normalize in ("both", side) else x

    def _vectors(
        self, query: Tensor, key: Tensor | None, positives: Tensor | None, query_negatives: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, tuple[int, int]]:
        """Normalised queries, in-batch keys and explicit candidates ``[B, M + S, D]``, with (M, S)."""
        if query.dim() != 2 or (key is not None and key.shape != query.shape):
            raise UserError(
                f"InfoNCE wants query and key [B, D] of one shape, got {_shape(query)} and {_shape(key)}."
            )
        explicit = {"positives": positives, "query_negatives": query_negatives}
        for name, x in explicit.items():
            if x is not None and (x.dim() != 3 or x.shape[::2] != query.shape):
                raise UserError(
                    f"{name} must be [B, number, D] = [{len(query)}, number, {query.shape[1]}], got {_shape(x)}."
                )
        parts = [None if x is None else self._side(x, "key") for x in explicit.values()]
        k = None if key is None else self._side(key, "key")
        if k is not None and not self.in_batch:
            parts[0] = k[:, None] if parts[0] is None else torch.cat([k[:, None], parts[0]], dim=1)
            k = None
        n_own = (0 if parts[0] is None else parts[0].shape[1], 0 if parts[1] is None else parts[1].shape[1])
        present = [x for x in parts if x is not None]
        own = None if not present else present[0] if len(present) == 1 else torch.cat(present, dim=1)
        return self._side(query, "query"), k, own, n_own

    def _check(
        self, q: Tensor, k: Tensor | None, bank: Tensor | None, ids: Tensor | None, given: dict[str, Tensor],
        n_own: tuple[int, int],
    ) -> None:  # fmt: skip
        """One sentence for what cannot be meant."""
        in_batch = k is not None or self.intra
        world = collectives.world_size() if self.gather else 1
        if bank is not None and (bank.dim() != 2 or bank.shape[1] != q.shape[1]):
            raise UserError(f"negatives must be [K, {q.shape[1]}], got {_shape(bank)}.")
        if ids is not None and (ids.shape != q.shape[:1] or not in_batch):
            raise UserError(f"positive_ids must be [B] = [{len(q)}] beside in-batch keys, got {_shape(ids)}.")
        if "soft_targets" in given and (
            self.form != "out" or ids is not None or "positive_mask" in given or n_own[0] > (not self.in_batch)
        ):
            raise UserError("soft_targets stand in place of positives; leave out what else names or treats them.")
        if k is None and not n_own[0] and ids is None and not {"positive_mask", "soft_targets"} & given.keys():
            raise UserError("InfoNCE without a key needs positives, positive_ids, positive_mask or soft_targets.")
        widths = [len(q) * world * in_batch]
        for more in (0 if bank is None else len(bank), *n_own):
            widths.append(widths[-1] + more)
        for name, x in given.items():
            if x.dim() != 2 or x.shape[0] not in (1, len(q)) or x.shape[1] not in widths:
                allowed = " or ".join(str(w) for w in sorted(set(widths)) if w)
                raise UserError(f"{name} must be [{len(q)}, {allowed}] (queries, candidates), got {_shape(x)}.")

    def _directions(
        self, q: Tensor, k: Tensor | None, bank: Tensor | None, own: Tensor | None, n_own: tuple[int, int],
        ids: Tensor | None, given: dict[str, Tensor], query_weights: Tensor | None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """What :class:`ChunkedNCE` gets: one task, or two when the directions have different candidates."""
        both = self.symmetric and k is not None
        all_q = self._gather(q) if self.intra or both else None
        all_k = self._gather(k) if k is not None else None
        all_ids = None if ids is None else collectives.gather_no_grad(ids) if self.gather else ids
        common = {"bank": bank, "own": own, "n_own": n_own, "ids": ids, "all_ids": all_ids}
        given = {name: x.expand(len(q), -1) for name, x in given.items()}
        turned = {name: self._transpose(x, len(q), k) for name, x in given.items()} if both else {}
        weights = query_weights
        if not self.intra:
            tasks = [self._task([q], [all_k], given, weights=weights, key_is_anchor=False, **common)]
            if both:
                common.update(bank=None, own=None, n_own=(0, 0))
                turned = {name: x[:, : len(q) * self._world()] for name, x in turned.items()}
                tasks.append(self._task([k], [all_q], turned, weights=weights, key_is_anchor=True, **common))
            return tasks
        if both:
            given = {name: torch.cat([x, turned[name]]) for name, x in given.items()}
            common["own"] = None if own is None else torch.cat([own, own])
            weights = None if weights is None else torch.cat([weights, weights])
        anchors = [q, k] if both else [q]
        return [self._task(anchors, [all_q, all_k], given, weights=weights, key_is_anchor=False, **common)]

    def _world(self) -> int:
        return collectives.world_size() if self.gather else 1

    def _gather(self, x: Tensor) -> Tensor:
        return collectives.all_gather_rows(x) if self.gather else x

    def _transpose(self, x: Tensor, rows: int, k: Tensor | None) -> Tensor:
        """The in-batch part ``[B, G]`` with keys as anchors; explicit columns stay with their sample."""
        width = rows * self._world() if k is not None else 0
        whole = collectives.gather_no_grad(x[:, :width]) if self._world() > 1 else x[:, :width]
        start = rows * collectives.rank() if self._world() > 1 else 0
        return torch.cat([whole[:, start : start + rows].t(), x[:, width:]], dim=1)

    def _task(
        self, anchors: list[Any], candidates: list[Tensor | None], given: dict[str, Tensor], *,
        bank: Tensor | None, own: Tensor | None, n_own: tuple[int, int], ids: Tensor | None,
        all_ids: Tensor | None, weights: Tensor | None, key_is_anchor: bool,
    ) -> dict[str, Any]:  # fmt: skip
        """Anchors, candidates and what is known of their pairs."""
        sides = [x for x in candidates if x is not None]
        rows, in_batch = _join(anchors), _join(sides) if sides else None
        if in_batch is not None and in_batch.shape == rows.shape and self._world() == 1 and len(anchors) == len(sides):
            rows = in_batch if self.intra else rows
        group = len(sides[0]) if sides else 0
        n_shared = len(sides) * group + (0 if bank is None else len(bank))
        pairs = Pairs(
            columns=n_shared + sum(n_own), in_batch=group, tiles=max(len(sides), 1),
            explicit=(n_shared, n_shared + n_own[0]), **given,
        )  # fmt: skip
        offset = len(anchors[0]) * collectives.rank() if self._world() > 1 else 0
        number = torch.arange(offset, offset + len(anchors[0]), device=rows.device)
        if self.intra:
            pairs.itself = torch.cat([number + side * group for side in range(len(anchors))])
        if len(sides) == 2:
            pairs.positive = torch.cat([number + (1 - side) * group for side in range(len(anchors))])
        elif sides and not self.intra:
            pairs.positive = number
        elif not sides and n_own[0] == 1:
            pairs.positive = torch.full((len(rows),), n_shared, device=rows.device)
        if ids is not None and all_ids is not None:
            pairs.row_ids, pairs.column_ids = ids.repeat(len(anchors)), all_ids.repeat(max(len(sides), 1))
        return {"rows": rows, "in_batch": in_batch, "bank": bank, "own": own, "pairs": pairs, "weights": weights}

    def _terms(self, tasks: list[dict[str, Any]]) -> Terms:
        """Runs the tasks and joins them over directions and processes."""
        scale = self.scale()
        sums = torch.stack([self._run(task, scale) for task in tasks]).sum(0)
        sums = collectives.all_reduce_sum(sums) if self.gather else sums
        total, stats = sums[0] / _positive(sums[1].detach()), sums.detach()
        parts = {"accuracy": stats[2] / _positive(stats[1])}
        if all(task["pairs"].weights is None for task in tasks):
            fixed = scale.detach() if isinstance(scale, Tensor) else scale
            parts["positive_similarity"] = stats[3] / _positive(stats[1]) / fixed
        if all(_negatives_are_cheap(task) for task in tasks):
            parts["negative_similarity"] = stats[4] / _positive(stats[1])
        if self.log_scale is not None:
            parts["temperature"] = (-self.log_scale.detach()).exp()
        uniform = _uniform(tasks[0]["pairs"], self.form)
        return Terms(total, parts, {} if uniform is None else {"uniform": uniform})

    def _run(self, task: dict[str, Any], scale: float | Tensor) -> Tensor:
        """``[loss, anchors, correct, positive logits, negative similarity]``, sums of this process."""
        value, stats = ChunkedNCE.apply(
            task["rows"], task["in_batch"], task["bank"], task["own"], scale, task["pairs"], self.form,
            task["weights"], self.chunk_size, torch.is_grad_enabled(),
        )  # fmt: skip
        negative = value.new_zeros(1)
        if _negatives_are_cheap(task):
            fixed = scale.detach() if isinstance(scale, Tensor) else scale
            negative = _negative_similarity(task, stats[2:] / fixed)
        return torch.cat([value[None], stats, negative])

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        """In-batch contrast needs other samples in the batch."""
        if self.in_batch and batch_size < 2:
            return ["A contrastive loss with a batch of one has no in-batch negatives; raise the batch size."]
        return []


@objective("nt_xent")
class NTXent(InfoNCE):
    """NT-Xent of SimCLR (Chen et al. 2020, arXiv 2002.05709, eq. 1): both views are anchors and candidates.

    Args:
        temperature: default 0.5, the best of SimCLR's CIFAR-10 runs (appendix B.9); 0.1 for ImageNet.
        settings: any other argument of :class:`InfoNCE`.
    """

    def __init__(self, temperature: float = 0.5, **settings: Any) -> None:
        super().__init__(temperature, **{"symmetric": True, "intra": True, **settings})


@objective("moco")
class MoCo(InfoNCE):
    """MoCo's loss (He et al. 2020, arXiv 1911.05722, eq. 1): query against its key and the queue's negatives.

    Args:
        temperature: default 0.2, that of MoCo v2 (arXiv 2003.04297, table 2); v1 has 0.07.
        settings: any other argument of :class:`InfoNCE`.
    """

    def __init__(self, temperature: float = 0.2, **settings: Any) -> None:
        super().__init__(temperature, **{"in_batch": False, **settings})


@objective("clip")
class CLIP(InfoNCE):
    """CLIP's loss (Radford et al. 2021, arXiv 2103.00020, section 2.3): both directions, learned temperature.

    Args:
        temperature: initial value; default 0.07, with ``1 / temperature`` held below 100 (section 2.4-2.5).
        settings: any other argument of :class:`InfoNCE`.
    """

    def __init__(self, temperature: float = 0.07, **settings: Any) -> None:
        super().__init__(temperature, **{"symmetric": True, "learn_temperature": True, **settings})


def _form(aggregate: str, exclude_positives: bool, decoupled: bool) -> Form:
    if aggregate not in ("out", "in"):
        raise UserError(f"aggregate must be out or in, got {aggregate!r}.")
    if aggregate == "in":
        if exclude_positives and not decoupled:
            raise UserError("exclude_positives has no meaning with aggregate: in, where all positives are one term.")
        return "decoupled_in" if decoupled else "in"
    return "decoupled" if decoupled else "own" if exclude_positives else "out"


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _positive(count: Tensor) -> Tensor:
    """A divisor: zero only when every sum above it is zero, too."""
    return torch.where(count == 0, 1.0, count)


def _shape(x: Tensor | None) -> str:
    return "None" if x is None else str(list(x.shape))


def _candidates(pairs: Pairs) -> int:
    """Candidates of an anchor, without itself."""
    return pairs.columns - (pairs.itself is not None)


def _uniform(pairs: Pairs, form: Form) -> float | None:
    """The loss when all similarities are equal, where shapes alone decide it."""
    if not pairs.complete:
        return None
    n, explicit = _candidates(pairs), pairs.explicit[1] - pairs.explicit[0]
    if form == "out":
        return math.log(n)
    if pairs.row_ids is not None or pairs.positive_mask is not None:
        return None
    positive = explicit + (pairs.positive is not None and pairs.in_batch > 0)
    if n == positive and form != "in":
        return None
    return {
        "in": math.log(n / positive),
        "own": math.log(1 + n - positive),
        "decoupled": math.log(max(n - positive, 1)),
        "decoupled_in": math.log(max(n - positive, 1) / positive),
    }[form]


def _negatives_are_cheap(task: dict[str, Any]) -> bool:
    """The mean over all negatives then follows from the sum of the candidates."""
    pairs: Pairs = task["pairs"]
    return pairs.single and pairs.complete and task["weights"] is None and _candidates(pairs) > 1


@torch.no_grad()
def _negative_similarity(task: dict[str, Any], positive: Tensor) -> Tensor:
    """Sum over anchors of the mean similarity to their negatives, ``[1]``."""
    rows, pairs = task["rows"], task["pairs"]
    shared = [x.sum(0) for x in (task["in_batch"], task["bank"]) if x is not None]
    total = (rows.sum(0) * torch.stack(shared).sum(0)).sum() if shared else rows.new_zeros(())
    if task["own"] is not None:
        total = total + (rows * task["own"].sum(1)).sum()
    if pairs.itself is not None:
        total = total - rows.square().sum()
    return (total - positive) / (_candidates(pairs) - 1)
