"""The verbs as Python functions, from a file to an evaluated encoder."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import ssl_domains
from ssl_domains.core.errors import DataError, RecipeError, RunError, UserError
from ssl_domains.guess import guess_domain


def test_a_run_holds_everything(finished):
    run, _, _ = finished
    names = {path.name for path in run.path.iterdir()}
    wanted = {"recipe.yaml", "metrics.jsonl", "checkpoints", "encoder", "card.md", "report.html", "run.json"}
    assert wanted <= names
    assert not [name for name in names if name.startswith(".")], "nothing half-written"
    features = {row.features for row in run.evaluation.rows}
    assert {"pretrained", "random", "raw"} <= features
    assert run.files()["report"].read_text().lower().startswith("<!doctype html>")


def test_load_embeds_new_rows_with_unseen_categories(finished, tmp_path, write_table):
    run, _, source = finished
    encoder = ssl_domains.load(run.path)
    known = encoder.embed(source)
    assert known.shape == (80, run.evaluation.width)
    assert known.dtype == np.float32
    strange = encoder.embed(write_table(tmp_path / "new.csv", rows=7, seed=3, city="atlantis"))
    assert strange.shape == (7, known.shape[1])
    assert np.isfinite(strange).all()


def test_embedding_a_row_does_not_depend_on_its_company(finished, tmp_path):
    run, _, source = finished
    lines = source.read_text().splitlines()
    few = tmp_path / "few.csv"
    few.write_text("\n".join([lines[0], *lines[1:6]]) + "\n")
    encoder = run.encoder
    np.testing.assert_allclose(encoder.embed(few), encoder.embed(source)[:5], rtol=1e-4, atol=1e-5)


def test_embed_writes_parquet(finished, tmp_path):
    run, _, source = finished
    out = ssl_domains.embed(run.path, source, tmp_path / "new" / "e.parquet")
    found = pq.read_table(out)
    assert found.num_rows == 80
    vectors = np.stack([found[f"e{d}"].to_numpy() for d in range(run.evaluation.width)], axis=1)
    np.testing.assert_allclose(vectors, run.encoder.embed(source), rtol=1e-5, atol=1e-6)


def test_embed_says_what_is_missing(finished, tmp_path):
    run, _, _ = finished
    other = tmp_path / "other.csv"
    other.write_text("age,city\n3,rome\n4,oslo\n")
    with pytest.raises(DataError, match="income"):
        ssl_domains.embed(run.path, other, tmp_path / "e.parquet")
    assert not (tmp_path / "e.parquet").exists()
    with pytest.raises(UserError, match="say what to embed"):
        ssl_domains.embed(run.path)
    with pytest.raises(UserError, match=r"data\.labl: unknown key; did you mean 'label'"):
        ssl_domains.embed(run.path, other, tmp_path / "e.parquet", labl="age")


def test_export_and_load_give_the_same_vectors(finished, tmp_path):
    run, _, source = finished
    out = ssl_domains.export(run.path, tmp_path / "mine")
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors"}
    np.testing.assert_array_equal(ssl_domains.load(out).embed(source), run.encoder.embed(source))
    with pytest.raises(RunError, match="is there already"):
        ssl_domains.export(run.path, out)


def test_encoder_folders_that_cannot_be_loaded(finished, tmp_path):
    run, _, _ = finished
    with pytest.raises(RunError, match="does not exist"):
        ssl_domains.load(tmp_path / "nowhere")
    with pytest.raises(RunError, match="neither a run directory nor an encoder folder"):
        ssl_domains.load(tmp_path)
    copied = ssl_domains.export(run.path, tmp_path / "broken")
    weights = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(RunError):
        ssl_domains.load(copied)
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"format": 99, "version": "9.9"}))
    with pytest.raises(RunError, match=r"9\.9"):
        ssl_domains.load(copied)
    (copied / "config.json").write_text(json.dumps(config | {"encoder": "gone"}))
    with pytest.raises(UserError, match="no encoder is called 'gone'"):
        ssl_domains.load(copied)


def test_evaluate_again_and_report_again(finished, tmp_path):
    run, _, _ = finished
    copied = shutil.copytree(run.path, tmp_path / "run")
    again = ssl_domains.evaluate(copied, "evaluate.probes=[linear, {name: knn, k: 3}]")
    assert again.evaluation.value("linear") == pytest.approx(run.evaluation.value("linear"), abs=1e-5)
    assert np.isfinite(again.evaluation.value("knn"))
    assert again.recipe_name == run.recipe_name
    (copied / "report.html").unlink()
    assert ssl_domains.report(copied).is_file()
    shutil.rmtree(copied / "encoder")
    with pytest.raises(RunError, match="did not finish"):
        ssl_domains.evaluate(copied)


def test_evaluate_refuses_data_that_have_changed(finished, tmp_path, write_table):
    run, _, _ = finished
    copied = shutil.copytree(run.path, tmp_path / "run")
    other = write_table(tmp_path / "other.csv", rows=90, seed=9)
    with pytest.raises(RunError, match="no longer those it was trained on"):
        ssl_domains.evaluate(copied, data={"source": str(other), "label": "price"})


def test_a_frame_in_memory(tiny, table, tmp_path):
    import pandas as pd

    frame = pd.read_csv(table)
    run = ssl_domains.pretrain(
        tiny,
        run=tmp_path / "run",
        progress=False,
        data={"source": frame, "label": "price"},
        train={"steps": 2},
    )
    assert run.encoder.embed(frame).shape[0] == 80
    assert run.notes == [] or all("expect" not in note for note in run.notes)


def test_no_label_is_needed(tiny, table, tmp_path):
    copied = shutil.copy(table, tmp_path / "copy.csv")
    run = ssl_domains.pretrain(tiny, f"data.source={copied}", run=tmp_path / "run", progress=False)
    assert run.evaluation.rows == []
    assert run.evaluation.value("rankme") > 0
    assert "no labels" in run.evaluation.notes[0]


def test_resume_of_an_interrupted_run_equals_an_unbroken_one(tiny, tmp_path, monkeypatch):
    from safetensors.numpy import load_file

    from ssl_domains.trainer.signals import Interrupts

    whole = ssl_domains.pretrain(tiny, run=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(Interrupts, "__enter__", lambda self: setattr(self, "asked", True) or self)
        with pytest.raises(KeyboardInterrupt, match="--resume"):
            ssl_domains.pretrain(tiny, run=tmp_path / "cut", progress=False)
    assert not (tmp_path / "cut" / "encoder").exists()
    resumed = ssl_domains.pretrain(tmp_path / "cut", resume=True, progress=False)
    a, b = (load_file(run.path / "encoder" / "model.safetensors") for run in (whole, resumed))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert resumed.recipe_name == whole.recipe_name == "tiny"


def test_init_from_starts_from_other_weights(finished, tiny, tmp_path):
    run, _, source = finished
    started = ssl_domains.pretrain(
        tiny,
        run=tmp_path / "run",
        progress=False,
        init_from=str(run.path),
        train={"steps": 1},
        optimizer={"lr": 0.0},
    )
    np.testing.assert_allclose(started.encoder.embed(source), run.encoder.embed(source), atol=1e-6)
    with pytest.raises(RunError, match="does not exist"):
        ssl_domains.pretrain(tiny, "init_from=nowhere", run=tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()


def test_expectations(tiny, tmp_path):
    run = ssl_domains.pretrain(
        tiny, run=tmp_path / "a", progress=False, expect={"linear": "> -100", "linear_gain": ">= 10"}
    )
    assert run.met == ["linear > -100"]
    assert len(run.missed) == 1
    assert "linear_gain" in run.missed[0]
    own = ssl_domains.pretrain(
        tiny, "data.label=age", run=tmp_path / "b", progress=False, expect={"linear": ">= 100"}
    )
    assert own.missed == []
    assert any("expect was not checked" in note for note in own.notes)


def test_options_that_do_not_fit_the_data_leave_nothing_behind(tiny, tmp_path):
    for override, error in (("train.batch_size=4096", UserError), ("mask.targets=[0.9, 0.1]", RecipeError)):
        with pytest.raises(error):
            ssl_domains.pretrain(tiny, override, run=tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()


def test_profile_names_the_parts_of_a_step(tiny, tmp_path):
    before = set(tmp_path.iterdir())
    found = ssl_domains.profile(tiny, steps=3)
    assert found.ms["forward"] > 0
    assert found.ms["backward"] > 0
    assert found.advice
    assert set(tmp_path.iterdir()) == before


def test_inspect(table):
    found, lines = ssl_domains.inspect(table, label="price")
    assert found["rows"] == 80
    assert "domain: tabular" in lines
    with pytest.raises(UserError, match=r"data\.labell: unknown key; did you mean 'label'"):
        ssl_domains.inspect(table, labell="price")
    with pytest.raises(UserError, match="no domain is called 'tabel'"):
        ssl_domains.inspect(table, domain="tabel")


@pytest.mark.parametrize(
    ("source", "data", "domain"),
    [
        ("a.csv", {}, "tabular"),
        ("a.PARQUET", {}, "tabular"),
        ("a.csv.gz", {}, "tabular"),
        ("g.graphml", {}, "graph"),
        ("import-graph://networkx", {}, "graph"),
        (None, {"nodes": "n.csv", "edges": "e.csv"}, "graph"),
    ],
)
def test_the_domain_is_told_from_the_name(source, data, domain):
    assert guess_domain(source, **data) == domain


def test_a_domain_that_cannot_be_told(tmp_path):
    with pytest.raises(DataError, match="cannot tell the domain"):
        guess_domain("thing.xyz")
    (tmp_path / "edges.csv").write_text("a,b\n1,2\n")
    assert guess_domain(tmp_path) == "graph"


def test_doctor_names_the_command_for_a_missing_package(monkeypatch):
    from ssl_domains import checks

    monkeypatch.setattr(checks, "_installed", lambda package: package != "duckdb")
    found = {check.name: check for check in ssl_domains.doctor()}
    assert found["python"].ok
    assert found["torch"].ok
    assert not found["domain tabular"].ok
    assert found["domain tabular"].fix == "pip install 'ssl-domains[tabular]'"


def test_lists():
    from ssl_domains.api import list_names

    names = list_names()
    assert set(names) == {"domains", "methods", "objectives", "recipes"}
    assert {"tabular", "graph"} <= {name for name, _ in names["domains"]}
    assert "tabular/t_jepa" in {name for name, _ in names["recipes"]}
    assert all(summary for rows in names.values() for _, summary in rows)
    with pytest.raises(UserError, match="did you mean 'encoders'"):
        list_names("encoder")
