"""Linear interpolation of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ssl_domains.core.errors import UserError


def mixup(first: Any, second: Any, rows: Tensor, share: float) -> Any:
    """``share * first[i] + (1 - share) * second[rows[i]]``, for every tensor of an input.

    Args:
        first: a floating-point tensor ``[B, ...]``, or a mapping or sequence of such.
        second: the same, of another view.
        rows: ``[B]`` int64, the partner of each row.
        share: in [0, 1], one for the batch.

    Raises:
        UserError: the input holds something that has no value between two values.
    """
    if isinstance(first, Tensor):
        if first.numel() == 0:  # a table without a column of this kind
            return first
        if not first.is_floating_point():
            raise _refused(f"{str(first.dtype).removeprefix('torch.')} values")
        if first.shape != second.shape:
            raise _refused(f"views of different shapes, {list(first.shape)} and {list(second.shape)}")
        return second[rows].lerp(first, share)
    if isinstance(first, Mapping):
        return {name: mixup(value, second[name], rows, share) for name, value in first.items()}
    if isinstance(first, list | tuple):
        return type(first)(mixup(a, b, rows, share) for a, b in zip(first, second, strict=True))
    raise _refused(f"inputs of type {type(first).__name__}")


def _refused(what: str) -> UserError:
    return UserError(
        f"inputs cannot be interpolated: {what}; this method wants images, signals or other floating-point "
        "inputs, or an encoder with a mix of its own"
    )
