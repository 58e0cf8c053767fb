"""Every kind of source gives the same rows."""

import gzip
import sqlite3
import sys

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.readers import open_reader, promote


def write(frame, kind, folder):
    """The frame as a source of this kind, and the other arguments of ``open``."""
    path = folder / f"table.{kind}"
    table = pa.Table.from_pandas(frame, preserve_index=False)
    match kind:
        case "frame":
            return frame, {}
        case "table":
            return table, {}
        case "csv" | "txt":
            frame.to_csv(path, index=False, sep="," if kind == "csv" else ";")
        case "csv.gz":
            path.write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
        case "tsv":
            frame.to_csv(path, index=False, sep="\t")
        case "parquet":
            pq.write_table(table, path, row_group_size=32)
        case "feather":
            pyarrow.feather.write_feather(table, path)
        case "arrow":
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
                out.write_table(table)
        case "folder" | "glob":
            for i in range(3):
                pq.write_table(table.slice(40 * i, 40), folder / f"part-{i}.parquet")
            return str(folder if kind == "folder" else folder / "part-*.parquet"), {}
        case "duckdb":
            connection = duckdb.connect(str(path))
            connection.register("given", table)
            connection.execute("create table trades as select * from given")
            connection.execute("create table other as select 1 as a")
            connection.close()
            return str(path), {"table": "trades"}
        case "sqlite" | "db":
            with sqlite3.connect(path) as connection:
                frame.assign(member=frame.member.astype(int)).to_sql("trades", connection, index=False)
            return str(path), {"query": "select * from trades order by rowid;"}
        case "hub" | "hub_folder":
            datasets = pytest.importorskip("datasets")
            data = datasets.Dataset.from_pandas(frame, preserve_index=False)
            if kind == "hub":
                order = np.random.default_rng(0).permutation(len(frame))
                shuffled = data.select(order)  # a row selection over the stored rows
                return shuffled.select(np.argsort(order)), {}
            data.save_to_disk(folder / "saved")
            return str(folder / "saved"), {}
    return str(path), {}


KINDS = ["table", "csv", "txt", "csv.gz", "tsv", "parquet", "feather", "arrow", "folder", "glob", "duckdb",
         "sqlite", "db", "hub", "hub_folder"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_same_rows_from_every_source(frame, kind, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    source, more = write(frame, kind, folder)
    rows = np.arange(len(frame))
    want = Tabular().open(frame, label="price", seed=1)
    got = Tabular().open(source, label="price", seed=1, **more)
    assert got.spec.names == want.spec.names
    a, b = got.fetch(rows), want.fetch(rows)
    assert a.x.keys() == b.x.keys()
    for key in a.x:
        np.testing.assert_allclose(a.x[key].double(), b.x[key].double(), atol=1e-5, err_msg=key)
    np.testing.assert_allclose(a.label, b.label, atol=1e-6)


def test_what_the_frame_becomes(frame):
    spec = Tabular().open(frame, label="price").spec
    assert [c.name for c in spec.numeric] == ["amount", "count", "day:time", "day:month", "day:weekday"]
    assert [c.name for c in spec.categorical] == ["city", "member"]
    assert spec.categorical[0].categories == ("Basel", "Köln", "Lyon")
    assert spec.categorical[1].categories == ("false", "true")


def test_record_batch_and_dictionary_columns():
    colour = pd.Categorical(["red", "blue"] * 10)
    frame = pd.DataFrame({"colour": colour, "size": np.arange(20.0) ** 2})
    batch = pa.RecordBatch.from_pandas(frame, preserve_index=False)
    source = Tabular().open(batch)
    assert source.spec.categorical[0].categories == ("blue", "red")
    assert source.fetch([0, 1]).x["categorical"].tolist() == [[3], [2]]


def test_arrays_and_whatever_turns_into_arrow():
    array = np.random.default_rng(0).normal(size=(30, 3))
    source = Tabular().open(array)
    assert source.spec.names == ["x0", "x1", "x2"]

    class Frame:
        def to_arrow(self):
            return pa.table({"a": array[:, 0], "b": array[:, 1]})

    assert Tabular().open(Frame()).spec.names == ["a", "b"]


def test_hub_names(monkeypatch, frame):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, split):
        asked.append((name, split))
        if name == "no/such":
            raise ValueError("it is not there")
        return datasets.Dataset.from_pandas(frame, preserve_index=False)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert open_reader("hf://owner/name").n_rows == 120
    open_reader("hf://owner/name:test")
    assert asked == [("owner/name", "train"), ("owner/name", "test")]
    with pytest.raises(DataError, match="hf://no/such cannot be loaded"):
        open_reader("hf://no/such")


def test_late_rows_widen_a_column(tmp_path):
    """Types hold for the whole file, not for the first block."""
    path = tmp_path / "late.csv"
    n = 700_000
    path.write_text("a,b,c\n" + "1,2024-01-01,\n" * n + "2.5,2024-01-02 10:00:00,7\n")
    reader = open_reader(path)
    assert reader.n_rows == n + 1
    assert reader.schema.types == [pa.float64(), pa.timestamp("s"), pa.float64()]
    last = list(reader.batches())[-1]
    assert last.column("a")[-1].as_py() == 2.5


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (pa.null(), pa.int64(), pa.int64()),
        (pa.int64(), pa.null(), pa.int64()),
        (pa.int64(), pa.float32(), pa.float64()),
        (pa.int64(), pa.string(), pa.string()),
        (pa.date32(), pa.timestamp("s"), pa.timestamp("us")),
        (pa.bool_(), pa.int64(), pa.string()),
        (pa.date32(), pa.int64(), pa.string()),
    ],
)
def test_promote(first, second, both):
    assert promote(first, second) == both


def test_folder_of_csv_widens_across_files(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,a\n2,b\n")
    (tmp_path / "b.csv").write_text("x,y\n1.5,c\n9,d\n")
    reader = open_reader(tmp_path)
    assert reader.schema.field("x").type == pa.float64()
    assert [v for b in reader.batches(["x"]) for v in b.column("x").to_pylist()] == [1, 2, 1.5, 9]
    assert reader.where(2) == f"line 2 of {tmp_path / 'b.csv'}"


def test_quoted_newlines_and_separators(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text('"a;x",b\n"one\ntwo, three",1\n"four",2\n')
    reader = open_reader(path)
    assert reader.schema.names == ["a;x", "b"]
    assert reader.n_rows == 2


def test_package_file_without_importing_it():
    sys.modules.pop("statsmodels", None)
    reader = open_reader("package://statsmodels/datasets/randhie/randhie.csv")
    assert reader.n_rows == 20_190
    assert "statsmodels" not in sys.modules


def test_leading_zeros_survive_when_told(tmp_path):
    path = tmp_path / "zip.csv"
    path.write_text("zip,v\n" + "".join(f"0{i % 4}0,{i * i}\n" for i in range(30)))
    assert Tabular().open(path).spec.names == ["zip", "v"]
    told = Tabular().open(path, columns={"zip": "categorical"}).spec
    assert told.categorical[0].categories == ("000", "010", "020", "030")


def test_database_choices(tmp_path, frame):
    source, _ = write(frame, "duckdb", tmp_path)
    with pytest.raises(DataError, match=r"has 2 tables \(other, trades\); name one by data.table"):
        open_reader(source)
    with pytest.raises(DataError, match="no table 'trade'"):
        open_reader(source, table="trade")
    with pytest.raises(DataError, match="the query fails"):
        open_reader(source, query="select nothing from nowhere")
    with pytest.raises(DataError, match="keep one"):
        open_reader(source, query="select 1", table="trades")
    assert open_reader(source, query='select "count" from trades limit 7').n_rows == 7
    with pytest.raises(DataError, match="gives no rows"):
        open_reader(source, query="select * from trades limit 0")


def test_sqlite_values_of_mixed_types(tmp_path):
    path = tmp_path / "m.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("create table t (a, b)")
        connection.executemany("insert into t values (?, ?)", [(1, "x"), (2.5, None), (None, "y")])
    reader = open_reader(path)
    assert reader.schema.types == [pa.float64(), pa.string()]
    assert next(iter(reader.batches())).column("a").to_pylist() == [1.0, 2.5, None]
    with pytest.raises(DataError, match="the query fails"):
        open_reader(path, query="selct 1")
