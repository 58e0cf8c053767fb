"""The source: splits, labels, batches, memory-mapping, new data with a fitted spec."""

import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_domains.core import cache
from ssl_domains.core.interfaces import Source
from ssl_domains.tabular import store
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.labels import draw_split


def test_batch_by_hand():
    frame = pd.DataFrame(
        {"x": [1.0, np.nan, 3.0, 8.0, 8.0], "c": ["a", "b", None, "b", "a"], "y": [2, 1, 1, 2, 2]}
    )
    source = Tabular().open(frame, label="y", valid=0, test=0)
    assert isinstance(source, Source)
    batch = source.fetch([3, 1, 2])
    std = np.std([1, 3, 8, 8])
    np.testing.assert_allclose(batch.x["numeric"], [[(8 - 5) / std], [0], [(3 - 5) / std]], rtol=1e-6)
    assert batch.x["missing"].tolist() == [[False], [True], [False]]
    assert batch.x["categorical"].tolist() == [[3], [3], [0]]
    assert (batch.index.tolist(), batch.label.tolist()) == ([3, 1, 2], [1, 0, 0])
    assert (source.task, source.class_names) == ("classification", ["1", "2"])
    dtypes = {key: value.dtype for key, value in batch.x.items()}
    assert dtypes == {"numeric": torch.float32, "categorical": torch.int64, "missing": torch.bool}
    assert (batch.index.dtype, batch.label.dtype) == (torch.int64, torch.int64)
    np.testing.assert_allclose(
        source.raw_features([3, 1, 2]),
        # number, then the categories by frequency: a, b (two each), missing
        [[3 / std, 0, 1, 0], [0, 0, 1, 0], [-2 / std, 0, 0, 1]],
        rtol=1e-6,
    )
    assert source.ids([4, 0]) == [4, 0]
    with pytest.raises(IndexError):
        source.fetch([5])
    with pytest.raises(IndexError):
        source.fetch([-1])


def test_the_label_never_reaches_the_input(frame):
    frame["again"] = frame["price"]
    with_label = Tabular().open(frame, label="price", id="count")
    assert not {"price", "count"} & set(with_label.spec.sources)
    other = frame.assign(price=np.random.default_rng(1).permutation(frame["price"]))
    a, b = with_label.fetch(range(9)), Tabular().open(other, label="price", id="count").fetch(range(9))
    assert all(torch.equal(a.x[key], b.x[key]) for key in a.x)
    assert with_label.ids([5, 2]) == frame["count"].iloc[[5, 2]].tolist()
    assert Tabular().open(frame).fetch([0]).label is None


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 300), st.floats(0, 0.4), st.floats(0, 0.4), st.integers(0, 5))
def test_splits_are_disjoint_and_have_their_shares(n, valid, test, seed):
    if n < 5:
        valid = test = 0.0
    split = draw_split(n, valid, test, seed)
    assert len(split) == n
    for i, share in ((1, valid), (2, test)):
        assert (split == i).sum() == (max(round(share * n), 1) if share else 0)
    assert (split == 0).any()
    np.testing.assert_array_equal(split, draw_split(n, valid, test, seed))


def test_splits_of_a_source(frame):
    source = Tabular().open(frame, valid=0.2, test=0.1)
    rows = np.concatenate(list(source.splits.values()))
    assert sorted(rows) == list(range(120))
    assert [len(r) for r in source.splits.values()] == [84, 24, 12]
    train = frame["amount"].iloc[source.splits["train"]]
    assert source.spec.numeric[0].mean == pytest.approx(train.mean())
    assert source.spec.numeric[0].std == pytest.approx(train.std(ddof=0))
    other = Tabular().open(frame, valid=0.2, test=0.1, seed=1)
    assert not np.array_equal(other.splits["test"], source.splits["test"])


def test_split_column(frame):
    frame["part"] = np.resize(["train", "Train", "val", "test"], 120)
    source = Tabular().open(frame, split="part")
    assert "part" not in source.spec.sources
    assert source.splits["valid"].tolist() == list(range(2, 120, 4))
    assert source.splits["test"].tolist() == list(range(3, 120, 4))


def test_limit(frame):
    source = Tabular().open(frame, limit=50, label="price")
    assert len(source) == len(source.labels) == 50
    assert sum(len(rows) for rows in source.splits.values()) == 50


@pytest.mark.parametrize(
    ("values", "task", "want_task", "want", "names"),
    [
        (["b", "a", None, "b"], None, "classification", [1, 0, -1, 1], ["a", "b"]),
        ([True, False, True, None], None, "classification", [1, 0, 1, -1], ["false", "true"]),
        ([10, 2, 2, 10], None, "classification", [1, 0, 0, 1], ["2", "10"]),
        ([1.0, 0.0, None, 1.0], None, "classification", [1, 0, -1, 1], ["0", "1"]),
        ([1.5, 0.5, 2.5, 1.0], None, "regression", [1.5, 0.5, 2.5, 1.0], None),
        ([1, 0, 2, 1], "regression", "regression", [1, 0, 2, 1], None),
        ([1.5, 0.5, 2.5, 0.5], "classification", "classification", [1, 0, 2, 0], ["0.5", "1.5", "2.5"]),
    ],
)
def test_tasks(values, task, want_task, want, names):
    frame = pd.DataFrame({"x": [0.1, 0.7, 0.3, 0.4], "y": pd.array(values)})
    source = Tabular().open(frame, label="y", task=task, valid=0, test=0)
    assert source.task == want_task
    np.testing.assert_allclose(source.fetch(range(4)).label.double(), want)
    assert source.class_names == names


def test_many_whole_numbers_are_a_regression(frame):
    source = Tabular().open(frame, label="count")
    assert source.task == "regression"
    assert source.labels.dtype == np.float32


def test_several_labels():
    frame = pd.DataFrame(
        {"x": [0.1, 0.7, 0.3], "a": [0, 1, 1], "b": [True, False, True], "c": ["n", "y", "n"]}
    )
    source = Tabular().open(frame, label=["a", "b", "c"], valid=0, test=0)
    assert source.task == "multilabel"
    assert source.class_names == ["a", "b", "c"]
    assert source.fetch(range(3)).label.tolist() == [[0, 1, 0], [1, 0, 1], [1, 1, 0]]
    assert source.card()["class_balance"] == pytest.approx({"a": 2 / 3, "b": 2 / 3, "c": 1 / 3}, abs=1e-5)


def test_card(frame):
    card = Tabular().open(frame.assign(same=1), label="member").card()
    assert card["rows"] == 120
    assert card["dropped"] == {"same": "constant"}
    assert card["columns"]["city"]["categories"] == 3
    assert card["columns"]["city"]["missing"] > 0
    assert card["columns"]["amount"]["kind"] == "numeric"
    assert sum(card["class_balance"].values()) == pytest.approx(1)


# ---- memory-mapped


def as_parquet(frame, tmp_path):
    path = tmp_path / "t.parquet"
    frame.to_parquet(path)
    return path


def test_memory_mapped_equals_in_memory(frame, tmp_path, monkeypatch):
    path = as_parquet(frame, tmp_path)
    options = {"label": "member", "id": "count", "scaling": "minmax"}
    small = Tabular().open(path, **options)
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(cache, "BYTES_BEFORE_RELEASE", 50 * (64 << 10))
    large = Tabular().open(path, **options)
    assert isinstance(large._table.numeric, np.memmap)
    assert large.spec == small.spec
    rng = np.random.default_rng(0)
    for _ in range(4):
        rows = rng.permutation(120)[:30]
        a, b = small.fetch(rows), large.fetch(rows)
        assert all(torch.equal(a.x[key], b.x[key]) for key in a.x)
        assert torch.equal(a.label, b.label)
        assert torch.equal(a.index, b.index)
        np.testing.assert_array_equal(small.raw_features(rows), large.raw_features(rows))
        assert small.ids(rows) == large.ids(rows)
    for name in small.splits:
        np.testing.assert_array_equal(small.splits[name], large.splits[name])
    assert (small.task, small.class_names) == (large.task, large.class_names)


def test_cache_is_used_and_notices_changes(frame, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    path = as_parquet(frame, tmp_path)
    entries = tmp_path / "cache" / "tabular"
    first = Tabular().open(path)
    assert len([path for path in entries.iterdir() if path.is_dir()]) == 1
    monkeypatch.setattr("ssl_domains.tabular.data.fit_spec", None)  # a second fit would fail
    assert Tabular().open(path).spec == first.spec
    monkeypatch.undo()
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    assert Tabular().open(path, seed=1).spec != first.spec
    as_parquet(frame.assign(amount=frame["amount"] + 1), tmp_path)
    os.utime(path, (1, 1))
    assert Tabular().open(path).spec != first.spec
    assert len([path for path in entries.iterdir() if path.is_dir()]) == 3


def test_a_frame_leaves_no_cache_entry(frame, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    source = Tabular().open(frame)
    assert len(source.fetch([1, 2])) == 2
    assert len(list((tmp_path / "cache" / "tabular").iterdir())) == 1
    del source
    assert list((tmp_path / "cache" / "tabular").iterdir()) == []


def test_tables_of_one_kind_memory_mapped(frame, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    source = Tabular().open(as_parquet(frame[["city", "member"]], tmp_path))
    assert source.fetch([1, 2]).x["numeric"].shape == (2, 0)
    assert source.raw_features([1, 2]).shape[0] == 2


# ---- new data


def test_new_data_with_a_fitted_spec(frame):
    source = Tabular().open(frame, label="price")
    new = frame.head(4).drop(columns="price")
    new["city"] = ["Lyon", "Oslo", None, "Basel"]
    new["count"] = new["count"].astype(float)  # as a gap elsewhere makes it
    new["extra"] = 1
    embedded = Tabular().embed_source(source.spec, new, scaling="minmax")
    assert embedded.spec is source.spec
    a, b = embedded.fetch(range(4)), source.fetch(range(4))
    assert a.x["categorical"][:, 0].tolist() == [4, 1, 0, 2]
    torch.testing.assert_close(a.x["numeric"], b.x["numeric"])
    assert torch.equal(a.x["categorical"][:, 1], b.x["categorical"][:, 1])
    assert len(embedded.splits["train"]) == 4
    one = Tabular().embed_source(source.spec, new.head(1))
    assert len(one.fetch([0])) == 1


def test_new_data_without_a_column(frame):
    source = Tabular().open(frame, label="price")
    with pytest.raises(
        Exception, match="no column 'city', which the encoder was trained on; did you mean 'City'"
    ):
        Tabular().embed_source(source.spec, frame.rename(columns={"city": "City"}))


def test_numbers_that_became_texts_in_new_data(frame):
    source = Tabular().open(frame, label="price")
    new = frame.head(3).copy()
    new["amount"] = ["1.5", "unknown", "2"]
    new["day"] = ["2024-05-01", "soon", None]
    batch = Tabular().embed_source(source.spec, new).fetch(range(3))
    names = source.spec.names
    assert batch.x["missing"][:, names.index("amount")].tolist() == [False, True, False]
    assert batch.x["missing"][:, names.index("day:month")].tolist() == [False, True, True]


def test_large_moments_keep_their_precision():
    """Seconds since 1970 in float32 would be off by a minute."""
    moments = pd.date_range("2024-01-01", periods=100, freq="s").to_series(index=range(100))
    source = Tabular().open(pa.table({"at": pa.array(moments.to_numpy())}), valid=0, test=0)
    z = source.fetch(range(100)).x["numeric"][:, 0]
    torch.testing.assert_close(z.diff(), torch.full((99,), z.diff()[0].item()), rtol=1e-3, atol=0)


def test_inspect(frame, tmp_path):
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    card, lines = Tabular().inspect(path, label="price")
    assert card["task"] == "regression"
    assert f"source: {path}" in lines
    assert "label: price" in lines
    assert "day: date" in lines
