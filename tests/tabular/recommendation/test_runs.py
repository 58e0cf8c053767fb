"""Whole runs: the table of results, embedding both sides, resuming bit for bit."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import ssl_domains
from ssl_domains.core.errors import DataError, RecipeError
from ssl_domains.trainer.files import load_tensors


def test_results_stand_beside_popularity_and_untrained_towers(finished, capsys):
    from ssl_domains import render

    evaluation = finished.evaluation
    keys = {(row.probe, row.features) for row in evaluation.rows}
    for probe in ("retrieval", "retrieval_head", "retrieval_tail"):
        assert {(probe, name) for name in ("pretrained", "random", "popularity")} <= keys
    assert evaluation.value("retrieval") > evaluation.value("retrieval.random")
    assert evaluation.value("retrieval_tail.recall@10") > evaluation.value(
        "retrieval_tail.popularity.recall@10"
    )
    assert evaluation.value("retrieval.map@10") > 0
    assert evaluation.n_rows == {"test queries": 60}
    assert evaluation.notes == []
    assert len(evaluation.sample.index) == 40  # items, not interactions
    assert {entry["id"][0] for entry in evaluation.neighbours} == {"i"}
    report = (finished.path / "report.html").read_text()
    assert "retrieval tail" in report
    assert "popularity" in report
    render.run(finished)
    printed = capsys.readouterr().out
    assert "retrieval_tail" in printed
    assert "popularity" in printed


def test_embed_items_users_and_new_ones(trained, tmp_path):
    finished, shop = trained
    items = pd.read_parquet(ssl_domains.embed(finished.path, shop.data["items"], tmp_path / "items.parquet"))
    users = pd.read_parquet(ssl_domains.embed(finished.path, shop.data["users"], tmp_path / "users.parquet"))
    assert items.id.tolist() == shop.items.sku.tolist()
    assert users.id.tolist() == [str(u) for u in shop.users.uid]
    assert items.shape == (80, 17)
    new = shop.items.iloc[:3].assign(sku=["new1", "new2", "i002"], kind="never seen")
    vectors = ssl_domains.load(finished.path).embed(new)
    assert np.isfinite(vectors).all()
    with pytest.raises(DataError, match="give a table of one of both"):
        ssl_domains.load(finished.path).embed(shop.data["source"])
    with pytest.raises(DataError, match="has neither an item's 'sku' nor a user's 'uid'"):
        ssl_domains.load(finished.path).embed(shop.items.drop(columns="sku"))
    with pytest.raises(DataError, match="no column 'tags'"):
        ssl_domains.load(finished.path).embed(shop.items.drop(columns="tags"))


def test_evaluate_again_and_by_validation(finished):
    again = ssl_domains.evaluate(finished.path).evaluation
    assert again.value("retrieval") == finished.evaluation.value("retrieval")
    valid = ssl_domains.evaluate(
        finished.path, "evaluate.probes=[{name: retrieval, split: valid, cutoffs: [5]}]"
    )
    assert valid.evaluation.n_rows == {"valid queries": 60}
    assert {row.metric for row in valid.evaluation.rows} == {"recall@5", "ndcg@5", "map@5"}


def test_resume_is_bit_exact(recipe, tmp_path):
    import ssl_domains.trainer.loop as loop

    plain = recipe(method={"correction": "streaming"}, train={"steps": 9, "checkpoint_every": 1, "keep": 20})
    whole = ssl_domains.pretrain(plain, run=tmp_path / "whole", progress=False)

    class Stop(KeyboardInterrupt):
        pass

    original = loop.Trainer._stop_or_save

    def stop(self, interrupts):
        found = original(self, interrupts)
        return (self.step == 4 or found[0], found[1])

    loop.Trainer._stop_or_save = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            ssl_domains.pretrain(plain, run=tmp_path / "cut", progress=False)
    finally:
        loop.Trainer._stop_or_save = original
    ssl_domains.pretrain(tmp_path / "cut", resume=True, progress=False)
    states = [
        load_tensors(tmp_path / n / "checkpoints/step-00000009/method.safetensors") for n in ("whole", "cut")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert whole.evaluation is not None


def test_workers_and_a_label_of_the_items(recipe, tmp_path):
    run = ssl_domains.pretrain(
        recipe(data={"label": "kind"}, train={"num_workers": 1, "steps": 4, "accumulate": 2},
               evaluate={"probes": ["retrieval", "knn"]}),
        run=tmp_path / "run", progress=False,
    )  # fmt: skip
    assert run.evaluation.find("knn") is not None
    assert json.loads((run.path / "evaluation.json").read_text())["task"] == "classification"


def test_the_probe_needs_interactions(tmp_path, tiny):
    run = ssl_domains.pretrain(tiny, "evaluate.probes=[retrieval]", run=tmp_path / "run", progress=False)
    assert any("Retrieval needs interactions" in note for note in run.evaluation.notes)


def test_other_methods_train_the_towers_of_items(recipe, tmp_path):
    method = {"name": "joint_embedding", "projector": [16, 16]}
    given = {**recipe(), "method": method, "objective": {"name": "vicreg"}}
    run = ssl_domains.pretrain(given, run=tmp_path / "run", progress=False)
    assert run.evaluation.find("retrieval") is not None


def test_a_recipe_that_does_not_fit_says_so(recipe, tmp_path):
    broken = {
        "encoder": ({"name": "mlp"}, "interactions need encoder 'two_tower'"),
        "objective": ({"name": "nt_xent"}, "set objective: info_nce"),
        "method": ({"name": "masked_reconstruction"}, "no predictor"),
    }
    for key, (section, sentence) in broken.items():
        given = {**recipe(), key: section}
        if key == "method":
            given = {**given, "mask": {"name": "random"}, "objective": {"name": "masked_mse"}}
            given.pop("views")
        with pytest.raises(RecipeError, match=sentence):
            ssl_domains.pretrain(given, run=tmp_path / "run", progress=False)
    given = {"method": {"name": "joint_embedding"}, "objective": {"name": "vicreg"}}
    given = {**recipe(), **given, "views": {"name": "column_noise"}}
    with pytest.raises(DataError, match="interactions need views feature_masking"):
        ssl_domains.pretrain(given, run=tmp_path / "run", progress=False)
