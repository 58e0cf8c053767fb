"""Batches of distinct clusters: the rule in every batch, coverage, and G-SimCLR's figures on digits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from ssl_domains.core.cluster_sampler import DistinctClusters, most_batches, plan_batches
from ssl_domains.core.errors import DataError, UserError


class Data:
    """As much of a source as a sampler reads."""

    def __init__(self, x, rows=None):
        self.x = np.asarray(x, dtype=np.float32)
        self.splits = {"train": np.arange(len(x)) if rows is None else rows}

    def __len__(self):
        return len(self.x)

    def raw_features(self, indices):
        return self.x[indices]


def digits(rows=None):
    data = load_digits()
    return Data(data.data, rows), data.target


def batches(sampler, source, batch_size, seed=0, epoch=0):
    sampler.prepare(source)
    rows = source.splits["train"]
    return sampler.epoch(rows, batch_size, sampler.n_batches(rows, batch_size), seed, epoch)


def false_negatives(found, target):
    """Share of ordered pairs in a batch with equal class."""
    share = [(target[b][:, None] == target[b][None]).sum() - len(b) for b in found]
    return sum(share) / sum(len(b) * (len(b) - 1) for b in found)


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 30), min_size=3, max_size=12),
    batch=st.integers(2, 8),
    seed=st.integers(0, 99),
)
def test_the_rule_holds_and_the_epoch_is_as_long_as_it_can_be(counts, batch, seed):
    counts = np.array(counts)
    batch = min(batch, len(counts))
    m = most_batches(counts, batch)
    if np.minimum(counts, 1).sum() >= batch:
        assert np.minimum(counts, m).sum() >= m * batch
    assert np.minimum(counts, m + 1).sum() < (m + 1) * batch
    plan = plan_batches(np.minimum(counts, m), batch, m, np.random.default_rng(seed))
    assert plan.shape == (m, batch)
    assert all(len(set(row)) == batch for row in plan.tolist())
    assert (np.bincount(plan.ravel(), minlength=len(counts)) <= counts).all()


@pytest.mark.filterwarnings("ignore:sampler")
@pytest.mark.parametrize(("k", "batch"), [(64, 64), (64, 16), (16, 16), (10, 10)])
def test_every_batch_has_distinct_clusters_and_no_row_twice(k, batch):
    rows = np.sort(np.random.default_rng(0).permutation(1797)[:1500])
    source, _ = digits(rows)
    sampler = DistinctClusters(k)
    found = batches(sampler, source, batch)
    labels = dict(zip(rows, sampler.labels(rows, batch), strict=True))
    flat = np.concatenate(found)
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(rows)
    assert all(len({labels[r] for r in b}) == batch for b in found)


def test_clusters_are_those_of_scikit_learn():
    source, _ = digits()
    sampler = DistinctClusters(16)
    sampler.prepare(source)
    theirs = KMeans(16, random_state=0).fit_predict(source.x)
    assert adjusted_rand_score(sampler.labels(np.arange(1797), 16), theirs) == 1.0


@pytest.mark.filterwarnings("ignore:sampler")
def test_fewer_false_negatives_than_random_batches_near_the_number_of_classes():
    """Random batches of digits: 0.099; the official rank sort leaves 0.045 at ten clusters, and 0.107
    at 64, worse than random. The strict rule beats both."""
    source, target = digits()
    rng = np.random.default_rng(0)
    random = [rng.permutation(1797)[:64] for _ in range(50)]
    assert false_negatives(random, target) == pytest.approx(0.099, abs=0.004)
    rates = {k: false_negatives(batches(DistinctClusters(k), source, k), target) for k in (10, 16, 64)}
    assert rates[10] < 0.045
    assert rates[16] < 0.075
    assert rates[64] < 0.096


def test_true_classes_give_no_false_negative_and_rows_alone_give_a_shuffle(tmp_path):
    source, target = digits()
    np.save(tmp_path / "classes.npy", target.astype(np.int64))
    oracle = DistinctClusters(features=str(tmp_path / "classes.npy"))
    assert false_negatives(batches(oracle, source, 10), target) == 0
    alone = batches(DistinctClusters(1797), source, 64)
    assert len(alone) == 1797 // 64
    assert len(set(np.concatenate(alone))) == len(alone) * 64


def test_seed_and_epoch_decide():
    source, _ = digits()
    first, again = (np.stack(batches(DistinctClusters(32), source, 16, 3, 1)) for _ in range(2))
    assert (first == again).all()
    assert (first != np.stack(batches(DistinctClusters(32), source, 16, 3, 2))).any()
    assert (first != np.stack(batches(DistinctClusters(32), source, 16, 4, 1))).any()


def test_rows_of_large_clusters_come_in_later_epochs():
    x = np.concatenate([np.zeros((90, 1)), np.ones((5, 1)), 2 * np.ones((5, 1))])
    sampler = DistinctClusters(3)
    with pytest.warns(UserWarning, match="covers 15% of the rows"):
        found = [np.concatenate(batches(sampler, Data(x), 3, epoch=e)) for e in range(40)]
    assert all(len(rows) == 15 for rows in found)
    assert len(set(np.concatenate(found))) > 85


def test_bad_input(tmp_path):
    source, _ = digits()
    sampler = DistinctClusters(8)
    sampler.prepare(source)
    with pytest.raises(UserError, match="8 clusters for batches of 16 rows"):
        sampler.n_batches(np.arange(1797), 16)
    with pytest.raises(ValueError, match="at least 2"):
        DistinctClusters(1)
    np.save(tmp_path / "short.npy", np.zeros((3, 2)))
    np.save(tmp_path / "nan.npy", np.full((1797, 2), np.nan))
    (tmp_path / "text.npy").write_text("no")
    for name, text in (
        ("short", r"expected \[1797, F\]"),
        ("nan", "NaN"),
        ("text", "cannot be read"),
        ("gone", "cannot be read"),
    ):
        with pytest.raises(DataError, match=text):
            DistinctClusters(8, features=str(tmp_path / f"{name}.npy")).prepare(source)
