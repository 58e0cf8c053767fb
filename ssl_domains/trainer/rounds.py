"""A run in rounds: the recipe's schedule, begun anew for each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from ssl_domains.core.schedules import Schedule


class Rounds(Schedule):
    """One schedule after another, each over its own stretch of the run: a method that trains in rounds begins
    each with a fresh warm-up (``Method.restarts``). The trainer makes it of the recipe's schedule.

    Args:
        make: ``make(total_steps=n)`` gives the schedule of a round of n steps.
        starts: first step of each round, from 0.
        total_steps: of the run.
    """

    def __init__(self, make: Callable[..., Schedule], starts: Sequence[int], total_steps: int) -> None:
        super().__init__(total_steps=total_steps)
        self.starts = list(starts)
        ends = [*self.starts[1:], total_steps]
        self.rounds = [make(total_steps=end - start) for start, end in zip(self.starts, ends, strict=True)]

    def multiplier(self, step: int) -> float:
        number = bisect_right(self.starts, step) - 1
        return self.rounds[number].multiplier(step - self.starts[number])

    def state_dict(self) -> dict[str, Any]:
        return {str(number): one.state_dict() for number, one in enumerate(self.rounds)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, one in enumerate(self.rounds):
            one.load_state_dict(state[str(number)])
