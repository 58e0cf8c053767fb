"""A run that was killed, interrupted or ran out of disk ends as the unbroken one."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ssl_domains.core.errors import RunError
from ssl_domains.trainer import checkpoint, files
from ssl_domains.trainer.logging import TIMING
from ssl_domains.trainer.run import RunDirectory
from ssl_domains.trainer.signals import Interrupted

STEPS = 40


def rows_of(run: RunDirectory) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.startswith(TIMING)} for row in run.metrics()]


def weights_of(run: RunDirectory, step: int = STEPS) -> dict[str, torch.Tensor]:
    return files.load_tensors(run.checkpoints_path / f"step-{step:08d}" / "method.safetensors")


def assert_same_run(found: RunDirectory, expected: RunDirectory) -> None:
    assert rows_of(found) == rows_of(expected)
    a, b = weights_of(found), weights_of(expected)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    one = checkpoint.read_state(found.latest())["optimizers"]["main"]
    two = checkpoint.read_state(expected.latest())["optimizers"]["main"]
    assert one["groups"] == two["groups"]
    for name, entry in one["state"].items():
        assert all(torch.equal(v, two["state"][name][k]) for k, v in entry.items())


@pytest.fixture(scope="module")
def unbroken(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = RunDirectory.create(tmp_path_factory.mktemp("unbroken") / "run")
    toy.stateful_trainer(run, STEPS).fit()
    return run


def start(toy: ModuleType, folder: Path, *words: str) -> subprocess.Popen:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, toy.__file__, str(folder), str(STEPS), *words]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_row(folder: Path, step: int, process: subprocess.Popen) -> None:
    run = RunDirectory(folder)
    until = time.monotonic() + 120
    while not any(row["step"] >= step for row in run.metrics()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.005)


def test_sigkill_at_a_random_step_then_resume(toy, unbroken, tmp_path) -> None:
    after = random.SystemRandom().randrange(8, 34)
    print("killed after a row of step", after)
    process = start(toy, tmp_path / "run", "slow")
    wait_for_row(tmp_path / "run", after, process)
    process.kill()
    process.wait()
    run = RunDirectory.open(tmp_path / "run")
    assert run.metrics()[-1]["step"] < STEPS
    result = toy.stateful_trainer(run, STEPS).fit(resume=True)
    assert result.steps == STEPS
    assert_same_run(run, unbroken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_the_run_goes_on(toy, unbroken, tmp_path, number) -> None:
    run = RunDirectory.create(tmp_path / "run")
    trainer = toy.stateful_trainer(run, STEPS)
    before = signal.getsignal(signal.SIGINT)
    hook = trainer.method.after_step

    def send(progress) -> None:
        hook(progress)
        if progress.step == 12:
            os.kill(os.getpid(), number)

    trainer.method.after_step = send
    with pytest.raises(Interrupted, match=r"step 12; saved in .*step-00000012; continue with --resume"):
        trainer.fit()
    assert signal.getsignal(signal.SIGINT) is before
    toy.stateful_trainer(run, STEPS).fit(resume=True)
    assert_same_run(run, unbroken)


def test_ctrl_c_in_a_process_of_its_own(toy, tmp_path) -> None:
    process = start(toy, tmp_path / "run", "slow")
    wait_for_row(tmp_path / "run", 8, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "saved in" in output
    step = int(RunDirectory.open(tmp_path / "run").latest().name.removeprefix("step-"))
    assert 8 <= step < STEPS


def test_second_ctrl_c_ends_at_once(toy, tmp_path) -> None:
    trainer = toy.stateful_trainer(RunDirectory.create(tmp_path / "run"), STEPS)

    def twice(progress) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    trainer.method.after_step = twice
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()


def test_resume_in_steps_with_workers_gives_the_same_run(toy, unbroken, tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    trainer = toy.stateful_trainer(run, STEPS, num_workers=1)
    hook = trainer.method.after_step

    def stop(progress) -> None:
        hook(progress)
        if progress.step == 17:  # no checkpoint here: the last one is of step 14
            raise ZeroDivisionError

    trainer.method.after_step = stop
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert run.latest().name == "step-00000014"
    toy.stateful_trainer(run, STEPS).fit(resume=True)
    assert_same_run(run, unbroken)


def test_resume_before_the_first_checkpoint_starts_anew(toy, unbroken, tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    trainer = toy.stateful_trainer(run, STEPS)
    trainer.method.after_step = lambda progress: 1 / (progress.step < 6)
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert run.checkpoints() == []
    assert run.metrics()
    toy.stateful_trainer(run, STEPS).fit(resume=True)
    assert_same_run(run, unbroken)


def test_truncated_checkpoint_falls_back_to_the_one_before(toy, unbroken, tmp_path) -> None:
    shutil.copytree(unbroken.path, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    newest = run.checkpoints()[0] / "method.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    with pytest.warns(UserWarning, match=r"step-00000040 is damaged \(method.safetensors"):
        assert run.latest().name == "step-00000035"
    with pytest.warns(UserWarning, match="going back"):
        toy.stateful_trainer(run, STEPS).fit(resume=True)
    assert_same_run(run, unbroken)
    for path in run.checkpoints():
        (path / "state.json").write_text("{")
    with pytest.raises(RunError, match="no intact checkpoint"):
        run.latest()


def test_changed_recipe_is_refused_on_resume(toy, unbroken, tmp_path) -> None:
    shutil.copytree(unbroken.path, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    with pytest.raises(RunError, match="seed was 3 and is 4"):
        toy.stateful_trainer(run, STEPS, seed=4).fit(resume=True)
    with pytest.raises(RunError, match="resume needs a run directory"):
        toy.stateful_trainer(None, STEPS).fit(resume=True)


def test_longer_budget_goes_on_and_a_finished_run_is_left_alone(toy, unbroken, tmp_path) -> None:
    shutil.copytree(unbroken.path, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    before = rows_of(run)
    assert toy.stateful_trainer(run, STEPS).fit(resume=True).steps == STEPS
    assert rows_of(run) == before
    assert toy.stateful_trainer(run, STEPS + 5).fit(resume=True).steps == STEPS + 5
    assert run.metrics()[-1]["step"] == STEPS + 5


def test_probes_do_not_disturb_the_run(toy, unbroken, tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    toy.stateful_trainer(run, STEPS, probe_every=1).fit()
    probes = [row for row in rows_of(run) if "probe/noise" in row]
    assert [row["step"] for row in probes] == [9, 18, 27, 36]
    assert [row for row in rows_of(run) if row not in probes] == rows_of(unbroken)


def test_full_disk_leaves_the_old_checkpoint(toy, tmp_path) -> None:
    """A real limit on the size of files makes the second, larger checkpoint fail."""
    run = RunDirectory.create(tmp_path / "run")
    settings = {"checkpoint_every": 10, "log_every": STEPS, "guard_every": 0}  # metrics stay empty
    trainer = toy.stateful_trainer(run, STEPS, **settings)
    hook = trainer.method.after_step
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(progress) -> None:
        hook(progress)
        if progress.step == 20:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))

    trainer.method.after_step = fill
    try:
        with pytest.raises(RunError, match=r"checkpoint .* could not be written: file too large") as failure:
            trainer.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(failure.value)
    assert [p.name for p in run.checkpoints_path.iterdir()] == ["step-00000010"]
    assert checkpoint.read_state(run.latest())["progress"]["step"] == 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toy.stateful_trainer(run, STEPS, **settings).fit(resume=True)


def test_no_space_left_says_so(toy, unbroken, tmp_path, monkeypatch) -> None:
    shutil.copytree(unbroken.path, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    before = sorted(p.name for p in run.checkpoints_path.iterdir())

    def full(*_, **__) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(RunError, match="no space left on the disk; free some and run again with --resume"):
        toy.stateful_trainer(run, STEPS + 3).fit(resume=True)
    assert sorted(p.name for p in run.checkpoints_path.iterdir()) == before
