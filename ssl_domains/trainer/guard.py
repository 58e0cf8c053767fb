"""The guard: looks at every stage of the network while it trains, and says cause and remedy."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_domains.core.batch import Output
from ssl_domains.core.diagnostics import rankme_of_spectrum, singular_values_of_gram
from ssl_domains.core.errors import CollapseError, UserError
from ssl_domains.core.methods.base import Method
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.distributed import agree, is_main
from ssl_domains.trainer.files import write_text
from ssl_domains.trainer.guard_text import sentence_for_loss, sentence_for_outputs, sentence_for_stage
from ssl_domains.trainer.loader import BatchOrder
from ssl_domains.trainer.run import RunDirectory

ROWS, RANK_ROWS = 1024, 256
"""Rows of a stage that are looked at, and rows of them that the rank is taken from."""
PATIENCE = 3
"""Looks in a row that must agree before the guard speaks."""
LONG_PATIENCE = 10
"""The same for a loss that is no better than a constant prediction: learning may begin slowly."""
_HIDDEN_KEYS = ("directions", "copies", "width", "rows")


class GuardWarning(UserWarning):
    """A finding under ``on_collapse: warn``."""


def check_preconditions(method: Method, batch_size: int, n_samples: int | None) -> None:
    """Asks method and objective whether they can work with this batch and these data.

    Args:
        method: with its objective; views count through ``method.views.n_views``.
        batch_size: global.
        n_samples: rows of the training split; None for a stream.

    Raises:
        UserError: all that is wrong, one sentence each with what to do.
    """
    problems = []
    if n_samples is not None and batch_size > n_samples:
        problems.append(
            f"train.batch_size is {batch_size}, but the training split has {n_samples} rows; lower it"
        )
    problems += method.check(batch_size=batch_size, n_samples=n_samples)
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


class Guard:
    """Measures stages every ``train.guard_every`` steps and judges them after the warm-up.

    It judges against what it saw first in the run, so that a narrow but healthy network stays
    unremarked; a state must last for three looks in a row. One collapse shows in several places
    (projector, then encoder, then loss), so while a finding stands no other is spoken, but for
    one that is worse than standing units.

    Args:
        config: reads ``guard_every``, ``guard_warmup``, ``on_collapse``.
        total_steps: of the run.
        run: where findings and a NaN step are written; None: nowhere.
        remedies: :meth:`Method.remedies` of the method, asked when the guard speaks.
    """

    def __init__(
        self,
        config: TrainConfig,
        total_steps: int,
        run: RunDirectory | None = None,
        remedies: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.every = 0 if config.on_collapse == "off" else config.guard_every
        self.warmup = total_steps // 10 if config.guard_warmup is None else config.guard_warmup
        self.action, self.seed, self.run, self.remedies = config.on_collapse, config.seed, run, remedies
        self.findings: list[str] = []
        self.encoder_rank: float | None = None
        self._first: dict[str, dict[str, float]] = {}
        self._since: dict[str, int] = {}
        self._count: dict[str, int] = {}
        self._said: dict[str, str] = {}
        self._new: list[str] = []

    def due(self, step: int) -> bool:
        """Whether to look after ``step`` steps."""
        return self.every > 0 and step % self.every == 0

    def look(self, step: int, output: Output) -> dict[str, float]:
        """Measures all stages of one output (synchronises the device), and notes what is wrong.

        Returns:
            ``guard/<stage>/{std, variance, rank, cosine, dead}`` for the metrics.
        """
        row: dict[str, float] = {}
        narrower, flat = False, self._nearly_uniform(output)
        for stage, values in output.stages.items():
            found = measure(values)
            if not found:
                continue
            row |= {f"guard/{stage}/{k}": v for k, v in found.items() if k not in _HIDDEN_KEYS}
            first = self._first.setdefault(stage, found)
            narrower |= 1 - found["cosine"] < 0.1 * (1 - first["cosine"])
            sentence = partial(sentence_for_stage, stage, found, "uniform" if flat else None)
            self._note(step, stage, judge_stage(found, first), sentence)
        self.encoder_rank = row.get("guard/encoder/rank", self.encoder_rank)
        self._look_at_loss(step, output, narrower)
        self._look_at_parts(step, output)
        return row

    def judge(self, say: Callable[[str], None]) -> None:
        """Speaks about new findings: a warning, or the end of the run. All processes must call it.

        Raises:
            CollapseError: ``on_collapse: stop``.
        """
        new, self._new = self._new, []
        if new:
            self.findings += new
            self._write("findings.json", {"findings": self.findings})
        if self.action == "stop" and agree([bool(new)], torch.device(_collective_device()))[0]:
            raise CollapseError("\n".join(new) or "the main process found a collapse")
        for sentence in new:
            say(f"guard: {sentence}")
            warnings.warn(sentence, GuardWarning, stacklevel=3)

    def not_finite(self, step: int, order: BatchOrder, saved: Path | None) -> None:
        """Ends the run after a loss that was NaN or infinite, and writes how to replay that step.

        Args:
            step: number of steps done before the bad one.
            order: gives the step's samples.
            saved: the newest checkpoint; it holds finite losses only.

        Raises:
            CollapseError: always.
        """
        epoch, number = order.position(step)
        replay: dict[str, Any] = {"step": step, "epoch": epoch, "batch": number, "seed": self.seed}
        replay |= {"indices": order.batch(step).tolist(), "checkpoint": saved.name if saved else None}
        self._write("nan_step.json", replay)
        where = f"; {self.run.path / 'nan_step.json'} has its samples" if self.run is not None else ""
        raise CollapseError(
            f"loss is NaN or infinite at step {step} (epoch {epoch}, batch {number}): the optimizer diverged "
            "or a sample is not finite; lower the learning rate, set train.clip_norm, or check these "
            f"samples{where}"
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge as the unbroken one does."""
        return {"first": self._first, "since": self._since, "count": self._count, "said": self._said,
                "findings": self.findings, "rank": self.encoder_rank}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What :meth:`state_dict` gave."""
        self._first, self._since = dict(state["first"]), dict(state["since"])
        self._count, self._said = dict(state["count"]), dict(state["said"])
        self.findings, self.encoder_rank = list(state["findings"]), state["rank"]

    @staticmethod
    def _nearly_uniform(output: Output) -> bool:
        """A stage that collapses while the loss comes to its uniform value has the cause of that."""
        uniform = output.trivial.get("uniform")
        return uniform is not None and abs(float(output.loss.detach()) - uniform) <= 0.02 * abs(uniform)

    def _look_at_loss(self, step: int, output: Output, narrower: bool) -> None:
        loss = float(output.loss.detach())
        start = self._first.setdefault("loss", {"value": loss})["value"]
        for name, value in output.trivial.items():
            near = abs(loss - value) <= 1e-3 * (abs(value) if abs(value) > 1e-6 else abs(start))
            if name == "constant" and value <= 0:
                near &= narrower  # the loss's lowest value, which a perfect network reaches as well
            self._note(step, f"loss/{name}", name if near else None, partial(sentence_for_loss, value))

    def _look_at_parts(self, step: int, output: Output) -> None:
        """What the objective measured in this batch: the error of a constant, outputs in use."""
        if "constant_prediction" in output.parts and "teacher" not in output.stages:  # else it moves
            value = float(output.parts["constant_prediction"])
            kind = "constant_prediction" if float(output.loss.detach()) >= 0.999 * value else None
            self._note(step, "loss/mean", kind, partial(sentence_for_loss, value), LONG_PATIENCE)
        if "used_outputs" in output.parts:
            used = float(output.parts["used_outputs"])
            first = self._first.setdefault("outputs", {"used": used})["used"]
            kind = "constant" if used < 1.1 or (used < 1.5 and used < 0.5 * first) else None
            self._note(step, "outputs", kind, partial(sentence_for_outputs, used))

    def _note(
        self, step: int, key: str, kind: str | None, sentence: Callable[..., str], patience: int = PATIENCE
    ) -> None:
        """Counts how long a state has lasted; a new finding when it is long enough."""
        if kind is None or step <= self.warmup:
            self._count[key] = 0
            return
        if not self._count.get(key):
            self._since[key] = step
        self._count[key] = self._count.get(key, 0) + 1
        if self._count[key] < patience or key in self._said:
            return
        standing = {said for at, said in self._said.items() if self._count.get(at)}
        if standing <= ({"dead"} if kind != "dead" else set()):
            self._said[key] = kind
            self._new.append(sentence(self.remedies(), kind, step - self._since[key]))

    def _write(self, name: str, content: dict[str, Any]) -> None:
        if self.run is not None and is_main():
            write_text(self.run.path / name, json.dumps(content) + "\n", "guard's file")


def _collective_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@torch.no_grad()
def measure(values: Tensor) -> dict[str, float]:
    """Numbers of one stage ``[N, D]``, from a fixed sample of its rows; empty for under 4 rows or 2 columns.

    Returns:
        ``std``: mean standard deviation of the columns of the L2-normalised rows, times sqrt(D): 1 for
        directions that are spread out, 0 when all are the same. ``variance``: mean variance of the
        columns. ``rank``: RankMe of up to 256 rows. ``cosine``: mean over pairs of rows. ``dead``: share
        of columns that hardly vary. ``directions``: participation ratio of the covariance's
        eigenvalues, 1 when all rows lie on a line. ``copies``: mean squared correlation of two
        columns, 1 when they are copies up to scale, sign and offset. ``width``: D. ``rows``: N.
    """
    z = values.flatten(1) if values.dim() > 2 else values
    if z.dim() != 2 or z.shape[0] < 4 or z.shape[1] < 2 or not z.is_floating_point():
        return {}
    z = z[_sample(len(z), ROWS, z.device)].float()
    n, width = z.shape
    unit = F.normalize(z, dim=1)
    spread = unit.var(dim=0, unbiased=False)
    total = unit.sum(dim=0).square().sum()
    cosine = (total - unit.square().sum()) / (n * (n - 1))
    variance = z.var(dim=0, unbiased=False)
    dead = (variance.sqrt() <= 1e-3 * z.square().mean().sqrt()).float().mean()
    few = z[_sample(n, RANK_ROWS, z.device)]
    centred = few - few.mean(dim=0)
    alike = F.normalize(centred, dim=0)  # columns of unit length: products of them are correlations
    gram, *others = (m @ m.T if len(m) < width else m.T @ m for m in (few, centred, alike))
    (spaced, squares), (columns, correlations) = ((g.trace(), g.square().sum()) for g in others)
    directions = spaced.square() / squares.clamp_min(1e-30)
    copies = (correlations - columns) / (columns * (columns - 1)).clamp_min(1.0)
    mean_std = spread.sqrt().mean() * math.sqrt(width)
    numbers = torch.stack([mean_std, variance.mean(), cosine, dead, directions, copies]).tolist()
    found = dict(zip(("std", "variance", "cosine", "dead", "directions", "copies"), numbers, strict=True))
    rank = rankme_of_spectrum(singular_values_of_gram(gram.double().cpu(), min(few.shape)))
    return found | {"rank": rank, "width": float(width), "rows": float(n)}


def _sample(n: int, limit: int, device: torch.device) -> Tensor:
    """Up to ``limit`` row numbers, evenly spread, but not in step with any period (token positions)."""
    if n <= limit:
        return torch.arange(n, device=device)
    i = torch.arange(limit, device=device)
    return i * n // limit + (i * 7919) % (n // limit)


def judge_stage(now: Mapping[str, float], first: Mapping[str, float]) -> str | None:
    """``point`` (all rows the same), ``line`` (one direction), ``dead`` (columns stand still), or None.

    Against ``first``, the same stage at the first look: a wide offset or few directions from the
    beginning are how this network and these data are, no collapse.
    """
    if not all(math.isfinite(v) for v in now.values()):
        return None
    gap, gap_first = 1 - now["cosine"], 1 - first["cosine"]
    if gap < 1e-6 or (gap < 1e-3 and gap < 0.2 * gap_first):
        return "point"
    if now["dead"] == 1.0:
        return "point"
    if now["width"] >= 4 and now["rows"] >= 8:
        narrow = now["directions"] < 1.1 and now["rank"] < 2
        if narrow and (now["rank"] < 0.5 * first["rank"] or now["rank"] < 1.02):
            return "line"
        if now["copies"] > 0.85 and first["copies"] < 0.5:
            return "line"
    return "dead" if now["dead"] > 0.9 and first["dead"] < 0.5 else None
