"""Means between two rows of the metrics, without a device synchronisation per step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ssl_domains.trainer.distributed import mean_over_processes


class Meter:
    """Keeps each step's scalars on their device until somebody asks.

    Its content travels in checkpoints, so that a resumed run logs the same rows.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, name: str, value: Tensor | float) -> None:
        """Adds one step's scalar."""
        kept = value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))
        self._values.setdefault(name, []).append(kept)

    def means(self) -> dict[str, float]:
        """Means over the steps since the last :meth:`clear` and over the processes; one transfer."""
        if not self._values:
            return {}
        columns = [torch.stack(values).mean() for values in self._values.values()]
        device = columns[0].device
        wide = torch.float32 if device.type == "mps" else torch.float64
        joined = mean_over_processes(torch.stack([c.to(device, wide) for c in columns]))
        return dict(zip(self._values, joined.tolist(), strict=True))

    def first_bad(self, name: str = "loss") -> int | None:
        """How many entries ago (1: the last) ``name`` first was NaN or infinite; None: never."""
        values = self._values.get(name)
        if not values:
            return None
        for i, value in enumerate(torch.stack(values).tolist()):
            if not math.isfinite(value):
                return len(values) - i
        return None

    def clear(self) -> None:
        """Forgets everything."""
        self._values.clear()

    def state_dict(self) -> dict[str, Any]:
        """``{name: [n]}``."""
        return {name: torch.stack(values).cpu() for name, values in self._values.items()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """What :meth:`state_dict` gave."""
        self._values = {name: list(values.to(device).unbind()) for name, values in state.items()}
