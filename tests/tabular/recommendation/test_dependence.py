"""Mutual information against scikit-learn, a literal formula and by hand; blocks change nothing."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mutual_info_score

from ssl_domains.tabular.readers import open_reader
from ssl_domains.tabular.recommendation import dependence
from ssl_domains.tabular.recommendation.dependence import Catalogue, mutual_information
from ssl_domains.tabular.recommendation.entities import EntityOptions, open_entities


def catalogue(frame, **lists):
    return open_entities(open_reader(frame), EntityOptions("item", "id", lists))


@pytest.fixture
def films():
    rng = np.random.default_rng(0)
    n = 3000
    a = rng.integers(0, 6, n)
    tags = [sorted(rng.choice(5, rng.integers(0, 4), replace=False)) for _ in range(n)]
    frame = pd.DataFrame(
        {
            "id": [f"x{i}" for i in range(n)],
            "a": [f"a{v}" for v in a],
            "b": [f"b{v}" for v in (a + rng.integers(0, 3, n)) % 6],
            "wide": [f"w{v}" for v in rng.integers(0, 400, n)],
            "deep": [f"d{v}" for v in rng.integers(0, 300, n) + a],
            "tags": ["|".join(f"t{t}" for t in some) for some in tags],
            "kinds": ["|".join(f"q{t}" for t in some[:2]) for some in tags],
            "price": a + rng.normal(size=n),
        }
    )
    return frame, catalogue(frame, tags="|", kinds="|")


def literal(source):
    """Item by item, value by value."""
    cat = Catalogue(source)
    k, n = len(cat.sizes), cat.n
    numeric, codes = source.cells(np.arange(n))
    values = [[] for _ in range(n)]
    for row in range(n):
        for j, edges in enumerate(cat.edges):
            values[row].append(
                [0 if np.isnan(numeric[row, j]) else 1 + sum(numeric[row, j] >= e for e in edges)]
            )
        values[row] += [[int(c)] for c in codes[row]]
        for j in range(len(source.entity.lists)):
            values[row].append(source.list_codes(j, np.array([row]))[1].tolist() or [0])
    out = np.zeros((k, k))
    for i in range(k):
        for j in range(k):
            pair, first, second = Counter(), Counter(), Counter()
            for row in values:
                for x in row[i]:
                    first[x] += 1 / len(row[i]) / n
                for y in row[j]:
                    second[y] += 1 / len(row[j]) / n
                for x in row[i]:
                    for y in row[j]:
                        pair[x, y] += 1 / len(row[i]) / len(row[j]) / n
            out[i, j] = sum(p * math.log(p / first[x] / second[y]) for (x, y), p in pair.items())
    return out


def test_equals_scikit_learn(films):
    frame, source = films
    information = mutual_information(source)
    place = source.entity.features.index
    for one, other in (("a", "b"), ("a", "wide"), ("wide", "deep"), ("id", "a"), ("id", "wide")):
        expected = mutual_info_score(frame[one], frame[other])
        assert information[place(one), place(other)] == pytest.approx(expected, abs=1e-9)
    assert np.allclose(information, information.T)


def test_equals_the_literal_formula_with_lists_and_numbers(films):
    frame, _ = films
    source = catalogue(frame.iloc[:150].drop(columns=["wide", "deep"]), tags="|", kinds="|")
    information = mutual_information(source)
    off = ~np.eye(len(information), dtype=bool)
    assert np.allclose(information[off], literal(source)[off], atol=1e-9)


@pytest.mark.parametrize(("block", "budget"), [(100, 1 << 27), (1 << 19, 2000), (64, 50_000)])
def test_small_blocks_and_budgets_change_nothing(films, block, budget, monkeypatch):
    _, source = films
    expected = mutual_information(source)
    monkeypatch.setattr(dependence, "BLOCK", block)
    monkeypatch.setattr(dependence, "CHUNK", 500)
    assert np.allclose(mutual_information(source, budget=budget), expected, atol=1e-9)


def test_identical_columns_and_independent_ones():
    frame = pd.DataFrame(
        {"id": range(400), "a": ["x", "y"] * 200, "b": ["p", "q"] * 200, "c": ["u", "u", "v", "v"] * 100}
    )
    source = catalogue(frame)
    information = mutual_information(source)
    place = source.entity.features.index
    assert information[place("a"), place("b")] == pytest.approx(math.log(2))
    assert information[place("a"), place("c")] == pytest.approx(0.0, abs=1e-12)
    assert information[place("id"), place("a")] == pytest.approx(math.log(2))  # an id tells everything
    normal = mutual_information(source, normalized=True)
    assert np.allclose(np.diag(normal), 1.0)
    assert normal[place("id"), place("a")] == pytest.approx(math.sqrt(math.log(2) / math.log(400)))
