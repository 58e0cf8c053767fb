"""What all claims share: the result record, intervals, data, the table in the docs."""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scipy import stats

if TYPE_CHECKING:
    from ssl_domains.evaluation.results import Evaluation

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCS = HERE.parent.parent / "docs" / "claims.md"
FETCH = "bash benchmarks/fetch.sh"


@dataclass
class Result:
    """Outcome of a claim.

    Attributes:
        name: of the module.
        paper: title and venue.
        claim: one sentence that can be false.
        setting: data, model, steps, label counts; enough to judge the figures.
        metric: what the numbers are, and whether higher is better.
        values: condition -> one number a seed, in the order of the seeds.
        verdict: ``holds``, ``fails`` or ``open`` (interval of the difference includes 0).
        notes: what was tried and what surprised.
        minutes: time on the clock.
        core_minutes: time of the process's own work, which other work on the machine does not stretch; 0: unknown.
    """

    name: str
    paper: str
    claim: str
    setting: str
    metric: str
    values: dict[str, list[float]]
    verdict: str = ""
    notes: str = ""
    minutes: float = 0.0
    core_minutes: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)

    def save(self) -> None:
        """Writes ``results/<name>.json``."""
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(asdict(self), indent=1) + "\n")


def interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half-width of Student's interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(stats.t.ppf(0.5 + level / 2, len(values) - 1)) * spread


def judge(better: list[float], worse: list[float], *, higher: bool = True) -> str:
    """``holds`` when the paired difference is above 0 with its whole 95 % interval, ``fails``
    when below, ``open`` otherwise."""
    sign = 1.0 if higher else -1.0
    mean, half = interval([sign * (b - w) for b, w in zip(better, worse, strict=True)])
    if mean - half > 0:
        return "holds"
    return "fails" if mean + half < 0 else "open"


def data_root() -> Path:
    """Folder that ``fetch.sh`` fills.

    Raises:
        SystemExit: it is not there, with the command.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    root = Path(os.environ.get("SSL_DOMAINS_DATA", cache / "ssl_domains" / "data"))
    if not (root / "letter.csv").exists():
        raise SystemExit(f"no data in {root}: run `{FETCH}`")
    return root


def motion_data(name: str) -> Path:
    """A file of motions or wearables in that folder.

    Raises:
        SystemExit: it is not there, with the command.
    """
    path = data_root() / name
    if not path.exists():
        raise SystemExit(f"{path} is not there: run `{FETCH} --motions`")
    return path


def speech_data(name: str) -> Path:
    """A manifest of recordings in that folder.

    Raises:
        SystemExit: it is not there, with the command.
    """
    path = data_root() / name
    if not path.exists():
        raise SystemExit(f"{path} is not there: run `{FETCH} --speech`")
    return path


def write_table() -> None:
    """docs/claims.md from all stored results."""
    lines = [
        "# Claims, measured here",
        "",
        "Each row of a table is a condition; numbers are the mean over seeds and the half-width of its 95 % interval.",
        "*holds / fails / open* speaks of the paired difference over seeds: its interval lies above 0, below 0, or",
        "includes 0. Run them again with `python -m benchmarks.claims` (data: `bash benchmarks/fetch.sh`).",
        "",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        result = Result(**json.loads(path.read_text()))
        lines += [f"## {result.paper}", "", f"**Claim.** {result.claim}", "", f"**{result.verdict}.**", ""]
        took = f" ({result.minutes:.0f} minutes on two cores.)" if result.minutes else ""
        if result.core_minutes:
            took = f" ({result.core_minutes:.0f} minutes of one core.)"
        lines += [f"Setting: {result.setting}{took}", ""]
        lines += [f"| condition | {result.metric} | seeds |", "|---|---|---|"]
        for condition, values in result.values.items():
            mean, half = interval(values)
            lines.append(f"| {condition} | {mean:.4g} ± {half:.2g} | {len(values)} |")
        lines += ["", result.notes, ""] if result.notes else [""]
    DOCS.write_text("\n".join(lines))


class Trained(NamedTuple):
    """Attributes: the evaluation, and the rows of the run's metrics."""

    evaluation: Evaluation
    metrics: list[dict[str, Any]]


def pretrained(recipe: dict[str, Any] | str, seed: int, **sections: Any) -> Trained:
    """Runs a recipe in a temporary folder and returns what its encoder is worth.

    Args:
        recipe: mapping or name.
        seed: of the run. Probes that draw are averaged over 3 draws, the random encoder over 3 initialisations.
        sections: overrides by section, as for :func:`ssl_domains.pretrain`.

    Returns:
        The evaluation, with the random encoder and the raw features beside, and the metrics.
    """
    import ssl_domains
    from ssl_domains.trainer.run import RunDirectory

    train = {**sections.pop("train", {}), "seed": seed}
    evaluate = {"seeds": 3, **sections.pop("evaluate", {})}
    with tempfile.TemporaryDirectory() as folder:
        run = ssl_domains.pretrain(
            recipe, run=Path(folder) / "run", progress=False, train=train, evaluate=evaluate, **sections
        )
        metrics = RunDirectory.open(run.path).metrics()
    assert run.evaluation is not None
    return Trained(run.evaluation, metrics)
