"""Forking a run: annealing the infinite schedule from a checkpoint leaves the trunk as it was."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import ssl_domains
from ssl_domains.core.errors import RunError
from ssl_domains.trainer.run import RunDirectory


def recipe(folder) -> dict:
    rng = np.random.default_rng(0)
    path = folder / "table.csv"
    pd.DataFrame(rng.normal(size=(120, 5)), columns=list("abcde")).to_csv(path, index=False)
    return {
        "domain": "tabular",
        "data": {"source": str(path)},
        "encoder": {"name": "ft_transformer", "width": 8, "depth": 1, "heads": 2, "ffn": 8},
        "mask": {"name": "random"},
        "method": {
            "name": "masked_reconstruction",
            "predictor": {"width": 8, "depth": 1, "heads": 2, "ffn": 8},
        },
        "objective": {"name": "mixed_columns"},
        "optimizer": {"name": "adamw", "lr": 1e-2},
        "schedule": {"name": "infinite", "warmup_steps": 2, "cooldown_steps": 3, "final_ratio": 0.01},
        "train": {"batch_size": 32, "steps": 10, "log_every": 1, "checkpoint_every": 6},
        "evaluate": {"seeds": 1},
    }


def digest(folder) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()


def same_weights(a, b) -> bool:
    """Bit for bit."""
    left, right = (load_file(run / "encoder" / "model.safetensors") for run in (a, b))
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_annealed_fork_ends_low_and_leaves_the_trunk(tmp_path):
    trunk = ssl_domains.pretrain(recipe(tmp_path), run=tmp_path / "trunk", progress=False).path
    before = digest(trunk)
    fork = ssl_domains.fork(trunk, steps=5, anneal=True, out=tmp_path / "fork", progress=False).path
    assert digest(trunk) == before
    rates = [row["lr"] for row in RunDirectory.open(fork).metrics() if "lr" in row]
    assert len(rates) == 5  # steps 11 to 15, on top of the trunk's 10
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(1e-2 * 0.25)
    again = ssl_domains.fork(trunk, steps=5, anneal=True, out=tmp_path / "again", progress=False).path
    assert same_weights(fork, again)
    assert not same_weights(fork, trunk)


def test_fork_from_an_older_step_goes_on_as_the_trunk_did(tmp_path):
    trunk = ssl_domains.pretrain(recipe(tmp_path), run=tmp_path / "trunk", progress=False).path
    fork = ssl_domains.fork(trunk, steps=4, from_step=6, out=tmp_path / "fork", progress=False).path
    assert same_weights(trunk, fork)
    with pytest.raises(RunError, match="no checkpoint of step 7; it has: 10, 6"):
        ssl_domains.fork(trunk, steps=4, from_step=7, out=tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()


def test_only_the_infinite_schedule_anneals_on_demand(tmp_path):
    trunk = ssl_domains.pretrain(
        recipe(tmp_path), run=tmp_path / "trunk", progress=False, schedule={"name": "constant"}
    ).path
    with pytest.raises(ssl_domains.UserError, match="anneal"):
        ssl_domains.fork(trunk, steps=4, anneal=True, out=tmp_path / "fork", progress=False)
    assert not (tmp_path / "fork").exists()
