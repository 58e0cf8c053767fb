"""A recipe's own test: ``expect: {linear: ">= 0.84", knn: "> random", rankme: "20..60"}``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ssl_domains.core.errors import RecipeError
from ssl_domains.evaluation.results import Evaluation

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*")
_BASELINE = rf"(random|raw|trees)(?:\s*([+-])\s*({_NUMBER}))?"
_COMPARISON = re.compile(rf"\s*(>=|<=|>|<)\s*(?:({_NUMBER})|{_BASELINE})\s*")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Expectation:
    """A condition on one value: a range, or a comparison with a number or a baseline plus an offset."""

    text: str
    low: float | None = None
    high: float | None = None
    operator: str = ""
    baseline: str = ""
    offset: float = 0.0

    def bound(self, key: str, evaluation: Evaluation) -> float:
        """What the value is compared with (comparisons only)."""
        if not self.baseline:
            return self.offset
        reference = "trees" if self.baseline == "trees" else f"{key}.{self.baseline}"
        return evaluation.value(reference) + self.offset

    def holds(self, key: str, evaluation: Evaluation) -> bool:
        """True when the evaluation meets it. NaN never does."""
        value = evaluation.value(key)
        if self.low is not None and self.high is not None:
            return self.low <= value <= self.high
        return _OPERATORS[self.operator](value, self.bound(key, evaluation))


@dataclass(frozen=True)
class Failure:
    """A condition that was not met.

    Attributes:
        key: name of the value.
        expected: the condition as written.
        value: what was found; None when the evaluation has no such value.
        message: one sentence.
    """

    key: str
    expected: str
    value: float | None
    message: str


def parse_expectation(text: object, where: str = "expect") -> Expectation:
    """Reads ``">= 0.84"``, ``"0.80..0.90"``, ``"> random"``, ``"> raw + 0.02"``.

    Args:
        text: the value in the recipe.
        where: its key there, for the message.

    Raises:
        RecipeError: one sentence with the forms that can be written.
    """
    written = str(text)
    if span := _RANGE.fullmatch(written):
        low, high = float(span[1]), float(span[2])
        if low > high:
            raise RecipeError(f"{where}: the range {written!r} is empty; write the lower end first")
        return Expectation(written, low=low, high=high)
    if found := _COMPARISON.fullmatch(written):
        sign, number, baseline, side, extra = found.groups()
        offset = float(number) if number else (-1.0 if side == "-" else 1.0) * float(extra or 0.0)
        return Expectation(written, operator=sign, baseline=baseline or "", offset=offset)
    raise RecipeError(
        f"{where}: {written!r} is not a condition; write one such as '>= 0.84', '<= 1.2', '0.80..0.90', "
        "'> random' or '> raw + 0.02'"
    )


def check_expectations(expect: Mapping[str, str], evaluation: Evaluation) -> list[Failure]:
    """The conditions that an evaluation does not meet.

    Args:
        expect: conditions by the names that :meth:`Evaluation.value` takes.
        evaluation: what was found.

    Raises:
        RecipeError: all conditions that cannot be read, at once.
    """
    parsed: dict[str, Expectation] = {}
    problems: list[str] = []
    for key, text in expect.items():
        try:
            parsed[key] = parse_expectation(text, f"expect.{key}")
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    checked = [_check(key, condition, evaluation) for key, condition in parsed.items()]
    return [failure for failure in checked if failure is not None]


def _check(key: str, condition: Expectation, evaluation: Evaluation) -> Failure | None:
    try:
        value = evaluation.value(key)
        if condition.holds(key, evaluation):
            return None
        bound = f" (that is {condition.bound(key, evaluation):.4g})" if condition.baseline else ""
        return Failure(key, condition.text, value, f"{key} is {value:.4g}, expected {condition.text}{bound}.")
    except KeyError as error:
        return Failure(key, condition.text, None, f"{key}: expected {condition.text}, but {error.args[0]}.")
