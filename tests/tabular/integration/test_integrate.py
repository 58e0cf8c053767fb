"""The verb: from a file with duplicates to a file without, and everything that can go wrong."""

import csv
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ssl_domains
from ssl_domains.cli import main
from ssl_domains.core.errors import DataError, RunError, UserError
from ssl_domains.integration import integrate
from ssl_domains.tabular.integration import pipeline, writer

TRAIN = (
    "train.steps=40", "train.batch_size=32", "views.positives=3", "optimizer.lr=3e-3", "train.log_every=20",
    "encoder.width=32", "encoder.hidden=[64, 32]", "encoder.column_width=16",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_people):
    """A file of people, the result of integrating it, and its folder. Do not change them."""
    folder = tmp_path_factory.mktemp("integrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_DOMAINS_CACHE", str(folder / "cache"))
        people = make_people()
        people.insert(0, "key", [f"k{i}" for i in range(len(people))])
        people.to_csv(folder / "people.csv", index=False)
        result = integrate(
            str(folder / "people.csv"),
            folder / "out.csv",
            *TRAIN,
            save_run=folder / "run",
            id="key",
            truth="person",
            pairs=folder / "pairs.csv",
            conflicts=folder / "conflicts.csv",
            progress=False,
        )
    return folder, people, result


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_copies_are_joined(trained):
    _, _people, result = trained
    assert (result.rows, result.tuples) == (180, len(read(result.path)))
    assert result.scores["f1"] > 0.9
    assert result.scores["set_similarity"] > 0.9
    assert 115 <= result.tuples <= 130


def test_every_row_and_every_value_is_accounted_for(trained):
    folder, people, result = trained
    lines = read(result.path)
    assert list(lines[0]) == [*people.columns, "integrated_from"]
    members = [line["integrated_from"].split(";") for line in lines]
    assert sorted(key for keys in members for key in keys) == sorted(people["key"])
    lost = {(line["column"], line["other"]) for line in read(folder / "conflicts.csv")}
    for line, keys in zip(lines, members, strict=True):
        for column in ("name", "address", "phone", "born"):
            values = {str(people.loc[people.key == key, column].item()) for key in keys}
            values -= {"None", "nan"}
            assert (line[column] in values) if values else line[column] == ""
            kept = {writerless(v) for v in values}
            if len(kept) > 1:
                assert all((column, v) in lost or v == line[column] for v in values)


def writerless(value):
    return " ".join(value.lower().split())


def test_pairs_are_written(trained):
    folder, _, result = trained
    pairs = read(folder / "pairs.csv")
    assert len(pairs) == len(result.result.pairs)
    assert {"row", "other_row", "probability", "similarity"} == set(pairs[0])
    assert all(0 <= float(line["probability"]) <= 1 for line in pairs)


def test_the_run_is_used_again(trained, tmp_path, monkeypatch):
    folder, people, result = trained
    monkeypatch.chdir(tmp_path)
    again = integrate(
        str(folder / "people.csv"), "again.csv", run=folder / "run", id="key", truth="person", progress=False
    )
    assert (tmp_path / "again.csv").read_bytes() == result.path.read_bytes()
    assert again.scores == result.scores
    frame = people.iloc[list(range(20)) + list(range(120, 140))].astype({"born": "string"})
    frame["height"] = np.arange(40) / 4
    other = integrate(
        frame, "other.parquet", run=folder / "run", sets="louvain", resolve="neighbours", progress=False
    )
    table = pq.read_table("other.parquet")
    assert table.schema.field("height").type == pa.float64(), "types stay as they were"
    assert sum(len(v.split(";")) for v in table.column("integrated_from").to_pylist()) == 40
    assert other.tuples < 25
    vectors = ssl_domains.load(folder / "run").embed(frame)
    assert vectors.shape == (40, 32)


def test_the_shell(trained, tmp_path, monkeypatch, capsys):
    folder, _people, _ = trained
    monkeypatch.chdir(tmp_path)
    given = [str(folder / "people.csv"), "--run", str(folder / "run"), "data.id=key"]
    assert (
        main(["integrate", *given, "--out", "out.tsv", "--truth", "person", "--sets", "leiden", "--quiet"])
        == 0
    )
    out, err = capsys.readouterr()
    assert "180 rows became" in out
    assert "f1 0.9" in out or "f1 1.0" in out
    assert err == ""
    assert "integrated_from" in (tmp_path / "out.tsv").read_text().splitlines()[0].split("\t")[-1]
    assert main(["integrate", *given, "--out", "out.csv"]) == 0
    assert "pairs compared" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["people.csv", "--out", "out.xlsx"], "must end in one of .csv"),
        (["people.csv", "--out", "people.csv"], "is the table itself"),
        (["none.csv", "--out", "o.csv"], "none.csv does not exist"),
        (["people.csv", "--out", "o.csv", "--sets", "lovain"], "no way to form sets is called 'lovain'"),
        (["people.csv", "--out", "o.csv", "--threshold", "2"], "threshold is a probability"),
        (["people.csv", "--out", "o.csv", "--resolve", "votes"], "no way to resolve conflicts"),
        (["people.csv", "--out", "o.csv", "--pairs", "o.csv"], "must be different files"),
        (["people.csv", "--out", "o.csv", "data.label=person"], "data.label has no meaning"),
        (["people.csv", "--out", "o.csv", "--truth", "thing"], "no column 'thing'"),
        (["people.csv", "--out", "o.csv", "--run", "RUN", "train.steps=3"], "remove the overrides"),
        (["people.csv", "--out", "o.csv", "--run", "RUN", "--truth", "name"], "it is an input of the run"),
        (["other.csv", "--out", "o.csv", "--run", "RUN"], "has no column 'name'"),
        (["one.csv", "--out", "o.csv"], "single row"),
        (["header.csv", "--out", "o.csv"], "no rows"),
        (["void.csv", "--out", "o.csv"], "no column with a value"),
        (["twice.csv", "--out", "o.csv"], "two columns are called 'a'"),
        (["people.csv", "--out", "o.csv", "--neighbours", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_sentence(trained, tmp_path, monkeypatch, capsys, arguments, words):
    folder, people, _ = trained
    monkeypatch.chdir(tmp_path)
    people.to_csv("people.csv", index=False)
    files = {"other.csv": "a,b\n1,2\n3,4\n", "one.csv": "a,b\n1,2\n", "header.csv": "a,b\n"}
    files |= {"void.csv": "a,b\n,\n,\n", "twice.csv": "a,a\n1,2\n3,4\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    before = sorted(tmp_path.iterdir())
    code = main(["integrate", *[str(folder / "run") if a == "RUN" else a for a in arguments], "--quiet"])
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert words in err
    assert sorted(tmp_path.iterdir()) == before, "nothing is left behind"


def test_a_run_of_another_method_is_refused(tiny, tmp_path):
    ssl_domains.pretrain(tiny, run=tmp_path / "other", progress=False)
    frame = pd.DataFrame({"age": [1, 2], "income": [1, 2], "city": ["a", "b"], "smoker": ["y", "n"]})
    with pytest.raises(RunError, match="no pair classifier"):
        integrate(frame, tmp_path / "o.csv", run=tmp_path / "other", progress=False)


def test_ctrl_c_leaves_nothing_and_says_how_to_go_on(trained, tmp_path, monkeypatch):
    folder, _, _ = trained

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "write_tables", stop)
    with pytest.raises(KeyboardInterrupt, match=r"nothing was written; .* --run"):
        integrate(str(folder / "people.csv"), tmp_path / "o.csv", run=folder / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    table = pa.table({"a": [1, 2]})
    (tmp_path / "a.csv").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(writer._WRITERS, ".parquet", full)
    with pytest.raises(UserError, match="disk is full; nothing was written"):
        writer.write_tables({tmp_path / "a.csv": table, tmp_path / "b.parquet": table})
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "old"


def test_empty_rows_stay_and_long_cells_are_kept_whole(trained, tmp_path):
    folder, people, _ = trained
    frame = people.drop(columns=["key", "person"]).iloc[:6].astype(object)
    frame.iloc[2:4] = None
    frame.iloc[5, 1] = "long " * 200
    result = integrate(frame, tmp_path / "o.csv", run=folder / "run", progress=False)
    lines = read(result.path)
    assert [line["integrated_from"] for line in lines] == ["1", "2", "3", "4", "5", "6"]
    assert lines[5]["address"] == "long " * 200
    said = " ".join(result.notes)
    assert "2 rows have no value" in said
    assert "longer than 128 characters" in said
    with pytest.raises(DataError, match="no row has a value"):
        integrate(frame.iloc[2:4].astype("string"), tmp_path / "p.csv", run=folder / "run", progress=False)


def test_a_column_of_that_name_and_ids_with_semicolons(trained, tmp_path):
    folder, people, _ = trained
    frame = people.drop(columns=["person"]).iloc[[0, 120, 1]].copy()
    frame["key"] = ["a;1", "b;2", "c"]
    frame["integrated_from"] = "x"
    result = integrate(frame, tmp_path / "o.csv", run=folder / "run", id="key", progress=False)
    lines = read(result.path)
    assert [line["integrated_from_"] for line in lines] == ["a;1|b;2", "c"]
    assert lines[0]["integrated_from"] == "x"


def test_large_tokens_go_to_a_file_with_the_same_result(trained, monkeypatch, tmp_path):
    from ssl_domains.tabular.integration import scoring

    folder, _, result = trained
    loaded = ssl_domains.load(folder / "run")
    source = loaded.source(str(folder / "people.csv"))
    monkeypatch.setattr(scoring, "IN_MEMORY_BYTES", 10)
    again = pipeline.integrate_source(loaded.encoder, source)
    assert np.array_equal(again.sets, result.result.sets)


def test_the_run_says_what_it_is(trained):
    folder, _, _ = trained
    config = json.loads((folder / "run" / "encoder" / "config.json").read_text())
    assert config["encoder"] == "text_cells"
    assert config["spec"]["cells"] == "text"
    assert "person" not in [column["name"] for column in config["spec"]["columns"]]
