"""Generated files that the tests of recipes, verbs and the command line share."""

import csv
import os
import random
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = """# A tiny run
domain: tabular
data: {{source: "{source}", label: price, valid: 0.2, test: 0.2}}
encoder: {{name: ft_transformer, width: 8, depth: 1, heads: 2, ffn: 8}}
mask: disjoint_subsets
method: {{name: latent_prediction, predictor: {{width: 8, depth: 1, heads: 2, ffn: 8}}}}
objective: masked_mse
optimizer: {{name: adamw, lr: 1e-3}}
train: {{batch_size: 16, steps: 4, log_every: 2, device: cpu}}
evaluate: {{probes: [linear], seeds: 1, tree: false}}
"""


def _write_table(path: Path, rows: int = 80, seed: int = 0, **extra: str) -> Path:
    """A CSV with two numbers, two categories and a price that depends on them; ``extra`` replaces columns."""
    rng = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "income", "city", "smoker", "price"])
        for _ in range(rows):
            age, city = rng.randint(18, 80), extra.get("city") or rng.choice(["rome", "oslo", "lima"])
            smoker = rng.choice(["y", "n"])
            price = 2 * age + 30 * (smoker == "y") + rng.gauss(0, 2)
            writer.writerow([age, round(100 * age + rng.gauss(0, 300), 2), city, smoker, round(price, 2)])
    return path


@pytest.fixture
def write_table():
    """Writes such a table: ``write_table(path, rows, seed, city=...)``."""
    return _write_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A small CSV file."""
    return _write_table(tmp_path / "table.csv")


@pytest.fixture
def tiny(tmp_path: Path, table: Path) -> Path:
    """A recipe of four steps on that table."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(source=table))
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory):
    """A finished run on a small table: (run, recipe, table). Do not change it."""
    import ssl_domains

    folder = tmp_path_factory.mktemp("finished")
    source = _write_table(folder / "table.csv")
    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY.format(source=source))
    run = ssl_domains.pretrain(recipe, run=folder / "run", progress=False)
    return run, recipe, source
