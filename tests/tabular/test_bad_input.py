"""Bad input ends in one sentence that names file, row or column, and what to do; nothing stays behind."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssl_domains.core.errors import DataError
from ssl_domains.tabular import store
from ssl_domains.tabular.domain import Tabular

GOOD = "a,b,y\n" + "".join(f"{i * i % 17},{i % 5 + 0.5},{i % 2}\n" for i in range(40))

FILES = {
    "empty": ("", "t.csv is empty; give a file with a header and at least two rows"),
    "blank": ("\n \n", "t.csv is empty"),
    "header": ("a,b\n", "t.csv holds a header but no rows; give at least two rows"),
    "long row": ("a,b\n1,2\n1,2,3\n", "line 3 of .*t.csv has 3 fields, the header has 2; correct the line"),
    "short row": ("a,b\n1,2\n3,4\n5\n", "line 4 of .*t.csv has 1 field, the header has 2; correct the line"),
    "duplicate": ("a,b,a\n1,2,3\n4,5,6\n", "two columns are called 'a'; rename one"),
    "nameless": ("a,,c\n1,2,3\n4,5,6\n", "column 2 has no name; name it"),
    "single row": ("a,b\n1,2\n", "t.csv holds a single row; pretraining needs at least two"),
    "inf": ("a,b\n1,2\n3,inf\n5,6\n", "line 3 of .*t.csv: column 'b' is infinite; .*data.inf: missing"),
    "mixed": (
        "a,b\n" + "1,2\n" * 60 + "x,3\n",
        "line 62 of .*t.csv: column 'a' holds numbers but here the text 'x'; correct it, or set data.columns",
    ),
    "nothing left": ("a,b\n1,\n1,\n1,\n", "no usable column .*a: constant; b: all missing"),
}


@pytest.mark.parametrize("case", FILES)
def test_files(case, tmp_path):
    text, sentence = FILES[case]
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=sentence) as caught:
        Tabular().open(path, valid=0.0, test=0.0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_binary_file_named_csv(tmp_path):
    path = tmp_path / "t.csv"
    pq.write_table(pa.table({"a": [1, 2]}), path)
    with pytest.raises(DataError, match=r"t\.csv is named as text but holds Parquet"):
        Tabular().open(path)
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(DataError, match="holds binary data; export it as UTF-8 CSV"):
        Tabular().open(path)
    path.write_bytes("größe,b\nä,1\nö,2\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        Tabular().open(path)


def test_other_files(tmp_path):
    (tmp_path / "t.xyz").write_text("a\n1\n2\n")
    with pytest.raises(DataError, match=r"the extension '.xyz' is not known; use one of csv, tsv, parquet"):
        Tabular().open(tmp_path / "t.xyz")
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist"):
        Tabular().open(tmp_path / "nowhere.csv")
    for name in ("t.parquet", "t.arrow", "t.db"):
        (tmp_path / name).write_text("this is text and nothing else\n" * 5)
    with pytest.raises(DataError, match="is not a Parquet file"):
        Tabular().open(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="is not an Arrow file"):
        Tabular().open(tmp_path / "t.arrow")
    with pytest.raises(DataError, match="is neither a DuckDB nor a SQLite file"):
        Tabular().open(tmp_path / "t.db")
    (tmp_path / "t.csv").write_text(GOOD)
    with pytest.raises(DataError, match=r"the folder .* mixes .*; name one kind"):
        Tabular().open(tmp_path)
    with pytest.raises(DataError, match=r"data.query and data.table are for database files"):
        Tabular().open(tmp_path / "t.csv", query="select 1")
    with pytest.raises(DataError, match="needs the package 'no_such_package', which is not installed"):
        Tabular().open("package://no_such_package/a.csv")
    with pytest.raises(DataError, match=r"has no file 'a.csv'"):
        Tabular().open("package://pytest/a.csv")
    with pytest.raises(DataError, match=r"data.source is a int"):
        Tabular().open(3)


def test_folder_with_different_headers(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("x,z\n1,2\n")
    with pytest.raises(DataError, match=r"b\.csv and .*a\.csv have different columns \('y'"):
        Tabular().open(tmp_path)


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.csv"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"label": "Y"},
            r"data.label: .*good.csv has no column 'Y'; did you mean 'y'\? \(columns: a, b, y\)",
        ),
        ({"id": "c"}, "data.id or data.split: .* no column 'c'"),
        ({"columns": {"bb": "numeric"}}, "data.columns: .* no column 'bb'; did you mean 'b'"),
        ({"columns": {"b": "number"}}, "data.columns: b is 'number'; use one of numeric, categorical, date"),
        ({"exclude": ["x"]}, "data.exclude: .* no column 'x'"),
        ({"include": ["a", "q"]}, "data.include: .* no column 'q'"),
        ({"exclude": ["a", "b"], "label": "y"}, "no column is left as input"),
        ({"scaling": "robust"}, "data.scaling is 'robust'; use one of standard, minmax, quantile"),
        ({"inf": "drop"}, "data.inf is 'drop'"),
        ({"valid": 0.5, "test": 0.5}, "leave no row of 40 to train on"),
        ({"valid": 1.5}, r"data.valid is a share of the rows and must lie in \[0, 1\), got 1.5"),
        ({"task": "ranking", "label": "y"}, "data.task is 'ranking'"),
        ({"split": "y"}, "data.split: column 'y' holds '0'; use the words train, valid and test"),
        ({"limit": 1}, "holds a single row"),
        ({"limit": 0}, "data.limit must be at least 1"),
        ({"label": ["y", "b"]}, "'b' is no flag"),
        ({"label": ["y", "b"], "task": "classification"}, "classification takes one label column"),
    ],
)
def test_options(good, options, sentence):
    with pytest.raises(DataError, match=sentence):
        Tabular().open(good, **options)


def test_labels_that_no_probe_can_use():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"a": rng.normal(size=50), "one": 3, "none": np.nan, "name": [f"n{i}" for i in range(50)]}
    )
    with pytest.raises(DataError, match="'one' has the same value in every row"):
        Tabular().open(frame, label="one")
    with pytest.raises(DataError, match="'none' is missing in every row"):
        Tabular().open(frame, label="none")
    with pytest.raises(DataError, match=r"'name' holds texts, which data.task: regression"):
        Tabular().open(frame, label="name", task="regression")


def test_duplicate_columns_of_a_frame():
    frame = pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"])
    with pytest.raises(DataError, match="the DataFrame: two columns are called 'a'"):
        Tabular().open(frame)


def test_inf_can_be_missing(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{i * i},{'inf' if i == 4 else i % 7 + 0.5}\n" for i in range(30)))
    source = Tabular().open(path, inf="missing")
    assert source.fetch([4]).x["missing"].tolist() == [[False, True]]


def test_mixed_can_be_settled_by_hand(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{i % 5},{i * i}\n" for i in range(60)) + "x,3\n")
    number = Tabular().open(path, columns={"a": "numeric"}, valid=0, test=0)
    assert number.fetch([60]).x["missing"].tolist() == [[True, False]]
    category = Tabular().open(path, columns={"a": "categorical"}, valid=0, test=0)
    assert category.spec.categorical[0].categories == ("0", "1", "2", "3", "4", "x")


def test_nothing_half_written_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    path = tmp_path / "t.csv"
    # The label is looked at last, when all rows are written.
    path.write_text("a,b\n" + "".join(f"{i * i % 13},7\n" for i in range(50)))
    with pytest.raises(DataError, match="the same value"):
        Tabular().open(path, label="b")
    assert list((tmp_path / "cache" / "tabular").iterdir()) == []


def test_cache_folder_that_cannot_be_written(tmp_path, monkeypatch, good):
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SSL_DOMAINS_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"the cache folder .* cannot be written .*set SSL_DOMAINS_CACHE"):
        Tabular().open(good)
