"""Streams without a length, and tables that several processes open at once."""

import threading
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from ssl_domains.core.errors import DataError
from ssl_domains.tabular import data, store
from ssl_domains.tabular.data import pick
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.streams import is_stream


def same(a, b):
    rows = np.arange(len(b))
    assert len(a) == len(b)
    x, y = a.fetch(rows).x, b.fetch(rows).x
    assert all(torch.equal(x[key], y[key]) for key in y)


def streams(frame):
    cuts = [frame[:50], frame[50:51], frame[51:51], frame[51:]]
    tables = [pa.Table.from_pandas(part, preserve_index=False) for part in cuts]
    yield "frames", iter(cuts)
    yield "tables", (table for table in tables)
    yield "batches", (batch for table in tables for batch in table.to_batches())
    yield "mappings", iter([{name: part[name].tolist() for name in part} for part in cuts if len(part)])
    yield "reader", pa.RecordBatchReader.from_batches(tables[0].schema, tables[3].to_batches())


def test_a_stream_is_the_table(frame, tmp_path):
    frame = frame.drop(columns="day")
    for name, stream in streams(frame):
        assert is_stream(stream), name
        whole = frame[51:] if name == "reader" else frame
        same(Tabular().open(stream, label="price"), Tabular().open(whole, label="price"))
    assert not is_stream(frame)
    assert not is_stream("a.csv")
    left = list((tmp_path / "cache" / "tabular").glob(".stream-*"))
    assert not left, "spooled rows go with their reader"


def test_hub_stream(frame):
    datasets = pytest.importorskip("datasets")
    plain = frame.drop(columns="day")
    stream = datasets.Dataset.from_pandas(plain, preserve_index=False).to_iterable_dataset()
    same(Tabular().open(stream, label="price"), Tabular().open(plain, label="price"))


@pytest.mark.parametrize(
    ("pieces", "match"),
    [
        ([], "gave no rows"),
        ([{"a": [1, 2]}, {"b": [1]}], "piece 2 of the stream has other columns.*'a'"),
        (
            [{"a": [1, 2]}, {"a": ["x"]}],
            "piece 2 of the stream: column 'a' holds string, in the first piece int64",
        ),
        ([3], "piece 1 of the stream is a int"),
    ],
)
def test_streams_that_cannot_be_used(pieces, match, tmp_path):
    with pytest.raises(DataError, match=match):
        Tabular().open(iter(pieces))
    assert not list((tmp_path / "cache" / "tabular").glob(".stream-*"))


def test_pick_is_take():
    column = pa.chunked_array([pa.array(["a", "b"]), pa.array([], pa.string()), pa.array(["c", None, "e"])])
    rows = np.array([4, 0, 3, 2, 2, 1])
    assert pick(column, rows) == column.take(pa.array(rows)).to_pylist() == ["e", "a", None, "c", "c", "b"]


def test_ids_of_a_memory_mapped_table(frame, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    named = frame.assign(key=[f"k{i}" for i in range(len(frame))])
    named.to_parquet(tmp_path / "t.parquet", row_group_size=25)
    for _ in range(2):  # fresh, then from the cache
        source = Tabular().open(tmp_path / "t.parquet", id="key")
        assert source.ids(np.array([119, 0, 60])) == ["k119", "k0", "k60"]


def test_one_encodes_and_the_others_wait(frame, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    frame.to_csv(tmp_path / "t.csv", index=False)
    calls, encode = [], data._encode

    def slow(*args):
        calls.append(1)
        time.sleep(0.3)
        return encode(*args)

    monkeypatch.setattr(data, "_encode", slow)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(Tabular().open(tmp_path / "t.csv"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(found) == 3
    same(found[0], found[1])


def test_small_tables_take_no_lock(frame, tmp_path):
    pd.DataFrame(frame).to_csv(tmp_path / "t.csv", index=False)
    Tabular().open(tmp_path / "t.csv")
    assert not (tmp_path / "cache").exists()
