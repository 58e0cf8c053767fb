"""Files that are there whole or not at all, and trees of state without pickle."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssl_domains.core.errors import RunError


def write_directory(target: Path, write: Callable[[Path], None], what: str) -> None:
    """Writes a directory into a temporary sibling, flushes it to the disk, and renames it.

    Args:
        target: the directory's final path; one that is there already is replaced at the end.
        write: fills the empty directory it is given.
        what: for the message, such as "checkpoint".

    Raises:
        RunError: the disk is full or cannot be written; nothing of the attempt is left, and
            what ``target`` held before is still there.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        for file in partial.iterdir():
            _flush(file)
        _flush(partial)
        _swap(partial, target)
        _flush(target.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(f"{what} {target} could not be written: {_reason(error)}") from error


def write_text(target: Path, text: str, what: str = "file") -> None:
    """Writes one file in the same way.

    Raises:
        RunError: as :func:`write_directory`.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        _flush(partial)
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"{what} {target} could not be written: {_reason(error)}") from error


def _swap(partial: Path, target: Path) -> None:
    if not target.exists():
        os.rename(partial, target)
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    os.rename(target, old)
    os.rename(partial, target)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES, errno.EBADF):  # not every system syncs folders
            raise
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    text = str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in text:
        return "no space left on the disk; free some and run again with --resume"
    if getattr(error, "errno", None) == errno.EFBIG or "os error 27" in text:
        return "file too large for the limit of this user or disk; raise it and run again with --resume"
    return text


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file. Tensors that share memory are stored once; both names come back."""
    kept: dict[str, Tensor] = {}
    alias: dict[str, str] = {}
    seen: dict[tuple, str] = {}
    for name, value in tensors.items():
        plain = value.detach()
        key = (plain.data_ptr(), plain.shape, plain.stride(), plain.dtype, plain.device)
        if plain.numel() and key in seen:
            alias[name] = seen[key]
            continue
        seen[key] = name
        kept[name] = plain.to("cpu", copy=True, memory_format=torch.contiguous_format)
    save_file(kept, str(path), metadata={"format": "pt", "shared": json.dumps(alias)})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads what :func:`save_tensors` wrote, or any safetensors file.

    Raises:
        RunError: the file is missing, truncated or no safetensors file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            shared = json.loads((file.metadata() or {}).get("shared", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path} is missing, truncated or not a safetensors file ({error})") from error
    return tensors | {name: tensors[kept] for name, kept in shared.items()}


def is_whole(path: Path) -> bool:
    """True when a safetensors file has a sound header and all the bytes it announces."""
    try:
        with safe_open(str(path), framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def pack(tree: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """Turns nested state (dicts, lists, tuples, numbers, strings, arrays, tensors) into JSON values.

    Args:
        tree: the state.
        tensors: receives the tensors and arrays, under the names that the JSON values refer to.
        name: prefix of these names.

    Raises:
        TypeError: something in the tree is of another type.
    """
    if isinstance(tree, Tensor | np.ndarray):
        tensors[name] = torch.as_tensor(tree)
        return {"__tensor__": name, "numpy": isinstance(tree, np.ndarray)}
    if isinstance(tree, np.generic):
        return tree.item()
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, dict):
        if all(isinstance(key, str) and not key.startswith("__") for key in tree):
            return {key: pack(value, tensors, f"{name}/{key}") for key, value in tree.items()}
        return {"__items__": [[k, pack(v, tensors, f"{name}/{k}")] for k, v in tree.items()]}
    if isinstance(tree, list | tuple):
        items = [pack(value, tensors, f"{name}/{i}") for i, value in enumerate(tree)]
        return {"__tuple__": items} if isinstance(tree, tuple) else items
    raise TypeError(
        f"state {name or 'tree'} holds a {type(tree).__name__}, which cannot be stored without pickle"
    )


def unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of :func:`pack`."""
    if isinstance(tree, list):
        return [unpack(value, tensors) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if "__tensor__" in tree:
        value = tensors[tree["__tensor__"]]
        return value.numpy() if tree["numpy"] else value
    if "__items__" in tree:
        return {key: unpack(value, tensors) for key, value in tree["__items__"]}
    if "__tuple__" in tree:
        return tuple(unpack(value, tensors) for value in tree["__tuple__"])
    return {key: unpack(value, tensors) for key, value in tree.items()}
