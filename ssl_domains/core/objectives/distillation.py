"""Cross-entropy with a sharpened, centred teacher: DINO on views, iBOT on masked tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.collectives import all_reduce_sum
from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.clustering import sinkhorn
from ssl_domains.core.objectives.numerics import at_least_float32, full_precision, global_mean, positive
from ssl_domains.core.registry import objective
from ssl_domains.core.schedules import Ramp

Logits = Tensor | Sequence[Tensor]


@objective("teacher_cross_entropy")
class TeacherCrossEntropy(Objective):
    """``-sum_k p_t log p_s`` between a sharp teacher and a softer student, over pairs of views.

    ``p_t = softmax((teacher - center) / teacher_temperature)``, detached;
    ``p_s = softmax(student / student_temperature)``; the mean over all pairs (t, s).

    The center is an EMA of the teacher's mean logits over the global batch and all its views.
    In training mode each call only adds its logits to a sum; :meth:`after_step` then moves the
    center once per optimizer step, so that accumulated micro-batches act like one batch. In
    eval mode nothing is gathered.

    Source: DINO (Caron et al. 2021, arXiv 2104.14294), algorithm 1; iBOT (Zhou et al. 2022,
    arXiv 2111.07832), eq. 2 on patch tokens: ``pairs="same_view"``, with an instance (so a
    center) of its own; Sinkhorn centering as in DINOv2.

    Args:
        width: K, number of outputs of the heads.
        student_temperature: default 0.1.
        teacher_temperature: default 0.04.
        teacher_temperature_end: reached linearly over the first ``teacher_temperature_share`` of
            the run (DINO: 0.07, over 30 of 100 epochs). Default None: no ramp.
        teacher_temperature_share: default 0.3.
        center_momentum: default 0.9. iBOT uses 0.9 as well.
        centering: ``mean`` subtracts the center; ``sinkhorn`` balances the teacher's
            assignments over the batch; ``none`` is the known way into collapse. Default ``mean``.
        sinkhorn_iterations: default 3.
        pairs: ``other_view`` leaves out s = t (the first student views are the teacher's);
            ``same_view`` pairs s with t only. Default ``other_view``.

    Trivial values: "uniform" ``ln K`` (both uniform), "constant" 0 (both on one output).

    Raises:
        UserError: an argument is out of range.
    """

    center: Tensor
    ramped_temperature: Tensor

    def __init__(
        self,
        width: int,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        teacher_temperature_end: float | None = None,
        teacher_temperature_share: float = 0.3,
        center_momentum: float = 0.9,
        centering: Literal["mean", "sinkhorn", "none"] = "mean",
        sinkhorn_iterations: int = 3,
        pairs: Literal["other_view", "same_view"] = "other_view",
    ) -> None:
        super().__init__()
        positive(
            "teacher_cross_entropy",
            width=width,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            teacher_temperature_end=1.0 if teacher_temperature_end is None else teacher_temperature_end,
            sinkhorn_iterations=sinkhorn_iterations,
        )
        if not 0.0 <= center_momentum <= 1.0:
            raise UserError(
                f"objective 'teacher_cross_entropy': center_momentum {center_momentum} is not in 0 to 1"
            )
        if centering not in ("mean", "sinkhorn", "none") or pairs not in ("other_view", "same_view"):
            raise UserError(
                "objective 'teacher_cross_entropy': centering is one of mean, sinkhorn, none and "
                f"pairs one of other_view, same_view, got {centering!r} and {pairs!r}"
            )
        self.width, self.pairs = width, pairs
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.center_momentum, self.centering = center_momentum, centering
        self.sinkhorn_iterations = sinkhorn_iterations
        self.register_buffer("center", torch.zeros(width))
        self.ramp: Ramp | None = None
        if teacher_temperature_end is not None:
            self.ramp = Ramp(
                teacher_temperature, teacher_temperature_end, "warmup", share=teacher_temperature_share
            )
            # A buffer, so that a resumed run goes on with the temperature it stopped at.
            self.register_buffer("ramped_temperature", torch.tensor(teacher_temperature))
        self._seen: Tensor | None = None  # [K + 1]: sum of the logits since the last step, and rows

    def forward(
        self,
        student: Logits,
        teacher: Logits,
        *,
        teacher_temperature: float | None = None,
        weights: Tensor | None = None,
    ) -> Terms:
        """Loss of the global batch.

        Args:
            student: a list of ``[B, K]``, one per view, the teacher's views first and in their
                order; or one ``[M, K]`` (masked tokens, ``pairs="same_view"``).
            teacher: a list of ``[B, K]``, or one ``[M, K]``.
            teacher_temperature: for this call; None: as configured.
            weights: ``[B]`` weights of the rows, alike in all pairs (iBOT: 1 / number of masked
                tokens of the row's image); None: all 1.

        Returns:
            Terms with parts ``teacher_entropy`` and ``kl`` (their sum is the loss, up to the
            weighting of views), and ``used_outputs``: perplexity of the teacher's mean
            probabilities, from 1 (always the same output) to K.

        Raises:
            ValueError: no pair of views is left, or a width is not K.
        """
        students, teachers = _as_list(student), _as_list(teacher)
        couples = self._couples(students, teachers)
        with full_precision(students[0].device):
            targets = self.targets(teachers, teacher_temperature)
            logs = [F.log_softmax(at_least_float32(s) / self.student_temperature, dim=1) for s in students]
            rows = torch.cat([-(targets[t] * logs[s]).sum(dim=1) for t, s in couples])
            weight = None if weights is None else weights.repeat(len(couples))
            total = global_mean(rows, weight)
            entropies = [torch.special.entr(p).sum(dim=1) for p in targets]
            entropy = global_mean(torch.cat([entropies[t] for t, _ in couples]), weight)
        self.observe(teachers)
        used = _used_outputs(targets)
        parts = {"teacher_entropy": entropy, "kl": total.detach() - entropy, "used_outputs": used}
        return Terms(total, parts, {"uniform": math.log(self.width), "constant": 0.0})

    def over_views(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Terms:
        """The call itself: its pairs are those of the views."""
        return self(students, teachers)

    @torch.no_grad()
    def targets(self, teacher: Logits, teacher_temperature: float | None = None) -> list[Tensor]:
        """The teacher's centred and sharpened probabilities: for each view ``[B, K]``, detached."""
        teachers = [at_least_float32(t) for t in _as_list(teacher)]
        temperature: float | Tensor = (
            self.teacher_temperature if self.ramp is None else self.ramped_temperature
        )
        if teacher_temperature is not None:
            positive("teacher_cross_entropy", teacher_temperature=teacher_temperature)
            temperature = teacher_temperature
        if self.centering == "mean":
            teachers = [t - self.center for t in teachers]
        sharp = [t / temperature for t in teachers]
        if self.centering != "sinkhorn":
            return [F.softmax(t, dim=1) for t in sharp]
        codes = sinkhorn(torch.cat(sharp), 1.0, self.sinkhorn_iterations)
        return list(codes.split([len(t) for t in teachers]))

    def observe(self, teacher: Logits) -> None:
        """Notes teacher logits for the center, as each call in training mode does; :meth:`after_step`
        moves it."""
        if self.training and self.centering == "mean":
            seen = _logit_sums(_as_list(teacher), self.center)
            self._seen = seen if self._seen is None else self._seen + seen

    def after_step(self, fraction: float) -> None:
        """Moves the center by what was seen since the last step, and the temperature's ramp."""
        if self._seen is not None:
            self._move_center(self._seen)
            self._seen = None
        if self.ramp is not None:
            self.ramped_temperature.fill_(self.ramp.value(fraction))

    @torch.no_grad()
    def update_center(self, teacher: Logits) -> None:
        """One EMA step of the center towards the mean logits of all processes' rows and views.

        Args:
            teacher: logits as in the call. Where no process has a row, nothing moves.
        """
        self._move_center(_logit_sums(_as_list(teacher), self.center))

    @torch.no_grad()
    def _move_center(self, seen: Tensor) -> None:
        joined = all_reduce_sum(seen)
        total, count = joined[:-1], joined[-1]
        mean = torch.where(count > 0, total / count.clamp_min(1), self.center)
        self.center.lerp_(mean, 1.0 - self.center_momentum)

    def _couples(self, students: list[Tensor], teachers: list[Tensor]) -> list[tuple[int, int]]:
        """Pairs (teacher view, student view)."""
        for logits in (*students, *teachers):
            if logits.ndim != 2 or logits.shape[1] != self.width:
                raise ValueError(
                    f"teacher_cross_entropy: expected logits [B, {self.width}], got {list(logits.shape)}"
                )
        same = self.pairs == "same_view"
        couples = [(t, s) for t in range(len(teachers)) for s in range(len(students)) if (t == s) == same]
        if not couples:
            raise ValueError(
                f"teacher_cross_entropy: {len(students)} student and {len(teachers)} teacher views leave "
                "no pair of different views; give the student two views or more, or set pairs: same_view"
            )
        return couples

    def remedies(self) -> dict[str, str]:
        temperature = self.teacher_temperature if self.ramp is None else float(self.ramped_temperature)
        constant = {
            "none": "nothing keeps the teacher off a single output (objective.centering none); set it to "
            "mean or sinkhorn",
            "mean": f"the center does not keep up (objective.center_momentum {self.center_momentum:g}); "
            "lower it or the learning rate, raise objective.teacher_temperature, or set centering: sinkhorn",
            "sinkhorn": "balanced assignments of a batch this small do not spread the teacher; use a larger "
            "batch, raise objective.teacher_temperature, or lower the learning rate",
        }[self.centering]
        uniform = (
            f"the teacher is nearly uniform at temperature {temperature:.3g}; lower "
            "objective.teacher_temperature (the papers: 0.04 to 0.07) or the learning rate"
        )
        return {"point": constant, "line": constant, "constant": constant, "uniform": uniform}

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        problems = []
        if self.pairs == "other_view" and views < 2:
            problems.append(
                f"objective 'teacher_cross_entropy' compares different views, got {views}; set views to 2, "
                "or pairs: same_view"
            )
        if self.centering != "none" and batch_size < 2:
            problems.append(
                f"objective 'teacher_cross_entropy' centers over the batch, and batch_size is {batch_size}; "
                "use at least 2"
            )
        return problems


@torch.no_grad()
def _used_outputs(targets: Sequence[Tensor]) -> Tensor:
    """Perplexity of the mean probabilities over all processes."""
    mass = all_reduce_sum(torch.stack([p.sum(dim=0) for p in targets]).sum(dim=0))
    return torch.special.entr(mass / mass.sum().clamp_min(1e-12)).sum().exp()


@torch.no_grad()
def _logit_sums(views: Sequence[Tensor], like: Tensor) -> Tensor:
    """Sum of the logits over all rows of all views, and the number of rows: ``[K + 1]``."""
    total = torch.stack([v.to(like.dtype).sum(dim=0) for v in views]).sum(dim=0)
    return torch.cat([total, total.new_full((1,), float(sum(len(v) for v in views)))])


def _as_list(logits: Logits) -> list[Tensor]:
    return [logits] if isinstance(logits, Tensor) else list(logits)
