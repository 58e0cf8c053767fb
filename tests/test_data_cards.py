"""Data cards: front matter complete, the data open through their domain, and are what the card says."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ssl_domains.core import registry

ROOT = Path(__file__).resolve().parent.parent
CARDS = sorted((ROOT / "data_cards").glob("*.md"))
REQUIRED = ("name", "domain", "source", "licence", "label", "task", "citation")


def front_matter(card: Path) -> tuple[dict[str, Any], str]:
    match = re.match(r"---\n(.*?)\n---\n(.*)", card.read_text(encoding="utf-8"), re.DOTALL)
    assert match, f"{card.name} does not begin with front matter between two lines of ---"
    return yaml.safe_load(match[1]), match[2]


def data_folder() -> Path:
    """Where ``benchmarks/fetch.sh`` puts the data."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SSL_DOMAINS_DATA") or cache / "ssl_domains" / "data")


def arguments(facts: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the domain's ``open``; skips, with the command, where the data are not there."""
    package = facts.get("package")
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"wants the package {package}: {facts.get('install', f'pip install {package}')}")
    if "open" not in facts:
        given = {"source": facts["source"]}
        said = ("label", "exclude") if facts["domain"] == "tabular" else ()
        return given | {key: facts[key] for key in said if facts.get(key)}
    given = dict(facts["open"])
    for key in ("source", "nodes", "edges"):
        if key in given and "://" not in given[key] and "fetch" in facts:
            path = data_folder() / given[key]
            if not path.exists():
                pytest.skip(f"wants {given[key]}: {facts['fetch']}")
            given[key] = str(path)
    return given


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_front_matter_is_complete(card: Path) -> None:
    facts, body = front_matter(card)
    missing = [key for key in REQUIRED if not facts.get(key)]
    assert not missing, f"{card.name} lacks {missing}"
    assert facts["name"] == card.stem
    assert facts["domain"] in registry.domain_folders()
    assert facts["task"] in ("classification", "regression", "multilabel", "retrieval")
    assert "rows" in facts or "nodes" in facts, f"{card.name} gives neither rows nor nodes"
    assert {"columns", "sha256", "pixels"} & set(facts), f"{card.name} has no schema or checksum"
    problems = re.search(r"^## Known problems\n+((?:- .+|  .+|\n)+)", body, re.MULTILINE)
    assert problems, f"{card.name} has no list under '## Known problems'"


def samples(facts: dict[str, Any]) -> tuple[int, bool]:
    """Number of samples, and whether that is exact (``20190``) or not (``about 3,900 functions``)."""
    given = facts.get("rows") or facts.get("graphs") or facts.get("nodes")
    if isinstance(given, int):
        return given, True
    found = re.search(r"[\d,]+", str(given))
    assert found, f"no number in {given!r}"
    return int(found[0].replace(",", "")), "about" not in str(given)


def marked(card: Path) -> Any:
    """Cards of fetched data carry the marker ``data``; many small graphs take long to read."""
    facts, _ = front_matter(card)
    marks = [pytest.mark.data] if "fetch" in facts else [pytest.mark.slow] if "graphs" in facts else []
    return pytest.param(card, id=card.stem, marks=marks)


@pytest.mark.parametrize("card", [marked(card) for card in CARDS])
def test_data_are_what_the_card_says(card: Path) -> None:
    from ssl_domains.core.registry import load_domain

    facts, _ = front_matter(card)
    if "recipe" in facts:
        check_pairs(facts)
        return
    source = load_domain(facts["domain"])().open(**arguments(facts))
    count, exact = samples(facts)
    # What is made from an installed package moves with its version.
    assert abs(len(source) - count) <= (0 if exact else 0.2 * count)
    if facts["task"] == "retrieval":
        check_interactions(facts, source)
        return
    assert source.task == facts["task"]
    classes = facts.get("classes")
    if exact and classes:
        assert len(source.class_names or []) == classes
    elif classes:
        assert {"nn", "data", "utils"} <= set(classes) & set(source.class_names or [])
    check_columns(facts, source)
    check_splits(source)
    batch = source.fetch(source.splits["train"][:4])
    assert len(batch) == 4
    check_checksum(facts)


def check_pairs(facts: dict[str, Any]) -> None:
    """Pairs are opened as the recipe does that names them: it says which domain each side has."""
    from ssl_domains.recipe.build import open_source
    from ssl_domains.recipe.check import read_recipe

    recipe = read_recipe(facts["recipe"])
    assert without_options(recipe.data["source"]) == facts["source"]
    _, source = open_source(recipe)
    assert len(source) == facts["rows"]
    assert len(source.class_names or []) == facts.get("classes", 0)
    rows = np.concatenate(list(source.splits.values()))
    assert len(np.unique(rows)) == len(rows) == len(source)
    assert set(source.fetch(source.splits["train"][:4]).x) == set(recipe.parts)


def without_options(source: str) -> str:
    """``generated://films?pairs=600`` is one of the sources of the card of ``generated://films``."""
    return source.partition("?")[0] if source.startswith("generated://") else source


def check_interactions(facts: dict[str, Any], source: Any) -> None:
    """Interactions have no label: what is asked is which items the held-out ones name."""
    opened = facts["open"]
    named = {opened[key].split(":")[0] for key in ("user", "item", "time")}
    assert named < set(facts["columns"])
    assert len(source.retrieval("test").rows) > 0
    rows = np.concatenate(list(source.splits.values()))
    assert len(np.unique(rows)) == len(rows) == len(source)


def check_columns(facts: dict[str, Any], source: Any) -> None:
    """The columns that the encoder sees are those of the card, but for the label and what is excluded."""
    if not facts.get("columns"):
        return
    if facts["domain"] == "skeleton":
        assert list(source.spec.channels) == facts["columns"]
        return
    if facts["domain"] == "video":
        assert source.spec.channels == len(facts["columns"])
        return
    if facts["domain"] == "speech":
        assert facts["columns"] == ["samples"]  # that is all a recording has
        return
    seen = {getattr(column, "source", column.name) for column in source.spec.columns}
    left_out = {facts["label"], *facts.get("exclude", [])}
    assert seen == set(facts["columns"]) - left_out


def check_splits(source: Any) -> None:
    rows = np.concatenate(list(source.splits.values()))
    assert len(np.unique(rows)) == len(rows), "splits overlap"
    assert all(len(part) for part in source.splits.values())
    labels = np.asarray(source.labels)
    assert len(labels) == len(source)


def check_checksum(facts: dict[str, Any]) -> None:
    if "sha256" not in facts:
        return
    spec = importlib.util.find_spec(facts["package"])
    assert spec is not None
    assert spec.origin is not None
    inside = facts["source"].removeprefix(f"package://{facts['package']}/")
    data = (Path(spec.origin).parent / inside).read_bytes()
    assert hashlib.sha256(data).hexdigest() == facts["sha256"]


def test_recipes_name_data_that_have_a_card() -> None:
    """Every source that a shipped recipe names is the source of a card."""
    from ssl_domains.recipe.loading import load_document
    from ssl_domains.recipe.locate import shipped

    described = {without_options(str(facts["source"])) for facts, _ in map(front_matter, CARDS)}
    described |= {without_options(str(front_matter(card)[0].get("open", {}).get("source"))) for card in CARDS}
    named = {
        name: without_options(str(load_document(name).values.get("data", {}).get("source", "")))
        for name in shipped()
    }
    missing = {name: source for name, source in named.items() if source and source not in described}
    assert not missing, f"recipes use data without a card: {missing}"
