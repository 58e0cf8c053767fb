"""SSACL's pair classifier against a similarity threshold, and against itself without the adversarial step (sheet 59)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.claims.common import Result, data_root, judge
from ssl_domains.core.random import Draw
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.integration.candidates import Pairs, candidate_pairs
from ssl_domains.tabular.integration.scores import f1, set_similarity
from ssl_domains.tabular.integration.scoring import encode_rows, frozen, score_pairs
from ssl_domains.tabular.integration.sets import integrable_sets
from ssl_domains.tabular.integration.source import TextTableSource
from ssl_domains.tabular.integration.views import TextPerturbations

STEPS = 200
PROBED_ROWS = 500
FULL, PLAIN, NEAR = "SSACL", "without the adversarial step", "with half of the negatives the nearest rows"
CHOSEN, BEST = "n-gram cosine, threshold from generated pairs", "n-gram cosine, best threshold on the truth"


@dataclass
class Task:
    """A table and what is known of it.

    Attributes:
        data: keys of the recipe's ``data`` section.
        source: the opened table.
        pairs: pairs to judge.
        same: ``[P]`` bool, whether they are the same thing.
        n_true: number of true pairs, those that no candidate is included.
        truth: ``[n]`` set of each row, where all sets are known.
    """

    data: dict[str, Any]
    source: TextTableSource
    pairs: Pairs
    same: np.ndarray
    n_true: int
    truth: np.ndarray | None


def open_data(data: dict[str, Any]) -> TextTableSource:
    source = Tabular().open(**data)
    assert isinstance(source, TextTableSource)
    return source


def with_sets(file: str, exclude: list[str]) -> Task:
    """A table whose column ``thing`` tells all sets; the pairs are its candidates."""
    data = {
        "source": str(data_root() / file),
        "cells": "text",
        "valid": 0.0,
        "test": 0.0,
        "exclude": ["thing", *exclude],
    }
    source = open_data(data)
    truth = pd.factorize(np.array(source.table.column("thing").to_pylist()))[0]
    pairs = candidate_pairs(source)
    sizes = np.bincount(truth)
    n_true = int((sizes * (sizes - 1) // 2).sum())
    return Task(data, source, pairs, truth[pairs.left] == truth[pairs.right], n_true, truth)


def publications() -> Task:
    """DBLP and ACM: the 415 pairs that were labelled by hand."""
    data = {
        "source": str(data_root() / "publications.csv"),
        "cells": "text",
        "valid": 0.0,
        "test": 0.0,
        "exclude": ["id", "library"],
    }
    source = open_data(data)
    place = {name: i for i, name in enumerate(source.table.column("id").to_pylist())}
    labels = pd.read_csv(data_root() / "publications_pairs.csv", dtype=str)
    left, right = (np.array([place[name] for name in labels[key]]) for key in ("id_a", "id_b"))
    same = labels["same"].to_numpy() == "1"
    return Task(data, source, Pairs(left, right, np.ones(len(left), np.float32)), same, int(same.sum()), None)


def cosine(source: TextTableSource) -> tuple[Callable[[list[str], list[str]], np.ndarray], list[str]]:
    """Cosine of TF-IDF of character trigrams within words, fitted on the table, and the rows' texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = source.row_texts(np.arange(len(source)))
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 3), sublinear_tf=True).fit(texts)

    def similarity(a: list[str], b: list[str]) -> np.ndarray:
        return np.asarray(vectorizer.transform(a).multiply(vectorizer.transform(b)).sum(axis=1)).ravel()

    return similarity, texts


def generated(
    source: TextTableSource, texts: list[str], seed: int
) -> tuple[list[str], list[str], np.ndarray]:
    """Pairs like those that the classifier is trained on: 6 positives and 20 negatives a row."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(source))[:PROBED_ROWS]
    batch = source.fetch(rows)
    left, right, same = [], [], []
    for view in TextPerturbations()(batch, Draw(seed, 0, batch.index))[1:]:
        cells = [["".join(map(chr, c[c > 0])) for c in row] for row in view.x["chars"].numpy()]
        left += [texts[i] for i in rows]
        right += [" ".join(filter(None, row)) for row in cells]
        same += [True] * len(rows)
    for _ in range(20):
        other = (rows + rng.integers(1, len(source), len(rows))) % len(source)
        left, right = [*left, *(texts[i] for i in rows)], [*right, *(texts[i] for i in other)]
        same += [False] * len(rows)
    return left, right, np.array(same)


def best_threshold(score: np.ndarray, same: np.ndarray, n_true: int) -> float:
    """The threshold of the highest F1."""
    grid = np.unique(np.quantile(score, np.linspace(0, 1, 501)))
    return float(max(grid, key=lambda t: measure(score, same, n_true, t)))


def measure(score: np.ndarray, same: np.ndarray, n_true: int, threshold: float) -> float:
    """F1 of the pairs above a threshold."""
    found = score > threshold
    return f1(float((found & same).sum()), float(found.sum()), float(n_true))["f1"]


def classifier(task: Task, seed: int, **method: Any) -> np.ndarray:
    """Probabilities of the task's pairs, of a classifier trained by the recipe on the table without labels."""
    import ssl_domains

    with tempfile.TemporaryDirectory() as folder:
        run = ssl_domains.pretrain(
            "tabular/table_integration",
            run=Path(folder) / "run",
            progress=False,
            data=task.data,
            method=method,
            train={"steps": STEPS, "seed": seed, "on_collapse": "off"},
            evaluate={"probes": [], "seeds": 1, "map_rows": 10, "diagnostic_rows": 100},
        )
        encoder: Any = run.encoder.encoder
        with frozen(encoder, torch.device("cpu")):
            tokens = encode_rows(encoder, task.source)
            return score_pairs(encoder, tokens, task.source.missing, task.pairs)


def run(seeds: int) -> Result:
    """Pair F1 on the candidates (missed true pairs count), and how well the sets match."""
    tasks = {
        "restaurants": with_sets("restaurants.csv", ["guide"]),
        "publications": publications(),
        "persons (generated)": with_sets("persons.csv", []),
    }
    values: dict[str, list[float]] = {}
    extra: dict[str, float] = {}

    def add(name: str, value: float) -> None:
        values.setdefault(name, []).append(value)

    def sets(name: str, task: Task, condition: str, score: np.ndarray, threshold: float) -> None:
        if task.truth is not None:
            found = integrable_sets(
                len(task.source), task.pairs.left, task.pairs.right, score, threshold=threshold
            )
            add(f"{name}, set similarity: {condition}", set_similarity(found, task.truth))

    for name, task in tasks.items():
        similarity, texts = cosine(task.source)
        score = similarity([texts[i] for i in task.pairs.left], [texts[i] for i in task.pairs.right])
        extra[f"{name}: true pairs among the candidates"] = float(task.same.sum() / task.n_true)
        best = best_threshold(score, task.same, task.n_true)
        for seed in range(seeds):
            left, right, same = generated(task.source, texts, seed)
            chosen = best_threshold(similarity(left, right), same, int(same.sum()))
            conditions = {FULL: {}, PLAIN: {"adversarial_weight": 0.0}}
            if name == "restaurants":
                conditions[NEAR] = {"near_negatives": 0.5}
            for condition, method in conditions.items():
                p = classifier(task, seed, **method)
                add(f"{name}, pair F1: {condition}", measure(p, task.same, task.n_true, 0.5))
                sets(name, task, condition, p, 0.5)
            add(f"{name}, pair F1: {CHOSEN}", measure(score, task.same, task.n_true, chosen))
            add(f"{name}, pair F1: {BEST}", measure(score, task.same, task.n_true, best))
            sets(name, task, CHOSEN, (score > chosen).astype(np.float32), 0.5)
    against = {
        (name, other): judge(values[f"{name}, pair F1: {FULL}"], values[f"{name}, pair F1: {other}"])
        for name in tasks
        for other in (CHOSEN, PLAIN)
    }
    every = set(against.values())
    verdict = "holds" if every == {"holds"} else "fails" if "fails" in every else "open"
    recalls = ", ".join(f"{key.split(':')[0]} {value:.3f}" for key, value in extra.items())
    return Result(
        name="table_integration",
        paper="Robust table integration in data lakes (VLDB Journal 2025)",
        claim="A pair classifier trained on generated pairs with adversarial positives beats a threshold on the similarity of the rows, "
        "and the same classifier without the adversarial step.",
        setting="Fodor's and Zagat's restaurants (864 rows, 112 true pairs, real), DBLP and ACM papers (4,910 rows, 415 pairs labelled by "
        f"hand, 231 of them true, real), FEBRL 3 persons (5,000 rows, generated errors). The recipe tabular/table_integration at {STEPS} steps of "
        "32 rows, trained on the table without labels; hashed n-grams 64 wide in place of DeBERTa. A pair counts when p > 1/2; the pairs are the "
        "candidates of the blocking (true pairs that it misses count as missed), for publications the labelled ones. Sets: average linkage.",
        metric="F1 of pairs, or set similarity",
        values=values,
        verdict=verdict,
        notes="; ".join(f"{name}, against {other}: {word}" for (name, other), word in against.items())
        + f". Share of the true pairs that are candidates: {recalls}. The rows named 'best threshold on the truth' see the labels and are no "
        "fair rival. The settings are the recipe's; they were chosen on FEBRL 1 and on other labelled pairs of the DBLP-ACM demo. The condition "
        "with near negatives was added after a first short run on the restaurants had shown low precision.",
        extra=extra,
    )
