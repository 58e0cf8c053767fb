"""``accelerate launch`` as the documentation has it: two processes train like one, and one of them speaks."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssl_domains.core.errors import UserError
from ssl_domains.trainer.config import TrainConfig
from ssl_domains.trainer.setup import device_for

LAUNCHED = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def write_csv(path: Path) -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(200, 2))
    values = hidden @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(200, 5))
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["a", "b", "c", "d", "e", "kind"])
        rows.writerows(
            [*np.round(v, 4), "yes" if h[0] > 0 else "no"] for v, h in zip(values, hidden, strict=True)
        )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def losses(path: Path) -> list[float]:
    with path.open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", ["false", "true"], ids=["ddp", "fsdp2"])
def test_two_launched_processes_train_like_one(tmp_path, fsdp: str) -> None:
    write_csv(tmp_path / "my.csv")
    settings = [
        "pretrain", "tabular/barlow_twins", "data.source=my.csv", "data.label=kind", "data.exclude=[]",
        "encoder={name: ft_transformer, width: 16, depth: 1, heads: 2, ffn: 16}", "method.projector=[16,16]",
        "train={batch_size: 32, steps: 6, log_every: 1, guard_every: 2, device: cpu}", f"train.fsdp={fsdp}",
        "evaluate={probes: [linear], seeds: 1, tree: false}", "--quiet",
    ]  # fmt: skip
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--main_process_port", free_port(), "-m", "ssl_domains.cli"]
    env = {name: value for name, value in os.environ.items() if name not in LAUNCHED} | {
        "OMP_NUM_THREADS": "1"
    }
    said = {}
    for run, module in {"one": ["ssl_domains.cli"], "two": launch}.items():
        done = subprocess.run(
            [sys.executable, "-m", *module, *settings, f"run={run}"],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said[run] = done.stdout
    one, two = (losses(tmp_path / run / "metrics.csv") for run in ("one", "two"))
    assert len(one) == 6
    np.testing.assert_allclose(two, one, rtol=1e-4)
    assert one[0] != one[-1]
    assert said["two"].count("run:") == said["one"].count("run:") == 1
    for file in ("report.html", "encoder", "checkpoints/step-00000006"):
        assert (tmp_path / "two" / file).exists()


def test_a_launcher_that_dropped_processes_is_named(monkeypatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    config = TrainConfig(steps=1, device="cpu")
    assert device_for(config).type == "cpu"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert device_for(config).type == "cpu"  # --cpu --num_processes 1
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UserError, match=r"starts a single process.*--multi_gpu --num_processes N"):
        device_for(config)
