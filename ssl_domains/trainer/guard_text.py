"""The guard's sentences: stage, number, cause, remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

_CAUSES = {
    "point": "complete collapse, nothing in the loss keeps samples apart",
    "line": "dimensional collapse, the features are copies of one another",
    "dead": "most units stand still",
}

_REMEDIES = {
    ("tokens", "point"): "lower the learning rate, or check masking ratio and scale of the inputs",
    ("teacher", "point"): "center the teacher's output, raise its momentum, or lower the learning rate",
    ("predictor", "point"): "check that the targets vary, and lower the learning rate",
    ("", "point"): "use stop-gradient, or a variance or contrast term, or lower the learning rate",
    ("", "line"): "raise the weight of the redundancy or covariance term, or lower the learning rate",
    ("", "dead"): "lower the learning rate or lengthen the warm-up",
}


def sentence_for_stage(stage: str, found: Mapping[str, float], kind: str, steps: int) -> str:
    """One sentence about a stage.

    Args:
        stage: ``tokens``, ``encoder``, ``pooled``, ``projector``, ``predictor``, ``teacher`` ...
        found: numbers of the newest look.
        kind: ``point``, ``line`` or ``dead``.
        steps: since the first look of this state.
    """
    width = int(found["width"])
    facts = {
        "point": f"all vectors are nearly the same (mean cosine {found['cosine']:.6f}, "
        f"spread {found['std']:.1e} of 1)",
        "line": f"vectors lie on one line (RankMe {found['rank']:.2f} of {width})",
        "dead": f"{found['dead']:.0%} of {width} dimensions hardly vary",
    }
    remedy = _REMEDIES.get((stage, kind), _REMEDIES["", kind])
    return f"{stage}: {facts[kind]} for {steps} steps: {_CAUSES[kind]}; {remedy}"


def sentence_for_loss(value: float, stages: Sequence[str], name: str, steps: int) -> str:
    """One sentence about a loss that stays at a trivial value.

    Args:
        value: the trivial value.
        stages: of the method; tells whether there is a teacher.
        name: of the value: ``uniform``, ``constant``, ``zero`` ...
        steps: since the first look of this state.
    """
    if name == "uniform" and "teacher" in stages:
        why = "the teacher is uniform; lower the teacher temperature or the learning rate"
    elif name == "uniform":
        why = "all candidates look alike; lower the temperature or the learning rate, or use milder views"
    elif name == "constant":
        why = "every sample gets the same output; lower the learning rate, or weigh variance more"
    elif name == "zero":
        why = "the predictions carry nothing; lower the learning rate, or check that the targets vary"
    else:
        why = "nothing is learned; lower the learning rate, or check the inputs"
    return f"loss equals its {name} value {as_logarithm(value)} for {steps} steps: {why}"


def as_logarithm(value: float) -> str:
    """``ln(4096) = 8.318`` where the value is the logarithm of a whole number, else the number."""
    count = math.exp(value) if 0 < value < 25 else 0.0
    if count >= 2 and abs(count - round(count)) < 1e-4 * count:
        return f"ln({round(count)}) = {value:.3f}"
    return f"{value:.3f}"
