"""The recipe's ``evaluate`` section: the arguments of the evaluation, and probes by name."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ssl_domains.core import registry
from ssl_domains.recipe.signatures import Problem, model_of, nearest, show, validate


class EvaluateConfig(BaseModel):
    """What is measured when training has ended."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)

    probes: list[str | dict[str, Any]] = ["linear", "knn"]
    """Names of probes, or ``{name: knn, k: 20}``."""
    seeds: int = Field(default=3, ge=1)
    """Repeats of each probe that has something random; also the number of random encoders."""
    max_rows: int = Field(default=50_000, ge=10)
    """At most this many labelled rows of each split."""
    diagnostic_rows: int = Field(default=10_000, ge=2)
    """Rows for RankMe, uniformity and the other measures without labels."""
    map_rows: int = Field(default=1_500, ge=2)
    """Rows of the map in the report."""
    batch_size: int = Field(default=1024, ge=1)
    """Rows that are embedded at a time."""
    tree: bool | None = None
    """Gradient-boosted trees on the raw features; None: where that is customary (tables)."""

    def entries(self) -> list[str | dict[str, Any]]:
        """Probes as :func:`ssl_domains.evaluation.build_probe` takes them."""
        return [_entry(probe) for probe in self.probes]


def _entry(probe: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(probe, str):
        return probe
    options = {key: value for key, value in probe.items() if key != "name"}
    return {str(probe["name"]): options} if options else str(probe["name"])


def check_probes(probes: list[Any]) -> list[tuple[int, Problem]]:
    """What is wrong with the list of probes, by place in the list."""
    register_probes()
    known = registry.names("probe")
    found: list[tuple[int, Problem]] = []
    for i, probe in enumerate(probes):
        name = probe.get("name") if isinstance(probe, dict) else probe
        if name not in known:
            what = (
                "a probe is a name or {name: ..., options}"
                if name is None
                else f"no probe is called {show(name)}"
            )
            found.append((i, Problem((), f"{what}{nearest(name, known)} (there are: {', '.join(known)})")))
        elif isinstance(probe, dict):
            options = {key: value for key, value in probe.items() if key != "name"}
            _, problems = validate(model_of(registry.get("probe", name)), options, f"probe {name!r}")
            found += [(i, problem) for problem in problems]
    return found


def register_probes() -> None:
    """Imports the modules whose decorators register the probes."""
    from ssl_domains.evaluation import finetune, knn, probes, retrieval  # noqa: F401
