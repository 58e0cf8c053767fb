"""Self-distillation of whole samples, of their regions, and between both levels (CMD, EsViT)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.errors import UserError
from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.distillation import TeacherCrossEntropy
from ssl_domains.core.objectives.numerics import at_least_float32, full_precision, global_mean
from ssl_domains.core.parts.pooling import InstancePooling
from ssl_domains.core.registry import objective


@dataclass
class Levels:
    """One view of a batch through one network.

    Attributes:
        whole: ``[B, K]`` logits of the samples.
        regions: ``[B, T, K]`` logits of their regions (patches, columns, nodes).
        features: ``[B, T, D]`` the encoder's own tokens, which regions are matched by.
        valid: ``[B, T]`` bool, which regions there are; None: all.
    """

    whole: Tensor
    regions: Tensor
    features: Tensor
    valid: Tensor | None = None


@objective("cross_level")
class CrossLevel(Objective):
    """DINO on samples, DINO on matched regions, and a sample tied to the bag of its regions.

    Over pairs (teacher view q, student view v != q), averaged::

        L_image  = - sum_k P_q log softmax(S_v / tau_s)
        L_region = mean_i - sum_k P^r_q[j*(i)] log softmax(S^r_v[i] / tau_s),
                   j*(i) = argmax_j cos(F_v[i], F_q[j])
        L_inter  = KL(p_v || pbar_v),  p_v = softmax(S_v / tau_s), pbar_v = pooled softmax(S^r_v / tau_s)
        L = image_weight L_image + region_weight L_region + inter_weight L_inter

    Teacher probabilities are centred and sharpened as DINO's, each level with a center of its
    own. The inter-level term is the student's; the same divergence of the teacher has no path
    to a parameter and is only logged.

    Source: CMD (arXiv 2401.08860, TIP 2025) over EsViT (Li et al., ICLR 2022, section 3.2). The
    official CMD code gives ``kl_div`` a probability where it wants a logarithm, and a SUM of
    region outputs as target; that is not a divergence and is NaN on today's PyTorch. L_inter
    here is our reading of the intent: regions pooled to one distribution. ``inter_weight: 0`` is
    EsViT; with ``region_weight: 0, image_weight: 1`` beside it, DINO.

    Args:
        width: K.
        image_weight, region_weight: default 0.5 each (EsViT).
        inter_weight: default 1, the authors'; a line of theirs that is switched off has 0.1.
        symmetric: average the divergence of both directions.
        student_temperature: default 0.1.
        teacher_temperature, teacher_temperature_end, teacher_temperature_share: as of
            :class:`TeacherCrossEntropy`; default 0.04 to 0.07 over 30 of 300 epochs.
        center_momentum: default 0.9.

    Raises:
        UserError: a weight is negative.
    """

    def __init__(
        self,
        width: int,
        image_weight: float = 0.5,
        region_weight: float = 0.5,
        inter_weight: float = 1.0,
        symmetric: bool = False,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        teacher_temperature_end: float | None = 0.07,
        teacher_temperature_share: float = 0.1,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.weights = {"image": image_weight, "region": region_weight, "inter": inter_weight}
        for name, value in self.weights.items():
            if value < 0:
                raise UserError(f"objective 'cross_level': {name}_weight is {value}, expected 0 or more")
        options: dict[str, Any] = {
            "student_temperature": student_temperature,
            "teacher_temperature": teacher_temperature,
            "teacher_temperature_end": teacher_temperature_end,
            "teacher_temperature_share": teacher_temperature_share,
            "center_momentum": center_momentum,
        }
        self.image = TeacherCrossEntropy(width, **options)
        self.region = TeacherCrossEntropy(width, **options)
        self.symmetric, self.student_temperature = symmetric, student_temperature

    def forward(
        self, students: Sequence[Levels], teachers: Sequence[Levels], pooling: InstancePooling
    ) -> Terms:
        """Loss of the global batch.

        Args:
            students: one a view, the teacher's views first and in their order.
            teachers: one a global view.
            pooling: of the regions' probabilities.

        Returns:
            Terms with unweighted parts ``image``, ``region`` and ``inter``, ``teacher_inter``,
            and of the image level ``teacher_entropy``, ``kl`` and ``used_outputs``.
        """
        image = self.image([s.whole for s in students], [t.whole for t in teachers])
        with full_precision(students[0].whole.device):
            logs = [
                F.log_softmax(at_least_float32(s.regions) / self.student_temperature, dim=2) for s in students
            ]
            targets = self._region_targets(teachers)
            region = self._regions(students, teachers, logs, targets)
            inter = self._inter(students, len(teachers), logs, pooling)
            found = {"image": image.total, "region": region, "inter": inter}
            total = sum((w * found[n] for n, w in self.weights.items()), image.total.new_zeros(()))
            parts = {name: value.detach() for name, value in found.items()}
            parts["teacher_inter"] = self._teacher_inter(teachers, targets, pooling)
        return Terms(total, image.parts | parts, self._trivial(image.trivial))

    def _region_targets(self, teachers: Sequence[Levels]) -> list[Tensor]:
        """Teacher probabilities ``[B, T, K]`` of each view; their logits also go to the center."""
        self.region.observe(
            [t.regions.flatten(0, 1) if t.valid is None else t.regions[t.valid] for t in teachers]
        )
        found = self.region.targets([t.regions.flatten(0, 1) for t in teachers])
        return [p.view_as(t.regions) for p, t in zip(found, teachers, strict=True)]

    def _regions(
        self,
        students: Sequence[Levels],
        teachers: Sequence[Levels],
        logs: list[Tensor],
        targets: list[Tensor],
    ) -> Tensor:
        """L_region, the mean over pairs and samples."""
        found = []
        for q, teacher in enumerate(teachers):
            for v, student in enumerate(students):
                if v == q:
                    continue
                index = match(student.features, teacher.features, teacher.valid)[..., None]
                matched = targets[q].gather(1, index.expand(-1, -1, targets[q].shape[2]))
                loss = -(matched * logs[v]).sum(dim=2)  # [B, T]
                found.append(_mean_of_valid(loss, student.valid))
        return global_mean(torch.cat(found))

    def _inter(
        self, students: Sequence[Levels], n_teachers: int, logs: list[Tensor], pooling: InstancePooling
    ) -> Tensor:
        """L_inter; a view counts as often as it stands in a pair."""
        values, weights = [], []
        for v, (student, regions) in enumerate(zip(students, logs, strict=True)):
            whole = F.log_softmax(at_least_float32(student.whole) / self.student_temperature, dim=1)
            bag = pooling(regions, student.features, student.valid)
            values.append(divergence(whole, bag, self.symmetric))
            weights.append(torch.full_like(values[-1], float(n_teachers - (v < n_teachers))))
        return global_mean(torch.cat(values), torch.cat(weights))

    @torch.no_grad()
    def _teacher_inter(
        self, teachers: Sequence[Levels], targets: list[Tensor], pooling: InstancePooling
    ) -> Tensor:
        """The divergence of the teacher's levels, for the log."""
        whole = self.image.targets([t.whole for t in teachers])
        found = []
        for p, regions, teacher in zip(whole, targets, teachers, strict=True):
            bag = pooling(_log(regions), teacher.features, teacher.valid)
            found.append(divergence(_log(p), bag, self.symmetric))
        return global_mean(torch.cat(found))

    def _trivial(self, of_image: dict[str, float]) -> dict[str, float]:
        """Uniform or constant outputs at both levels: no divergence between them."""
        both = self.weights["image"] + self.weights["region"]
        return {name: both * value for name, value in of_image.items()}

    def after_step(self, fraction: float) -> None:
        """Centers and temperatures of both levels."""
        self.image.after_step(fraction)
        self.region.after_step(fraction)

    def remedies(self) -> dict[str, str]:
        return self.image.remedies()

    def check(self, *, batch_size: int, width: int, views: int, n_samples: int | None) -> list[str]:
        return [
            problem.replace("teacher_cross_entropy", "cross_level")
            for problem in self.image.check(
                batch_size=batch_size, width=width, views=views, n_samples=n_samples
            )
        ]


@torch.no_grad()
def match(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """``[B, T_v]``: for each student region the most similar teacher region of the same sample.

    Args:
        student: ``[B, T_v, D]``.
        teacher: ``[B, T_q, D]``.
        valid: ``[B, T_q]`` bool; None: all.
    """
    cosine = F.normalize(student.float(), dim=2) @ F.normalize(teacher.float(), dim=2).transpose(1, 2)
    return (cosine if valid is None else cosine.masked_fill(~valid[:, None], -2.0)).argmax(dim=2)


def divergence(p: Tensor, q: Tensor, symmetric: bool = False) -> Tensor:
    """``[B]``: ``KL(p || q)`` from log-probabilities ``[B, K]``, or the mean of both directions."""
    forward = (p.exp() * (p - q)).sum(dim=1)
    return (forward + (q.exp() * (q - p)).sum(dim=1)) / 2 if symmetric else forward


def _mean_of_valid(values: Tensor, valid: Tensor | None) -> Tensor:
    """``[B]`` means of ``[B, T]`` over the regions that there are."""
    if valid is None:
        return values.mean(dim=1)
    return (values * valid).sum(dim=1) / valid.sum(dim=1).clamp_min(1)


def _log(p: Tensor) -> Tensor:
    """Logarithm of probabilities that may have underflown."""
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()
