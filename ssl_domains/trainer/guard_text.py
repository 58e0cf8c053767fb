"""The guard's sentences: stage or loss, number, cause, remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping

_GENERAL = {
    "point": "complete collapse, nothing in the loss keeps samples apart; use stop-gradient, or a variance "
    "or contrast term, or lower the learning rate",
    "line": "dimensional collapse, the features are copies of one another; raise the weight of the "
    "redundancy or covariance term, or lower the learning rate",
    "dead": "most units stand still; lower the learning rate or lengthen the warm-up",
    "uniform": "all candidates look alike; lower the temperature or the learning rate, or use milder views",
    "constant": "every sample gets the same output; lower the learning rate, or weigh variance more",
    "zero": "the predictions carry nothing; lower the learning rate, or check that the targets vary",
    "constant_prediction": "nothing is predicted from the input; raise the learning rate or train longer",
}
_OF_STAGE = {
    ("tokens", "point"): "the tokens carry nothing of the input; lower the learning rate, or check masking "
    "ratio and scale of the inputs",
    ("teacher", "point"): "complete collapse; center the teacher's output, raise its momentum, or lower the "
    "learning rate",
    ("predictor", "point"): "one answer for all; check that the targets vary, and lower the learning rate",
}
_KINDS = {"point": "complete collapse, ", "line": "dimensional collapse, "}


def sentence_for_stage(
    stage: str,
    found: Mapping[str, float],
    loss: str | None,
    remedies: Mapping[str, str],
    kind: str,
    steps: int,
) -> str:
    """One sentence about a stage.

    Args:
        stage: ``tokens``, ``encoder``, ``pooled``, ``projector``, ``predictor``, ``teacher`` ...
        found: numbers of the newest look.
        loss: the trivial value that the loss is near as well, which is then the cause.
        remedies: ``"cause; remedy"`` by kind, of method and objective (:meth:`Method.remedies`).
        kind: ``point``, ``line`` or ``dead``.
        steps: since the first look of this state.
    """
    width = int(found["width"])
    facts = {
        "point": f"all vectors are nearly the same (mean cosine {found['cosine']:.6f}, "
        f"spread {found['std']:.1e} of 1)",
        "line": f"vectors lie on one line (RankMe {found['rank']:.2f} of {width}, squared correlation "
        f"of the features {found['copies']:.2f})",
        "dead": f"{found['dead']:.0%} of {width} dimensions hardly vary",
    }
    cause = loss if loss is not None and loss in remedies else kind
    if cause in remedies:
        why = _KINDS.get(kind, "") + remedies[cause]
    else:
        why = _OF_STAGE.get((stage, kind), _GENERAL[kind])
    return f"{stage}: {facts[kind]} for {steps} steps: {why}"


def sentence_for_loss(value: float, remedies: Mapping[str, str], name: str, steps: int) -> str:
    """One sentence about a loss that stays at a trivial value.

    Args:
        value: the trivial value.
        remedies: ``"cause; remedy"`` by kind, of method and objective.
        name: of the value: ``uniform``, ``constant``, ``zero``, ``constant_prediction`` ...
        steps: since the first look of this state.
    """
    fact = f"loss equals its {name} value {as_logarithm(value)}"
    if name == "constant_prediction":
        fact = f"loss is not below {value:.3g}, the error of predicting the mean target for all,"
    why = remedies.get(name) or _GENERAL.get(
        name, "nothing is learned; lower the learning rate, or check the inputs"
    )
    return f"{fact} for {steps} steps: {why}"


def sentence_for_outputs(used: float, remedies: Mapping[str, str], kind: str, steps: int) -> str:
    """One sentence about a teacher that says the same for all.

    Args:
        used: perplexity of its mean probabilities.
        remedies: ``"cause; remedy"`` by kind, of method and objective.
        kind: ``constant``.
        steps: since the first look of this state.
    """
    why = remedies.get(kind, _OF_STAGE["teacher", "point"])
    return f"teacher: the same output for nearly all samples ({used:.2f} in use) for {steps} steps: {why}"


def as_logarithm(value: float) -> str:
    """``ln(4096) = 8.318`` where the value is the logarithm of a whole number, else the number."""
    count = math.exp(value) if 0 < value < 25 else 0.0
    if count >= 2 and abs(count - round(count)) < 1e-4 * count:
        return f"ln({round(count)}) = {value:.3f}"
    return f"{value:.3f}"
