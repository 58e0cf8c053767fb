"""Run directories, exported encoders, state without pickle, starting from weights."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ssl_domains
from ssl_domains.core.errors import RunError, UserError
from ssl_domains.trainer import checkpoint, files
from ssl_domains.trainer.checkpoint import init_from, read_encoder_config, save_encoder
from ssl_domains.trainer.logging import MetricsLog, read_rows
from ssl_domains.trainer.run import FORMAT, RunDirectory

# --- run directory ----------------------------------------------------------------------------


def test_new_run_refuses_what_is_there(tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "a")
    (run.path / "mine.txt").write_text("keep")
    with pytest.raises(
        RunError, match=r"is there already; continue it with --resume, or choose another with run="
    ):
        RunDirectory.create(tmp_path / "a")
    assert (run.path / "mine.txt").read_text() == "keep"
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        RunDirectory.create(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty")


def test_what_is_no_run_or_of_another_format_is_refused_with_both_versions(tmp_path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        RunDirectory.open(tmp_path / "none")
    with pytest.raises(RunError, match="no run directory"):
        RunDirectory.open(tmp_path)
    run = RunDirectory.create(tmp_path / "run")
    (run.path / "run.json").write_text(json.dumps({"format": 99, "version": "9.8.7"}))
    with pytest.raises(RunError) as error:
        RunDirectory.open(run.path)
    for part in ("9.8.7", "99", ssl_domains.__version__, f"format {FORMAT}"):
        assert part in str(error.value)
    (run.path / "run.json").write_text('{"form')
    with pytest.raises(RunError, match="truncated"):
        RunDirectory.open(run.path)


def test_checkpoint_of_another_format_is_refused(toy, tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    toy.stateful_trainer(run, 3).fit()
    state = run.latest() / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"format": 0, "version": "0.0.1"}))
    with pytest.raises(RunError, match=r"ssl_domains 0.0.1 in format 0"):
        run.latest()


def test_recipe_and_environment(tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.write_recipe({"method": {"name": "x"}, "train": {"steps": 3}})
    assert list(run.read_recipe()) == ["method", "train"]
    run.write_recipe("train:\n  steps: 4  # four\n")
    assert run.read_recipe()["train"]["steps"] == 4
    assert "# four" in run.recipe_path.read_text()
    run.write_environment("my.csv")
    found = json.loads((run.path / "environment.json").read_text())
    assert found["packages"]["torch"] == torch.__version__ or found["packages"]["torch"] in torch.__version__
    assert found["data"] == "my.csv"
    import platform

    assert platform.node() == "" or platform.node() not in json.dumps(found | {"data": ""})
    run.recipe_path.write_text("- a\n")
    with pytest.raises(RunError, match="no mapping"):
        run.read_recipe()


# --- state without pickle ---------------------------------------------------------------------

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)
trees = st.recursive(
    leaves,
    lambda kids: (
        st.lists(kids, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 5), kids, max_size=3)
        | st.tuples(kids, kids)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=25)
@given(tree=trees)
def test_trees_come_back_as_they_were(tree) -> None:
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(files.pack(tree, tensors))
    assert files.unpack(json.loads(text), tensors) == tree


def test_tensors_in_trees_and_shared_memory(tmp_path) -> None:
    base = torch.arange(6.0)
    tensors: dict[str, torch.Tensor] = {}
    packed = files.pack({"a": [base, np.arange(3)], "b": np.float64(2.5)}, tensors)
    tensors |= {
        "tied": base,
        "view": base[2:],
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.ones(0),
    }
    files.save_tensors(tmp_path / "t.safetensors", tensors)
    assert (tmp_path / "t.safetensors").stat().st_size < 1000
    found = files.load_tensors(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], torch.as_tensor(v)) for k, v in tensors.items())
    tree = files.unpack(packed, found)
    assert torch.equal(tree["a"][0], base)
    assert tree["a"][1].tolist() == [0, 1, 2]
    assert tree["b"] == 2.5
    with pytest.raises(TypeError, match="without pickle"):
        files.pack({"x": object()}, {})


def test_nothing_in_the_trainer_unpickles(toy, tmp_path, monkeypatch) -> None:
    run = RunDirectory.create(tmp_path / "run")
    toy.stateful_trainer(run, 8).fit()

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for owner, name in (
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (torch, "load"),
        (torch, "save"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    trainer = toy.stateful_trainer(run, 10)
    trainer.fit(resume=True)
    assert trainer.step == 10


def test_modules_with_extra_state_are_restored(tmp_path) -> None:
    class Counter(nn.Linear):
        count = 0

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    run = RunDirectory.create(tmp_path / "run")
    one = nn.Sequential(Counter(2, 2))
    one[0].count = 7
    checkpoint.save_checkpoint(run, one, {}, {"progress": {"step": 1}}, keep=1)
    two = nn.Sequential(Counter(2, 2))
    checkpoint.restore(run.latest(), two, {})
    assert two[0].count == 7
    assert torch.equal(two[0].weight, one[0].weight)


def test_old_checkpoints_are_pruned(tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    for step in (1, 5, 12):
        checkpoint.save_checkpoint(run, nn.Linear(2, 2), {}, {"progress": {"step": step}}, keep=2)
    assert [p.name for p in run.checkpoints()] == ["step-00000012", "step-00000005"]


# --- encoders and init_from -------------------------------------------------------------------


def test_exported_encoder_round_trip_and_replacement(toy, tmp_path) -> None:
    spec = toy.Spec(6)
    options = {"hidden": 8}
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoder = toy.Net(spec, **options)
        save_encoder(
            tmp_path / "run/encoder",
            encoder,
            domain="toy",
            encoder_name="net",
            encoder_options=options,
            spec=spec,
        )
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["encoder"]
    config = read_encoder_config(tmp_path / "run")
    assert (config["domain"], config["encoder"], config["spec"]) == ("toy", "net", {"width": 6})
    again = toy.Net(toy.Spec(**config["spec"]), **config["encoder_options"])
    init_from(again, tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), encoder.parameters(), strict=True))
    (tmp_path / "run/encoder/config.json").write_text(json.dumps({"format": FORMAT, "domain": "toy"}))
    with pytest.raises(RunError, match="lacks encoder, encoder_options, spec"):
        read_encoder_config(tmp_path / "run/encoder")
    weights = tmp_path / "run/encoder/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(RunError, match="truncated"):
        init_from(again, weights)


def test_init_from_lists_what_does_not_match_and_changes_nothing(toy, tmp_path) -> None:
    other = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5))
    renamed = {f"net.{k}".replace("net.1", "net.4"): v for k, v in other.state_dict().items()}
    renamed["net.0.weight"] = torch.zeros(3, 3)
    files.save_tensors(tmp_path / "w.safetensors", renamed)
    encoder = toy.Net(toy.Spec(6))
    before = encoder.net[0].bias.clone()
    with pytest.raises(RunError) as error:
        init_from(encoder, tmp_path / "w.safetensors")
    text = str(error.value)
    assert "2 missing: net.3.weight (nearest: net.4.weight), net.3.bias (nearest: net.4.bias)" in text
    assert "2 unexpected: net.4" in text
    assert "1 of another shape: net.0.weight [3, 3] for [8, 6]" in text
    assert torch.equal(encoder.net[0].bias, before)
    with pytest.raises(RunError, match="does not exist"):
        init_from(encoder, tmp_path / "nowhere")


def test_init_from_a_run_takes_the_whole_method(toy, tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    trainer = toy.stateful_trainer(run, 5)
    trainer.fit()
    method = toy.Stateful(toy.Net(toy.Spec(6)))
    init_from(method, run.path)
    found, expected = method.state_dict(), trainer.method.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


# --- metrics ----------------------------------------------------------------------------------


def test_metrics_files_agree_and_are_cut_at_a_resume(tmp_path) -> None:
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 0.5 * step} | ({"probe/knn": 0.25} if step == 2 else {}))
    log.write({"step": 4, "loss": math.nan})
    assert [r["step"] for r in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "step,loss,probe/knn", "1,0.5,", "2,1.0,0.25", "3,1.5,", "4,nan,",
    ]  # fmt: skip
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    again = MetricsLog(tmp_path, resume_step=2)
    again.write({"step": 3, "loss": 9.0})
    assert [r["loss"] for r in read_rows(tmp_path / "metrics.jsonl")] == [0.5, 1.0, 9.0]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4


def test_unknown_tracker_is_refused() -> None:
    with pytest.raises(UserError, match="unknown; there are: tensorboard, wandb"):
        MetricsLog(None, trackers=["tensorbord"])
