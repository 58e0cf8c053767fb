"""Ranking scores against literal formulas and scikit-learn, in chunks, and what is left out."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from torch import nn

from ssl_domains.core.batch import Batch, Encoded, Tokens
from ssl_domains.core.errors import RecipeError
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.retrieval import Lists, RetrievalTask
from ssl_domains.evaluation import retrieval
from ssl_domains.evaluation.evaluate import evaluate_encoder
from ssl_domains.evaluation.probes import build_probe
from ssl_domains.evaluation.protocols import Features
from ssl_domains.evaluation.retrieval import RetrievalProbe, hits_of, ranking_scores, top_candidates


def test_by_hand():
    found = ranking_scores(np.array([[True, False, True]]), np.array([2]), [1, 3])
    assert found["recall@3"][0] == 1.0
    assert found["recall@1"][0] == 0.5
    assert found["map@3"][0] == pytest.approx((1 + 2 / 3) / 2)
    assert found["map@1"][0] == 1.0
    assert found["ndcg@3"][0] == pytest.approx(1.5 / (1 + 1 / math.log2(3)))


def literal(scores, relevant, seen, k):
    order = [j for j in np.argsort(-scores, kind="stable") if j not in seen][:k]
    hits = [j in relevant for j in order]
    best = min(len(relevant), k)
    return {
        f"recall@{k}": sum(hits) / len(relevant),
        f"map@{k}": sum(sum(hits[: r + 1]) / (r + 1) for r in range(len(hits)) if hits[r]) / best,
        f"ndcg@{k}": sum(1 / math.log2(r + 2) for r in range(len(hits)) if hits[r])
        / sum(1 / math.log2(r + 2) for r in range(best)),
    }


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_equals_the_literal_formula(chunk):
    rng = np.random.default_rng(0)
    n_queries, n = 7, 30
    scores = rng.normal(size=(n_queries, n)).astype(np.float32)
    seen = [set(rng.choice(n, rng.integers(0, 6), replace=False).tolist()) for _ in range(n_queries)]
    relevant = [
        set(rng.choice(sorted(set(range(n)) - s), rng.integers(1, 5), replace=False).tolist()) for s in seen
    ]
    parts = torch.from_numpy(scores.copy()).split(chunk)
    found = np.concatenate(list(top_candidates(iter(parts), lists(seen), 10)))
    ours = ranking_scores(hits_of(found, lists(relevant), n), lists(relevant).lengths, [5, 10])
    for q in range(n_queries):
        for k in (5, 10):
            for name, value in literal(scores[q], relevant[q], seen[q], k).items():
                assert ours[name][q] == pytest.approx(value), name
    truth = np.array([[float(j in r) for j in range(n)] for r in relevant])
    masked = scores.copy()
    for q, s in enumerate(seen):
        masked[q, list(s)] = -100
    assert ours["ndcg@10"].mean() == pytest.approx(ndcg_score(truth, masked, k=10))


def lists(sets):
    rows = np.concatenate([np.full(len(s), i) for i, s in enumerate(sets)]).astype(np.int64)
    return Lists.group(rows, np.array([v for s in sets for v in s], dtype=np.int64), len(sets))


def test_lists_group_and_flat():
    made = Lists.group(np.array([2, 0, 2, 2]), np.array([5, 1, 3, 5]), 4)
    assert made.lengths.tolist() == [1, 0, 2, 0]
    place, values = made.flat(np.array([2, 1, 0]))
    assert place.tolist() == [0, 0, 2]
    assert values.tolist() == [3, 5, 1]
    assert Lists.group(np.zeros(0, np.int64), np.zeros(0, np.int64), 3).lengths.tolist() == [0, 0, 0]


def test_fewer_candidates_than_the_cut_off():
    found = next(top_candidates(iter([torch.tensor([[0.3, 0.2, 0.1]])]), lists([{0}]), 10))
    assert found.tolist() == [[1, 2, -1]]
    scores = ranking_scores(hits_of(found, lists([{2}]), 3), np.array([1]), [10])
    assert scores["recall@10"][0] == 1.0
    assert scores["map@10"][0] == 0.5


class Rows:
    """Vectors as a source."""

    full_batch, labels, task, class_names, spec = False, None, None, None, None

    def __init__(self, x, retrieval=None):
        self.x, self.retrieval = x, retrieval
        self.splits = {"train": np.arange(len(x))}

    def __len__(self):
        return len(self.x)

    def fetch(self, rows):
        index = torch.as_tensor(np.asarray(rows))
        return Batch(self.x[index], index)

    def raw_features(self, rows):
        return None

    def ids(self, rows):
        return list(rows)


class Same(Encoder):
    width = 4

    def __init__(self, seed=None):
        super().__init__()
        start = (
            torch.eye(4) if seed is None else torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))
        )
        self.weight = nn.Parameter(start)

    def forward(self, x, mask=None, *, layers=False):
        return Encoded(Tokens(x[:, None]), x @ self.weight)


@pytest.fixture
def world():
    """Queries are noisy copies of the candidates that are right for them."""
    generator = torch.Generator().manual_seed(0)
    candidates = torch.randn(40, 4, generator=generator)
    queries = candidates[:20] + 0.02 * torch.randn(20, 4, generator=generator)
    right = Lists.group(np.arange(20), np.arange(20), 20)
    nothing = Lists.group(np.zeros(0, np.int64), np.zeros(0, np.int64), 20)
    popularity = np.arange(40)[::-1].copy()

    def ask(split):
        first = {"first": np.arange(40) < 5, "none": np.zeros(40, bool)}
        return RetrievalTask(Rows(queries), np.arange(20), source, right, nothing, popularity, first)

    source = Rows(candidates, ask)
    return source


def test_a_probe_beside_its_baselines(world):
    result = evaluate_encoder(
        Same(), SimpleNamespace(evaluation_source=world), make_encoder=Same,
        probes=[{"retrieval": {"cutoffs": [1, 5]}}], seeds=3, diagnostic_rows=20, map_rows=10,
    )  # fmt: skip
    key = "retrieval(cutoffs=[1, 5])"
    assert result.value(f"{key}.recall@1") == 1.0
    assert result.find(key).metric == "recall@5"
    assert result.value(f"{key}.popularity") == pytest.approx(5 / 20)  # the same five for all
    assert result.value(f"{key.replace('retrieval', 'retrieval_first')}.popularity") == 1.0
    assert not [row for row in result.rows if "none" in row.probe]
    random = result.find(key, "random")
    assert (random.n, random.spread) == (3, "encoder initialisations")
    assert result.find(key).n == 20
    assert result.n_rows == {"test queries": 20}
    assert result.notes == []


def measured(world, **options):
    probe = RetrievalProbe(**options)
    features = Features(
        np.empty((0, 4)), np.empty(0, np.int64), world, None, Same(), {"batch_size": 8, "device": "cpu"}
    )
    return probe.measure(features, 0), probe.counts(world)


def test_large_catalogues_go_in_chunks(world, monkeypatch):
    whole, _ = measured(world)
    monkeypatch.setattr(retrieval, "CELLS", 50)  # one query at a time
    parts, _ = measured(world)
    assert [s.value for s in whole] == [s.value for s in parts]


def test_at_most_so_many_queries(world):
    scores, counts = measured(world, max_queries=6)
    assert counts == {"test queries": 6}
    assert scores[0].n == 6


def test_wrong_options_are_refused():
    with pytest.raises(RecipeError, match="cutoffs"):
        build_probe({"retrieval": {"cutoffs": [0]}})
