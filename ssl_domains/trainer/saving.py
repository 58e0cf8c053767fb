"""What of a trainer goes into a checkpoint, and how it comes back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_domains.core.errors import RunError
from ssl_domains.trainer import checkpoint
from ssl_domains.trainer.run import RunDirectory

if TYPE_CHECKING:
    from ssl_domains.trainer.loop import Trainer


def save(trainer: Trainer, run: RunDirectory) -> Path:
    """Writes a checkpoint of this moment. All processes must call it."""
    epoch, number = trainer.order.position(trainer.step)
    position = {"step": trainer.step, "epoch": epoch, "batch": number, "seconds": trainer.seconds()}
    state = {
        "progress": position | {"samples": trainer.order.samples(trainer.step)} | _identity(trainer),
        "schedule": trainer.schedule.state_dict() if hasattr(trainer.schedule, "state_dict") else {},
        "meter": trainer.meter.state_dict(),
        "guard": trainer.guard.state_dict(),
        "scaler": trainer.scaler.state_dict() if trainer.scaler is not None else {},
    }
    keep = trainer.config.keep
    return checkpoint.save_checkpoint(run, trainer.method, trainer.optimizers, state, keep=keep)


def to_resume(run: RunDirectory | None) -> Path | None:
    """The newest intact checkpoint; None when the run has none yet.

    Raises:
        RunError: no run, or all of its checkpoints are damaged.
    """
    if run is None:
        raise RunError("resume needs a run directory; give run=DIR")
    return run.latest() if run.checkpoints() else None


def restore(trainer: Trainer, path: Path, same_run: bool = True) -> None:
    """Loads a checkpoint over what ``before_training`` did; the epoch's hook runs first.

    Args:
        trainer: prepared, with its optimizers.
        path: of the checkpoint.
        same_run: False: a fork, which may have other data, seed and batch size.

    Raises:
        RunError: the checkpoint belongs to another run, or does not fit.
    """
    step = checkpoint.read_state(path)["progress"]["step"]
    trainer.method.before_epoch(trainer.source, trainer.order.position(step)[0])
    state = checkpoint.restore(path, trainer.method, trainer.optimizers)
    saved, own = state["progress"], _identity(trainer)
    changed = [f"{key} was {saved[key]} and is {own[key]}" for key in own if saved[key] != own[key]]
    if changed and same_run:
        raise RunError(
            f"{path} belongs to another run: {'; '.join(changed)}; resume with the recipe and data of "
            "the run, or start from its weights with init_from"
        )
    trainer.step, trainer.before, trainer.saved = step, saved["seconds"], path
    trainer.meter.load_state_dict(state["meter"], trainer.device)
    trainer.guard.load_state_dict(state["guard"])
    if trainer.schedule is not None and state["schedule"]:
        trainer.schedule.load_state_dict(state["schedule"])
    if trainer.scaler is not None:
        trainer.scaler.load_state_dict(state["scaler"])


def _identity(trainer: Trainer) -> dict[str, Any]:
    """What must not change between two parts of a run."""
    rows, batch = len(trainer.order.rows), trainer.budget.batch_size
    return {"seed": trainer.config.seed, "training rows": rows, "batch_size": batch}


def start_annealing(trainer: Trainer) -> None:
    """Lets an infinite schedule anneal from this step on.

    Raises:
        RunError: another schedule, which cannot.
    """
    start = getattr(trainer.schedule, "start_annealing", None)
    if start is None:
        name = getattr(trainer.schedule, "registered_name", "constant")
        raise RunError(f"schedule {name!r} cannot be annealed on demand; train with schedule.name=infinite")
    start(trainer.step)
