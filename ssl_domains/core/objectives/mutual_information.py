"""A lower bound of mutual information from scores of true and false pairs."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.objectives.base import Objective, Terms
from ssl_domains.core.objectives.numerics import at_least_float32, global_mean
from ssl_domains.core.registry import objective


@objective("jensen_shannon")
class JensenShannon(Objective):
    """``(mean softplus(-s_true) + mean softplus(s_false)) / 2``: binary cross-entropy, balanced.

    With as many false as true pairs it is the loss of DGI (Velickovic et al., ICLR 2019, eq. 1). Up
    to the factor 2 and the constant 2 ln 2 it is minus the Jensen-Shannon estimate of Deep InfoMax
    (ICLR 2019) and InfoGraph (Sun et al., ICLR 2020, eq. 4): the two kinds of pairs are averaged
    apart, whatever their numbers.

    Worked value: scores ``(0,)`` and ``(0,)``: ln 2 = 0.693147, the trivial value "uniform".
    """

    def forward(
        self,
        true: Tensor,
        false: Tensor,
        true_weights: Tensor | None = None,
        false_weights: Tensor | None = None,
    ) -> Terms:
        """Loss over the pairs of all processes.

        Args:
            true: ``[P]`` scores of true pairs.
            false: ``[Q]`` scores of false pairs.
            true_weights: ``[P]`` or None; 0 leaves a pair out.
            false_weights: ``[Q]`` or None.

        Returns:
            Terms with the parts ``true_score`` and ``false_score``, the mean probabilities.
        """
        true, false = at_least_float32(true), at_least_float32(false)
        loss = global_mean(F.softplus(-true), true_weights) + global_mean(F.softplus(false), false_weights)
        parts = {
            "true_score": global_mean(true.detach().sigmoid(), true_weights),
            "false_score": global_mean(false.detach().sigmoid(), false_weights),
        }
        return Terms(loss / 2, parts, {"uniform": math.log(2.0)})

    def remedies(self) -> dict[str, str]:
        return {"uniform": "true and false pairs look alike; train longer, or raise the learning rate"}
