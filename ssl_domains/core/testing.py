"""Help for tests: run a function on several processes, on the CPU.

Whoever writes an objective that looks across the batch checks it like this: give each
process other rows, and compare loss and averaged gradients with one process that has all::

    def half(rank, rows):
        share = rows.chunk(2)[rank].requires_grad_()
        loss = MyObjective()(share).total
        loss.backward()
        return loss.detach(), share.grad

    (loss, first), (_, second) = run_processes(half, 2, rows)
    # loss == joined loss;  cat([first, second]) / 2 == gradient of the joined batch

The division by the number of processes is the average that DDP and FSDP take
(see :mod:`ssl_domains.core.collectives`).
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import pickle
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_processes(
    fn: Callable[..., Any], world_size: int = 2, *args: Any, timeout: float = 300.0
) -> list[Any]:
    """Calls ``fn(rank, *args)`` on ``world_size`` new processes joined by gloo.

    Args:
        fn: a function at the top level of a file; test files need not be importable as
            modules. It runs after ``torch.distributed`` is set up, with one thread. The
            variables RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set, too.
        world_size: number of processes.
        args: passed on; anything that pickles, tensors included.
        timeout: seconds after which the processes are stopped.

    Returns:
        What each process returned, by rank.

    Raises:
        RuntimeError: a process failed, with its traceback.
        TimeoutError: the processes did not end; most often they wait for each other in
            different collectives.
    """
    with tempfile.TemporaryDirectory(prefix="ssl-domains-test-") as folder:
        job = (_locate(fn), args, world_size, folder, _free_port())
        context = mp.get_context("spawn")
        ranks = range(world_size)
        workers = [context.Process(target=_work, args=(rank, *job), daemon=True) for rank in ranks]
        for worker in workers:
            worker.start()
        try:
            _wait(workers, folder, time.monotonic() + timeout)
        finally:
            for worker in workers:
                if worker.is_alive():
                    worker.kill()
                worker.join()
        return [pickle.loads(Path(folder, f"{rank}.result").read_bytes()) for rank in ranks]


def _wait(workers: list[Any], folder: str, deadline: float) -> None:
    """Until all have ended well; the first failure ends the wait."""
    while True:
        errors = sorted(Path(folder).glob("*.error"))
        if errors:
            time.sleep(0.5)  # a peer that fails because of the first one is not the cause
            oldest = min(errors, key=lambda path: path.stat().st_mtime_ns)
            raise RuntimeError(f"process {oldest.stem} failed:\n{oldest.read_text()}")
        codes = [worker.exitcode for worker in workers]
        if all(code == 0 for code in codes):
            return
        dead = [(rank, code) for rank, code in enumerate(codes) if code]
        if dead:
            raise RuntimeError(f"process {dead[0][0]} ended with exit code {dead[0][1]}")
        if time.monotonic() > deadline:
            raise TimeoutError("the processes did not end; do all call the same collectives in one order?")
        time.sleep(0.02)


def _locate(fn: Callable[..., Any]) -> tuple[str, str]:
    """File and name of a top-level function."""
    file = inspect.getsourcefile(fn)
    if file is None or "<" in fn.__qualname__:
        raise ValueError(f"{fn.__qualname__} must be a function at the top level of a file")
    return os.path.abspath(file), fn.__qualname__


def _load(file: str, name: str) -> Callable[..., Any]:
    """The function again, in another process: by file, since test files are no packages."""
    spec = importlib.util.spec_from_file_location(f"_process_{Path(file).stem}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def _work(
    rank: int, where: tuple[str, str], args: tuple[Any, ...], world_size: int, folder: str, port: int
) -> None:
    """Body of one process."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    torch.set_num_threads(1)
    try:
        store = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
        result = pickle.dumps(_load(*where)(rank, *args))
        Path(folder, f"{rank}.result").write_bytes(result)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        partial = Path(folder, f"{rank}.partial")
        partial.write_text(traceback.format_exc())
        partial.rename(partial.with_suffix(".error"))
        raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
