"""The shipped recipes: all are valid, run on anybody's file, and keep what belongs to the method."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import ssl_domains
from ssl_domains.recipe.locate import recipe_folder
from ssl_domains.tabular.domain import Tabular


def of_one_table(path):
    """Recipes of rows of numbers and categories; those of interactions or texts have tests of their own."""
    data = yaml.safe_load(path.read_text())["data"]
    return "item" not in data and data.get("cells") != "text"


RECIPES = sorted(path.stem for path in (recipe_folder() / "tabular").glob("*.yaml") if of_one_table(path))
CARD = Path(__file__).parents[2] / "data_cards" / "randhie.md"


@pytest.mark.parametrize("name", RECIPES)
def test_runs_on_any_table(name, frame, tmp_path):
    """One short run on a file that shares nothing with the recipe's own."""
    path = tmp_path / "my.csv"
    frame.to_csv(path, index=False)
    ssl_domains.pretrain(
        f"tabular/{name}",
        f"data.source={path}",
        "data.label=member",
        "train.epochs=1",
        "train.batch_size=16",
        "encoder.depth=1",
        "evaluate.seeds=1",
        run=tmp_path / "run",
        progress=False,
    )
    saved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    own = yaml.safe_load((recipe_folder() / "tabular" / f"{name}.yaml").read_text())
    assert saved["data"]["scaling"] == own["data"]["scaling"]
    assert not saved["data"].get("exclude")


OTHERS = ["{name: mlp, numeric: periodic}", "{name: resnet, numeric: piecewise}"]


@pytest.mark.parametrize(
    ("name", "encoder"), [(name, OTHERS[i % 2]) for i, name in enumerate(RECIPES)], ids=RECIPES
)
def test_takes_another_encoder(name, encoder, frame, tmp_path):
    """Methods do not know which encoder of tables they train; what was trained can be loaded."""
    path = tmp_path / "my.csv"
    frame.to_csv(path, index=False)
    run = ssl_domains.pretrain(
        f"tabular/{name}",
        f"data.source={path}",
        f"encoder={encoder}",
        "encoder.width=16",
        "train.steps=2",
        "train.batch_size=16",
        "evaluate.probes=[]",
        run=tmp_path / "run",
        progress=False,
    )
    assert run.encoder.embed(path).shape == (120, 16)


def test_card_of_the_default_data():
    front = yaml.safe_load(CARD.read_text().split("---")[1])
    source = Tabular().open(front["source"], label=front["label"], exclude=front["exclude"])
    assert len(source) == front["rows"]
    assert source.task == front["task"]
    assert set(source.spec.sources) == set(front["columns"]) - {front["label"], *front["exclude"]}
    assert source.card()["class_balance"]["1"] == pytest.approx(0.26, abs=5e-4)
    folder = Path(find_spec("statsmodels").origin).parent
    data = (folder / front["source"].split("statsmodels/")[1]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == front["sha256"]
