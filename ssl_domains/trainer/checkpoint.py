"""Checkpoints, exported encoders, and starting from weights. Nothing here pickles or unpickles.

A checkpoint ``checkpoints/step-00001234/`` holds

* ``method.safetensors``: every parameter and buffer of the method (teacher, queue, centers ...);
* ``state.safetensors`` and ``state.json``: optimizers, schedules, position in the data, random
  states of all processes, sums of the unfinished metrics row, versions.

Sharded tensors are gathered first, and optimizer state is kept by parameter name; so a
checkpoint does not depend on the number of processes or on how they split the model.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import ssl_domains
from ssl_domains.core.errors import RunError
from ssl_domains.trainer.distributed import (
    agree,
    distribute_like,
    full_tensor,
    gather_objects,
    is_main,
    rank,
)  # fmt: skip
from ssl_domains.trainer.files import load_tensors, pack, save_tensors, unpack, write_directory
from ssl_domains.trainer.run import FORMAT, RunDirectory, check_format, read_json


def save_checkpoint(
    run: RunDirectory,
    method: nn.Module,
    optimizers: Mapping[str, Optimizer],
    state: dict[str, Any],
    *,
    keep: int,
) -> Path:
    """Writes the checkpoint of ``state["progress"]["step"]`` whole or not at all, then removes old ones.

    All processes must call it; the main one writes.

    Args:
        run: where to.
        method: not wrapped by DDP; FSDP2 is fine.
        optimizers: by name.
        state: anything nested that :func:`ssl_domains.trainer.files.pack` takes; must have ``progress``.
        keep: number of newest checkpoints that stay.

    Raises:
        RunError: it cannot be written (a full disk); the older checkpoints are untouched.
    """
    target = run.checkpoints_path / f"step-{state['progress']['step']:08d}"
    weights = _gather(_tensors_of(method))
    tree = state | {
        "optimizers": {name: _optimizer_state(method, opt) for name, opt in optimizers.items()},
        "random": gather_objects(random_state()),
        "method_extra": _extra_of(method),
    }
    problem = None
    if is_main():
        try:
            write_directory(target, lambda folder: _write(folder, weights, tree), "checkpoint")
            for old in run.checkpoints()[keep:]:
                shutil.rmtree(old, ignore_errors=True)
        except RunError as error:
            problem = error
    device = next(method.parameters()).device
    failed = agree([problem is not None], device)[0]
    if problem is not None:
        raise problem
    if failed:
        raise RunError(f"checkpoint {target} could not be written by the main process")
    return target


def _write(folder: Path, weights: dict[str, Tensor], tree: dict[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    content = {"format": FORMAT, "version": ssl_domains.__version__, "torch": torch.__version__}
    content |= {key: pack(value, tensors, key) for key, value in tree.items()}
    save_tensors(folder / "method.safetensors", weights)
    save_tensors(folder / "state.safetensors", tensors)
    (folder / "state.json").write_text(json.dumps(content), encoding="utf-8")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """All of a checkpoint but the method's weights.

    Raises:
        RunError: damaged, or of another format.
    """
    content = read_json(checkpoint / "state.json")
    check_format(checkpoint / "state.json", content)
    return unpack(content, load_tensors(checkpoint / "state.safetensors"))


def restore(
    checkpoint: Path, method: nn.Module, optimizers: Mapping[str, Optimizer], *, randomness: bool = True
) -> dict[str, Any]:
    """Loads a checkpoint into a method and its optimizers, in place.

    Args:
        checkpoint: its directory, as :meth:`RunDirectory.latest` gives it.
        method: sharded or not; must have the same parameters and buffers.
        optimizers: by the names they were saved under.
        randomness: also set Python's, NumPy's and torch's generators.

    Returns:
        The rest of the state (progress, schedule, log ...).

    Raises:
        RunError: damaged, of another format, or of another model; lists the keys.
    """
    state = read_state(checkpoint)
    load_weights(method, load_tensors(checkpoint / "method.safetensors"), str(checkpoint))
    for name, extra in state.get("method_extra", {}).items():
        method.get_submodule(name).set_extra_state(extra)
    if set(state["optimizers"]) != set(optimizers):
        raise RunError(
            f"{checkpoint} holds optimizers {sorted(state['optimizers'])}, the recipe makes "
            f"{sorted(optimizers)}; resume with the recipe of the run"
        )
    for name, optimizer in optimizers.items():
        _load_optimizer(method, optimizer, state["optimizers"][name], checkpoint)
    if randomness and rank() < len(state["random"]):
        set_random_state(state["random"][rank()])
    return state


# --- weights ---------------------------------------------------------------------------------


def _tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _extra_of(module: nn.Module) -> dict[str, Any]:
    """What modules return from ``get_extra_state``, by module name."""
    changed = [
        (name, sub) for name, sub in module.named_modules()
        if type(sub).get_extra_state is not nn.Module.get_extra_state
    ]  # fmt: skip
    return {name: sub.get_extra_state() for name, sub in changed}


def _gather(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors; on processes that do not write, sharded ones are dropped again to save memory."""
    whole = {}
    for name, value in tensors.items():
        full = full_tensor(value.detach())
        if is_main():
            whole[name] = full.cpu() if full is not value else full
    return whole


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Copies ``weights`` into a module, all or nothing.

    Args:
        module: sharded or not.
        weights: whole tensors by the names of ``module.state_dict()``.
        origin: where they are from, for the message.

    Raises:
        RunError: keys are missing, unexpected or of another shape; the nearest names are given.
    """
    own = _tensors_of(module)
    problems = mismatches(own, weights)
    if problems:
        raise RunError(f"{origin} does not fit {type(module).__name__}: " + "; ".join(problems))
    with torch.no_grad():
        for name, target in own.items():
            target.copy_(distribute_like(weights[name].to(target.dtype), target))


def mismatches(own: Mapping[str, Tensor], found: Mapping[str, Tensor], show: int = 5) -> list[str]:
    """Missing, unexpected and misshapen keys; one sentence each, with the nearest names."""
    import difflib

    missing, unexpected = [k for k in own if k not in found], [k for k in found if k not in own]
    shapes = [k for k in own if k in found and own[k].shape != found[k].shape]
    problems = []

    def near(key: str, pool: list[str]) -> str:
        match = difflib.get_close_matches(key, pool, n=1)
        return f"{key} (nearest: {match[0]})" if match else key

    for label, keys, pool in (("missing", missing, unexpected), ("unexpected", unexpected, missing)):
        if keys:
            listed = ", ".join(near(key, pool) for key in keys[:show])
            problems.append(f"{len(keys)} {label}: {listed}" + (", ..." if len(keys) > show else ""))
    if shapes:
        listed = ", ".join(f"{k} {list(found[k].shape)} for {list(own[k].shape)}" for k in shapes[:show])
        problems.append(f"{len(shapes)} of another shape: {listed}" + (", ..." if len(shapes) > show else ""))
    return problems


# --- optimizers ------------------------------------------------------------------------------


_NOT_SAVED = ("params", "fused", "foreach", "capturable", "differentiable")  # how, not what, is computed


def _names(method: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in method.named_parameters()}


def _optimizer_state(method: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Groups and state by parameter name, whole tensors."""
    names = _names(method)
    groups = [
        {k: v for k, v in group.items() if k not in _NOT_SAVED}
        | {"params": [names[id(p)] for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    state: dict[str, Any] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            entry = optimizer.state.get(parameter, {})
            whole = {k: full_tensor(v).cpu() if isinstance(v, Tensor) else v for k, v in entry.items()}
            if entry and is_main():
                state[names[id(parameter)]] = whole
    return {"groups": groups, "state": state}


def _load_optimizer(method: nn.Module, optimizer: Optimizer, saved: dict[str, Any], origin: Path) -> None:
    names = _names(method)
    own = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    if own != [group["params"] for group in saved["groups"]]:
        raise RunError(
            f"{origin}: the optimizer's parameter groups differ from the recipe's; resume with the recipe of "
            "the run, or start from its weights with init_from"
        )
    for group, kept in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update({k: v for k, v in kept.items() if k != "params"})
    # Through load_state_dict, which knows where each kind of optimizer wants its step counters.
    current = optimizer.state_dict()
    number = dict(zip((n for g in own for n in g), (i for g in current["param_groups"] for i in g["params"])))
    like = dict(method.named_parameters())
    current["state"] = {
        number[name]: {k: _like(v, like[name]) for k, v in entry.items()}
        for name, entry in saved["state"].items()
    }
    optimizer.load_state_dict(current)


def _like(value: Any, parameter: Tensor) -> Any:
    same = isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim > 0
    return distribute_like(value, parameter) if same else value


# --- random states ---------------------------------------------------------------------------


def random_state() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators on this process."""
    _, words, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        "python": [version, list(internal), gauss_next],
        "numpy": [np.asarray(words, dtype=np.int64), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Sets what :func:`random_state` gave."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    words, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", np.asarray(words).astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


# --- exported encoders -----------------------------------------------------------------------


def save_encoder(
    path: Path | str,
    encoder: nn.Module,
    *,
    domain: str,
    encoder_name: str,
    encoder_options: Mapping[str, Any],
    spec: Any,
) -> Path:
    """Writes ``model.safetensors`` and ``config.json``: enough to embed new raw data anywhere.

    Args:
        path: the directory ``encoder/`` of a run, or any other; replaced when it is there.
        encoder: not sharded (:meth:`Trainer.export_encoder` gives a whole one).
        domain: registered name of the domain.
        encoder_name: registered name of the encoder.
        encoder_options: its constructor's arguments but the spec.
        spec: the source's; ``spec.to_dict()`` must be JSON.

    Raises:
        RunError: it cannot be written; an encoder that was there before still is.
    """
    config = {
        "format": FORMAT,
        "version": ssl_domains.__version__,
        "domain": domain,
        "encoder": encoder_name,
        "encoder_options": dict(encoder_options),
        "spec": spec.to_dict(),
    }

    def write(folder: Path) -> None:
        save_tensors(folder / "model.safetensors", _tensors_of(encoder))
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    target = Path(path)
    write_directory(target, write, "encoder")
    return target


def read_encoder_config(path: Path | str) -> dict[str, Any]:
    """``domain``, ``encoder``, ``encoder_options``, ``spec`` (a dict), ``format``, ``version``.

    Args:
        path: an encoder's directory, or the run's.

    Raises:
        RunError: missing, truncated, or of another format.
    """
    file = _encoder_folder(Path(path)) / "config.json"
    config = read_json(file)
    check_format(file, config)
    lacking = [key for key in ("domain", "encoder", "encoder_options", "spec") if key not in config]
    if lacking:
        raise RunError(f"{file} lacks {', '.join(lacking)}; export the encoder again")
    return config


def _encoder_folder(path: Path) -> Path:
    return path / "encoder" if (path / "encoder").is_dir() else path


def init_from(module: nn.Module, path: Path | str) -> None:
    """Starts from the weights of another run; all keys and shapes must match.

    Args:
        module: an encoder, or a whole :class:`~ssl_domains.core.methods.base.Method`.
        path: a safetensors file; for an encoder a directory with ``model.safetensors`` or a
            run; for a method a checkpoint or a run (its newest checkpoint).

    Raises:
        RunError: nothing there, or keys that are missing, unexpected or of another shape.
    """
    from ssl_domains.core.methods.base import Method

    place = Path(path)
    if not place.exists():
        raise RunError(
            f"init_from: {place} does not exist; give a run, an encoder directory or a safetensors file"
        )
    if place.is_file():
        file = place
    elif isinstance(module, Method):
        file = (place if (place / "method.safetensors").exists() else RunDirectory.open(place).latest()) / (
            "method.safetensors"
        )
    else:
        file = _encoder_folder(place) / "model.safetensors"
    load_weights(module, load_tensors(file), f"init_from {file}")
