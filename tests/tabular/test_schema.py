"""A saved schema: the same encoding on other data, and a sentence for each way to disagree."""

import json

import numpy as np
import pandas as pd
import pytest

import ssl_domains
from ssl_domains.cli import main
from ssl_domains.core.errors import DataError, UserError
from ssl_domains.tabular.domain import Tabular
from ssl_domains.tabular.schema import read_schema, write_schema


@pytest.fixture
def saved(frame, tmp_path):
    """The first 80 rows as a file, and their schema."""
    frame[:80].to_csv(tmp_path / "first.csv", index=False)
    source = Tabular().open(tmp_path / "first.csv", label="price")
    return write_schema(source.spec, tmp_path / "schema.json")


def test_round_trip(saved, tmp_path):
    spec = Tabular().open(tmp_path / "first.csv", label="price").spec
    assert read_schema(saved).to_dict() == spec.to_dict()
    assert not list(tmp_path.glob(".schema*")), "nothing half-written stays"


def test_other_rows_are_encoded_with_the_old_scales(frame, saved):
    later = frame[80:].assign(amount=lambda f: f["amount"] * 100, city="Basel")
    reused = Tabular().open(later, label="price", schema=str(saved))
    fitted = Tabular().open(later, label="price")
    assert reused.spec.names == read_schema(saved).names
    rows = np.arange(len(later))
    got = reused.fetch(rows).x
    mean, std = (getattr(reused.spec.numeric[0], key) for key in ("mean", "std"))
    want = (later["amount"].to_numpy() - mean) / std
    known = ~np.isnan(want)
    np.testing.assert_allclose(got["numeric"][:, 0].numpy()[known], want[known], rtol=1e-5)
    assert "city" not in fitted.spec.names, "alone, a constant column would be dropped"
    assert "city" in reused.spec.names


def test_scaling_and_fewer_columns_still_apply(frame, saved):
    source = Tabular().open(frame, schema=str(saved), scaling="minmax", exclude=["city", "price"])
    assert source.spec.scaling == "minmax"
    assert "city" not in source.spec.names
    assert Tabular().open(frame, schema=str(saved), include=["count"]).spec.names == ["count"]


def sentence(frame, saved, match, **data):
    with pytest.raises(DataError, match=match) as error:
        Tabular().open(frame, schema=str(saved), **data)
    assert "\n" not in str(error.value)


def test_a_missing_column_is_named_with_the_nearest(frame, saved):
    sentence(
        frame.rename(columns={"count": "counts"}), saved, "no column 'count', which the schema.*'counts'"
    )


def test_text_among_numbers_is_named_with_its_row(frame, saved):
    odd = frame.astype({"count": object})
    odd.loc[7, "count"] = "many"
    sentence(odd, saved, "row 8 of .*column 'count' holds the text 'many'.*numbers")
    Tabular().open(odd, schema=str(saved), columns={"count": "numeric"})


def test_dates_and_numbers_do_not_mix(frame, saved):
    sentence(frame.assign(day=1.5), saved, "column 'day' holds no dates.*has dates")
    sentence(frame.assign(count=frame["day"]), saved, "column 'count' holds dates.*has numbers")
    sentence(frame.assign(city=frame["day"]), saved, "column 'city' holds dates.*has categories")
    text = frame.assign(day=frame["day"].astype(str))
    Tabular().open(text, schema=str(saved))
    text.loc[3, "day"] = "soon"
    sentence(text, saved, "row 4 of .*'day' holds the text 'soon'.*dates")


def test_categories_that_share_nothing_are_refused(frame, saved):
    sentence(
        frame.assign(city="Q" + frame["count"].astype(str)), saved, "none of the values of column 'city'"
    )


def test_options_that_contradict_the_schema(frame, saved):
    sentence(
        frame, saved, "data.columns: count is 'categorical', but 'numeric'", columns={"count": "categorical"}
    )
    sentence(frame, saved, "column 'count' is an input in the schema.*label=count", label="count")
    sentence(frame, saved, "data.include: the schema .* has no column 'cont'.*'count'", include=["cont"])
    sentence(frame, saved, "no column of the schema", include=["count"], exclude=["count"])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "does not exist; write one with ssl-domains inspect"),
        ("{", "is no JSON file"),
        ("[]", "holds no table schema"),
        ('{"format": "ssl_domains table schema", "version": 9}', "has version 9, this package reads 1"),
        ('{"format": "ssl_domains table schema", "version": 1, "spec": {"numeric": 3}}', "is damaged"),
    ],
)
def test_bad_schema_files(frame, tmp_path, text, match):
    if text is not None:
        (tmp_path / "schema.json").write_text(text)
    with pytest.raises(DataError, match=match):
        Tabular().open(frame, schema=str(tmp_path / "schema.json"))


def test_command_line_writes_and_uses_it(frame, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame[:80].to_csv("first.csv", index=False)
    frame[40:].to_csv("second.csv", index=False)
    assert main(["inspect", "first.csv", "label=price", "--schema", "schema.json"]) == 0
    assert json.loads((tmp_path / "schema.json").read_text())["format"] == "ssl_domains table schema"
    small = ["encoder.depth=1", "train.steps=2", "train.batch_size=16", "evaluate.probes=[]", "--quiet"]
    recipe = ["pretrain", "tabular/masked_reconstruction", "data.label=price", *small]
    assert main([*recipe, "data.source=second.csv", "data.schema=schema.json", "run=runs/b"]) == 0
    config = json.loads((tmp_path / "runs/b/encoder/config.json").read_text())
    saved = read_schema("schema.json").to_dict()
    assert config["spec"]["numeric"] == json.loads(json.dumps(saved["numeric"]))
    of_run = Tabular().open("second.csv", label="price", schema="runs/b").spec
    assert of_run.numeric == read_schema("schema.json").numeric
    pd.read_csv("second.csv").drop(columns="count").to_csv("third.csv", index=False)
    capsys.readouterr()
    assert main([*recipe, "data.source=third.csv", "data.schema=schema.json", "run=runs/d"]) == 2
    assert "third.csv has no column 'count'" in capsys.readouterr().err
    assert not (tmp_path / "runs/d").exists()


def test_only_tables_have_one(tmp_path):
    with pytest.raises(UserError, match="only tables"):
        ssl_domains.inspect(domain="graph", nodes="n.csv", edges="e.csv", schema_out=tmp_path / "s.json")
