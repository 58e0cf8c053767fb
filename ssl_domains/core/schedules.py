"""Learning-rate schedules as multipliers of the global step, and ramps of the run's progress.

A schedule never holds an absolute learning rate: it multiplies each parameter group's
``initial_lr``, so ratios between groups (layer-wise decay, biases with a rate of their own)
survive every phase. The multiplier is a pure function of the GLOBAL optimizer step ``n``
(updates done so far, never reset at a task boundary).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

from ssl_domains.core.errors import UserError
from ssl_domains.core.registry import schedule

Anneal = Literal["exp", "cosine", "linear", "1-sqrt"]


class Schedule:
    """Base of all learning-rate schedules.

    Args:
        total_steps: the run's budget in optimizer steps; the trainer passes it, recipes do
            not. None when the budget is unknown.
    """

    def __init__(self, *, total_steps: int | None = None) -> None:
        if total_steps is not None and total_steps < 1:
            raise UserError(f"schedule: total_steps is {total_steps}; a run needs at least 1 step")
        self.total_steps = total_steps

    def multiplier(self, step: int) -> float:
        """Factor on every group's initial learning rate for the update after ``step`` updates."""
        raise TypeError(f"{type(self).__name__} does not define multiplier(step) -> float")

    def apply(self, optimizer: Optimizer, step: int) -> float:
        """Sets ``lr = initial_lr * multiplier(step)`` in every group and returns the multiplier.

        ``initial_lr`` is taken from the group's ``lr`` the first time, and then travels with
        the optimizer's state.
        """
        factor = self.multiplier(step)
        for group in optimizer.param_groups:
            rate = group["lr"]
            start = group.setdefault("initial_lr", float(rate))
            if isinstance(rate, Tensor):  # compiled or capturable optimizers keep lr on the device
                rate.fill_(start * factor)
            else:
                group["lr"] = start * factor
        return factor

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must carry; empty for schedules fixed by their arguments."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""


@schedule("constant")
class Constant(Schedule):
    """``m(n) = min(n / N_w, 1)``: linear warm-up, then the initial rate for ever.

    Args:
        warmup_steps: N_w in steps. Default 0.
        warmup: N_w as a share of ``total_steps``; instead of ``warmup_steps``.

    Raises:
        UserError: both are given, or one is out of range.
    """

    def __init__(
        self, *, warmup_steps: int | None = None, warmup: float | None = None, total_steps: int | None = None
    ) -> None:
        super().__init__(total_steps=total_steps)
        self.warmup_steps = _warmup_steps(warmup_steps, warmup, total_steps)

    def multiplier(self, step: int) -> float:
        return _rise(step, self.warmup_steps)


@schedule("warmup_cosine")
class WarmupCosine(Schedule):
    """Linear warm-up, then half a cosine down to ``final_ratio`` at ``total_steps``.

    ``m(n) = n / N_w`` for ``n < N_w``; then
    ``f + (1 - f) (1 + cos(pi (n - N_w) / (N - N_w))) / 2``; ``f`` after N. See SGDR (2017).

    Args:
        warmup_steps: N_w in steps. Default 0.
        warmup: N_w as a share of ``total_steps``; instead of ``warmup_steps``.
        final_ratio: f, final over initial rate (Barlow Twins: 0.001). Default 0.

    Raises:
        UserError: the warm-up is given twice or is longer than the run, or no budget is known.
    """

    def __init__(
        self,
        *,
        warmup_steps: int | None = None,
        warmup: float | None = None,
        final_ratio: float = 0.0,
        total_steps: int | None = None,
    ) -> None:
        super().__init__(total_steps=total_steps)
        if total_steps is None:
            raise UserError("schedule 'warmup_cosine' needs a budget in steps; set one, or use 'infinite'")
        self.total: int = total_steps
        self.warmup_steps = _warmup_steps(warmup_steps, warmup, total_steps)
        if self.warmup_steps > total_steps:
            raise UserError(
                f"schedule: warmup_steps {self.warmup_steps} exceeds the run's {total_steps} steps"
            )
        self.final_ratio = _ratio("final_ratio", final_ratio)

    def multiplier(self, step: int) -> float:
        return _warmup_cosine(step, self.warmup_steps, self.total, self.final_ratio)


@schedule("repeated_cosine")
class RepeatedCosine(Schedule):
    """Warm-up + cosine anew for every task: the baseline of continual pre-training.

    The first update of a task starts its warm-up; the optimizer's moments are kept. After the
    last listed task the multiplier stays at ``final_ratio``.

    Args:
        task_steps: steps of each task; one int means tasks of that length without end.
        tasks: instead of ``task_steps``, number of equal tasks in ``total_steps``.
        warmup_steps: warm-up of each task in steps. Default 0.
        warmup: warm-up as a share of each task; instead of ``warmup_steps``.
        final_ratio: final over initial rate at the end of each task. Default 0.

    Raises:
        UserError: the tasks are given twice or not at all, or a warm-up is longer than its task.
    """

    def __init__(
        self,
        *,
        task_steps: int | Sequence[int] | None = None,
        tasks: int | None = None,
        warmup_steps: int | None = None,
        warmup: float | None = None,
        final_ratio: float = 0.0,
        total_steps: int | None = None,
    ) -> None:
        super().__init__(total_steps=total_steps)
        self.endless = isinstance(task_steps, int)
        self.lengths = _task_lengths(task_steps, tasks, total_steps)
        self.starts = [0, *accumulate(self.lengths)]
        self.warmups = [_warmup_steps(warmup_steps, warmup, n) for n in self.lengths]
        for length, rise in zip(self.lengths, self.warmups, strict=True):
            if rise > length:
                raise UserError(f"schedule: warmup_steps {rise} exceeds a task's {length} steps")
        self.final_ratio = _ratio("final_ratio", final_ratio)

    def multiplier(self, step: int) -> float:
        if self.endless:
            step %= self.lengths[0]
        task = bisect_right(self.starts, step) - 1
        if task >= len(self.lengths):
            return self.final_ratio
        return _warmup_cosine(
            step - self.starts[task], self.warmups[task], self.lengths[task], self.final_ratio
        )


@schedule("infinite")
class Infinite(Schedule):
    """The infinite learning rate: warm up once, cool to a constant, anneal when wanted.

    With ``c = constant_ratio`` and ``f = final_ratio`` (both over the peak rate):

    - warm-up   ``m = n / N_w``                                       for ``n < N_w``
    - cool-down ``m = c + (1 - c) (1 + cos(pi (n - N_w) / N_c)) / 2`` for ``N_w <= n < N_w + N_c``
    - constant  ``m = c``                                             until annealing starts at N_d
    - anneal    from ``m(N_d)`` to f in N_a steps, then f

    The multiplier does not depend on the total number of steps, unless ``anneal_at_end`` asks
    for it. A fork is annealed by loading a constant-phase checkpoint and calling
    :meth:`start_annealing`; the trunk's state is not touched. ``constant_ratio=1`` and
    ``cooldown_steps=0`` is the warm-up-stable-decay (WSD, trapezoidal) schedule.

    Source: Beyond Cosine Decay (arXiv 2503.02844). ``constant_ratio`` 0.25 and
    ``final_ratio`` 1e-8 / 1.5e-4 are those of public re-implementations of its MAE set-up.

    Args:
        warmup_steps: N_w.
        cooldown_steps: N_c.
        constant_ratio: c in (0, 1]; sweep 0.1 to 0.5.
        final_ratio: f in [0, c].
        anneal: form of the annealing: ``exp`` ``m0 (f / m0)^p``, ``cosine``, ``linear``, or
            ``1-sqrt`` ``f + (m0 - f) (1 - sqrt(p))``, where p runs from 0 to 1.
        anneal_steps: N_a.
        anneal_start: N_d; None: never, until :meth:`start_annealing`.
        anneal_at_end: start so that annealing ends with ``total_steps``.

    Raises:
        UserError: an argument is out of range, or annealing would start in the warm-up.
    """

    def __init__(
        self,
        *,
        warmup_steps: int = 0,
        cooldown_steps: int = 0,
        constant_ratio: float = 0.25,
        final_ratio: float = 1e-8 / 1.5e-4,
        anneal: Anneal = "exp",
        anneal_steps: int = 1000,
        anneal_start: int | None = None,
        anneal_at_end: bool = False,
        total_steps: int | None = None,
    ) -> None:
        super().__init__(total_steps=total_steps)
        self.warmup_steps = _at_least("warmup_steps", warmup_steps, 0)
        self.cooldown_steps = _at_least("cooldown_steps", cooldown_steps, 0)
        self.anneal_steps = _at_least("anneal_steps", anneal_steps, 1)
        self.constant_ratio = _ratio("constant_ratio", constant_ratio)
        self.final_ratio = _ratio("final_ratio", final_ratio)
        self.anneal: Anneal = anneal
        self._check_shape()
        self.anneal_start: int | None = None
        start = self._end_start(anneal_start) if anneal_at_end else anneal_start
        if start is not None:
            self.start_annealing(start)

    def _check_shape(self) -> None:
        if not self.constant_ratio > 0.0 or self.final_ratio > self.constant_ratio:
            raise UserError(
                f"schedule 'infinite': needs 0 < constant_ratio and final_ratio <= constant_ratio, "
                f"got {self.constant_ratio} and {self.final_ratio}"
            )
        if self.anneal not in ("exp", "cosine", "linear", "1-sqrt"):
            raise UserError(
                f"schedule 'infinite': anneal {self.anneal!r} is not one of exp, cosine, linear, 1-sqrt"
            )
        if self.anneal == "exp" and self.final_ratio == 0.0:
            raise UserError(
                "schedule 'infinite': anneal 'exp' cannot reach 0; set final_ratio above 0, or anneal: linear"
            )

    def _end_start(self, anneal_start: int | None) -> int:
        if anneal_start is not None or self.total_steps is None:
            raise UserError("schedule 'infinite': anneal_at_end needs a budget in steps and no anneal_start")
        return self.total_steps - self.anneal_steps

    def start_annealing(self, step: int) -> None:
        """Annealing starts at the global step ``step`` (the checkpoint's own).

        Raises:
            UserError: the step lies in the warm-up, or annealing had already started.
        """
        if self.anneal_start is not None:
            raise UserError(
                f"schedule 'infinite': annealing started at step {self.anneal_start} already; "
                "go back to a checkpoint of the constant phase"
            )
        if step < self.warmup_steps:
            raise UserError(
                f"schedule 'infinite': annealing cannot start at step {step}, "
                f"before the warm-up ends at {self.warmup_steps}; train longer or shorten anneal_steps"
            )
        self.anneal_start = step

    def multiplier(self, step: int) -> float:
        if self.anneal_start is None or step < self.anneal_start:
            return self._trunk(step)
        top = self._trunk(self.anneal_start)
        share = min((step - self.anneal_start) / self.anneal_steps, 1.0)
        return _fall(self.anneal, top, self.final_ratio, share)

    def _trunk(self, step: int) -> float:
        """Multiplier without annealing."""
        if step < self.warmup_steps:
            return _rise(step, self.warmup_steps)
        cooled = step - self.warmup_steps
        if cooled >= self.cooldown_steps:
            return self.constant_ratio
        return _fall("cosine", 1.0, self.constant_ratio, cooled / self.cooldown_steps)

    def state_dict(self) -> dict[str, Any]:
        return {"anneal_start": self.anneal_start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.anneal_start = state["anneal_start"]


class Ramp:
    """A number that moves from ``start`` to ``end`` with the run's progress.

    For EMA momentum (BYOL: ``Ramp(0.996, 1.0, "cosine")``), teacher temperature (DINO:
    ``Ramp(0.04, 0.07, "warmup", share=0.3)``) and weight decay (``Ramp(0.04, 0.4, "cosine")``).

    Args:
        start: value at progress 0.
        end: value from progress ``share`` on.
        kind: ``linear``; ``cosine`` (half a period); ``warmup`` (linear, by default over the first
            tenth); ``constant`` (``start`` always; ``end`` is not used).
        share: share of the run in which the value moves, in (0, 1]. Default 1, 0.1 for ``warmup``.

    Raises:
        UserError: an unknown kind, or a share out of range.
    """

    def __init__(
        self,
        start: float,
        end: float | None = None,
        kind: Literal["linear", "cosine", "constant", "warmup"] = "linear",
        share: float | None = None,
    ) -> None:
        if kind not in ("linear", "cosine", "constant", "warmup"):
            raise UserError(f"ramp: kind {kind!r} is not one of linear, cosine, constant, warmup")
        if end is None and kind != "constant":
            raise UserError(f"ramp: kind {kind!r} needs an end value")
        self.start, self.end = float(start), float(start if end is None else end)
        self.kind = kind
        self.share = share if share is not None else (0.1 if kind == "warmup" else 1.0)
        if not 0.0 < self.share <= 1.0:
            raise UserError(f"ramp: share is {share}, expected a number above 0 and up to 1")

    def value(self, progress: float) -> float:
        """Value at ``progress`` in [0, 1] (clamped): a pure function."""
        if self.kind == "constant":
            return self.start
        share = min(max(progress / self.share, 0.0), 1.0)
        if share == 1.0:
            return self.end
        return _fall("cosine" if self.kind == "cosine" else "linear", self.start, self.end, share)

    def __repr__(self) -> str:
        return f"Ramp({self.start}, {self.end}, {self.kind!r}, share={self.share})"


def _fall(kind: Anneal, top: float, bottom: float, share: float) -> float:
    """From ``top`` (share 0) to ``bottom`` (share 1)."""
    if kind == "exp":
        return top * (bottom / top) ** share
    if kind == "cosine":
        return bottom + (top - bottom) * 0.5 * (1.0 + math.cos(math.pi * share))
    left = 1.0 - (math.sqrt(share) if kind == "1-sqrt" else share)
    return bottom + (top - bottom) * left


def _rise(step: int, warmup_steps: int) -> float:
    return min(step / warmup_steps, 1.0) if warmup_steps else 1.0


def _warmup_cosine(step: int, warmup_steps: int, total: int, final_ratio: float) -> float:
    if step < warmup_steps:
        return _rise(step, warmup_steps)
    share = min((step - warmup_steps) / max(total - warmup_steps, 1), 1.0)
    return _fall("cosine", 1.0, final_ratio, share)


def _warmup_steps(steps: int | None, share: float | None, total: int | None) -> int:
    """Warm-up in steps from either way of saying it."""
    if share is None:
        return _at_least("warmup_steps", steps or 0, 0)
    if steps is not None:
        raise UserError("schedule: give warmup_steps or warmup (a share of the run), not both")
    if total is None:
        raise UserError("schedule: warmup is a share of the run, whose steps are unknown; give warmup_steps")
    return round(_ratio("warmup", share) * total)


def _task_lengths(steps: int | Sequence[int] | None, tasks: int | None, total: int | None) -> list[int]:
    if (steps is None) == (tasks is None):
        raise UserError("schedule 'repeated_cosine': give either task_steps or tasks")
    if steps is not None:
        lengths = [steps] if isinstance(steps, int) else [int(n) for n in steps]
    elif tasks is not None and total is not None and 1 <= tasks <= total:
        lengths = [total * (i + 1) // tasks - total * i // tasks for i in range(tasks)]
    else:
        raise UserError(f"schedule 'repeated_cosine': cannot cut {total} steps into {tasks} tasks")
    if not lengths or min(lengths) < 1:
        raise UserError(f"schedule 'repeated_cosine': task_steps {lengths} must all be at least 1")
    return lengths


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise UserError(f"schedule: {name} is {value}, expected at least {least}")
    return int(value)


def _ratio(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise UserError(f"schedule: {name} is {value}, expected a number from 0 to 1")
    return float(value)
