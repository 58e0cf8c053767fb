"""Rows of texts: what is read, normalised, cut, left out, and refused."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ssl_domains.core.errors import DataError
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.integration.chars import BUCKETS, flatten, gather_cells, hashed_ngrams, normalised
from ssl_domains.tabular.integration.spec import TextTableSpec


def open_text(data, **options):
    return Tabular().open(data, cells="text", **{"valid": 0.0, "test": 0.0, **options})


def told(batch):
    return [["".join(map(chr, c[c > 0])) for c in row] for row in batch.x["chars"].numpy()]


def test_normalised_texts():
    texts = pa.array(["  Main   St ", "1999.0", "1999.50", "ﬁne", "", "  ", None, "-3.00"])
    assert normalised(texts).to_pylist() == ["main st", "1999", "1999.50", "fine", None, None, None, "-3"]
    assert normalised(pa.array([3.0, 2.5, None])).to_pylist() == ["3", "2.5", None]
    assert normalised(pa.array([True, False])).to_pylist() == ["true", "false"]


def test_cells_are_gathered_as_they_stand():
    column = pa.chunked_array([["abc", None], ["héé😀", "a longer cell"]])
    flat = flatten(column, 6)
    assert (flat.longest, flat.cut, flat.missing.tolist()) == (13, 1, [False, True, False, False])
    cells = gather_cells([flat], np.array([2, 0, 3, 1]))
    assert ["".join(map(chr, c[c > 0])) for c in cells[:, 0]] == ["héé😀", "abc", "a long", ""]
    assert flat.texts(np.array([3, 1])) == ["a long", ""]


def slow_ngrams(text):
    framed = "\x02" + text.replace(" ", "\x02") + "\x02"
    return [framed[i : i + n] for n in (2, 3, 4) for i in range(len(framed) - n + 1)] if text else []


def test_hashed_ngrams_are_those_of_the_text():
    """Each n-gram adds one signed count; the sum over single n-grams is the whole."""
    texts = ["ab", "abc d", "", "a", "water water"]
    flat = flatten(pa.chunked_array([pa.array([t or None for t in texts])]), 20)
    counts = hashed_ngrams(torch.from_numpy(gather_cells([flat], np.arange(5)))[:, 0])
    assert counts.shape == (5, BUCKETS)
    for text, row in zip(texts, counts, strict=True):
        n = len(slow_ngrams(text))
        assert row.abs().sum() <= n
        assert row.abs().sum() % 2 == n % 2
    assert not counts[2].any()
    once, twice = hashed_ngrams(torch.tensor([[97, 98, 0], [97, 98, 99]]))
    shared = set(slow_ngrams("ab")) & set(slow_ngrams("abc"))
    assert ((once != 0) & (twice != 0)).sum() == len(shared)
    padded = hashed_ngrams(torch.tensor([[97, 98, 0, 0, 0, 0]]))
    assert torch.equal(padded[0], once), "padding changes nothing"


def test_text_files_are_read_verbatim(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,zip,when\nr1,007,2020-01-02\nr2,08,2021-01-02\nr3,,\n")
    source = open_text(path, id="id")
    assert source.table.column("zip").to_pylist() == ["007", "08", None]
    assert told(source.fetch([0, 2])) == [["007", "2020-01-02"], ["", ""]]
    assert source.fetch([2]).x["missing"].tolist() == [[True, True]]
    assert source.ids([1]) == ["r2"]


def test_every_format(tmp_path, people):
    frame = people.drop(columns="person")
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "t.parquet")
    wanted = told(open_text(frame).fetch([0, 5, 150]))
    for name in ("t.csv", "t.tsv", "t.parquet", "t.*v"):
        source = open_text(str(tmp_path / name))
        assert told(source.fetch([0, 5, 150])) == wanted
    assert len(source) == 2 * len(frame)


def test_spec_comes_back(people):
    source = open_text(people, label="person", task="classification")
    again = TextTableSpec.from_dict(json.loads(json.dumps(source.spec.to_dict())))
    assert again.names == ["name", "address", "phone", "born"]
    assert again.to_dict() == source.spec.to_dict()
    assert len(again.idf) == BUCKETS
    assert min(again.idf) >= 0.99
    opened = Tabular().embed_source(again, people.drop(columns="person").iloc[:3])
    assert len(opened) == 3
    assert type(Tabular().spec_from_dict(source.spec.to_dict())) is TextTableSpec


def test_statistics_are_of_the_train_rows():
    frame = pd.DataFrame({"a": ["aa"] * 50 + ["zz"] * 50, "part": ["train"] * 50 + ["test"] * 50})
    source = open_text(frame, split="part")
    assert source.spec.n_train == 50
    with_z = hashed_ngrams(torch.tensor([[122, 122]]))[0] != 0
    with_a = hashed_ngrams(torch.tensor([[97, 97]]))[0] != 0
    idf = torch.tensor(source.spec.idf)
    assert (idf[with_z & ~with_a] > idf[with_a & ~with_z].max()).all()


def test_what_is_not_compared_is_said():
    frame = pd.DataFrame(
        {"a": ["x" * 200, "y", None], "b": [None] * 3, "c": ["1", "2", None], "d": [[1], [2], [3]]}
    )
    source = open_text(frame, exclude=["c"], max_chars=50)
    said = " ".join(source.notes())
    assert source.spec.names == ["a"]
    assert "1 cells of column 'a' are longer than 50 characters" in said
    assert "1 rows have no value" in said
    assert "'b' is not compared: all missing" in said
    assert "'c' is not compared: left out" in said
    assert "'d' is not compared: cells of type list" in said
    assert source.table.column("a").to_pylist()[0] == "x" * 200, "the cell itself is kept whole"
    assert source.card()["rows_without_a_value"] == 1


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a,b\n", {}, "no rows"),
        ("a,b\n1,2\n", {}, "a single row; give at least two"),
        ("a,b\n,\n,\n", {}, "no column with a value to compare"),
        ("a,a\n1,2\n3,4\n", {}, "two columns are called 'a'"),
        ("a,b\n1,2\n3,4,5\n", {}, "line 3 of .* has 3 fields"),
        ("a,b\n1,2\n3,4\n", {"exclude": ["c"]}, "data.exclude: .* has no column 'c'"),
        ("a,b\n1,2\n3,4\n", {"max_chars": 2}, "data.max_chars is 2"),
        ("a,b\n1,2\n3,4\n", {"limit": 1}, "single row"),
    ],
)
def test_bad_tables(tmp_path, text, options, words):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        open_text(path, **options)


def test_keys_without_meaning_are_refused(people):
    with pytest.raises(DataError, match=r"data.scaling .* data.cells: text"):
        open_text(people, scaling="quantile")
    with pytest.raises(DataError, match=r"data.columns .* data.cells: text"):
        open_text(people, columns={"born": "numeric"})
