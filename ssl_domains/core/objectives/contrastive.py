"""InfoNCE, and NT-Xent, MoCo and CLIP as configurations of it."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_domains.core import collectives
from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives._chunked_nce import ChunkedNCE, Form
from ssl_domains.core.objectives._nce_tasks import Inputs, Task, check, negative_similarity, tasks, uniform
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
    * ColloSSL (2202.00758): ``key=None, aggregate="in"`` with explicit ``positives``,
      ``query_negatives`` and ``weights``
    * brain decoding (2208.12266): ``normalize="key", temperature=1``, and often ``gather=False``
    * DCL (2110.06848): ``decoupled``
    * batch softmax over items, corrected by their frequency q (Yi et al., RecSys 2019): ``weights = 1 / q``,
      ``[1, G]``, which takes ``ln q`` off every logit of an item

    The work is done in blocks of anchors and the gradient is formed with the value, so memory
    does not grow with the square of the batch. Logits are float32 (float64 for float64
    inputs), under autocast too. There is no second derivative.

    With ``gather`` the batch is the joined batch of all processes and the returned total is
    its loss on every process; see :mod:`ssl_domains.core.collectives`.

    Args:
        temperature: fixed, or the initial value of a learned one. Default 0.1 (SupCon, section 4).
            A schedule may set the attribute ``temperature`` when it is not learned.
        learn_temperature: learns ``log(1 / temperature)``, as CLIP does (section 2.5).
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
        self.log_scale: nn.Parameter | None = None
        if learn_temperature:  # [1] and not a scalar, which FSDP2 cannot shard
            self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))

    def scale(self) -> float | Tensor:
        """``1 / temperature``; a tensor with gradient when learned, held below ``max_scale``."""
        if self.log_scale is None:
            return 1.0 / self.temperature
        if self.training:
            self._hold()
        return self.log_scale.exp()[0]

    @torch.no_grad()
    def _hold(self) -> None:
        """As CLIP: the parameter itself is clamped, so that it can come back from the limit."""
        if self.log_scale is not None:
            self.log_scale.clamp_(max=math.log(self.max_scale))

    def after_step(self, fraction: float) -> None:
        """Clamps a learned temperature once more: under FSDP2 a forward pass changes a copy only."""
        self._hold()

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
        with torch.autocast(query.device.type, enabled=False):
            x = self._vectors(query, key, positives, query_negatives)
            x.bank = None if negatives is None else self._side(negatives, "key")
            x.given = {name: value.detach() for name, value in pairs.items() if value is not None}
            x.ids, x.weights = positive_ids, None if query_weights is None else query_weights.detach()
            check(x, self.form, self.intra, key is not None)
            return self._terms(tasks(x, self.symmetric, self.intra))

    def _side(self, x: Tensor, side: str) -> Tensor:
        """Float32 or float64, normalised where this side is."""
        x = x if x.dtype == torch.float64 else x.float()
        return F.normalize(x, dim=-1) if self.normalize in ("both", side) else x

    def _vectors(
        self, query: Tensor, key: Tensor | None, positives: Tensor | None, query_negatives: Tensor | None
    ) -> Inputs:
        """Normalised queries, in-batch keys, and explicit candidates in one tensor."""
        if query.dim() != 2 or (key is not None and key.shape != query.shape):
            shapes = f"{list(query.shape)} and {None if key is None else list(key.shape)}"
            raise UserError(f"InfoNCE wants query and key [B, D] of one shape, got {shapes}.")
        for name, x in (("positives", positives), ("query_negatives", query_negatives)):
            if x is not None and (x.dim() != 3 or x.shape[::2] != query.shape):
                wanted = f"[{len(query)}, number, {query.shape[1]}]"
                raise UserError(f"{name} must be [B, number, D] = {wanted}, got {list(x.shape)}.")
        if key is not None and not self.in_batch:
            positives = key[:, None] if positives is None else torch.cat([key[:, None], positives], dim=1)
            key = None
        explicit = [None if x is None else self._side(x, "key") for x in (positives, query_negatives)]
        present = [x for x in explicit if x is not None]
        n_positive, n_negative = (0 if x is None else x.shape[1] for x in explicit)
        return Inputs(
            self._side(query, "query"),
            None if key is None else self._side(key, "key"),
            own=torch.cat(present, dim=1) if len(present) > 1 else present[0] if present else None,
            n_own=(n_positive, n_negative),
            gather=self.gather,
        )

    def _terms(self, work: list[Task]) -> Terms:
        """Runs the tasks and joins them over directions and processes."""
        scale = self.scale()
        sums = torch.stack([self._run(task, scale) for task in work]).sum(0)
        sums = collectives.all_reduce_sum(sums) if self.gather else sums
        anchors = sums[1].detach()
        means = sums / torch.where(anchors == 0, 1.0, anchors)  # without an anchor all sums are zero
        parts = {"accuracy": means[2].detach()}
        if all(task.pairs.weights is None for task in work):
            parts["positive_similarity"] = means[3].detach()
        if all(task.plain for task in work):
            parts["negative_similarity"] = means[4].detach()
        if self.log_scale is not None:
            parts["temperature"] = (-self.log_scale.detach()).exp()[0]
        level = [uniform(task, self.form) for task in work]
        known = [value for value in level if value is not None]
        trivial = {"uniform": sum(known) / len(level)} if len(known) == len(level) else {}
        return Terms(means[0], parts, trivial)

    def _run(self, task: Task, scale: float | Tensor) -> Tensor:
        """``[loss, anchors, correct, positive, negative similarity]``, sums of this process."""
        value, stats = ChunkedNCE.apply(
            task.rows, task.in_batch, task.bank, task.own, scale, task.pairs, self.form, task.weights,
            self.chunk_size, torch.is_grad_enabled(),
        )  # fmt: skip
        positive = stats[2] / (scale.detach() if isinstance(scale, Tensor) else scale)
        negative = negative_similarity(task, positive) if task.plain else torch.zeros_like(positive)
        return torch.stack([value, stats[0], stats[1], positive, negative])

    def remedies(self) -> dict[str, str]:
        temperature = self.temperature
        if self.log_scale is not None and not hasattr(self.log_scale, "full_tensor"):  # whole, not sharded
            temperature = math.exp(-float(self.log_scale.detach()))
        alike = f"all candidates look alike at temperature {temperature:.3g}"
        apart = "lower the learning rate, use milder views, or more negatives"
        return {
            "uniform": f"{alike}; lower objective.temperature or the learning rate, or use milder views",
            "point": f"the contrast no longer keeps samples apart; {apart}",
            "line": f"the contrast uses one direction only; lower objective.temperature, or {apart}",
        }

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        """In-batch contrast needs other samples in the batch."""
        if self.in_batch and batch_size < 2:
            return ["A contrastive loss with a batch of one has no in-batch negatives; raise the batch size."]
        return []


@objective("nt_xent")
class NTXent(InfoNCE):
    """NT-Xent of SimCLR (Chen et al. 2020, arXiv 2002.05709, eq. 1): both views are anchors and candidates.

    Args:
        temperature: default 0.5, the best of SimCLR's CIFAR-10 runs (appendix B.9); 0.1 on ImageNet.
        decoupled: DCL, see :class:`InfoNCE`.
        gather: use the global batch.
        chunk_size: anchors in a block.
    """

    def __init__(
        self,
        temperature: float = 0.5,
        *,
        decoupled: bool = False,
        gather: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(
            temperature, symmetric=True, intra=True, decoupled=decoupled, gather=gather, chunk_size=chunk_size
        )


@objective("moco")
class MoCo(InfoNCE):
    """MoCo's loss (He et al. 2020, arXiv 1911.05722, eq. 1): query against its key and the queue's negatives.

    Args:
        temperature: default 0.2, that of MoCo v2 (arXiv 2003.04297, table 2); v1 has 0.07.
        gather: average over the global batch.
        chunk_size: anchors in a block.
    """

    def __init__(
        self, temperature: float = 0.2, *, gather: bool = True, chunk_size: int | None = None
    ) -> None:
        super().__init__(temperature, in_batch=False, gather=gather, chunk_size=chunk_size)


@objective("clip")
class CLIP(InfoNCE):
    """CLIP's loss (Radford et al. 2021, arXiv 2103.00020, section 2.3): both directions, learned temperature.

    Args:
        temperature: initial value; default 0.07 (section 2.5).
        learn_temperature: see :class:`InfoNCE`.
        max_scale: largest ``1 / temperature``; default 100 (section 2.5).
        gather: use the global batch.
        chunk_size: anchors in a block.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        learn_temperature: bool = True,
        max_scale: float = 100.0,
        gather: bool = True,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(
            temperature, learn_temperature=learn_temperature, max_scale=max_scale, symmetric=True,
            gather=gather, chunk_size=chunk_size,
        )  # fmt: skip


def _form(aggregate: str, exclude_positives: bool, decoupled: bool) -> Form:
    if aggregate not in ("out", "in"):
        raise UserError(f"aggregate must be out or in, got {aggregate!r}.")
    if aggregate == "in":
        if exclude_positives and not decoupled:
            raise UserError("exclude_positives has no meaning with aggregate: in, where all are one term.")
        return "decoupled_in" if decoupled else "in"
    return "decoupled" if decoupled else "own" if exclude_positives else "out"
